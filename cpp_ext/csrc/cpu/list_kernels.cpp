// Nearest neighbours among the points of inverted lists.
//
// Points of one list lie close together and look into much the same other lists. So the points of a list that look into
// another are compared with all of its points at once, as a small matrix product, ‖x‖² − 2 q·x: lanes are points of the
// other list, which were packed for that, and a tile of query points × two vectors of lanes stays in registers from the
// first coordinate to the last. Few distances are below the k-th that a query has already, and only those leave the
// vectors. At the end the distances of what was found are taken anew, Σ (q − x)².
#include "list_kernels.h"

#include <algorithm>
#include <array>
#include <limits>
#include <tuple>
#include <utility>
#include <vector>

#include "simd.h"

namespace sccagn::SCCAGN_TARGET {
namespace {

using V = Vec<float>;
using Lanes = Vec<int32_t>;

constexpr int64_t kL = kLanes<float>;
constexpr int kTileVectors = 2;
constexpr int kTileQueries = kAccumulators == 16 ? 12 : 6;  // 24 of 32 registers, or 12 of 16
constexpr int64_t kWords = 2;
constexpr int64_t kQueries = 64 * kWords;                   // at a time, a bit for each: mostly all of a list
constexpr float kInfinity = std::numeric_limits<float>::infinity();

void pack(const float* points, const int64_t* rows, int64_t n, int64_t d, float* panels) {
  for (int64_t first = 0; first < n; first += kL, panels += (d + 1) * kL) {
    for (int64_t lane = 0; lane < kL; ++lane) {
      const int64_t i = first + lane;
      float length = i < n ? 0.0f : kInfinity;
      for (int64_t c = 0; c < d; ++c) {
        const float x = i < n ? points[(rows ? rows[i] : i) * d + c] : 0.0f;
        panels[c * kL + lane] = x;
        length += x * x;
      }
      panels[d * kL + lane] = length;
    }
  }
}

// ‖x‖² − 2 q·x for `queries` rows and `vectors` panels: finish(query, vector, distances).
template <int queries, int vectors, class Finish>
SCCAGN_INLINE void tile(const float* const* query, const float* panels, int64_t d, const Finish& finish) {
  const int64_t stride = (d + 1) * kL;
  V product[queries][vectors] = {};
  for (int64_t c = 0; c < d; ++c) {
    V x[vectors];
    for (int v = 0; v < vectors; ++v) x[v] = load<V>(panels + v * stride + c * kL);
    for (int q = 0; q < queries; ++q)
      for (int v = 0; v < vectors; ++v) product[q][v] += x[v] * query[q][c];
  }
  for (int v = 0; v < vectors; ++v) {
    const V length = load<V>(panels + v * stride + d * kL);
    for (int q = 0; q < queries; ++q) finish(q, v, length - product[q][v] * 2.0f);
  }
}

// The same for any number of queries and panels: finish(query, panel, distances).
template <class Finish>
SCCAGN_INLINE void compare(const float* const* query, int64_t n_queries, const float* panels, int64_t n_panels,
                           int64_t d, const Finish& finish) {
  const int64_t stride = (d + 1) * kL;
  const auto rows = [&]<int queries>(int64_t q) {
    int64_t p = 0;
    const auto shifted = [&](int i, int v, V distances) { finish(q + i, p + v, distances); };
    for (; p + kTileVectors <= n_panels; p += kTileVectors)
      tile<queries, kTileVectors>(query + q, panels + p * stride, d, shifted);
    if (p < n_panels) tile<queries, 1>(query + q, panels + p * stride, d, shifted);
  };
  const int64_t n_tiles = (n_queries + kTileQueries - 1) / kTileQueries;
  int64_t q = 0;
  for (int64_t t = 0; t < n_tiles; ++t) {  // of sizes that differ by one at most
    const int64_t size = (n_queries - q) / (n_tiles - t);
    switch (size) {
#define SCCAGN_CASE(n)                                                   \
  case n:                                                                \
    if constexpr (n <= kTileQueries) rows.template operator()<n>(q);     \
    break;
      SCCAGN_CASE(1)
      SCCAGN_CASE(2)
      SCCAGN_CASE(3)
      SCCAGN_CASE(4)
      SCCAGN_CASE(5)
      SCCAGN_CASE(6)
      SCCAGN_CASE(7)
      SCCAGN_CASE(8)
      SCCAGN_CASE(9)
      SCCAGN_CASE(10)
      SCCAGN_CASE(11)
      SCCAGN_CASE(12)
#undef SCCAGN_CASE
    }
    q += size;
  }
}

// The k nearest so far, nearest first.
class Nearest {
 public:
  explicit Nearest(int64_t k) : distance_(k, kInfinity), place_(k, -1) {}
  float furthest() const { return distance_.back(); }
  void clear() {
    std::fill(distance_.begin(), distance_.end(), kInfinity);
    std::fill(place_.begin(), place_.end(), -1);
  }
  void insert(float distance, int64_t place) {
    int64_t i = static_cast<int64_t>(distance_.size()) - 1;
    for (; i > 0 && distance_[i - 1] > distance; --i) {
      distance_[i] = distance_[i - 1];
      place_[i] = place_[i - 1];
    }
    distance_[i] = distance;
    place_[i] = place;
  }
  const std::vector<int64_t>& places() const { return place_; }

 private:
  std::vector<float> distance_;
  std::vector<int64_t> place_;
};

float squared_distance(const float* a, const float* b, int64_t d) {
  V sum = {};
  int64_t c = 0;
  for (; c + kL <= d; c += kL) {
    const V difference = load<V>(a + c) - load<V>(b + c);
    sum += difference * difference;
  }
  float total = 0.0f;
  for (; c < d; ++c) total += (a[c] - b[c]) * (a[c] - b[c]);
  for (int64_t lane = 0; lane < kL; ++lane) total += sum[lane];
  return total;
}

int64_t count_up_to(const float* values, int64_t n, float bound) {
  Lanes counted = {};
  for (int64_t i = 0; i < n; i += kL) counted -= load<V>(values + i) <= bound;
  int64_t total = 0;
  for (int64_t lane = 0; lane < kL; ++lane) total += counted[lane];
  return total;
}

// The `rank`-th smallest of finite values, whose number is filled up to whole vectors with infinity, or a bound between
// it and the next: by halving. Of values that are not finite, NaN among them, none need be up to it.
float bound_of(const float* values, int64_t n, int64_t rank) {
  float low = kInfinity, high = -kInfinity;
  for (int64_t i = 0; i < n; ++i)
    if (values[i] < kInfinity) {
      low = std::min(low, values[i]);
      high = std::max(high, values[i]);
    }
  if (count_up_to(values, n, low) >= rank) return low;
  for (;;) {  // at least `rank` values are up to `high`, and fewer up to `low`
    const float middle = low + (high - low) * 0.5f;
    if (!(middle > low && middle < high)) return high;
    const int64_t counted = count_up_to(values, n, middle);
    if (counted == rank) return middle;
    (counted < rank ? low : high) = middle;
  }
}

using Queries = std::array<uint64_t, kWords>;

// Which of the queries look into each of the near lists.
void choose(const ListsView& lists, const float* const* query, int64_t n_queries, const int64_t* near, int64_t n_near,
            int64_t n_probes, std::vector<Queries>& looking) {
  Queries all = {};
  for (int64_t q = 0; q < n_queries; ++q) all[q / 64] |= uint64_t(1) << q % 64;
  looking.assign(n_near, n_probes < n_near ? Queries{} : all);
  if (n_probes >= n_near) return;
  const int64_t n_panels = (n_near + kL - 1) / kL, filled = n_panels * kL;
  std::vector<float> panels(n_panels * (lists.d + 1) * kL), distances(n_queries * filled);
  pack(lists.centroids, near, n_near, lists.d, panels.data());
  compare(query, n_queries, panels.data(), n_panels, lists.d,
          [&](int64_t q, int64_t p, V d) { store(distances.data() + q * filled + p * kL, d); });
  for (int64_t q = 0; q < n_queries; ++q) {
    const float* const own = distances.data() + q * filled;
    const float bound = bound_of(own, filled, n_probes);
    for (int64_t j = 0; j < n_near; ++j) looking[j][q / 64] |= uint64_t(own[j] <= bound) << q % 64;
  }
}

void search(const ListsView& lists, int64_t begin, int64_t end, const int64_t* near, int64_t n_near, int64_t n_probes,
            int64_t k, int64_t* found, float* squared) {
  const int64_t d = lists.d;
  std::vector<Nearest> nearest(kQueries, Nearest(k));
  std::array<const float*, kQueries> all, some;
  std::array<int64_t, kQueries> which;
  std::vector<Queries> looking;
  std::vector<std::pair<float, int64_t>> sorted(k);
  for (; begin < end; begin += kQueries) {
    const int64_t n_queries = std::min(kQueries, end - begin);
    for (int64_t q = 0; q < n_queries; ++q) {
      all[q] = lists.points + (begin + q) * d;
      nearest[q].clear();
    }
    choose(lists, all.data(), n_queries, near, n_near, n_probes, looking);
    for (int64_t j = 0; j < n_near; ++j) {
      int64_t n_some = 0;
      for (int64_t word = 0; word < kWords; ++word) {
        for (uint64_t left = looking[j][word]; left; left &= left - 1) {
          which[n_some] = 64 * word + __builtin_ctzll(left);
          some[n_some] = all[which[n_some]];
          ++n_some;
        }
      }
      const int64_t first = lists.starts[near[j]], n_points = lists.starts[near[j] + 1] - first;
      const float* const panels = lists.panels + lists.panel_of[near[j]] * (d + 1) * kL;
      compare(some.data(), n_some, panels, (n_points + kL - 1) / kL, d, [&](int64_t q, int64_t p, V distances) {
        Nearest& own = nearest[which[q]];
        for (uint32_t below = lanes_below(distances, own.furthest()); below; below &= below - 1) {
          const int lane = __builtin_ctz(below);
          if (distances[lane] < own.furthest()) own.insert(distances[lane], first + p * kL + lane);
        }
      });
    }
    for (int64_t q = 0; q < n_queries; ++q, found += k, squared += k) {
      const auto& places = nearest[q].places();
      for (int64_t i = 0; i < k; ++i) {
        const float away = places[i] < 0 ? kInfinity : squared_distance(all[q], lists.points + places[i] * d, d);
        sorted[i] = away < kInfinity ? std::pair(away, places[i]) : std::pair(kInfinity, int64_t(-1));
      }
      std::sort(sorted.begin(), sorted.end());
      for (int64_t i = 0; i < k; ++i) std::tie(squared[i], found[i]) = sorted[i];
    }
  }
}

}  // namespace

const ListKernels& lists() {
  static const ListKernels kernels = {kL, pack, search};
  return kernels;
}

}  // namespace sccagn::SCCAGN_TARGET

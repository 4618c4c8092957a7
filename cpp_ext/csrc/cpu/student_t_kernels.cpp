// Student-t assignment, target distribution and their gradients; formulas in sccagn_scale/ops/student_t.py.
//
// A tile of cells lies across the vectors, one cell a lane, so that nothing is ever summed across lanes but at the end of
// a stretch. A tile's intermediate values, n_clusters × tile, stay in the first-level cache; N × n_clusters never exists.
#include "student_t_kernels.h"

#include <limits>

#include "simd.h"

namespace sccagn::SCCAGN_TARGET {
namespace {

constexpr int kRows = 2;  // vectors of cells in a tile: what is read of a centroid serves both

template <class T>
constexpr int kTile = kRows * kLanes<T>;

// The tile in work. Arrays [row of clusters or dimensions][kRows] of vectors, in scratch.
template <class T>
struct Tile {
  using V = Vec<T>;
  static constexpr int L = kLanes<T>;

  const StudentT<T>& in;
  const int64_t k, kp, d, dp;
  T* const z;        // [dp] dimensions
  T* const logits;   // [kp], −(ν+1)/2 · log t, then log q
  T* const inverse;  // [kp], 1 / t
  T* const pull;     // [kp], what moves a cell away from a centroid; q before that
  T* const sums;     // [kp], what a kernel adds up or needs besides
  T* const moved;    // [kp · dp] single vectors: pull times distance, summed over the tiles of the stretch
  int64_t first = 0;  // cell
  int cells = 0;      // valid ones; the other lanes repeat the last

  static int64_t size(int64_t n_clusters, int64_t d) {
    return (padded(d) + 4 * padded(n_clusters)) * kTile<T> + padded(n_clusters) * padded(d) * L;
  }

  Tile(const StudentT<T>& problem, T* scratch)
      : in(problem),
        k(problem.n_clusters),
        kp(padded(k)),
        d(problem.d),
        dp(padded(d)),
        z(scratch),
        logits(z + dp * kTile<T>),
        inverse(logits + kp * kTile<T>),
        pull(inverse + kp * kTile<T>),
        sums(pull + kp * kTile<T>),
        moved(sums + kp * kTile<T>) {}

  SCCAGN_INLINE V at(const T* array, int64_t i, int r) { return load<V>(array + (i * kRows + r) * L); }
  SCCAGN_INLINE void put(T* array, int64_t i, int r, V value) { store(array + (i * kRows + r) * L, value); }

  void clear(T* array, int64_t elements) { std::memset(array, 0, elements * sizeof(T)); }

  void read(int64_t begin, int64_t end) {
    first = begin;
    cells = static_cast<int>(end - begin < kTile<T> ? end - begin : kTile<T>);
    for (int64_t j = d; j < dp; ++j)
      for (int l = 0; l < kTile<T>; ++l) z[j * kTile<T> + l] = 0;
    for (int l = 0; l < kTile<T>; ++l) {
      const T* row = in.z + (first + (l < cells ? l : cells - 1)) * d;
      for (int64_t j = 0; j < d; ++j) z[j * kTile<T> + l] = row[j];
    }
  }

  // 1 for the lanes that hold a cell of their own, 0 for the repeated ones
  V valid(int r) const {
    V mask;
    for (int l = 0; l < L; ++l) mask[l] = r * L + l < cells ? T(1) : T(0);
    return mask;
  }

  // logits and 1 / t
  void measure() {
    const T over_nu = 1 / in.nu, power = -(in.nu + 1) / 2;
    V worst = Vec<T>{};
    for (int64_t j = 0; j < kp; j += kPadding) {
      V squared[kPadding][kRows] = {};
      for (int64_t i = 0; i < dp; ++i) {
        const V a = at(z, i, 0), b = at(z, i, 1);
        for (int c = 0; c < kPadding; ++c) {
          const T centre = in.centroids[(j + c) * dp + i];
          const V x = a - centre, y = b - centre;
          squared[c][0] += x * x;
          squared[c][1] += y * y;
        }
      }
      for (int c = 0; c < kPadding; ++c)
        for (int r = 0; r < kRows; ++r) {
          const V t = squared[c][r] * over_nu + T(1);
          worst = worst + (t - t);  // not 0 where t is no finite number
          put(logits, j + c, r, log<T>(t) * power);
          put(inverse, j + c, r, T(1) / t);
        }
    }
    for (int l = 0; l < L; ++l)
      if (worst[l] != 0) return measure_far();
  }

  // The same for distances whose square overflows: differences are divided by the largest of them first.
  __attribute__((noinline)) void measure_far() {
    for (int l = 0; l < kTile<T>; ++l)
      for (int64_t j = 0; j < k; ++j) {
        double scale = 0, squared = 0;
        for (int64_t i = 0; i < d; ++i) {
          const double x = __builtin_fabs(double(z[i * kTile<T> + l]) - double(in.centroids[j * dp + i]));
          scale = x > scale || x != x ? x : scale;
        }
        if (scale < 1) scale = 1;
        for (int64_t i = 0; i < d; ++i) {
          const double x = (double(z[i * kTile<T> + l]) - double(in.centroids[j * dp + i])) / scale;
          squared += x * x;
        }
        const double rest = 1 / scale / scale + squared / double(in.nu);  // t = scale² · rest
        const double log_t = 2 * __builtin_log(scale) + __builtin_log(rest);
        logits[j * kTile<T> + l] = T(-(double(in.nu) + 1) / 2 * log_t);
        inverse[j * kTile<T> + l] = T(1 / scale / scale / rest);
      }
  }

  // logits become log q, or stay; pull becomes q, or stays
  template <bool with_log, bool with_q>
  void normalise() {
    V best[kRows], total[kRows] = {};
    for (int r = 0; r < kRows; ++r) best[r] = at(logits, 0, r);
    for (int64_t j = 1; j < k; ++j)
      for (int r = 0; r < kRows; ++r) best[r] = larger(best[r], at(logits, j, r));
    for (int64_t j = 0; j < k; ++j)
      for (int r = 0; r < kRows; ++r) {
        const V w = exp<T>(at(logits, j, r) - best[r]);
        total[r] += w;
        if constexpr (with_q) put(pull, j, r, w);
      }
    V share[kRows], shift[kRows];
    for (int r = 0; r < kRows; ++r) {
      share[r] = T(1) / total[r];
      shift[r] = best[r] + log<T>(total[r]) + (total[r] - total[r]);  // NaN, which `log` does not know, stays NaN
    }
    for (int64_t j = 0; j < k; ++j)
      for (int r = 0; r < kRows; ++r) {
        if constexpr (with_q) put(pull, j, r, at(pull, j, r) * share[r]);
        if constexpr (with_log) put(logits, j, r, at(logits, j, r) - shift[r]);
      }
  }

  // grad_z of the tile's cells from pull; what it moves the centroids by is added to `moved`
  void spread_pull(T* grad_z) {
    for (int64_t i = 0; i < dp; i += kPadding) {
      V own[kPadding][kRows], sum[kPadding][kRows] = {};
      for (int c = 0; c < kPadding; ++c)
        for (int r = 0; r < kRows; ++r) own[c][r] = at(z, i + c, r);
      for (int64_t j = 0; j < k; ++j) {
        const V a = at(pull, j, 0), b = at(pull, j, 1);
        for (int c = 0; c < kPadding; ++c) {
          const T centre = in.centroids[j * dp + i + c];
          const V x = a * (own[c][0] - centre), y = b * (own[c][1] - centre);
          sum[c][0] += x;
          sum[c][1] += y;
          T* const total = moved + (j * dp + i + c) * L;
          store(total, load<V>(total) + (x + y));
        }
      }
      for (int c = 0; c < kPadding && i + c < d; ++c)
        for (int r = 0; r < kRows; ++r)
          for (int l = 0; l < L && r * L + l < cells; ++l) grad_z[(first + r * L + l) * d + i + c] = sum[c][r][l];
    }
  }

  // over the stretch: ∂L/∂µ has the opposite sign of what it does to the cells
  void collect(double* grad_centroids) const {
    for (int64_t i = 0; i < k * dp; ++i) {
      double sum = 0;
      for (int l = 0; l < L; ++l) sum += moved[i * L + l];
      grad_centroids[i] -= sum;
    }
  }
};

template <class T>
void assign(const StudentT<T>& in, int64_t begin, int64_t end, T* scratch, T* q) {
  Tile<T> tile(in, scratch);
  for (int64_t i = begin; i < end; i += kTile<T>) {
    tile.read(i, end);
    tile.measure();
    tile.template normalise<false, true>();
    for (int l = 0; l < tile.cells; ++l)
      for (int64_t j = 0; j < tile.k; ++j) q[(i + l) * tile.k + j] = tile.pull[j * kTile<T> + l];
  }
}

template <class T>
void assign_backward(const StudentT<T>& in, int64_t begin, int64_t end, T* scratch, const T* grad, const T* q,
                     T* grad_z, double* grad_centroids) {
  using V = Vec<T>;
  Tile<T> tile(in, scratch);
  tile.clear(tile.moved, tile.k * tile.dp * kLanes<T>);
  const T factor = -(in.nu + 1) / in.nu;
  T *const g = tile.sums, *const p = tile.pull;
  for (int64_t i = begin; i < end; i += kTile<T>) {
    tile.read(i, end);
    tile.measure();
    for (int64_t j = 0; j < tile.k; ++j)
      for (int l = 0; l < kTile<T>; ++l) {
        const bool own = l < tile.cells;
        g[j * kTile<T> + l] = own ? grad[(i + l) * tile.k + j] : T(0);
        p[j * kTile<T> + l] = own ? q[(i + l) * tile.k + j] : T(0);
      }
    V mean[kRows] = {};
    for (int64_t j = 0; j < tile.k; ++j)
      for (int r = 0; r < kRows; ++r) mean[r] += tile.at(p, j, r) * tile.at(g, j, r);
    for (int64_t j = 0; j < tile.k; ++j)
      for (int r = 0; r < kRows; ++r)
        tile.put(p, j, r, tile.at(p, j, r) * (tile.at(g, j, r) - mean[r]) * tile.at(tile.inverse, j, r) * factor);
    tile.spread_pull(grad_z);
  }
  tile.collect(grad_centroids);
}

// Powers of q leave T where τ is small, so each lane keeps its sum relative to its largest term.
template <class T>
void column_sums(const StudentT<T>& in, int64_t begin, int64_t end, T* scratch, T tau, double* sums) {
  using V = Vec<T>;
  Tile<T> tile(in, scratch);
  T *const total = tile.sums, *const largest = tile.pull;
  tile.clear(total, tile.k * kTile<T>);
  for (int64_t i = 0; i < tile.k * kTile<T>; ++i) largest[i] = std::numeric_limits<T>::lowest();
  const T power = 1 / tau;
  for (int64_t i = begin; i < end; i += kTile<T>) {
    tile.read(i, end);
    tile.measure();
    tile.template normalise<true, false>();
    for (int r = 0; r < kRows; ++r) {
      const V valid = tile.valid(r);
      for (int64_t j = 0; j < tile.k; ++j) {
        const V x = tile.at(tile.logits, j, r) * power, before = tile.at(largest, j, r), now = larger(before, x);
        tile.put(total, j, r, tile.at(total, j, r) * exp<T>(before - now) + exp<T>(x - now) * valid);
        tile.put(largest, j, r, now);
      }
    }
  }
  for (int64_t j = 0; j < tile.k; ++j)
    for (int64_t i = j * kTile<T>; i < (j + 1) * kTile<T>; ++i) sums[j] += total[i] * __builtin_exp(double(largest[i]));
}

template <class T>
void label(const StudentT<T>& in, int64_t begin, int64_t end, T* scratch, int64_t* labels, T* confidence) {
  using V = Vec<T>;
  using Ints = Vec<typename Format<T>::Int>;
  Tile<T> tile(in, scratch);
  for (int64_t i = begin; i < end; i += kTile<T>) {
    tile.read(i, end);
    tile.measure();
    tile.template normalise<false, true>();
    for (int r = 0; r < kRows; ++r) {
      V best = tile.at(tile.pull, 0, r);
      Ints which = {};
      for (int64_t j = 1; j < tile.k; ++j) {
        const V q = tile.at(tile.pull, j, r);
        which = q > best ? Ints{} + static_cast<typename Format<T>::Int>(j) : which;
        best = larger(best, q);
      }
      for (int l = 0; l < kLanes<T> && r * kLanes<T> + l < tile.cells; ++l) {
        labels[i + r * kLanes<T> + l] = which[l];
        confidence[i + r * kLanes<T> + l] = best[l];
      }
    }
  }
}

template <class T>
void kl(const StudentT<T>& in, int64_t begin, int64_t end, T* scratch, const Target<T>& target, double* loss, T* grad_z,
        double* grad_centroids) {
  using V = Vec<T>;
  Tile<T> tile(in, scratch);
  tile.clear(tile.moved, tile.k * tile.dp * kLanes<T>);
  const T sharpen = 2 / target.tau, factor = (in.nu + 1) / in.nu * target.weight;
  const T share = target.anchor ? target.anchor_share : T(0), rest = 1 - share;
  const T log_rest = rest > 0 ? T(__builtin_log(rest)) : T(0);
  T* const log_target = tile.sums;
  for (int64_t i = begin; i < end; i += kTile<T>) {
    tile.read(i, end);
    tile.measure();
    tile.template normalise<true, true>();  // log q, and q in pull
    V best[kRows] = {}, total[kRows] = {}, divergence[kRows] = {};
    for (int64_t j = 0; j < tile.k; ++j)
      for (int r = 0; r < kRows; ++r) {
        const V u = tile.at(tile.logits, j, r) * sharpen - target.log_sums[j];
        tile.put(log_target, j, r, u);
        best[r] = j ? larger(best[r], u) : u;
      }
    for (int64_t j = 0; j < tile.k; ++j)
      for (int r = 0; r < kRows; ++r) total[r] += exp<T>(tile.at(log_target, j, r) - best[r]);
    for (int r = 0; r < kRows; ++r) best[r] += log<T>(total[r]);
    for (int r = 0; r < kRows; ++r) {
      const V weight = tile.valid(r) * factor;
      for (int64_t j = 0; j < tile.k; ++j) {
        const V log_p = tile.at(log_target, j, r) - best[r], q = tile.at(tile.pull, j, r);
        const V p = exp<T>(log_p) * rest;
        divergence[r] += p * (log_p + log_rest - tile.at(tile.logits, j, r));
        tile.put(tile.pull, j, r, (p - q) * tile.at(tile.inverse, j, r) * weight);
      }
    }
    for (int l = 0; l < tile.cells; ++l) {
      double cell = divergence[l / kLanes<T>][l % kLanes<T>];
      if (target.anchor) {  // p ← (1 − a) p + a · onehot
        const int64_t where = target.anchor[i + l] * kTile<T> + l;
        const double log_p = log_target[where] - best[l / kLanes<T>][l % kLanes<T>], p = rest * __builtin_exp(log_p);
        const double anchored = p + share, log_q = tile.logits[where];
        if (anchored > 0) cell += anchored * (__builtin_log(anchored) - log_q);
        cell -= p * (log_p + log_rest - log_q);
        tile.pull[where] += share * tile.inverse[where] * factor;
      }
      *loss += cell * target.weight;
    }
    tile.spread_pull(grad_z);
  }
  tile.collect(grad_centroids);
}

template <class T>
constexpr StudentTKernels<T> kKernels = {Tile<T>::size, assign<T>, assign_backward<T>, column_sums<T>, label<T>, kl<T>};

}  // namespace

const StudentTKernels<float>& student_t(float) { return kKernels<float>; }
const StudentTKernels<double>& student_t(double) { return kKernels<double>; }

}  // namespace sccagn::SCCAGN_TARGET

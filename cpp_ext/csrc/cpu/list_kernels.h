// Nearest neighbours among the points of inverted lists, on one thread: what each instruction set offers.
#pragma once

#include <cstdint>

namespace sccagn {

// Points laid out list after list, borrowed, and those of some lists once more in panels (see `pack`).
struct ListsView {
  const float* points;    // [n, d]
  const int64_t* starts;  // first point of every list, and n
  const float* centroids;  // [n_lists, d]
  int64_t d;
  const float* panels;
  const int64_t* panel_of;  // first panel of every list that is packed
};

struct ListKernels {
  int64_t lanes;  // points of a panel

  // Panels of `lanes` points: d rows of one coordinate of each, then a row of their squared lengths, infinite for places
  // that no point fills. Panels take (d + 1) · lanes elements each. `rows` names the points, or is null for the first n.
  void (*pack)(const float* points, const int64_t* rows, int64_t n, int64_t d, float* panels);

  // For points from `begin` to before `end`, all of one list: the k nearest among the points of those `n_probes` of the
  // `n_near` lists in `near` whose centroids are nearest to it (and of any as near as the last), by distance, then by
  // place. What is missing has place −1 and an infinite distance.
  void (*search)(const ListsView&, int64_t begin, int64_t end, const int64_t* near, int64_t n_near, int64_t n_probes,
                 int64_t k, int64_t* found, float* squared);
};

#define SCCAGN_DECLARE_LISTS(isa) \
  namespace isa {                 \
  const ListKernels& lists();     \
  }

SCCAGN_DECLARE_LISTS(baseline)
#ifdef SCCAGN_X86
SCCAGN_DECLARE_LISTS(avx2)
SCCAGN_DECLARE_LISTS(avx512)
#endif
#undef SCCAGN_DECLARE_LISTS

}  // namespace sccagn

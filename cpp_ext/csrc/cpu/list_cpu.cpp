// Nearest neighbours among the points of inverted lists, on the CPU. Lists are taken by whichever thread is free; each
// point is searched for on its own, so that results are the same for any number of threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <tuple>

#include "../types.h"
#include "dispatch.h"
#include "list_kernels.h"

namespace sccagn {
namespace {

// Calls run(i) for i from 0 to before n, on all threads.
template <class Run>
void in_turn(int64_t n, const Run& run) {
  std::atomic<int64_t> next = 0;
  torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, [&](int64_t, int64_t) {
    for (int64_t i = next++; i < n; i = next++) run(i);
  });
}

std::tuple<Tensor, Tensor> list_neighbors(const Tensor& points, const Tensor& starts, const Tensor& centroids,
                                          const Tensor& near, int64_t first, int64_t n_probes, int64_t k) {
  check_lists(points, starts, centroids, near, first, n_probes, k);
  const Tensor all = packed(points), offsets = packed(starts), centres = packed(centroids), others = packed(near);
  const auto& kernels = SCCAGN_DISPATCH(lists());
  const int64_t* const start = static_cast<const int64_t*>(offsets.const_data_ptr());
  const int64_t* const looked_into = static_cast<const int64_t*>(others.const_data_ptr());
  const int64_t n_lists = offsets.size(0) - 1, n_here = others.size(0), n_near = others.size(1), d = all.size(1);
  STD_TORCH_CHECK(start[0] == 0 && start[n_lists] == all.size(0) && std::is_sorted(start, start + n_lists + 1),
                  "starts must rise from 0 to the number of points");

  std::vector<int64_t> used, panel_of(n_lists, 0), n_looked_into(n_here);
  for (int64_t i = 0; i < n_here; ++i) {
    const int64_t* const row = looked_into + i * n_near;
    const int64_t* const end = std::find(row, row + n_near, -1);
    n_looked_into[i] = end - row;
    used.insert(used.end(), row, end);
  }
  std::sort(used.begin(), used.end());
  used.erase(std::unique(used.begin(), used.end()), used.end());
  STD_TORCH_CHECK(used.empty() || (used.front() >= 0 && used.back() < n_lists),
                  "near must hold lists, from 0 to before ", n_lists);
  int64_t n_panels = 0;
  for (const int64_t list : used) {
    panel_of[list] = n_panels;
    n_panels += (start[list + 1] - start[list] + kernels.lanes - 1) / kernels.lanes;
  }
  const int64_t panel_size = (d + 1) * kernels.lanes;
  const Tensor panels = empty(all, {n_panels * panel_size});
  float* const panel = static_cast<float*>(panels.mutable_data_ptr());
  const float* const point = static_cast<const float*>(all.const_data_ptr());
  in_turn(static_cast<int64_t>(used.size()), [&](int64_t i) {
    const int64_t list = used[i];
    kernels.pack(point + start[list] * d, nullptr, start[list + 1] - start[list], d, panel + panel_of[list] * panel_size);
  });

  const ListsView view = {point, start, static_cast<const float*>(centres.const_data_ptr()), d, panel, panel_of.data()};
  const int64_t begin = start[first], n_rows = start[first + n_here] - begin;
  const Tensor found = empty(offsets, {n_rows, k}), squared = empty(all, {n_rows, k});
  int64_t* const place = static_cast<int64_t*>(found.mutable_data_ptr());
  float* const distance = static_cast<float*>(squared.mutable_data_ptr());
  in_turn(n_here, [&](int64_t i) {
    const int64_t row = start[first + i];
    kernels.search(view, row, start[first + i + 1], looked_into + i * n_near, n_looked_into[i],
                   n_probes, k, place + (row - begin) * k, distance + (row - begin) * k);
  });
  return {found, squared};
}

}  // namespace
}  // namespace sccagn

STABLE_TORCH_LIBRARY_IMPL(sccagn, CPU, m) { m.impl("list_neighbors", TORCH_BOX(&sccagn::list_neighbors)); }

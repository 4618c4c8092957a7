// Sparse × dense operators on the CPU: the product divides rows among threads, the transposed one columns of the dense
// factor, so that no two threads ever add to one number and each number's order of summation is the matrix's own.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>

#include "../types.h"
#include "csr_kernels.h"
#include "dispatch.h"

namespace sccagn {
namespace {

constexpr int64_t kGrain = 16'384;  // multiplications that are worth a thread

template <class Value, class Index>
CsrView<Value, Index> view(const Tensor& indptr, const Tensor& indices, const Tensor& values, int64_t n_cols) {
  const int64_t* const starts = static_cast<const int64_t*>(indptr.const_data_ptr());
  const int64_t n_rows = indptr.size(0) - 1;
  STD_TORCH_CHECK(starts[0] >= 0 && starts[n_rows] <= indices.size(0) && std::is_sorted(starts, starts + n_rows + 1),
                  "indptr must rise from row to row and stay within the stored values");
  return {starts, static_cast<const Index*>(indices.const_data_ptr()), static_cast<const Value*>(values.const_data_ptr()),
          n_rows, n_cols};
}

// What both operators do around their loops: `work(matrix, kernels, dense, out, fine)` fills `out`.
template <class Work>
Tensor product(const Tensor& indptr, const Tensor& indices, const Tensor& values, int64_t n_cols, const Tensor& dense,
               Tensor result, const Work& work) {
  const Tensor starts = as_type(indptr, ScalarType::Long), columns = packed(indices),
               stored = packed(values), factor = packed(dense);
  std::atomic<bool> fine = true;
  by_csr_types(dense, values, indices, [&]<class T, class Value, class Index>(T, Value, Index) {
    const auto matrix = view<Value, Index>(starts, columns, stored, n_cols);
    const auto& kernels = SCCAGN_DISPATCH(template csr<T, Value, Index>());
    work(matrix, kernels, static_cast<const T*>(factor.const_data_ptr()), static_cast<T*>(result.mutable_data_ptr()),
         fine);
  });
  STD_TORCH_CHECK(fine, "indices must be columns of the matrix, from 0 to before ", n_cols);
  return result;
}

Tensor matmul(const Tensor& indptr, const Tensor& indices, const Tensor& values, int64_t n_cols,
              std::optional<Tensor>, std::optional<Tensor>, std::optional<Tensor>, const Tensor& dense) {
  check_csr(indptr, indices, values, dense, n_cols);
  const int64_t n_rows = indptr.size(0) - 1, width = dense.size(1);
  const int64_t per_row = std::max<int64_t>(1, indices.size(0) / std::max<int64_t>(1, n_rows) * width);
  return product(indptr, indices, values, n_cols, dense, empty(dense, {n_rows, width}),
                 [&](const auto& matrix, const auto& kernels, const auto* factor, auto* out, std::atomic<bool>& fine) {
                   torch::stable::parallel_for(0, n_rows, std::max<int64_t>(1, kGrain / per_row),
                                               [&](int64_t begin, int64_t end) {
                                                 if (!kernels.gather(matrix, begin, end, factor, width, out))
                                                   fine = false;
                                               });
                 });
}

Tensor matmul_transposed(const Tensor& indptr, const Tensor& indices, const Tensor& values, int64_t n_cols,
                         const Tensor& dense) {
  check_csr(indptr, indices, values, dense, indptr.size(0) - 1);
  const int64_t width = dense.size(1);
  return product(
      indptr, indices, values, n_cols, dense, empty(dense, {n_cols, width}),
      [&](const auto& matrix, const auto& kernels, const auto* factor, auto* out, std::atomic<bool>& fine) {
        const int64_t lanes = SCCAGN_DISPATCH(lanes(sizeof(*out)));
        const int64_t work = std::max<int64_t>(1, indices.size(0) * width / kGrain);
        const int64_t slices =
            std::max<int64_t>(1, std::min<int64_t>({torch::stable::get_num_threads(), width / lanes, work}));
        // whole vectors, but for the last slice, which ends with the row: a vector never lies in two slices
        const auto start = [&](int64_t s) { return s == slices ? width : width / lanes * s / slices * lanes; };
        torch::stable::parallel_for(0, slices, 1, [&](int64_t first, int64_t last) {
          if (!kernels.scatter(matrix, factor, width, start(first), start(last), out)) fine = false;
        });
      });
}

}  // namespace
}  // namespace sccagn

STABLE_TORCH_LIBRARY_IMPL(sccagn, CPU, m) {
  m.impl("csr_matmul", TORCH_BOX(&sccagn::matmul));
  m.impl("csr_matmul_transposed", TORCH_BOX(&sccagn::matmul_transposed));
}

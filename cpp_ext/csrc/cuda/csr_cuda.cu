// Sparse × dense on CUDA: checks and launches of csr_kernels.cuh. Its gradient is the same product of the transpose,
// which the operator is given; `csr_matmul_transposed` stays with the reference.
#include "csr_kernels.cuh"

#include <torch/csrc/stable/library.h>

#include "../types.h"
#include "launch.cuh"

namespace sccagn {
namespace {

template <class T, class Value, class Index>
void launch(const Tensor& indptr, const Tensor& indices, const Tensor& values, const Tensor& dense, const Tensor& out) {
  const int64_t n_rows = out.size(0), width = out.size(1);
  const int64_t blocks = (n_rows + kWarps - 1) / kWarps;
  STD_TORCH_CHECK(blocks < (int64_t(1) << 31), "too many rows for one launch: ", n_rows);
  const OnDeviceOf device(dense);
  gather<T, Value, Index><<<static_cast<unsigned>(blocks), dim3(kWarp, kWarps), 0, device.stream()>>>(
      const_data<int64_t>(indptr), const_data<Index>(indices), const_data<Value>(values), const_data<T>(dense), n_rows,
      width, data<T>(out));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Tensor matmul(const Tensor& indptr, const Tensor& indices, const Tensor& values, int64_t n_cols,
              std::optional<Tensor>, std::optional<Tensor>, std::optional<Tensor>, const Tensor& dense) {
  check_csr(indptr, indices, values, dense, n_cols);
  const Tensor starts = as_type(indptr, ScalarType::Long), columns = packed(indices),
               stored = packed(values), factor = packed(dense);
  const Tensor out = empty(dense, {indptr.size(0) - 1, dense.size(1)});
  if (out.numel() == 0) return out;
  by_csr_types(dense, values, indices, [&]<class T, class Value, class Index>(T, Value, Index) {
    launch<T, Value, Index>(starts, columns, stored, factor, out);
  });
  return out;
}

}  // namespace
}  // namespace sccagn

STABLE_TORCH_LIBRARY_IMPL(sccagn, CUDA, m) { m.impl("csr_matmul", TORCH_BOX(&sccagn::matmul)); }

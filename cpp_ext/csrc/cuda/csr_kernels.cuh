// Sparse × dense: a warp for each row, its lanes across the columns, so that what is read of the dense factor lies
// together and no two threads add to one number.
//
// Nothing here is torch's, and of CUDA there is only the language: the tests compile it for the host as well.
#pragma once

#include <cstdint>

namespace sccagn {
namespace {

constexpr int kWarp = 32, kWarps = 8;  // of a block
constexpr int kColumns = 4;            // of a lane

template <class T, class Value, class Index>
__global__ void gather(const int64_t* __restrict__ indptr, const Index* __restrict__ indices,
                       const Value* __restrict__ values, const T* __restrict__ dense, int64_t n_rows, int64_t width,
                       T* __restrict__ out) {
  const int64_t row = int64_t(blockIdx.x) * kWarps + threadIdx.y;
  if (row >= n_rows) return;
  const int64_t begin = indptr[row], end = indptr[row + 1];
  for (int64_t first = threadIdx.x; first < width; first += kColumns * kWarp) {
    T sum[kColumns] = {};
    for (int64_t e = begin; e < end; ++e) {
      const T value = static_cast<T>(values[e]);
      const T* const from = dense + int64_t(indices[e]) * width + first;
#pragma unroll
      for (int c = 0; c < kColumns; ++c)
        if (first + c * kWarp < width) sum[c] += value * from[c * kWarp];
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c)
      if (first + c * kWarp < width) out[row * width + first + c * kWarp] = sum[c];
  }
}

}  // namespace
}  // namespace sccagn

// What both devices ask of the tensors that an operator is given.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

// Torch's text of the thread's last exception, which it has from 2.13 on.
extern "C" __attribute__((weak)) const char* torch_exception_get_what_without_backtrace();

namespace sccagn {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline bool is_floating(const Tensor& t) {
  return t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double;
}

inline bool is_index(const Tensor& t) {
  return t.scalar_type() == ScalarType::Int || t.scalar_type() == ScalarType::Long;
}

inline bool same_place(const Tensor& a, const Tensor& b) {
  return a.is_cpu() == b.is_cpu() && a.get_device() == b.get_device();
}

// [2, 3], for messages
inline std::string shape(const Tensor& t) {
  std::string text = "[";
  for (int64_t i = 0; i < t.dim(); ++i) text += (i ? ", " : "") + std::to_string(t.size(i));
  return text + "]";
}

// A tensor that torch makes. If it cannot, the stable interface names the call alone and not why, which is room mostly.
template <class Make>
Tensor made(const Make& make) {
  try {
    return make();
  } catch (const std::exception& error) {
    if (torch_exception_get_what_without_backtrace)
      throw std::runtime_error(torch_exception_get_what_without_backtrace());
    throw std::runtime_error(std::string("out of memory, or an earlier error of the device: ") + error.what());
  }
}

// Without a call through the dispatcher where there is nothing to do.
inline Tensor packed(const Tensor& t) {
  return t.is_contiguous() ? t : made([&] { return torch::stable::contiguous(t); });
}

inline Tensor as_type(const Tensor& t, ScalarType type) {
  return packed(t.scalar_type() == type ? t : made([&] { return torch::stable::to(t, type); }));
}

// An array to work in, or a result: of `like`'s device, uninitialised.
inline Tensor empty(const Tensor& like, std::vector<int64_t> shape, std::optional<ScalarType> type = std::nullopt) {
  return made([&] { return torch::stable::new_empty(like, shape, type ? *type : like.scalar_type()); });
}

inline Tensor zeros(const Tensor& like, std::vector<int64_t> shape, std::optional<ScalarType> type = std::nullopt) {
  return made([&] { return torch::stable::new_zeros(like, shape, type ? *type : like.scalar_type()); });
}

inline void check_student_t(const Tensor& z, const Tensor& centroids, double nu) {
  STD_TORCH_CHECK(z.dim() == 2 && centroids.dim() == 2 && z.size(1) == centroids.size(1),
                  "z [n_obs, d] and centroids [n_clusters, d] must share d, but are ", shape(z), " and ",
                  shape(centroids));
  STD_TORCH_CHECK(is_floating(z) && centroids.scalar_type() == z.scalar_type(),
                  "z and centroids must both be float32 or both float64");
  STD_TORCH_CHECK(same_place(z, centroids), "z and centroids must be on one device");
  STD_TORCH_CHECK(centroids.size(0) > 0, "there must be a centroid");
  STD_TORCH_CHECK(nu > 0, "nu must be above 0, but is ", nu);
}

// q, or a gradient by it
inline void check_assigned(const Tensor& t, const Tensor& z, const Tensor& centroids) {
  STD_TORCH_CHECK(t.dim() == 2 && t.size(0) == z.size(0) && t.size(1) == centroids.size(0) &&
                      t.scalar_type() == z.scalar_type() && same_place(t, z),
                  "grad and q must be [n_obs, n_clusters], of the type and device of z, but one is ", shape(t));
}

inline void check_target(const Tensor& z, const Tensor& centroids, const Tensor& column_sums, double tau,
                         const std::optional<Tensor>& anchor) {
  STD_TORCH_CHECK(column_sums.dim() == 1 && column_sums.size(0) == centroids.size(0) && same_place(z, column_sums),
                  "column_sums must be [n_clusters], on the device of z, but is ", shape(column_sums));
  STD_TORCH_CHECK(tau > 0, "tau must be above 0, but is ", tau);
  if (anchor)
    STD_TORCH_CHECK(anchor->dim() == 1 && anchor->size(0) == z.size(0) &&
                        anchor->scalar_type() == ScalarType::Long && same_place(z, *anchor),
                    "anchor must be int64 [n_obs], on the device of z, but is ", shape(*anchor));
}

inline void check_csr(const Tensor& indptr, const Tensor& indices, const Tensor& values, const Tensor& dense,
                      int64_t dense_rows) {
  STD_TORCH_CHECK(indptr.dim() == 1 && indptr.size(0) > 0 && indices.dim() == 1 && values.dim() == 1 &&
                      values.size(0) == indices.size(0),
                  "indptr [n_rows + 1], indices [nnz] and values [nnz] must make a CSR matrix, but are ",
                  shape(indptr), ", ", shape(indices), " and ", shape(values));
  STD_TORCH_CHECK(is_index(indptr) && is_index(indices), "indptr and indices must be int32 or int64");
  STD_TORCH_CHECK(is_floating(dense) && (values.scalar_type() == dense.scalar_type() ||
                                         values.scalar_type() == ScalarType::Byte ||
                                         values.scalar_type() == ScalarType::UInt16),
                  "dense must be float32 or float64, and values the same or uint8 or uint16");
  STD_TORCH_CHECK(dense.dim() == 2 && dense.size(0) == dense_rows, "dense must be [", dense_rows, ", width], but is ",
                  shape(dense));
  STD_TORCH_CHECK(same_place(indptr, dense) && same_place(indices, dense) && same_place(values, dense),
                  "all of the matrix and dense must be on one device");
}

inline void check_lists(const Tensor& points, const Tensor& starts, const Tensor& centroids, const Tensor& near,
                        int64_t first, int64_t n_probes, int64_t k) {
  STD_TORCH_CHECK(points.dim() == 2 && centroids.dim() == 2 && points.size(1) == centroids.size(1) &&
                      points.scalar_type() == ScalarType::Float && centroids.scalar_type() == ScalarType::Float,
                  "points [n, d] and centroids [n_lists, d] must be float32 and share d, but are ", shape(points),
                  " and ", shape(centroids));
  STD_TORCH_CHECK(starts.dim() == 1 && starts.size(0) == centroids.size(0) + 1 && near.dim() == 2 &&
                      starts.scalar_type() == ScalarType::Long && near.scalar_type() == ScalarType::Long,
                  "starts [n_lists + 1] and near [n, n_near] must be int64, but are ", shape(starts), " and ",
                  shape(near));
  STD_TORCH_CHECK(same_place(points, centroids) && same_place(points, starts) && same_place(points, near),
                  "all of them must be on one device");
  STD_TORCH_CHECK(first >= 0 && first + near.size(0) <= centroids.size(0),
                  "near must be of lists from first on, but there are ", centroids.size(0), " lists");
  STD_TORCH_CHECK(n_probes > 0 && k > 0, "n_probes and k must be above 0, but are ", n_probes, " and ", k);
}

}  // namespace sccagn

// Student-t assignment of a stretch of cells, on one thread: what each instruction set offers.
#pragma once

#include <cstdint>

namespace sccagn {

// Cells against centroids, as the kernels read them. Pointers are borrowed.
template <class T>
struct StudentT {
  const T* z;          // [n_obs, d], row after row
  const T* centroids;  // [padded(n_clusters), padded(d)], filled up with zeros
  int64_t n_clusters, d;
  T nu;
};

inline constexpr int64_t kPadding = 4;
inline int64_t padded(int64_t n) { return (n + kPadding - 1) / kPadding * kPadding; }

// What the target distribution and its loss need beyond that.
template <class T>
struct Target {
  T tau;
  const T* log_sums;      // [n_clusters], of the column sums
  const int64_t* anchor;  // [n_obs], or null
  T anchor_share;
  T weight;  // of one cell's divergence in the loss
};

// Cells from `begin` to before `end`; results go to the rows of those cells, sums are added to what is there.
// grad_centroids is [padded(n_clusters), padded(d)]. `scratch` has scratch_size() elements and needs no alignment.
template <class T>
struct StudentTKernels {
  int64_t (*scratch_size)(int64_t n_clusters, int64_t d);
  void (*assign)(const StudentT<T>&, int64_t begin, int64_t end, T* scratch, T* q);
  void (*assign_backward)(const StudentT<T>&, int64_t begin, int64_t end, T* scratch, const T* grad, const T* q,
                          T* grad_z, double* grad_centroids);
  void (*column_sums)(const StudentT<T>&, int64_t begin, int64_t end, T* scratch, T tau, double* sums);
  void (*label)(const StudentT<T>&, int64_t begin, int64_t end, T* scratch, int64_t* labels, T* confidence);
  void (*kl)(const StudentT<T>&, int64_t begin, int64_t end, T* scratch, const Target<T>&, double* loss, T* grad_z,
             double* grad_centroids);
};

namespace baseline {
const StudentTKernels<float>& student_t(float);
const StudentTKernels<double>& student_t(double);
}  // namespace baseline
#ifdef SCCAGN_X86
namespace avx2 {
const StudentTKernels<float>& student_t(float);
const StudentTKernels<double>& student_t(double);
}  // namespace avx2
namespace avx512 {
const StudentTKernels<float>& student_t(float);
const StudentTKernels<double>& student_t(double);
}  // namespace avx512
#endif

}  // namespace sccagn

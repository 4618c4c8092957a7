// Student-t operators on the CPU. Cells are divided into stretches by their number alone, and what the stretches add up
// is added in their order: results are the same for any number of threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <tuple>

#include "../types.h"
#include "dispatch.h"
#include "student_t_kernels.h"

namespace sccagn {
namespace {

constexpr int64_t kStretch = 2048;       // cells, at least
constexpr int64_t kMostStretches = 256;  // each has sums of its own, [n_clusters, d] at most

// One call: inputs made contiguous, centroids padded, stretches laid out.
template <class T>
struct Job {
  const Tensor z;
  const int64_t n_obs, n_clusters, d;
  const std::unique_ptr<T[]> centroids;  // [padded(n_clusters), padded(d)]
  const int64_t stretch, n_stretches;    // cells of one, and how many there are
  const StudentT<T> problem;
  const StudentTKernels<T>& kernels = SCCAGN_DISPATCH(student_t(T()));

  Job(const Tensor& given, const Tensor& centres, double nu)
      : z(packed(given)),
        n_obs(z.size(0)),
        n_clusters(centres.size(0)),
        d(z.size(1)),
        centroids(new T[padded(n_clusters) * padded(d)]()),
        stretch(std::max(kStretch, (n_obs + kMostStretches - 1) / kMostStretches)),
        n_stretches((n_obs + stretch - 1) / stretch),
        problem{static_cast<const T*>(z.const_data_ptr()), centroids.get(), n_clusters, d, static_cast<T>(nu)} {
    const Tensor source = packed(centres);
    const T* const from = static_cast<const T*>(source.const_data_ptr());
    for (int64_t j = 0; j < n_clusters; ++j) std::copy_n(from + j * d, d, centroids.get() + j * padded(d));
  }

  // Calls run(stretch, begin, end, scratch) for every stretch, several at a time.
  template <class Run>
  void over_stretches(const Run& run) const {
    torch::stable::parallel_for(0, n_stretches, 1, [&](int64_t first, int64_t last) {
      const std::unique_ptr<T[]> scratch(new T[kernels.scratch_size(n_clusters, d)]);
      for (int64_t s = first; s < last; ++s)
        run(s, s * stretch, std::min((s + 1) * stretch, n_obs), scratch.get());
    });
  }

  // The same where each stretch adds to `size` sums of its own, which are then added up.
  template <class Run>
  std::vector<double> sums_over_stretches(int64_t size, const Run& run) const {
    std::vector<double> parts(n_stretches * size), total(size);
    over_stretches([&](int64_t s, int64_t begin, int64_t end, T* scratch) {
      run(begin, end, scratch, parts.data() + s * size);
    });
    for (int64_t s = 0; s < n_stretches; ++s)
      for (int64_t i = 0; i < size; ++i) total[i] += parts[s * size + i];
    return total;
  }

  // [padded(n_clusters), padded(d)] of double to a tensor [n_clusters, d]
  Tensor unpadded(const double* from, const Tensor& like) const {
    Tensor tensor = empty(like, {n_clusters, d});
    T* const to = static_cast<T*>(tensor.mutable_data_ptr());
    for (int64_t j = 0; j < n_clusters; ++j)
      for (int64_t i = 0; i < d; ++i) to[j * d + i] = static_cast<T>(from[j * padded(d) + i]);
    return tensor;
  }
};

template <class T>
T* out(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

Tensor assign(const Tensor& z, const Tensor& centroids, double nu) {
  check_student_t(z, centroids, nu);
  return by_type(z, [&]<class T>(T) {
    const Job<T> job(z, centroids, nu);
    Tensor q = empty(z, {job.n_obs, job.n_clusters});
    job.over_stretches([&](int64_t, int64_t begin, int64_t end, T* scratch) {
      job.kernels.assign(job.problem, begin, end, scratch, out<T>(q));
    });
    return q;
  });
}

std::tuple<Tensor, Tensor> assign_backward(const Tensor& grad, const Tensor& z, const Tensor& centroids,
                                           const Tensor& q, double nu) {
  check_student_t(z, centroids, nu);
  check_assigned(grad, z, centroids);
  check_assigned(q, z, centroids);
  return by_type(z, [&]<class T>(T) {
    const Job<T> job(z, centroids, nu);
    const Tensor g = packed(grad), assigned = packed(q);
    const Tensor grad_z = empty(z, {job.n_obs, job.d});
    const auto sums = job.sums_over_stretches(
        padded(job.n_clusters) * padded(job.d), [&](int64_t begin, int64_t end, T* scratch, double* sums) {
          job.kernels.assign_backward(job.problem, begin, end, scratch, static_cast<const T*>(g.const_data_ptr()),
                                      static_cast<const T*>(assigned.const_data_ptr()), out<T>(grad_z), sums);
        });
    return std::tuple(grad_z, job.unpadded(sums.data(), z));
  });
}

Tensor column_sums(const Tensor& z, const Tensor& centroids, double nu, double tau) {
  check_student_t(z, centroids, nu);
  STD_TORCH_CHECK(tau > 0, "tau must be above 0, but is ", tau);
  return by_type(z, [&]<class T>(T) {
    const Job<T> job(z, centroids, nu);
    const auto sums =
        job.sums_over_stretches(job.n_clusters, [&](int64_t begin, int64_t end, T* scratch, double* sums) {
          job.kernels.column_sums(job.problem, begin, end, scratch, static_cast<T>(tau), sums);
        });
    const Tensor result = empty(z, {job.n_clusters}, ScalarType::Double);
    std::copy(sums.begin(), sums.end(), out<double>(result));
    return result;
  });
}

std::tuple<Tensor, Tensor> label(const Tensor& z, const Tensor& centroids, double nu) {
  check_student_t(z, centroids, nu);
  return by_type(z, [&]<class T>(T) {
    const Job<T> job(z, centroids, nu);
    const Tensor labels = empty(z, {job.n_obs}, ScalarType::Long), confidence = empty(z, {job.n_obs});
    job.over_stretches([&](int64_t, int64_t begin, int64_t end, T* scratch) {
      job.kernels.label(job.problem, begin, end, scratch, out<int64_t>(labels), out<T>(confidence));
    });
    return std::tuple(labels, confidence);
  });
}

std::tuple<Tensor, Tensor, Tensor> kl(const Tensor& z, const Tensor& centroids, const Tensor& column_sums, double nu,
                                      double tau, std::optional<Tensor> anchor, double anchor_share) {
  check_student_t(z, centroids, nu);
  check_target(z, centroids, column_sums, tau, anchor);
  return by_type(z, [&]<class T>(T) {
    const Job<T> job(z, centroids, nu);
    const Tensor sums = as_type(column_sums, ScalarType::Double);
    const double* const sum = static_cast<const double*>(sums.const_data_ptr());
    std::vector<T> log_sums(job.n_clusters);
    for (int64_t j = 0; j < job.n_clusters; ++j)
      log_sums[j] = static_cast<T>(std::log(std::max(sum[j], std::numeric_limits<double>::min())));
    std::optional<Tensor> anchors;
    const int64_t* first_anchor = nullptr;
    if (anchor) {
      anchors = packed(*anchor);
      first_anchor = static_cast<const int64_t*>(anchors->const_data_ptr());
      STD_TORCH_CHECK(std::all_of(first_anchor, first_anchor + job.n_obs,
                                  [&](int64_t a) { return a >= 0 && a < job.n_clusters; }),
                      "anchor must hold clusters, from 0 to before ", job.n_clusters);
    }
    const Target<T> target = {static_cast<T>(tau), log_sums.data(), first_anchor, static_cast<T>(anchor_share),
                              T(1) / static_cast<T>(std::max<int64_t>(job.n_obs, 1))};
    const Tensor grad_z = empty(z, {job.n_obs, job.d}), loss = empty(z, {});
    const auto total = job.sums_over_stretches(
        1 + padded(job.n_clusters) * padded(job.d), [&](int64_t begin, int64_t end, T* scratch, double* sums) {
          job.kernels.kl(job.problem, begin, end, scratch, target, sums, out<T>(grad_z), sums + 1);
        });
    *out<T>(loss) = static_cast<T>(total[0]);
    return std::tuple(loss, grad_z, job.unpadded(total.data() + 1, z));
  });
}

}  // namespace
}  // namespace sccagn

STABLE_TORCH_LIBRARY_IMPL(sccagn, CPU, m) {
  m.impl("student_t_assign", TORCH_BOX(&sccagn::assign));
  m.impl("student_t_assign_backward", TORCH_BOX(&sccagn::assign_backward));
  m.impl("student_t_column_sums", TORCH_BOX(&sccagn::column_sums));
  m.impl("student_t_label", TORCH_BOX(&sccagn::label));
  m.impl("student_t_kl", TORCH_BOX(&sccagn::kl));
}

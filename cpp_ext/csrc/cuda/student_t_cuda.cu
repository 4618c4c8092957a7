// Student-t operators on CUDA: checks, buffers and launches of student_t_kernels.cuh.
#include "student_t_kernels.cuh"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "../types.h"
#include "launch.cuh"

namespace sccagn {
namespace {

constexpr int64_t kSharedBytes = 48 * 1024;  // of a block: sm_75 has 64 KiB, on sm_80 three fit on a multiprocessor
constexpr int64_t kMostBlocks = 1024, kFewestBlocks = 128;
constexpr int64_t kBufferElements = 1 << 24;  // for sums of blocks, where that leaves enough of them

__device__ unsigned char* shared_bytes() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return bytes;
}

// One call: inputs made contiguous, blocks laid out by the shape alone.
template <class T>
struct Job {
  const Tensor z, centroids;
  const StudentT<T> problem;
  const OnDeviceOf device;
  int threads = 128;
  int64_t shared_size = 0, blocks;

  Job(const Tensor& given, const Tensor& centres, double nu, bool with_gradient)
      : z(packed(given)),
        centroids(packed(centres)),
        problem{const_data<T>(z), const_data<T>(centroids), z.size(0), centroids.size(0), z.size(1), T(nu)},
        device(z) {
    const int64_t rows = problem.d * (with_gradient ? 2 : 1) + kClusters;
    for (; threads >= 32; threads /= 2) {
      shared_size = rows * (threads + 1) * int64_t(sizeof(T));
      if (shared_size <= kSharedBytes) break;
    }
    STD_TORCH_CHECK(threads >= 32, "z has ", problem.d,
                    " dimensions, more than a block's shared memory holds; leave the extension out: SCCAGN_EXT=0");
    const int64_t most = std::clamp(kBufferElements / std::max<int64_t>(1, problem.n_clusters * problem.d),
                                    kFewestBlocks, kMostBlocks);
    blocks = std::clamp<int64_t>((problem.n_obs + threads - 1) / threads, 1, most);
  }

  template <class Kernel, class... Arguments>
  void launch(Kernel kernel, Arguments... arguments) const {
    // the same for every launch: threads that launch at once share it
    STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(kSharedBytes)));
    kernel<<<unsigned(blocks), threads, shared_size, device.stream()>>>(problem, arguments...);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  template <class From, class To>
  void add(const Tensor& parts, double factor, const Tensor& to) const {
    const int64_t size = parts.size(1);
    if (size == 0) return;
    add_blocks<From, To><<<unsigned((size + 255) / 256), 256, 0, device.stream()>>>(
        const_data<From>(parts), blocks, size, factor, data<To>(to));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

  // ∂L/∂z, ∂L/∂µ and the loss, float64 [blocks, 1]
  template <class Pull>
  std::tuple<Tensor, Tensor, Tensor> differentiate(const Pull& own) const {
    const Tensor grad_z = empty(z, {problem.n_obs, problem.d}), loss = zeros(z, {blocks, 1}, ScalarType::Double);
    const Tensor parts = zeros(z, {blocks, problem.n_clusters * problem.d});
    const Tensor grad_centroids = empty(z, {problem.n_clusters, problem.d});
    launch(pull<T, Pull>, own, data<T>(grad_z), data<T>(parts), data<double>(loss));
    add<T, T>(parts, 1, grad_centroids);
    return {grad_z, grad_centroids, loss};
  }
};

Tensor assign_op(const Tensor& z, const Tensor& centroids, double nu) {
  check_student_t(z, centroids, nu);
  return by_type(z, [&]<class T>(T) {
    const Job<T> job(z, centroids, nu, false);
    const Tensor q = empty(z, {z.size(0), centroids.size(0)});
    job.launch(assign<T>, data<T>(q));
    return q;
  });
}

std::tuple<Tensor, Tensor> assign_backward_op(const Tensor& grad, const Tensor& z, const Tensor& centroids,
                                              const Tensor& q, double nu) {
  check_student_t(z, centroids, nu);
  check_assigned(grad, z, centroids);
  check_assigned(q, z, centroids);
  return by_type(z, [&]<class T>(T) {
    const Job<T> job(z, centroids, nu, true);
    const Tensor g = packed(grad), assigned = packed(q);
    auto [grad_z, grad_centroids, loss] = job.differentiate(GivenPull<T>{const_data<T>(g), const_data<T>(assigned)});
    return std::tuple(grad_z, grad_centroids);
  });
}

Tensor column_sums_op(const Tensor& z, const Tensor& centroids, double nu, double tau) {
  check_student_t(z, centroids, nu);
  STD_TORCH_CHECK(tau > 0, "tau must be above 0, but is ", tau);
  return by_type(z, [&]<class T>(T) {
    const Job<T> job(z, centroids, nu, false);
    const Tensor parts = zeros(z, {job.blocks, centroids.size(0)}, ScalarType::Double);
    const Tensor sums = empty(z, {centroids.size(0)}, ScalarType::Double);
    job.launch(column_sums<T>, T(tau), data<double>(parts));
    job.template add<double, double>(parts, 1, sums);
    return sums;
  });
}

std::tuple<Tensor, Tensor> label_op(const Tensor& z, const Tensor& centroids, double nu) {
  check_student_t(z, centroids, nu);
  return by_type(z, [&]<class T>(T) {
    const Job<T> job(z, centroids, nu, false);
    const Tensor labels = empty(z, {z.size(0)}, ScalarType::Long), confidence = empty(z, {z.size(0)});
    job.launch(label<T>, data<int64_t>(labels), data<T>(confidence));
    return std::tuple(labels, confidence);
  });
}

std::tuple<Tensor, Tensor, Tensor> kl_op(const Tensor& z, const Tensor& centroids, const Tensor& column_sums,
                                         double nu, double tau, std::optional<Tensor> anchor, double anchor_share) {
  check_student_t(z, centroids, nu);
  check_target(z, centroids, column_sums, tau, anchor);
  return by_type(z, [&]<class T>(T) {
    const Job<T> job(z, centroids, nu, true);
    const int64_t n = z.size(0), k = centroids.size(0);
    const Tensor sums = as_type(column_sums, ScalarType::Double), log_sums = empty(z, {k});
    log_of<T><<<unsigned((k + 255) / 256), 256, 0, job.device.stream()>>>(const_data<double>(sums), k, data<T>(log_sums));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    std::optional<Tensor> anchors;
    if (anchor) anchors = packed(*anchor);
    const T weight = T(1) / T(std::max<int64_t>(n, 1));
    auto [grad_z, grad_centroids, parts] = job.differentiate(
        TargetPull<T>{const_data<T>(log_sums), anchors ? const_data<int64_t>(*anchors) : nullptr,
                      anchors ? T(anchor_share) : T(0), T(tau), weight});
    const Tensor loss = empty(z, {});
    job.template add<double, T>(parts, double(weight), loss);
    return std::tuple(loss, grad_z, grad_centroids);
  });
}

}  // namespace
}  // namespace sccagn

STABLE_TORCH_LIBRARY_IMPL(sccagn, CUDA, m) {
  m.impl("student_t_assign", TORCH_BOX(&sccagn::assign_op));
  m.impl("student_t_assign_backward", TORCH_BOX(&sccagn::assign_backward_op));
  m.impl("student_t_column_sums", TORCH_BOX(&sccagn::column_sums_op));
  m.impl("student_t_label", TORCH_BOX(&sccagn::label_op));
  m.impl("student_t_kl", TORCH_BOX(&sccagn::kl_op));
}

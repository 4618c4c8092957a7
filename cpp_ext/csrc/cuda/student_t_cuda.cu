// Student-t operators on CUDA; formulas in sccagn_scale/ops/student_t.py.
//
// A thread has a cell. It goes through the centroids twice: once for what its row is normalised by, once for the result;
// distances are computed anew rather than kept. What is summed over cells is summed by blocks, each in its own part of
// a buffer, and then over blocks in their order: no atomics, so the same input gives the same result.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "../types.h"
#include "launch.cuh"

namespace sccagn {
namespace {

constexpr int kClusters = 32;                  // whose values a block holds at once
constexpr int64_t kSharedBytes = 80 * 1024;    // of a block: two of them fit on one multiprocessor of sm_80 (164 KiB)
constexpr int64_t kMostBlocks = 1024, kFewestBlocks = 128;
constexpr int64_t kBufferElements = 1 << 24;   // for sums of blocks, where that leaves enough of them

template <class T>
struct StudentT {
  const T* z;          // [n_obs, d]
  const T* centroids;  // [n_clusters, d]
  int64_t n_obs, n_clusters, d;
  T nu;
};

template <class T>
struct Distance {
  T log_t, inverse_t;
};

// For squares that overflow: differences are divided by the largest of them first.
template <class T>
__device__ __noinline__ Distance<T> far_distance(const T* z, int stride, const T* centre, int64_t d, double nu) {
  double scale = 1;
  for (int64_t i = 0; i < d; ++i) {
    const double x = fabs(double(z[i * stride]) - double(centre[i]));
    scale = x > scale || isnan(x) ? x : scale;
  }
  double squared = 0;
  for (int64_t i = 0; i < d; ++i) {
    const double x = (double(z[i * stride]) - double(centre[i])) / scale;
    squared += x * x;
  }
  const double rest = 1 / scale / scale + squared / nu;  // t = scale² · rest
  return {T(2 * log(scale) + log(rest)), T(1 / scale / scale / rest)};
}

// z is a column of shared memory.
template <class T>
__device__ Distance<T> distance(const T* z, int stride, const T* centre, int64_t d, T nu) {
  T squared = 0;
  for (int64_t i = 0; i < d; ++i) {
    const T x = z[i * stride] - centre[i];
    squared += x * x;
  }
  const T t = 1 + squared / nu;
  if (!isfinite(t)) return far_distance(z, stride, centre, d, double(nu));
  return {log(t), 1 / t};
}

// log Σ exp of numbers, in two parts: for cells far from all centroids both are large, and their sum would round
template <class T>
struct Total {
  T largest, log_sum;

  __device__ T log_share(T x) const { return (x - largest) - log_sum; }
};

// The same of numbers that come one after the other.
template <class T>
struct LogSum {
  T largest = -std::numeric_limits<T>::infinity(), sum = 0;

  __device__ void add(T x) {
    if (x > largest) {
      sum = sum * exp(largest - x) + 1;
      largest = x;
    } else {
      sum += exp(x - largest);
    }
  }
  __device__ Total<T> value() const { return {largest, log(sum)}; }
};

// A block's tile: one column of shared memory for each thread's cell, padded so that rows can be read side by side too.
template <class T>
struct Tile {
  const StudentT<T>& in;
  const int stride;
  T *const z, *const grad_z;  // [d][stride]
  T* const values;            // [kClusters][stride]
  int64_t cell;
  bool valid;

  __device__ Tile(const StudentT<T>& problem, T* shared, bool with_gradient)
      : in(problem),
        stride(blockDim.x + 1),
        z(shared),
        grad_z(with_gradient ? z + in.d * stride : nullptr),
        values(z + in.d * stride * (with_gradient ? 2 : 1)) {}

  __device__ void read(int64_t first) {
    __syncthreads();
    const int64_t n = min(int64_t(blockDim.x), in.n_obs - first) * in.d;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) z[i % in.d * stride + i / in.d] = in.z[first * in.d + i];
    __syncthreads();
    cell = first + threadIdx.x;
    valid = cell < in.n_obs;
  }

  __device__ Distance<T> measure(int64_t j) const {
    return distance(z + threadIdx.x, stride, in.centroids + j * in.d, in.d, in.nu);
  }

  __device__ T logit(const Distance<T>& found) const { return -(in.nu + 1) / 2 * found.log_t; }
};

template <class T>
__device__ T* shared() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<T*>(bytes);
}

// Calls run(tile) for every tile of cells that is the block's, with z read.
template <class T, class Run>
__device__ void over_tiles(Tile<T>& tile, const Run& run) {
  for (int64_t first = int64_t(blockIdx.x) * blockDim.x; first < tile.in.n_obs;
       first += int64_t(gridDim.x) * blockDim.x) {
    tile.read(first);
    run();
  }
}

template <class T>
__device__ Total<T> log_total(const Tile<T>& tile) {
  LogSum<T> total;
  for (int64_t j = 0; j < tile.in.n_clusters; ++j) total.add(tile.logit(tile.measure(j)));
  return total.value();
}

template <class T>
__global__ void assign(StudentT<T> in, T* q) {
  Tile<T> tile(in, shared<T>(), false);
  over_tiles(tile, [&] {
    if (!tile.valid) return;
    const Total<T> total = log_total(tile);
    for (int64_t j = 0; j < in.n_clusters; ++j)
      q[tile.cell * in.n_clusters + j] = exp(total.log_share(tile.logit(tile.measure(j))));
  });
}

template <class T>
__global__ void label(StudentT<T> in, int64_t* labels, T* confidence) {
  Tile<T> tile(in, shared<T>(), false);
  over_tiles(tile, [&] {
    if (!tile.valid) return;
    LogSum<T> total;
    int64_t best = 0;
    for (int64_t j = 0; j < in.n_clusters; ++j) {
      const T logit = tile.logit(tile.measure(j));
      if (logit > total.largest) best = j;
      total.add(logit);
    }
    labels[tile.cell] = best;
    confidence[tile.cell] = 1 / total.sum;
  });
}

// parts [blocks, n_clusters] of double, zero before
template <class T>
__global__ void column_sums(StudentT<T> in, T tau, double* parts) {
  Tile<T> tile(in, shared<T>(), false);
  over_tiles(tile, [&] {
    const Total<T> total = tile.valid ? log_total(tile) : Total<T>{};
    for (int64_t first = 0; first < in.n_clusters; first += kClusters) {
      const int64_t last = min(first + kClusters, in.n_clusters);
      for (int64_t j = first; j < last; ++j)
        tile.values[(j - first) * tile.stride + threadIdx.x] =
            tile.valid ? total.log_share(tile.logit(tile.measure(j))) / tau : -std::numeric_limits<T>::infinity();
      __syncthreads();
      for (int64_t j = first + threadIdx.x; j < last; j += blockDim.x) {
        double sum = 0;
        // in double: powers of q leave float where τ is small
        for (int l = 0; l < blockDim.x; ++l) sum += exp(double(tile.values[(j - first) * tile.stride + l]));
        parts[blockIdx.x * in.n_clusters + j] += sum;
      }
      __syncthreads();
    }
  });
}

// What pulls at a cell, as the gradient by q that the caller has says.
template <class T>
struct GivenPull {
  const T *grad, *q;
  T factor, mean;

  __device__ void prepare(const Tile<T>& tile) {
    const int64_t k = tile.in.n_clusters;
    factor = -(tile.in.nu + 1) / tile.in.nu;
    mean = 0;
    for (int64_t j = 0; j < k; ++j) mean += q[tile.cell * k + j] * grad[tile.cell * k + j];
  }
  __device__ T operator()(const Tile<T>& tile, int64_t j, const Distance<T>& found, double&) const {
    const int64_t at = tile.cell * tile.in.n_clusters + j;
    return factor * q[at] * (grad[at] - mean) * found.inverse_t;
  }
};

// The same of the divergence from the sharpened target.
template <class T>
struct TargetPull {
  const T* log_sums;
  const int64_t* anchor;  // or null
  T share, tau, weight;
  T reference;  // the first logit, which others are taken relative to: 2 / τ times a large one would round
  Total<T> total, target_total;

  __device__ void prepare(const Tile<T>& tile) {
    LogSum<T> sum, target_sum;
    for (int64_t j = 0; j < tile.in.n_clusters; ++j) {
      const T logit = tile.logit(tile.measure(j));
      if (j == 0) reference = logit;
      sum.add(logit - reference);
      target_sum.add(2 / tau * (logit - reference) - log_sums[j]);
    }
    total = sum.value();
    target_total = target_sum.value();
  }
  __device__ T operator()(const Tile<T>& tile, int64_t j, const Distance<T>& found, double& divergence) const {
    const T logit = tile.logit(found) - reference, log_q = total.log_share(logit);
    T log_p = target_total.log_share(2 / tau * logit - log_sums[j]), p = exp(log_p);
    if (anchor) {
      p = (1 - share) * p + (anchor[tile.cell] == j ? share : 0);
      log_p = log(p);
    }
    if (p != 0) divergence += double(p) * double(log_p - log_q);
    return (tile.in.nu + 1) / tile.in.nu * weight * (p - exp(log_q)) * found.inverse_t;
  }
};

// grad_z, and by block: parts [blocks, n_clusters · d] of what centroids are moved by, loss [blocks]; both zero before
template <class T, class Pull>
__global__ void pull(StudentT<T> in, Pull own, T* grad_z, T* parts, double* loss) {
  Tile<T> tile(in, shared<T>(), true);
  double divergence = 0;
  over_tiles(tile, [&] {
    const int stride = tile.stride;
    for (int64_t i = 0; i < in.d; ++i) tile.grad_z[i * stride + threadIdx.x] = 0;
    if (tile.valid) own.prepare(tile);
    for (int64_t first = 0; first < in.n_clusters; first += kClusters) {
      const int64_t last = min(first + kClusters, in.n_clusters);
      for (int64_t j = first; j < last; ++j) {
        T c = 0;
        if (tile.valid) {
          c = own(tile, j, tile.measure(j), divergence);
          for (int64_t i = 0; i < in.d; ++i)
            tile.grad_z[i * stride + threadIdx.x] += c * (tile.z[i * stride + threadIdx.x] - in.centroids[j * in.d + i]);
        }
        tile.values[(j - first) * stride + threadIdx.x] = c;
      }
      __syncthreads();
      const int cells = int(min(int64_t(blockDim.x), in.n_obs - (tile.cell - threadIdx.x)));
      for (int64_t at = threadIdx.x; at < (last - first) * in.d; at += blockDim.x) {
        const int64_t j = at / in.d, i = at % in.d;
        const T centre = in.centroids[(first + j) * in.d + i];
        T sum = 0;
        for (int l = 0; l < cells; ++l) sum += tile.values[j * stride + l] * (tile.z[i * stride + l] - centre);
        parts[(blockIdx.x * in.n_clusters + first) * in.d + at] -= sum;
      }
      __syncthreads();
    }
    if (tile.valid)
      for (int64_t i = 0; i < in.d; ++i) grad_z[tile.cell * in.d + i] = tile.grad_z[i * stride + threadIdx.x];
  });
  __shared__ double each[128];
  each[threadIdx.x] = divergence;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int l = 0; l < blockDim.x; ++l) loss[blockIdx.x] += each[l];
}

// to[i] = factor · Σ_b parts[b, i]
template <class T, class To>
__global__ void add_blocks(const T* parts, int64_t blocks, int64_t size, double factor, To* to) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size) return;
  double sum = 0;
  for (int64_t b = 0; b < blocks; ++b) sum += double(parts[b * size + i]);
  to[i] = To(factor * sum);
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
    STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_size)));
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

template <class T>
__global__ void log_of(const double* sums, int64_t n, T* to) {
  const int64_t j = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (j < n) to[j] = T(log(sums[j] < std::numeric_limits<double>::min() ? std::numeric_limits<double>::min() : sums[j]));
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

// Student-t kernels; formulas in sccagn_scale/ops/student_t.py.
//
// A thread has a cell. It goes through the centroids twice: once for what its row is normalised by, once for the result;
// distances are computed anew rather than kept. What is summed over cells is summed by blocks, each in its own part of
// a buffer, and then over blocks in their order: no atomics, so the same input gives the same result.
//
// Nothing here is torch's, and of CUDA there is only the language: the tests compile it for the host as well.
#pragma once

#include <cstdint>
#include <limits>

namespace sccagn {
namespace {

__device__ unsigned char* shared_bytes();  // the block's dynamic shared memory

constexpr int kClusters = 32;  // whose values a block holds at once

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
    cell = first + threadIdx.x;
    valid = cell < in.n_obs;
    const T* const rows = in.z + first * in.d;
    each_of_rows(int(in.d), [&](int l, int i) { z[i * stride + l] = rows[l * in.d + i]; });
    __syncthreads();
  }

  // Calls run(l, i) for every column i of a matrix with a row for every cell l of the tile: threads that are neighbours
  // have columns that are, so that what they read or write of the matrix lies together.
  template <class Run>
  __device__ void each_of_rows(int width, const Run& run) const {
    const int size = int(min(int64_t(blockDim.x), in.n_obs - first())) * width;  // divided in 32 bits, as that is quick
    for (int at = threadIdx.x; at < size; at += blockDim.x) run(at / width, at % width);
  }

  __device__ int64_t first() const { return cell - threadIdx.x; }

  __device__ Distance<T> measure(int64_t j) const {
    return distance(z + threadIdx.x, stride, in.centroids + j * in.d, in.d, in.nu);
  }

  __device__ T logit(const Distance<T>& found) const { return -(in.nu + 1) / 2 * found.log_t; }
};

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
  Tile<T> tile(in, reinterpret_cast<T*>(shared_bytes()), false);
  over_tiles(tile, [&] {
    const Total<T> total = tile.valid ? log_total(tile) : Total<T>{};
    for (int64_t first = 0; first < in.n_clusters; first += kClusters) {
      const int width = int(min(int64_t(kClusters), in.n_clusters - first));
      for (int j = 0; j < width && tile.valid; ++j)
        tile.values[j * tile.stride + threadIdx.x] = exp(total.log_share(tile.logit(tile.measure(first + j))));
      __syncthreads();
      T* const rows = q + tile.first() * in.n_clusters + first;
      tile.each_of_rows(width, [&](int l, int j) { rows[l * in.n_clusters + j] = tile.values[j * tile.stride + l]; });
      __syncthreads();
    }
  });
}

template <class T>
__global__ void label(StudentT<T> in, int64_t* labels, T* confidence) {
  Tile<T> tile(in, reinterpret_cast<T*>(shared_bytes()), false);
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
  Tile<T> tile(in, reinterpret_cast<T*>(shared_bytes()), false);
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
  Tile<T> tile(in, reinterpret_cast<T*>(shared_bytes()), true);
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
      const int cells = int(min(int64_t(blockDim.x), in.n_obs - tile.first()));
      for (int64_t at = threadIdx.x; at < (last - first) * in.d; at += blockDim.x) {
        const int64_t j = at / in.d, i = at % in.d;
        const T centre = in.centroids[(first + j) * in.d + i];
        T sum = 0;
        for (int l = 0; l < cells; ++l) sum += tile.values[j * stride + l] * (tile.z[i * stride + l] - centre);
        parts[(blockIdx.x * in.n_clusters + first) * in.d + at] -= sum;
      }
      __syncthreads();
    }
    T* const rows = grad_z + tile.first() * in.d;
    tile.each_of_rows(int(in.d), [&](int l, int i) { rows[l * in.d + i] = tile.grad_z[i * stride + l]; });
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

template <class T>
__global__ void log_of(const double* sums, int64_t n, T* to) {
  const int64_t j = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (j < n) to[j] = T(log(sums[j] < std::numeric_limits<double>::min() ? std::numeric_limits<double>::min() : sums[j]));
}

}  // namespace
}  // namespace sccagn

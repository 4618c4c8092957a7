// The CUDA kernels on the host: a block's threads are threads here, __syncthreads is a barrier, blocks run one by one.
//
// Built as a library for test_ext_cuda.py, which compares results; and as a program, for the thread sanitizer, which
// finds what two threads of a block touch without a barrier between.
#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __noinline__
#define __shared__ static

struct Index3 {
  unsigned x = 1, y = 1, z = 1;
};
thread_local Index3 threadIdx;
Index3 blockIdx, blockDim, gridDim;
std::optional<std::barrier<>> block;
void __syncthreads() { block->arrive_and_wait(); }

namespace sccagn {
namespace {
using std::exp, std::fabs, std::isfinite, std::isnan, std::log, std::min;
alignas(16) unsigned char memory[1 << 20];
unsigned char* shared_bytes() { return memory; }
}  // namespace
}  // namespace sccagn

#include "../../cpp_ext/csrc/cuda/csr_kernels.cuh"
#include "../../cpp_ext/csrc/cuda/student_t_kernels.cuh"

namespace {

using namespace sccagn;

template <class Kernel>
void launch(unsigned blocks, Index3 threads, const Kernel& kernel) {
  gridDim = {blocks, 1, 1};
  blockDim = threads;
  for (unsigned b = 0; b < blocks; ++b) {
    blockIdx = {b, 0, 0};
    std::fill(std::begin(memory), std::end(memory), 0xff);  // NaN, as what a kernel has not written may be anything
    block.emplace(threads.x * threads.y);
    std::vector<std::jthread> running;
    for (unsigned y = 0; y < threads.y; ++y)
      for (unsigned x = 0; x < threads.x; ++x)
        running.emplace_back([&kernel, x, y] {
          threadIdx = {x, y, 0};
          kernel();
        });
  }
}

// Sums of blocks [blocks, size], as the launches add them.
template <class T, class To>
void add(const std::vector<T>& parts, unsigned blocks, double factor, To* to) {
  const int64_t size = int64_t(parts.size()) / blocks;
  launch(unsigned((size + 31) / 32), {32, 1, 1}, [&] { add_blocks(parts.data(), blocks, size, factor, to); });
}

template <class T>
struct Problem {
  StudentT<T> in;
  unsigned blocks, threads;

  void assign_to(T* q) const {
    launch(blocks, {threads, 1, 1}, [&] { assign(in, q); });
  }
  void label_to(int64_t* labels, T* confidence) const {
    launch(blocks, {threads, 1, 1}, [&] { label(in, labels, confidence); });
  }
  void sums_to(T tau, double* sums) const {
    std::vector<double> parts(blocks * in.n_clusters, 0.0);
    launch(blocks, {threads, 1, 1}, [&] { column_sums(in, tau, parts.data()); });
    add(parts, blocks, 1, sums);
  }
  template <class Pull>
  void pull_to(const Pull& own, T* grad_z, T* grad_centroids, T* loss, double weight) const {
    std::vector<T> parts(blocks * in.n_clusters * in.d, T(0));
    std::vector<double> losses(blocks, 0.0);
    launch(blocks, {threads, 1, 1}, [&] { pull(in, own, grad_z, parts.data(), losses.data()); });
    add(parts, blocks, 1, grad_centroids);
    add(losses, blocks, weight, loss);
  }
  void backward_to(const T* grad, const T* q, T* grad_z, T* grad_centroids) const {
    T unused;
    pull_to(GivenPull<T>{grad, q}, grad_z, grad_centroids, &unused, 1);
  }
  void kl_to(const double* column_sums, T tau, const int64_t* anchor, T share, T* loss, T* grad_z,
             T* grad_centroids) const {
    std::vector<T> logs(in.n_clusters);
    launch(unsigned((in.n_clusters + 31) / 32), {32, 1, 1}, [&] { log_of(column_sums, in.n_clusters, logs.data()); });
    const T weight = T(1) / T(std::max<int64_t>(in.n_obs, 1));
    pull_to(TargetPull<T>{logs.data(), anchor, share, tau, weight}, grad_z, grad_centroids, loss, double(weight));
  }
};

template <class T>
void gather_to(const int64_t* indptr, const int32_t* indices, const T* values, const T* dense, int64_t n_rows,
               int64_t width, T* out) {
  launch(unsigned((n_rows + kWarps - 1) / kWarps), {kWarp, kWarps, 1},
         [&] { gather(indptr, indices, values, dense, n_rows, width, out); });
}

}  // namespace

#define EXPORT(NAME, T)                                                                                              \
  extern "C" void assign_##NAME(Problem<T> p, T* q) { p.assign_to(q); }                                              \
  extern "C" void label_##NAME(Problem<T> p, int64_t* labels, T* confidence) { p.label_to(labels, confidence); }     \
  extern "C" void sums_##NAME(Problem<T> p, T tau, double* sums) { p.sums_to(tau, sums); }                           \
  extern "C" void backward_##NAME(Problem<T> p, const T* grad, const T* q, T* grad_z, T* grad_centroids) {           \
    p.backward_to(grad, q, grad_z, grad_centroids);                                                                  \
  }                                                                                                                  \
  extern "C" void kl_##NAME(Problem<T> p, const double* sums, T tau, const int64_t* anchor, T share, T* loss,        \
                            T* grad_z, T* grad_centroids) {                                                          \
    p.kl_to(sums, tau, anchor, share, loss, grad_z, grad_centroids);                                                 \
  }                                                                                                                  \
  extern "C" void gather_##NAME(const int64_t* indptr, const int32_t* indices, const T* values, const T* dense,      \
                                int64_t n_rows, int64_t width, T* out) {                                             \
    gather_to(indptr, indices, values, dense, n_rows, width, out);                                                   \
  }
EXPORT(float32, float)
EXPORT(float64, double)

// Runs everything once: two blocks, a last tile that is not full, more clusters than a block holds at once.
int main() {
  constexpr int64_t n = 45, k = 37, d = 3;
  std::mt19937 random(0);
  std::normal_distribution<float> normal;
  std::vector<float> z(n * d), centroids(k * d), q(n * k), grad(n * k, 1.0f), grad_z(n * d), grad_centroids(k * d);
  for (auto* values : {&z, &centroids})
    for (float& x : *values) x = normal(random);
  std::vector<float> confidence(n);
  std::vector<int64_t> labels(n), indptr{0, 2, 2, 3};
  std::vector<double> sums(k);
  const Problem<float> p{{z.data(), centroids.data(), n, k, d, 2.0f}, 2, 16};
  float loss = 0;
  p.assign_to(q.data());
  p.label_to(labels.data(), confidence.data());
  p.sums_to(0.5f, sums.data());
  p.backward_to(grad.data(), q.data(), grad_z.data(), grad_centroids.data());
  p.kl_to(sums.data(), 0.5f, labels.data(), 0.5f, &loss, grad_z.data(), grad_centroids.data());
  const std::vector<int32_t> indices{0, 2, 1};
  gather_to<float>(indptr.data(), indices.data(), z.data(), centroids.data(), 3, d, q.data());
  std::printf("%g\n", loss);
}

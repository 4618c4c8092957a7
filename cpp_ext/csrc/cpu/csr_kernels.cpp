// Sparse × dense products by rows: the dense rows that a sparse row stores are added up, weighted, in registers.
//
// What is gathered from, or scattered to, has to come from near caches to keep the arithmetic fed. So where enough values
// are stored the matrix is gone through in bands of columns: a band's rows of the dense side are packed
// next to each other, aligned and filled up to whole vectors, and every sparse row goes on where the band before left
// it. Should rows turn out not to be sorted, all is done again without bands. Every element of a result is summed in the
// order in which the values are stored, whatever the vectors, bands and threads.
#include "csr_kernels.h"

#include <new>

#include "simd.h"

namespace sccagn::SCCAGN_TARGET {
namespace {

// Somewhat more than a first-level cache: narrower bands would end a row's loop, unforeseen, more often than they save
// (measured from 14 KiB to all: 64 and 128 KiB are best).
constexpr int64_t kBandBytes = 64 * 1024;
constexpr int64_t kPackedBytes = 512 * 1024;  // of the second-level cache
constexpr double kFewestPerRow = 4;         // stored values of a row in a band that are worth it

constexpr int64_t rounded_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Uninitialised memory that starts with a cache line.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t elements)
      : data_(static_cast<T*>(::operator new(elements * sizeof(T) + 64, std::align_val_t(64)))) {}
  ~Buffer() { ::operator delete(data_, std::align_val_t(64)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* get() const { return data_; }

 private:
  T* const data_;
};

// Columns of a band where rows of `width` are gathered or scattered to; all columns where bands do not pay.
template <class T, class Value, class Index>
int64_t band_of(const CsrView<Value, Index>& a, int64_t width) {
  const int64_t columns = kBandBytes / (width * static_cast<int64_t>(sizeof(T)));
  const double per_row = double(a.indptr[a.n_rows] - a.indptr[0]) / double(a.n_rows) * double(columns) / double(a.n_cols);
  return columns < a.n_cols && per_row >= kFewestPerRow ? columns : a.n_cols;
}

// `count` vectors next to each other; where the row is narrower, the last one reaches back over columns that the one
// before has too, so that rows are never read or written beyond their end.
template <class T, int bytes, int count>
struct Strip {
  using V = typename VectorOf<T, bytes>::type;
  static constexpr int L = bytes / static_cast<int>(sizeof(T));

  SCCAGN_INLINE int64_t column(int i, int64_t last) { return i + 1 < count ? int64_t(i) * L : last; }
};

// Rows of `sum` += Σ value · row of `dense`, from each row's position to the first column that is none of the band's.
// Subtracting without a sign makes columns before the band large, too.
// `dense` is that of the band's first column; without bands its rows come from far, and the next is asked for ahead.
template <class T, int bytes, int count, bool in_bands, class Value, class Index>
void gather_strip(const CsrView<Value, Index>& a, int64_t begin, int64_t end, int64_t* position, uint64_t first,
                  uint64_t stop, const T* dense, int64_t dense_stride, int64_t width, T* sum, int64_t sum_stride) {
  using S = Strip<T, bytes, count>;
  using V = typename S::V;
  const int64_t last = width - S::L;
  dense -= static_cast<int64_t>(first) * dense_stride;
  for (int64_t i = begin; i < end; ++i) {
    int64_t e = position[i - begin];
    const int64_t behind = a.indptr[i + 1];
    if (e == behind || static_cast<uint64_t>(a.indices[e]) - first >= stop - first) continue;
    T* const row_sum = sum + (i - begin) * sum_stride;
    V part[count];
    for (int c = 0; c < count; ++c) part[c] = load<V>(row_sum + S::column(c, last));
    for (; e < behind; ++e) {
      const auto j = static_cast<uint64_t>(a.indices[e]);
      if (j - first >= stop - first) break;
      const T value = static_cast<T>(a.values[e]);
      const T* const row = dense + static_cast<int64_t>(j) * dense_stride;
      if (!in_bands && e + 1 < behind) {
        const T* const next = dense + static_cast<int64_t>(a.indices[e + 1]) * dense_stride;
        for (int c = 0; c < count; ++c) __builtin_prefetch(next + c * S::L);
      }
      for (int c = 0; c < count; ++c) part[c] += load<V>(row + S::column(c, last)) * value;
    }
    for (int c = 0; c < count; ++c) store(row_sum + S::column(c, last), part[c]);
    position[i - begin] = e;
  }
}

// Rows of `out` += value · row of `dense`, whole vectors; `out` is that of the band's first column.
template <class T, int bytes, int count, class Value, class Index>
void scatter_strip(const CsrView<Value, Index>& a, int64_t* position, uint64_t first, uint64_t stop, const T* dense,
                   int64_t dense_stride, T* out, int64_t out_stride) {
  using S = Strip<T, bytes, count>;
  using V = typename S::V;
  out -= static_cast<int64_t>(first) * out_stride;
  for (int64_t i = 0; i < a.n_rows; ++i) {
    int64_t e = position[i];
    const int64_t behind = a.indptr[i + 1];
    if (e == behind || static_cast<uint64_t>(a.indices[e]) - first >= stop - first) continue;
    V own[count];
    for (int c = 0; c < count; ++c) own[c] = load<V>(dense + i * dense_stride + c * S::L);
    for (; e < behind; ++e) {
      const auto j = static_cast<uint64_t>(a.indices[e]);
      if (j - first >= stop - first) break;
      const T value = static_cast<T>(a.values[e]);
      T* const row = out + static_cast<int64_t>(j) * out_stride;
      for (int c = 0; c < count; ++c) store(row + c * S::L, load<V>(row + c * S::L) + own[c] * value);
    }
    position[i] = e;
  }
}

// Calls `run.template operator()<bytes, count>(first, width)` for strips that cover columns from 0 to `width`.
template <class T, class Run>
SCCAGN_INLINE void in_strips(int64_t width, const Run& run) {
  constexpr int64_t L = kLanes<T>;
  int64_t first = 0;
  while (width - first >= L) {
    const int64_t left = width - first;
    // no strip may leave less than a vector behind
    const int64_t own = left <= L * kAccumulators         ? left
                        : left >= L * (kAccumulators + 1) ? L * kAccumulators
                                                          : L * (kAccumulators - 1);
    switch ((own + L - 1) / L) {
#define SCCAGN_CASE(n)                                                                      \
  case n:                                                                                   \
    if constexpr (n <= kAccumulators) run.template operator()<kVectorBytes, n>(first, own); \
    break;
      SCCAGN_CASE(1) SCCAGN_CASE(2) SCCAGN_CASE(3) SCCAGN_CASE(4) SCCAGN_CASE(5) SCCAGN_CASE(6) SCCAGN_CASE(7)
      SCCAGN_CASE(8) SCCAGN_CASE(9) SCCAGN_CASE(10) SCCAGN_CASE(11) SCCAGN_CASE(12) SCCAGN_CASE(13) SCCAGN_CASE(14)
      SCCAGN_CASE(15) SCCAGN_CASE(16)
#undef SCCAGN_CASE
    }
    first += own;
  }
  // narrower than a vector: halves and quarters of it, and single columns
  while (first < width) {
    const int64_t bytes = (width - first) * static_cast<int64_t>(sizeof(T));
    if (kVectorBytes > 32 && bytes >= 32) {
      run.template operator()<32, 1>(first, 32 / sizeof(T));
      first += 32 / sizeof(T);
    } else if (kVectorBytes > 16 && bytes >= 16) {
      run.template operator()<16, 1>(first, 16 / sizeof(T));
      first += 16 / sizeof(T);
    } else {
      run.template operator()<sizeof(T), 1>(first, 1);
      first += 1;
    }
  }
}

// `rows` rows of `width` columns from a matrix to one of whole vectors, filled up with zeros.
template <class T>
void pack(const T* from, int64_t stride, int64_t rows, int64_t width, T* to, int64_t packed) {
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(to + i * packed, from + i * stride, width * sizeof(T));
    std::memset(to + i * packed + width, 0, (packed - width) * sizeof(T));
  }
}

template <class Value, class Index>
bool is_done(const CsrView<Value, Index>& a, int64_t begin, int64_t end, const int64_t* position) {
  for (int64_t i = begin; i < end; ++i)
    if (position[i - begin] != a.indptr[i + 1]) return false;
  return true;
}

// Some rows of the product, `band` columns of the matrix at a time; false where a row was not gone through.
template <class T, class Value, class Index>
bool gather_rows(const CsrView<Value, Index>& a, int64_t begin, int64_t end, const T* dense, int64_t width, int64_t band,
                 T* out) {
  const bool in_bands = band < a.n_cols;
  const int64_t stride = in_bands ? rounded_up(width, kLanes<T>) : width;
  const Buffer<int64_t> position(end - begin), spare(end - begin);
  const Buffer<T> near(in_bands ? band * stride : 0), sums(in_bands ? (end - begin) * stride : 0);
  T* const sum = in_bands ? sums.get() : out + begin * width;
  std::memcpy(position.get(), a.indptr + begin, (end - begin) * sizeof(int64_t));
  std::memset(sum, 0, (end - begin) * stride * sizeof(T));
  for (int64_t first = 0; first < a.n_cols; first += band) {
    const int64_t stop = a.n_cols - first < band ? a.n_cols : first + band;
    if (in_bands) pack(dense + first * width, width, stop - first, width, near.get(), stride);
    const T* const source = in_bands ? near.get() : dense;
    in_strips<T>(stride, [&]<int bytes, int count>(int64_t column, int64_t columns) {
      // every strip of columns starts from the same positions
      const bool is_last = column + columns == stride;
      int64_t* const own = is_last ? position.get() : spare.get();
      if (!is_last) std::memcpy(own, position.get(), (end - begin) * sizeof(int64_t));
      (in_bands ? gather_strip<T, bytes, count, true, Value, Index> : gather_strip<T, bytes, count, false, Value, Index>)(
          a, begin, end, own, first, stop, source + column, stride, columns, sum + column, stride);
    });
  }
  if (in_bands)
    for (int64_t i = begin; i < end; ++i)
      std::memcpy(out + i * width, sum + (i - begin) * stride, width * sizeof(T));
  return is_done(a, begin, end, position.get());
}

template <class T, class Value, class Index>
bool gather(const CsrView<Value, Index>& a, int64_t begin, int64_t end, const T* dense, int64_t width, T* out) {
  if (width == 0) return true;
  const int64_t packed = rounded_up(width, kLanes<T>), band = band_of<T>(a, packed);
  const int64_t block = band < a.n_cols ? kPackedBytes / (packed * int64_t(sizeof(T))) + 1 : end - begin;
  for (int64_t from = begin; from < end; from += block) {
    const int64_t to = end - from < block ? end : from + block;
    if (!gather_rows(a, from, to, dense, width, band, out) && !gather_rows(a, from, to, dense, width, a.n_cols, out))
      return false;
  }
  return true;
}

// Some columns of the transposed product, at most those of one strip; false where a row was not gone through.
template <class T, class Value, class Index>
bool scatter_columns(const CsrView<Value, Index>& a, const T* dense, int64_t width, int64_t columns, int64_t band,
                     T* out) {
  const int64_t packed = rounded_up(columns, kLanes<T>);
  const Buffer<int64_t> position(a.n_rows);
  const Buffer<T> rows(a.n_rows * packed), near(band * packed);
  std::memcpy(position.get(), a.indptr, a.n_rows * sizeof(int64_t));
  pack(dense, width, a.n_rows, columns, rows.get(), packed);
  for (int64_t first = 0; first < a.n_cols; first += band) {
    const int64_t stop = a.n_cols - first < band ? a.n_cols : first + band;
    std::memset(near.get(), 0, (stop - first) * packed * sizeof(T));
    in_strips<T>(packed, [&]<int bytes, int count>(int64_t, int64_t) {
      scatter_strip<T, bytes, count>(a, position.get(), first, stop, rows.get(), packed, near.get(), packed);
    });
    for (int64_t j = first; j < stop; ++j)
      std::memcpy(out + j * width, near.get() + (j - first) * packed, columns * sizeof(T));
  }
  return is_done(a, 0, a.n_rows, position.get());
}

template <class T, class Value, class Index>
bool scatter(const CsrView<Value, Index>& a, const T* dense, int64_t width, int64_t first, int64_t last, T* out) {
  constexpr int64_t most = int64_t(kAccumulators) * kLanes<T>;  // columns of one strip
  for (int64_t from = first; from < last; from += most) {
    const int64_t columns = last - from < most ? last - from : most;
    const int64_t band = band_of<T>(a, rounded_up(columns, kLanes<T>));
    if (!scatter_columns(a, dense + from, width, columns, band, out + from) &&
        !scatter_columns(a, dense + from, width, columns, a.n_cols, out + from))
      return false;
  }
  return true;
}

template <class T, class Value, class Index>
constexpr CsrKernels<T, Value, Index> kKernels = {gather<T, Value, Index>, scatter<T, Value, Index>};

}  // namespace

int64_t lanes(int64_t element_size) { return kVectorBytes / element_size; }

template <class T, class Value, class Index>
const CsrKernels<T, Value, Index>& csr() {
  return kKernels<T, Value, Index>;
}

#define SCCAGN_CSR(T, Value)                                       \
  template const CsrKernels<T, Value, int32_t>& csr<T, Value, int32_t>(); \
  template const CsrKernels<T, Value, int64_t>& csr<T, Value, int64_t>();
SCCAGN_CSR(float, float)
SCCAGN_CSR(float, uint8_t)
SCCAGN_CSR(float, uint16_t)
SCCAGN_CSR(double, double)
SCCAGN_CSR(double, uint8_t)
SCCAGN_CSR(double, uint16_t)
#undef SCCAGN_CSR

}  // namespace sccagn::SCCAGN_TARGET

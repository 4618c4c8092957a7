// Sparse × dense products of some rows, on one thread: what each instruction set offers.
#pragma once

#include <cstdint>

namespace sccagn {

// A CSR matrix [n_rows, n_cols], borrowed.
template <class Value, class Index>
struct CsrView {
  const int64_t* indptr;
  const Index* indices;
  const Value* values;
  int64_t n_rows, n_cols;
};

// Both return false, with an unfinished result, where a column is none of the matrix's.
template <class T, class Value, class Index>
struct CsrKernels {
  // out[i] = Σ_j a_ij · dense[j] for rows from `begin` to before `end`; both are `width` wide.
  bool (*gather)(const CsrView<Value, Index>&, int64_t begin, int64_t end, const T* dense, int64_t width, T* out);
  // out[j] = Σ_i a_ij · dense[i] for columns of `dense` and `out` from `first` to before `last`, in the order of i.
  bool (*scatter)(const CsrView<Value, Index>&, const T* dense, int64_t width, int64_t first, int64_t last, T* out);
};

#define SCCAGN_DECLARE_CSR(isa)                                \
  namespace isa {                                              \
  int64_t lanes(int64_t element_size);                         \
  template <class T, class Value, class Index>                 \
  const CsrKernels<T, Value, Index>& csr();                    \
  }

SCCAGN_DECLARE_CSR(baseline)
#ifdef SCCAGN_X86
SCCAGN_DECLARE_CSR(avx2)
SCCAGN_DECLARE_CSR(avx512)
#endif
#undef SCCAGN_DECLARE_CSR

}  // namespace sccagn

// Vectors of the width that the file is compiled for, and logarithm and exponential on them.
//
// A kernel file is compiled once for each of the instruction sets below; SCCAGN_TARGET names its namespace. GCC's and
// Clang's vector extensions keep the code free of intrinsics: what a target has no instruction for is done in pieces.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#ifndef SCCAGN_TARGET
#error "SCCAGN_TARGET is set by the build: baseline, avx2 or avx512"
#endif

#define SCCAGN_INLINE static inline __attribute__((always_inline))

namespace sccagn::SCCAGN_TARGET {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
inline constexpr int kAccumulators = 16;  // of 32 registers
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
inline constexpr int kAccumulators = 14;  // of 16 registers
#else
inline constexpr int kVectorBytes = 16;
inline constexpr int kAccumulators = 8;
#endif

template <class T, int bytes = kVectorBytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(bytes)));
};
template <class T>
using Vec = typename VectorOf<T>::type;

template <class T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
struct Format;
template <>
struct Format<float> {
  using Int = int32_t;
  static constexpr int mantissa = 23;
  static constexpr Int one = 0x3F800000, root_half = 0x3F3504F3, shifter_bits = 0x4B400000;
  static constexpr float shifter = 12582912.0f;  // 1.5 · 2^23: adding it rounds to a whole number in the low bits
  static constexpr float least = -87.0f;         // exp of less is taken for zero
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr int log_terms = 5, exp_terms = 7;
};
template <>
struct Format<double> {
  using Int = int64_t;
  static constexpr int mantissa = 52;
  static constexpr Int one = 0x3FF0000000000000, root_half = 0x3FE6A09E667F3BCD, shifter_bits = 0x4338000000000000;
  static constexpr double shifter = 6755399441055744.0;  // 1.5 · 2^52
  static constexpr double least = -708.0;
  static constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
  static constexpr int log_terms = 12, exp_terms = 14;
};

template <class To, class From>
SCCAGN_INLINE To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <class T>
SCCAGN_INLINE Vec<T> spread(T value) {
  return Vec<T>{} + value;
}

// Unaligned.
template <class V, class T>
SCCAGN_INLINE V load(const T* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}
template <class V, class T>
SCCAGN_INLINE void store(T* to, V value) {
  std::memcpy(to, &value, sizeof(V));
}

template <class V>
SCCAGN_INLINE V larger(V a, V b) {
  return a > b ? a : b;
}

// A bit for every lane that is below the bound: the one thing here for which the extensions have no words.
SCCAGN_INLINE uint32_t lanes_below(Vec<float> values, float bound) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(bits<__m512>(values), _mm512_set1_ps(bound), _CMP_LT_OQ);
#elif defined(__AVX2__)
  return _mm256_movemask_ps(_mm256_cmp_ps(bits<__m256>(values), _mm256_set1_ps(bound), _CMP_LT_OQ));
#else
  uint32_t below = 0;
  for (int lane = 0; lane < kLanes<float>; ++lane) below |= uint32_t(values[lane] < bound) << lane;
  return below;
#endif
}

// Natural logarithm of finite normal numbers above zero, to about one unit in the last place.
//
// x = 2^e · m with m in [√½, √2); log m = 2 atanh s = 2 Σ s^(2i+1) / (2i+1) with s = (m − 1) / (m + 1), |s| < 0.172.
template <class T>
SCCAGN_INLINE Vec<T> log(Vec<T> x) {
  using F = Format<T>;
  using Ints = Vec<typename F::Int>;
  const Ints shifted = bits<Ints>(x) - F::root_half;
  const Ints exponent = shifted >> F::mantissa;
  const Vec<T> m = bits<Vec<T>>(bits<Ints>(x) - (exponent << F::mantissa));
  const Vec<T> e = bits<Vec<T>>(exponent + F::shifter_bits) - F::shifter;
  const Vec<T> s = (m - T(1)) / (m + T(1));
  const Vec<T> square = s * s;
  Vec<T> sum = spread(T(1) / T(2 * F::log_terms - 1));
  for (int i = F::log_terms - 2; i >= 0; --i) sum = sum * square + T(1) / T(2 * i + 1);
  return e * F::ln2_high + (s * T(2) * sum + e * F::ln2_low);
}

template <class T>
constexpr T inverse_factorial(int n) {
  double product = 1;
  for (int i = 2; i <= n; ++i) product *= i;
  return static_cast<T>(1 / product);
}

// Exponential of numbers up to zero, to about one unit in the last place; zero where it would be subnormal.
//
// x = n ln 2 + r with |r| ≤ ½ ln 2, and the Taylor series of exp r.
template <class T>
SCCAGN_INLINE Vec<T> exp(Vec<T> x) {
  using F = Format<T>;
  using Ints = Vec<typename F::Int>;
  const Vec<T> bounded = x < F::least ? spread(F::least) : x;  // NaN stays NaN
  const Vec<T> shifted = bounded * T(1.4426950408889634) + F::shifter;
  const Vec<T> n = shifted - F::shifter;
  const Vec<T> r = (bounded - n * F::ln2_high) - n * F::ln2_low;
  Vec<T> sum = spread(inverse_factorial<T>(F::exp_terms));
  for (int i = F::exp_terms - 1; i >= 0; --i) sum = sum * r + inverse_factorial<T>(i);
  const Vec<T> power = bits<Vec<T>>((bits<Ints>(shifted) << F::mantissa) + F::one);
  return x < F::least ? Vec<T>{} : sum * power;
}

}  // namespace sccagn::SCCAGN_TARGET

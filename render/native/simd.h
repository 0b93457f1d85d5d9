// Vectors as the compiler's own vector types, so that one source serves every instruction set; the
// few operations that those types lack are wrapped here. Included only by *_simd.cpp: everything
// lies in the namespace of its copy, so that no copy can be linked into another.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#pragma GCC diagnostic ignored "-Wpsabi"

#define FP_INLINE static inline __attribute__((always_inline))

namespace fieldpress::render::FIELDPRESS_ISA {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef float Quad __attribute__((vector_size(16)));
typedef int32_t QuadInts __attribute__((vector_size(16)));

template <typename V>
FP_INLINE V load(const void* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <typename V>
FP_INLINE void store(void* to, V v) {
  __builtin_memcpy(to, &v, sizeof v);
}

template <typename V>
FP_INLINE V all(float x) {
  return x - V{};
}

FP_INLINE float least(float a, float b) { return a < b ? a : b; }
FP_INLINE float most(float a, float b) { return a > b ? a : b; }
FP_INLINE int least(int a, int b) { return a < b ? a : b; }
FP_INLINE int most(int a, int b) { return a > b ? a : b; }

#if defined(__SSE2__)
FP_INLINE Quad least(Quad a, Quad b) { return _mm_min_ps(a, b); }
FP_INLINE Quad most(Quad a, Quad b) { return _mm_max_ps(a, b); }
FP_INLINE Quad root(Quad a) { return _mm_sqrt_ps(a); }
FP_INLINE unsigned signs(Quad a) { return static_cast<unsigned>(_mm_movemask_ps(a)); }
#else
FP_INLINE Quad least(Quad a, Quad b) { return a < b ? a : b; }
FP_INLINE Quad most(Quad a, Quad b) { return a > b ? a : b; }
FP_INLINE Quad root(Quad a) {
  for (int i = 0; i < 4; ++i) a[i] = std::sqrt(a[i]);
  return a;
}
FP_INLINE unsigned signs(Quad a) {
  const QuadInts b = reinterpret_cast<QuadInts>(a);
  unsigned bits = 0;
  for (int i = 0; i < 4; ++i) bits |= (static_cast<uint32_t>(b[i]) >> 31) << i;
  return bits;
}
#endif

#if defined(__AVX512F__)
FP_INLINE Floats least(Floats a, Floats b) { return _mm512_min_ps(a, b); }
FP_INLINE Floats most(Floats a, Floats b) { return _mm512_max_ps(a, b); }
FP_INLINE Floats root(Floats a) { return _mm512_sqrt_ps(a); }
FP_INLINE unsigned signs(Floats a) { return _mm512_movepi32_mask(_mm512_castps_si512(a)); }
FP_INLINE Floats repeat_rows(const float* rows) {
  return _mm512_broadcast_f32x4(_mm_load_ps(rows));
}
#elif defined(__AVX2__)
FP_INLINE Floats least(Floats a, Floats b) { return _mm256_min_ps(a, b); }
FP_INLINE Floats most(Floats a, Floats b) { return _mm256_max_ps(a, b); }
FP_INLINE Floats root(Floats a) { return _mm256_sqrt_ps(a); }
FP_INLINE unsigned signs(Floats a) { return static_cast<unsigned>(_mm256_movemask_ps(a)); }
FP_INLINE Floats repeat_rows(const float* rows) {
  return _mm256_castpd_ps(_mm256_broadcast_sd(reinterpret_cast<const double*>(rows)));
}
#else
FP_INLINE Floats repeat_rows(const float* rows) { return all<Floats>(*rows); }
#endif

// Lanes where the mask (all ones or all zeros) is set.
template <typename V, typename M>
FP_INLINE V where(M mask, V a) {
  return reinterpret_cast<V>(reinterpret_cast<M>(a) & mask);
}

template <typename V, typename M>
FP_INLINE V select(M mask, V yes, V no) {
  return reinterpret_cast<V>((reinterpret_cast<M>(yes) & mask) |
                             (reinterpret_cast<M>(no) & ~mask));
}

FP_INLINE unsigned bits(QuadInts mask) { return signs(reinterpret_cast<Quad>(mask)); }
#if defined(__AVX2__)
FP_INLINE unsigned bits(Ints mask) { return signs(reinterpret_cast<Floats>(mask)); }
#endif

// log2 of a positive normal number, relative error about 1e-8 before rounding: the exponent, and
// 2 atanh((m - 1) / (m + 1)) / ln 2 of a mantissa in [sqrt(1/2), sqrt(2)).
FP_INLINE Floats log2_of(Floats x) {
  const Ints raw = reinterpret_cast<Ints>(x);
  const Ints power = (raw - 0x3f3504f3) >> 23;
  const Floats m = reinterpret_cast<Floats>(raw - (power << 23));
  const Floats t = (m - 1.0f) / (m + 1.0f);
  const Floats t2 = t * t;
  const Floats series = ((t2 * (2.0f / 9) + 2.0f / 7) * t2 + 2.0f / 5) * t2 + 2.0f / 3;
  const Floats log = t * (t2 * series + 2.0f) * 1.4426950408889634f;
  return __builtin_convertvector(power, Floats) + log;
}

// 2^x / 255 for x in about [-1, 9); garbage, but a number or infinity, elsewhere. Relative error
// 2.6e-6: degree 4 minimax on [-1/2, 1/2] times a power of two from the bits of the magic sum.
// -ffast-math would delete the rounding.
FP_INLINE Floats exp2_over_255(Floats x) {
  const Floats magic = x + 12582912.0f;
  const Floats f = x - (magic - 12582912.0f);
  constexpr float S = 1.0f / 255.0f;
  const Floats p =
      (((0.00957010191117129f * S * f + 0.055917860319387586f * S) * f +
        0.2402474482786362f * S) * f + 0.6931218147366892f * S) * f + 0.9999992614457123f * S;
  return reinterpret_cast<Floats>(reinterpret_cast<Ints>(p) +
                                  (reinterpret_cast<Ints>(magic) << 23));
}

}  // namespace fieldpress::render::FIELDPRESS_ISA

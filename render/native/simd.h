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
// Hides how a pointer came about, so that it stays in a register.
#define FP_OPAQUE(pointer) asm("" : "+r"(pointer))

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
typedef float Eight __attribute__((vector_size(32)));
typedef int32_t EightInts __attribute__((vector_size(32)));
typedef int8_t Bytes __attribute__((vector_size(32)));

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

// rough_root(x): at least the root and at most a thousandth above it; NaN below zero.
constexpr float ROUGH = 1.0005f;

#if defined(__SSE2__)
FP_INLINE Quad least(Quad a, Quad b) { return _mm_min_ps(a, b); }
FP_INLINE Quad most(Quad a, Quad b) { return _mm_max_ps(a, b); }
FP_INLINE Quad root(Quad a) { return _mm_sqrt_ps(a); }
FP_INLINE Quad rough_root(Quad a) { return a * _mm_rsqrt_ps(a) * ROUGH; }
FP_INLINE unsigned signs(Quad a) { return static_cast<unsigned>(_mm_movemask_ps(a)); }
#else
FP_INLINE Quad least(Quad a, Quad b) { return a < b ? a : b; }
FP_INLINE Quad most(Quad a, Quad b) { return a > b ? a : b; }
FP_INLINE Quad root(Quad a) {
  for (int i = 0; i < 4; ++i) a[i] = std::sqrt(a[i]);
  return a;
}
FP_INLINE Quad rough_root(Quad a) { return root(a); }
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

// a - b * c
FP_INLINE Floats minus_product(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return _mm512_fnmadd_ps(b, c, a);
#elif defined(__AVX2__)
  return _mm256_fnmadd_ps(b, c, a);
#else
  return a - b * c;
#endif
}

// a + b * c, in one operation where there is one; left to itself the compiler does not always.
FP_INLINE Floats plus_product(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(b, c, a);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(b, c, a);
#else
  return a + b * c;
#endif
}

// 1 / a to within two units in the last place; a normal and far from the ends of the range. Faster
// than a division where many are under way.
FP_INLINE Floats reciprocal(Floats a) {
#if defined(__AVX512F__)
  const Floats rough = _mm512_rcp14_ps(a);
#elif defined(__AVX2__)
  const Floats rough = _mm256_rcp_ps(a);
#else
  return 1.0f / a;
#endif
#if defined(__AVX2__)
  return rough + rough * minus_product(all<Floats>(1.0f), a, rough);
#endif
}

FP_INLINE Floats zero_where_negative(Floats sign, Floats a) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  return _mm256_blendv_ps(a, Floats{}, sign);
#else
  return where(~(reinterpret_cast<Ints>(sign) >> 31), a);
#endif
}

// Eight lanes whatever the native width.
#if defined(__AVX2__)
#if defined(__AVX512F__)
FP_INLINE Eight least(Eight a, Eight b) { return _mm256_min_ps(a, b); }
FP_INLINE Eight most(Eight a, Eight b) { return _mm256_max_ps(a, b); }
#endif
FP_INLINE Eight rough_root(Eight a) { return a * _mm256_rsqrt_ps(a) * ROUGH; }
// Byte half * 16 + k * 4 + i of the result is lane half * 4 + i of mask k.
FP_INLINE Bytes pack(const EightInts m[4]) {
  __m256i w[4];
  __builtin_memcpy(w, m, sizeof w);
  return reinterpret_cast<Bytes>(
      _mm256_packs_epi16(_mm256_packs_epi32(w[0], w[1]), _mm256_packs_epi32(w[2], w[3])));
}
#else
struct Halves {
  Quad low, high;
};
FP_INLINE Halves split(Eight a) { return load<Halves>(&a); }
FP_INLINE Eight join(Quad low, Quad high) {
  const Halves both = {low, high};
  return load<Eight>(&both);
}
FP_INLINE Eight least(Eight a, Eight b) {
  return join(least(split(a).low, split(b).low), least(split(a).high, split(b).high));
}
FP_INLINE Eight most(Eight a, Eight b) {
  return join(most(split(a).low, split(b).low), most(split(a).high, split(b).high));
}
FP_INLINE Eight rough_root(Eight a) {
  return join(rough_root(split(a).low), rough_root(split(a).high));
}
FP_INLINE Bytes pack(const EightInts m[4]) {
  Bytes bytes;
  for (int i = 0; i < 32; ++i) bytes[i] = static_cast<int8_t>(m[i / 4 % 4][i / 16 * 4 + i % 4]);
  return bytes;
}
#endif

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

// Nearest whole number, as float and as int. The portable way is a sum with a magic number, whose
// low bits are the int: -ffast-math would delete it.
#if defined(__AVX512F__)
FP_INLINE Floats nearest(Floats x, Ints& whole) {
  whole = reinterpret_cast<Ints>(_mm512_cvtps_epi32(x));
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#elif defined(__AVX2__)
FP_INLINE Floats nearest(Floats x, Ints& whole) {
  whole = reinterpret_cast<Ints>(_mm256_cvtps_epi32(x));
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#else
FP_INLINE Floats nearest(Floats x, Ints& whole) {
  const Floats magic = x + 12582912.0f;
  whole = reinterpret_cast<Ints>(magic);  // Its upper bits are shifted out.
  return magic - 12582912.0f;
}
#endif

// 2^x / 255 for x in about [-1, 9); garbage, but a number or infinity, elsewhere. Relative error
// 2.6e-6: degree 4 minimax on [-1/2, 1/2], times a power of two added to the exponent's bits.
FP_INLINE Floats exp2_over_255(Floats x) {
  Ints whole;
  const Floats f = x - nearest(x, whole);
  constexpr float S = 1.0f / 255.0f;
  const Floats f2 = f * f;
  const Floats low = 0.6931218147366892f * S * f + 0.9999992614457123f * S;
  const Floats high = 0.055917860319387586f * S * f + 0.2402474482786362f * S;
  const Floats p = (0.00957010191117129f * S * f2 + high) * f2 + low;
  return reinterpret_cast<Floats>(reinterpret_cast<Ints>(p) + (whole << 23));
}

}  // namespace fieldpress::render::FIELDPRESS_ISA

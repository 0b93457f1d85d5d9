// Table rows of two features by lanes: what the fits use, hence the one width with loads of its
// own. Included only by *_simd.cpp.
#pragma once

#include "lattice_simd.h"

namespace fieldpress::fields::FIELDPRESS_ISA {

#if defined(__AVX2__)

// The 32 bits in which each lane's row begins at bit 0, where a row has fewer. Nothing beyond
// `bytes` is read, of which there are at least four.
#if defined(__AVX512F__)
template <Storage S>
FP_INLINE Words words_of(const char* rows, Words row, int64_t bytes) {
  if constexpr (S == Storage::f16) {
    return reinterpret_cast<Words>(_mm512_i32gather_epi32(reinterpret_cast<__m512i>(row), rows, 4));
  } else {
    const Words bit = row * static_cast<uint32_t>(2 * bits_of(S));
    const __m512i last = _mm512_set1_epi32(static_cast<int>(bytes - 4));
    const __m512i byte = _mm512_min_epu32(reinterpret_cast<__m512i>(bit >> 3), last);
    const Words words = reinterpret_cast<Words>(_mm512_i32gather_epi32(byte, rows, 1));
    return words >> (bit - (reinterpret_cast<Words>(byte) << 3));
  }
}

FP_INLINE void float_pairs(const char* rows, Words row, Floats (&values)[2]) {
  const __m512i even =
      _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  const __m512i at = reinterpret_cast<__m512i>(row);
  const __m512d low = _mm512_i32gather_pd(_mm512_castsi512_si256(at), rows, 8);
  const __m512d high = _mm512_i32gather_pd(_mm512_extracti64x4_epi64(at, 1), rows, 8);
  const __m512 a = _mm512_castpd_ps(low), b = _mm512_castpd_ps(high);
  values[0] = _mm512_permutex2var_ps(a, even, b);
  values[1] = _mm512_permutex2var_ps(a, odd, b);
}

FP_INLINE Floats half_floats(Words low16) {
  return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(low16)));
}
#else
// Plain loads are no slower than gathers here.
template <Storage S>
FP_INLINE Words words_of(const char* rows, Words row, int64_t) {
  alignas(32) uint32_t at[LANES], found[LANES];
  store(at, row);
  for (int k = 0; k < LANES; ++k) {
    if constexpr (S == Storage::f16) {
      __builtin_memcpy(&found[k], rows + size_t{4} * at[k], 4);
    } else if constexpr (S == Storage::i8) {
      uint16_t both;
      __builtin_memcpy(&both, rows + size_t{2} * at[k], 2);
      found[k] = both;
    } else {
      found[k] = static_cast<uint8_t>(rows[at[k] >> 2]) >> (at[k] % 4 * 2);
    }
  }
  return load<Words>(found);
}

FP_INLINE void float_pairs(const char* rows, Words row, Floats (&values)[2]) {
  const double* pairs = reinterpret_cast<const double*>(rows);
  alignas(32) uint32_t r[LANES];
  store(r, row);
  const __m256d a = _mm256_set_pd(pairs[r[5]], pairs[r[4]], pairs[r[1]], pairs[r[0]]);
  const __m256d b = _mm256_set_pd(pairs[r[7]], pairs[r[6]], pairs[r[3]], pairs[r[2]]);
  values[0] = _mm256_shuffle_ps(_mm256_castpd_ps(a), _mm256_castpd_ps(b), 0x88);
  values[1] = _mm256_shuffle_ps(_mm256_castpd_ps(a), _mm256_castpd_ps(b), 0xdd);
}

// Exact: what is left of a half below its exponent's range is scaled up by a power of two.
FP_INLINE Floats half_floats(Words low16) {
  const Words size = low16 & 0x7fffu;
  const Floats value = reinterpret_cast<Floats>(size << 13) * 0x1p112f;
  const Words endless = reinterpret_cast<Words>(size >= 0x7c00u) & 0x7f800000u;
  const Words sign = (low16 & 0x8000u) << 16;
  return reinterpret_cast<Floats>(reinterpret_cast<Words>(value) | endless | sign);
}
#endif

template <Storage S>
FP_INLINE void pairs_of(const char* rows, Words row, int64_t bytes, Floats (&values)[2]) {
  if constexpr (S == Storage::f32) {
    float_pairs(rows, row, values);
  } else {
    const Words word = words_of<S>(rows, row, bytes);
    if constexpr (S == Storage::f16) {
      values[0] = half_floats(word & 0xffffu);
      values[1] = half_floats(word >> 16);
    } else if constexpr (S == Storage::i8) {
      values[0] = as_floats(reinterpret_cast<Ints>(word << 24) >> 24);
      values[1] = as_floats(reinterpret_cast<Ints>(word << 16) >> 24);
    } else {
      values[0] = as_floats(reinterpret_cast<Ints>(((word & 1u) << 1) - 1u));
      values[1] = as_floats(reinterpret_cast<Ints>((word & 2u) - 1u));
    }
  }
}

#endif

}  // namespace fieldpress::fields::FIELDPRESS_ISA

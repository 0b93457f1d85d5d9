// Weighted sums of table rows, by how rows lie in memory. Included only by *_simd.cpp.
#pragma once

#include "blocks_simd.h"

namespace fieldpress::fields::FIELDPRESS_ISA {

// One corner's row of F features, as float.
template <Storage S, int F>
FP_INLINE void add_row(const void* rows, uint32_t row, float weight, float (&sum)[F]) {
  if constexpr (S == Storage::f32) {
    const float* values = static_cast<const float*>(rows) + static_cast<size_t>(row) * F;
    for (int f = 0; f < F; ++f) sum[f] += weight * values[f];
  } else if constexpr (S == Storage::f16) {
    const _Float16* values = static_cast<const _Float16*>(rows) + static_cast<size_t>(row) * F;
    for (int f = 0; f < F; ++f) sum[f] += weight * static_cast<float>(values[f]);
  } else if constexpr (S == Storage::i8) {
    const int8_t* values = static_cast<const int8_t*>(rows) + static_cast<size_t>(row) * F;
    for (int f = 0; f < F; ++f) sum[f] += weight * static_cast<float>(values[f]);
  } else {
    const size_t bit = static_cast<size_t>(row) * F;
    const unsigned bits = static_cast<const uint8_t*>(rows)[bit / 8] >> (bit % 8);
    for (int f = 0; f < F; ++f) sum[f] += bits >> f & 1 ? weight : -weight;
  }
}

template <Storage S, int F>
FP_INLINE void blend_plain(const void* rows, const Corners& at, int corners, float* out) {
  for (int p = 0; p < BLOCK; ++p) {
    float sum[F] = {};
    for (int v = 0; v < corners; ++v) add_row<S, F>(rows, at.row[v][p], at.weight[v][p], sum);
    for (int f = 0; f < F; ++f) out[f * BLOCK + p] = sum[f];
  }
}

#if defined(__AVX512F__)
FP_INLINE __m512 in_pairs(const float* eight) {
  const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  return _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_load_ps(eight)));
}
// Rows of two floats are gathered as doubles, eight at a time.
FP_INLINE void blend_pairs(const void* rows, const Corners& at, int corners, float* out) {
  const __m512i even =
      _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  for (int p = 0; p < BLOCK; p += 16) {
    __m512 low = _mm512_setzero_ps(), high = low;
    for (int v = 0; v < corners; ++v) {
      const __m256i* row = reinterpret_cast<const __m256i*>(at.row[v] + p);
      const __m512d a = _mm512_i32gather_pd(_mm256_load_si256(row), rows, 8);
      const __m512d b = _mm512_i32gather_pd(_mm256_load_si256(row + 1), rows, 8);
      low = _mm512_fmadd_ps(in_pairs(at.weight[v] + p), _mm512_castpd_ps(a), low);
      high = _mm512_fmadd_ps(in_pairs(at.weight[v] + p + 8), _mm512_castpd_ps(b), high);
    }
    _mm512_store_ps(out + p, _mm512_permutex2var_ps(low, even, high));
    _mm512_store_ps(out + BLOCK + p, _mm512_permutex2var_ps(low, odd, high));
  }
}
#elif defined(__AVX2__)
FP_INLINE __m256 in_pairs(const float* four) {
  const __m128 w = _mm_load_ps(four);
  return _mm256_set_m128(_mm_unpackhi_ps(w, w), _mm_unpacklo_ps(w, w));
}
FP_INLINE void blend_pairs(const void* rows, const Corners& at, int corners, float* out) {
  const double* pairs = static_cast<const double*>(rows);
  for (int p = 0; p < BLOCK; p += 8) {
    __m256 low = _mm256_setzero_ps(), high = low;
    for (int v = 0; v < corners; ++v) {
      const uint32_t* r = at.row[v] + p;  // Four plain loads are no slower than a gather here.
      const __m256d a = _mm256_set_pd(pairs[r[3]], pairs[r[2]], pairs[r[1]], pairs[r[0]]);
      const __m256d b = _mm256_set_pd(pairs[r[7]], pairs[r[6]], pairs[r[5]], pairs[r[4]]);
      low = _mm256_fmadd_ps(in_pairs(at.weight[v] + p), _mm256_castpd_ps(a), low);
      high = _mm256_fmadd_ps(in_pairs(at.weight[v] + p + 4), _mm256_castpd_ps(b), high);
    }
    const __m256 first = _mm256_shuffle_ps(low, high, 0x88);  // Halves 0, 2, 1, 3.
    const __m256 second = _mm256_shuffle_ps(low, high, 0xdd);
    store(out + p, _mm256_permute4x64_pd(_mm256_castps_pd(first), 0xd8));
    store(out + BLOCK + p, _mm256_permute4x64_pd(_mm256_castps_pd(second), 0xd8));
  }
}
#endif

template <Storage S, int F>
FP_INLINE void blend_rows(const void* rows, const Corners& at, int corners, float* out) {
#if defined(__AVX2__)
  if constexpr (S == Storage::f32 && F == 2) return blend_pairs(rows, at, corners, out);
#endif
  blend_plain<S, F>(rows, at, corners, out);
}

template <Storage S>
inline void blend_features(const void* rows, int features, const Corners& at, int corners,
                           float* out) {
  if (features == 2) return blend_rows<S, 2>(rows, at, corners, out);
  if (features == 1) return blend_rows<S, 1>(rows, at, corners, out);
  if (features == 4) return blend_rows<S, 4>(rows, at, corners, out);
  blend_rows<S, 8>(rows, at, corners, out);
}

FP_INLINE const char* level_rows(const Grid& grid, const Table& table, const Level& level) {
  const int64_t bits = level.first * grid.features * bits_of(table.storage);
  return static_cast<const char*>(table.rows) + bits / 8;
}

// Fills out [F, BLOCK] of one level.
inline void blend(const Grid& grid, const Table& table, size_t number, const Corners& at,
                  int corners, float* out) {
  const void* rows = level_rows(grid, table, grid.levels[number]);
  switch (table.storage) {
    case Storage::f32: return blend_features<Storage::f32>(rows, grid.features, at, corners, out);
    case Storage::f16: return blend_features<Storage::f16>(rows, grid.features, at, corners, out);
    case Storage::i8: blend_features<Storage::i8>(rows, grid.features, at, corners, out); break;
    case Storage::b1: blend_features<Storage::b1>(rows, grid.features, at, corners, out); break;
  }
  for (int i = 0; i < BLOCK * grid.features; ++i) out[i] *= table.steps[number];
}

}  // namespace fieldpress::fields::FIELDPRESS_ISA

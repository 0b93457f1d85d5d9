// Weighted sums of table rows, by how rows lie in memory. Included only by *_simd.cpp.
#pragma once

#include "blocks_simd.h"
#include "pairs_simd.h"

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

#if defined(__AVX2__)
template <Storage S>
FP_INLINE void blend_pairs(const char* rows, int64_t bytes, const Corners& at, int corners,
                           float* out) {
  for (int p = 0; p < BLOCK; p += LANES) {
    Floats sum[2] = {};
    for (int v = 0; v < corners; ++v) {
      Floats values[2];
      pairs_of<S>(rows, load<Words>(at.row[v] + p), bytes, values);
      const Floats weight = load<Floats>(at.weight[v] + p);
      for (int f = 0; f < 2; ++f) sum[f] = plus_product(sum[f], weight, values[f]);
    }
    store(out + p, sum[0]);
    store(out + BLOCK + p, sum[1]);
  }
}
#endif

template <Storage S>
inline void blend_features(const char* rows, int64_t bytes, int features, const Corners& at,
                           int corners, float* out) {
#if defined(__AVX2__)
  if (features == 2 && bytes >= 4) return blend_pairs<S>(rows, bytes, at, corners, out);
#endif
  if (features == 2) return blend_plain<S, 2>(rows, at, corners, out);
  if (features == 1) return blend_plain<S, 1>(rows, at, corners, out);
  if (features == 4) return blend_plain<S, 4>(rows, at, corners, out);
  blend_plain<S, 8>(rows, at, corners, out);
}

FP_INLINE const char* level_rows(const Grid& grid, const Table& table, const Level& level) {
  const int64_t bits = level.first * grid.features * bits_of(table.storage);
  return static_cast<const char*>(table.rows) + bits / 8;
}

// Fills out [F, BLOCK] of one level.
inline void blend(const Grid& grid, const Table& table, size_t number, const Corners& at,
                  int corners, float* out) {
  const Level& level = grid.levels[number];
  const int features = grid.features;
  const int64_t bytes = int64_t{level.rows} * features * bits_of(table.storage) / 8;
  const char* rows = level_rows(grid, table, level);
  switch (table.storage) {
    case Storage::f32: return blend_features<Storage::f32>(rows, bytes, features, at, corners, out);
    case Storage::f16: return blend_features<Storage::f16>(rows, bytes, features, at, corners, out);
    case Storage::i8: blend_features<Storage::i8>(rows, bytes, features, at, corners, out); break;
    case Storage::b1: blend_features<Storage::b1>(rows, bytes, features, at, corners, out); break;
  }
  for (int i = 0; i < BLOCK * features; ++i) out[i] *= table.steps[number];
}

#if defined(__AVX512F__)
// Fills out [2, BLOCK] of one level, in units of its step: rows are looked up while they are still in
// registers. Gathers keep as many lines on their way as a core can; to write their places down
// first, or to ask for them ahead, is work twice.
template <Storage S, int N, Lattice L, Index I>
FP_INLINE void blend_at_once(const Grid& grid, const Level& level, const Axes<N>& axes,
                             int64_t first, const char* rows, int64_t bytes, float* out) {
  for (int lane = 0; lane < BLOCK; lane += LANES) {
    Floats sum[2] = {};
    const Cell<N> cell = locate<N, L>(grid, level, axes.at(first + lane));
    corners_of_cell<N, L, I>(cell, level, [&](int, Words row, Floats weight) {
      Floats values[2];
      pairs_of<S>(rows, row, bytes, values);
      for (int f = 0; f < 2; ++f) sum[f] = plus_product(sum[f], weight, values[f]);
    });
    store(out + lane, sum[0]);
    store(out + BLOCK + lane, sum[1]);
  }
}

// Calls use(first point, features [2, BLOCK]) for each block of points, of one level.
template <int N, Lattice L, Storage S, typename Use>
inline void blend_level(const Grid& grid, const Table& table, size_t number, const Axes<N>& axes,
                        int64_t count, const Use& use) {
  const Level& level = grid.levels[number];
  const int64_t bytes = int64_t{level.rows} * 2 * bits_of(S) / 8;
  const char* rows = level_rows(grid, table, level);
  alignas(64) float values[2 * BLOCK];
  const auto all_blocks = [&](auto index) {
    constexpr Index I = decltype(index)::value;
    for (int64_t first = 0; first < count; first += BLOCK) {
      blend_at_once<S, N, L, I>(grid, level, axes, first, rows, bytes, values);
      if constexpr (S == Storage::i8 || S == Storage::b1)
        for (float& value : values) value *= table.steps[number];
      use(first, values);
    }
  };
  if constexpr (L == Lattice::permuto)
    all_blocks(std::integral_constant<Index, Index::sum>{});
  else if (level.index == Index::dense)
    all_blocks(std::integral_constant<Index, Index::dense>{});
  else
    all_blocks(std::integral_constant<Index, Index::prime>{});
}
#endif

}  // namespace fieldpress::fields::FIELDPRESS_ISA

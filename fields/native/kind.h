// The kind of encoding that a CUDA kernel is compiled for, named by macros, and rows of its table.
#pragma once

#include "../../render/native/half.h"
#include "../../render/native/warp.h"
#include "lattice_simd.h"
#include "perceptron.h"

namespace fieldpress::fields::gpu {

constexpr int THREADS = render::BLOCK;  // Of a block of every kernel.
constexpr int N = FIELDPRESS_DIMS, F = FIELDPRESS_FEATURES;
constexpr Lattice KIND = static_cast<Lattice>(FIELDPRESS_LATTICE);
constexpr Storage STORED = static_cast<Storage>(FIELDPRESS_STORAGE);
constexpr int V = corners_of<N, KIND>();

// Coordinates outside of [0, 1] count as the nearest within, NaN as 0, which is compared with first.
FP_INLINE Point<N> point_at(const float* points, int64_t p) {
  Point<N> found;
  for (int i = 0; i < N; ++i) found.x[i] = least(most(points[p * N + i], 0.0f), 1.0f);
  return found;
}

// Tells `use` the number, row and weight of each corner of the cell.
template <typename Use>
FP_INLINE void for_corners(const Cell<N>& cell, const Level& level, const Use& use) {
  if constexpr (KIND == Lattice::permuto) {
    corners_of_cell<N, KIND, Index::sum>(cell, level, use);
  } else if (level.index == Index::dense) {
    corners_of_cell<N, KIND, Index::dense>(cell, level, use);
  } else {
    corners_of_cell<N, KIND, Index::prime>(cell, level, use);
  }
}

FP_INLINE const char* rows_of(const void* table, const Level& level) {
  return static_cast<const char*>(table) + level.first * F * bits_of(STORED) / 8;
}

// Loaded at once where they are four.
template <int COUNT>
struct alignas(COUNT >= 4 ? 16 : 4 * COUNT) Chunk {
  uint32_t words[COUNT];
};

// One row, in units of the level's step where it is of whole numbers.
FP_INLINE void read_row(const char* rows, uint32_t row, float (&values)[F]) {
  const int64_t bit = static_cast<int64_t>(row) * F * bits_of(STORED);
  const char* from = rows + bit / 8;
  if constexpr (STORED == Storage::b1) {
    const unsigned bits = static_cast<uint8_t>(*from) >> (bit % 8);
    for (int f = 0; f < F; ++f) values[f] = bits >> f & 1u ? 1.0f : -1.0f;
  } else if constexpr (F * bits_of(STORED) < 32) {
    for (int f = 0; f < F; ++f)
      values[f] = STORED == Storage::f16 ? half_value(reinterpret_cast<const uint16_t*>(from)[f])
                                         : static_cast<float>(static_cast<int8_t>(from[f]));
  } else {
    constexpr int EACH = 32 / bits_of(STORED);
    const Chunk<F / EACH> chunk = *reinterpret_cast<const Chunk<F / EACH>*>(from);
    for (int f = 0; f < F; ++f) {
      const uint32_t word = chunk.words[f / EACH] >> (f % EACH * bits_of(STORED));
      values[f] = STORED == Storage::f32   ? __uint_as_float(word)
                  : STORED == Storage::f16 ? half_value(static_cast<uint16_t>(word))
                                           : static_cast<float>(static_cast<int8_t>(word));
    }
  }
}

// The features of a point at one level.
FP_INLINE void features_at(const Grid& grid, const Level& level, const void* table, float step,
                           const Point<N>& point, float (&sum)[F]) {
  const char* rows = rows_of(table, level);
  for (int f = 0; f < F; ++f) sum[f] = 0.0f;
  for_corners(locate<N, KIND>(grid, level, point), level, [&](int, uint32_t row, float weight) {
    float values[F];
    read_row(rows, row, values);
    for (int f = 0; f < F; ++f) sum[f] += weight * values[f];
  });
  for (int f = 0; f < F; ++f) sum[f] *= step;
}

// The sums of a network's first neurons at a point, level by level.
template <typename Net>
FP_INLINE void first_layer(const Grid& grid, const void* table, const Point<N>& point,
                           const float* weights, float (&sums)[Net::NEURONS]) {
#pragma unroll
  for (int j = 0; j < Net::NEURONS; ++j) sums[j] = 0.0f;
  for (int number = 0; number < Net::INPUTS / F; ++number) {
    float features[F];
    features_at(grid, grid.levels[number], table, 1.0f, point, features);
    for (int f = 0; f < F; ++f)
      add_product<Net::NEURONS>(weights + (number * F + f) * Net::NEURONS, features[f], sums);
  }
}

// What a thread works on where there is one a point and level, all points of a level together.
struct Item {
  int level;
  int64_t point;
};

FP_INLINE Item item_of(int64_t count) {
  const uint32_t blocks = static_cast<uint32_t>((count + THREADS - 1) / THREADS);
  const int64_t block = blockIdx.x % blocks;
  return {static_cast<int>(blockIdx.x / blocks), block * THREADS + threadIdx.x};
}

}  // namespace fieldpress::fields::gpu

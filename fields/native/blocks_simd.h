// Points in blocks, their corners in memory. Included only by *_simd.cpp.
#pragma once

#include <type_traits>
#include <vector>

#include "encoding.h"
#include "lattice_simd.h"

namespace fieldpress::fields::FIELDPRESS_ISA {

// Coordinates by axis, clamped; filled up with zeros to whole blocks, so that every lane holds a
// number.
template <int N>
class Axes {
 public:
  Axes(const float* points, int64_t count) {
    const int64_t padded = (count + BLOCK - 1) / BLOCK * BLOCK;
    values_.resize(static_cast<size_t>(padded * N));
    for (int i = 0; i < N; ++i) {
      axis_[i] = values_.data() + padded * i;
      for (int64_t p = 0; p < count; ++p) {
        const float x = points[p * N + i];  // Compared with 0 first: NaN becomes 0.
        axis_[i][p] = least(most(x, 0.0f), 1.0f);
      }
    }
  }
  Point<N> at(int64_t point) const {
    Point<N> found;
    for (int i = 0; i < N; ++i) found.x[i] = load<Floats>(axis_[i] + point);
    return found;
  }

 private:
  std::vector<float> values_;
  float* axis_[N];
};

struct Corners {
  alignas(64) uint32_t row[MAX_CORNERS][BLOCK];
  alignas(64) float weight[MAX_CORNERS][BLOCK];
};

template <int N, Lattice L, Index I>
FP_INLINE void place_block(const Grid& grid, const Level& level, const Axes<N>& axes, int64_t first,
                           Corners& to) {
  for (int lane = 0; lane < BLOCK; lane += LANES) {
    const Cell<N> cell = locate<N, L>(grid, level, axes.at(first + lane));
    corners_of_cell<N, L, I>(cell, level, [&](int v, Words row, Floats weight) {
      store(to.row[v] + lane, row);
      store(to.weight[v] + lane, weight);
    });
  }
}

// The rows and weights of the corners of the block of points that begins at `first`.
template <int N, Lattice L>
inline void place(const Grid& grid, const Level& level, const Axes<N>& axes, int64_t first,
                  Corners& to) {
  if constexpr (L == Lattice::permuto) {
    place_block<N, L, Index::sum>(grid, level, axes, first, to);
  } else if (level.index == Index::dense) {
    place_block<N, L, Index::dense>(grid, level, axes, first, to);
  } else {
    place_block<N, L, Index::prime>(grid, level, axes, first, to);
  }
}

// Calls what.template run<N, L>() of a grid's dimensions and lattice.
template <typename What>
inline void by_kind(const Grid& grid, const What& what) {
  const auto of_dims = [&](auto n) {
    constexpr int N = decltype(n)::value;
    switch (grid.lattice) {
      case Lattice::grid: return what.template run<N, Lattice::grid>();
      case Lattice::kuhn: return what.template run<N, Lattice::kuhn>();
      case Lattice::simplex: return what.template run<N, Lattice::simplex>();
      case Lattice::permuto: return what.template run<N, Lattice::permuto>();
    }
  };
  if (grid.dims == 2) return of_dims(std::integral_constant<int, 2>{});
  if (grid.dims == 3) return of_dims(std::integral_constant<int, 3>{});
  of_dims(std::integral_constant<int, 4>{});
}

}  // namespace fieldpress::fields::FIELDPRESS_ISA

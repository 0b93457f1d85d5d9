// Points in blocks, their corners in memory. Included only by *_simd.cpp.
#pragma once

#include <type_traits>
#include <vector>

#include "encoding.h"
#include "lattice_simd.h"

namespace fieldpress::fields::FIELDPRESS_ISA {

// Coordinates by axis, clamped if they are of places and not of directions; filled up with zeros to whole blocks, so that every lane holds a
// number.
template <int N>
class Axes {
 public:
  Axes(const float* points, int64_t count, bool clamped = true) {
    const int64_t padded = (count + BLOCK - 1) / BLOCK * BLOCK;
    values_.resize(static_cast<size_t>(padded * N));
    for (int i = 0; i < N; ++i) axis_[i] = values_.data() + padded * i;
    for (int64_t p = 0; p < count; ++p)
      for (int i = 0; i < N; ++i) {
        const float x = points[p * N + i];  // Compared with 0 first: NaN becomes 0.
        axis_[i][p] = clamped ? least(most(x, 0.0f), 1.0f) : x;
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

// Points and, or null, a direction at each.
template <int N>
struct Places {
  const Axes<N>& axes;
  const Axes<N>* along;
};

template <int N, Lattice L, Index I>
FP_INLINE void place_block(const Grid& grid, const Level& level, const Places<N>& places,
                           int64_t first, Corners& to) {
  for (int lane = 0; lane < BLOCK; lane += LANES) {
    const Cell<N> cell = locate<N, L>(grid, level, places.axes.at(first + lane));
    corners_of_cell<N, L, I>(cell, level, [&](int v, Words row, Floats weight) {
      store(to.row[v] + lane, row);
      store(to.weight[v] + lane, weight);
    });
    if (!places.along) continue;
    Floats change[N], weights[corners_of<N, L>()];
    part_changes<N, L>(grid, level, places.along->at(first + lane), change);
    weight_changes<N, L>(cell, change, weights);
    for (int v = 0; v < corners_of<N, L>(); ++v) store(to.weight[v] + lane, weights[v]);
  }
}

// The rows and weights of the corners of the block of points that begins at `first`; of directions,
// how the weights change along them.
template <int N, Lattice L>
inline void place(const Grid& grid, const Level& level, const Places<N>& places, int64_t first,
                  Corners& to) {
  if constexpr (L == Lattice::permuto) {
    place_block<N, L, Index::sum>(grid, level, places, first, to);
  } else if (level.index == Index::dense) {
    place_block<N, L, Index::dense>(grid, level, places, first, to);
  } else {
    place_block<N, L, Index::prime>(grid, level, places, first, to);
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

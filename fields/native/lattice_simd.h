// Where points lie in a lattice: corners, weights, rows. Included only by *_simd.cpp.
#pragma once

#include "../../render/native/simd.h"
#include "encoding.h"

namespace fieldpress::fields::FIELDPRESS_ISA {

using namespace fieldpress::render::FIELDPRESS_ISA;

typedef uint32_t Words __attribute__((vector_size(LANES * 4)));

template <int N, Lattice L>
constexpr int corners_of() {
  return L == Lattice::grid ? 1 << N : N + 1;
}

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
  Floats at(int axis, int64_t point) const { return load<Floats>(axis_[axis] + point); }

 private:
  std::vector<float> values_;
  float* axis_[N];
};

struct Corners {
  alignas(64) uint32_t row[MAX_CORNERS][BLOCK];
  alignas(64) float weight[MAX_CORNERS][BLOCK];
};

template <int N>
struct Cell {
  Words base[N];   // Integer coordinates; below zero they wrap, as the hash does.
  Floats part[N];  // The rest, in [0, 1).
};

// Integer and rest. Only the lift of a permutohedral lattice leads below zero, where truncation
// goes up.
template <Lattice L>
FP_INLINE Words floor_of(Floats x, Floats& part) {
  Ints whole = __builtin_convertvector(x, Ints);
  if constexpr (L == Lattice::permuto) whole += __builtin_convertvector(whole, Floats) > x;
  part = x - __builtin_convertvector(whole, Floats);
  return reinterpret_cast<Words>(whole);
}

template <int N, Lattice L>
FP_INLINE Cell<N> locate(const Grid& grid, const Level& level, const Axes<N>& axes, int64_t point) {
  Floats u[N], y[N];
  for (int i = 0; i < N; ++i)
    u[i] = plus_product(all<Floats>(LEVEL_SHIFT), all<Floats>(level.scale),
                        axes.at(i, point));
  if constexpr (L == Lattice::simplex) {
    Floats sum = u[0] + u[1];
    for (int i = 2; i < N; ++i) sum += u[i];
    for (int i = 0; i < N; ++i) y[i] = plus_product(u[i], all<Floats>(SKEW[N]), sum);
  } else if constexpr (L == Lattice::permuto) {
    for (int i = 0; i < N; ++i) {
      y[i] = u[0] * grid.lift[i][0];
      for (int j = 1; j < N; ++j) y[i] = plus_product(y[i], all<Floats>(grid.lift[i][j]), u[j]);
    }
  } else {
    for (int i = 0; i < N; ++i) y[i] = u[i];
  }
  Cell<N> cell;
  for (int i = 0; i < N; ++i) cell.base[i] = floor_of<L>(y[i], cell.part[i]);
  return cell;
}

template <Index I>
FP_INLINE Words join(Words a, Words b) {
  return I == Index::prime ? (a ^ b) : (a + b);
}

template <Index I>
FP_INLINE Words reduce(Words index, uint32_t rows) {
  if constexpr (I != Index::dense) return index & (rows - 1);
  const Words less = index - rows;
  return less < index ? less : index;  // Wraps to a large number where index < rows.
}

// Ranks: how many parts are larger (of equal ones, the earlier). No branch, no sort.
template <int N>
FP_INLINE void rank(const Floats (&part)[N], Words (&ranks)[N]) {
  for (int i = 0; i < N; ++i) ranks[i] = Words{};
  for (int i = 0; i < N; ++i)
    for (int j = i + 1; j < N; ++j) {
      const Words later = reinterpret_cast<Words>(part[i] >= part[j]);  // -1: j comes after i.
      ranks[j] -= later;
      ranks[i] += later + 1;
    }
}

// Largest first, by a network of exchanges.
template <int N>
FP_INLINE void sort_down(Floats (&v)[N]) {
  const auto exchange = [&v](int a, int b) __attribute__((always_inline)) {
    const Floats high = most(v[a], v[b]);
    v[b] = least(v[a], v[b]);
    v[a] = high;
  };
  if constexpr (N == 2) {
    exchange(0, 1);
  } else if constexpr (N == 3) {
    exchange(0, 1), exchange(1, 2), exchange(0, 1);
  } else {
    exchange(0, 1), exchange(2, 3), exchange(0, 2), exchange(1, 3), exchange(1, 2);
  }
}

template <int N, Index I>
FP_INLINE void cube_corners(const Cell<N>& cell, const Level& level, int lane, Corners& to) {
  constexpr int V = 1 << N;
  Words row[V];
  Floats weight[V];
  row[0] = cell.base[0] * level.factors[0];
  row[1] = row[0] + level.factors[0];
  weight[1] = cell.part[0];
  weight[0] = 1.0f - cell.part[0];
  for (int i = 1; i < N; ++i) {
    const Words low = cell.base[i] * level.factors[i], high = low + level.factors[i];
    for (int v = 0; v < 1 << i; ++v) {
      const int up = v | 1 << i;
      row[up] = join<I>(row[v], high);
      row[v] = join<I>(row[v], low);
      weight[up] = weight[v] * cell.part[i];
      weight[v] = weight[v] - weight[up];
    }
  }
  for (int v = 0; v < V; ++v) {
    store(to.row[v] + lane, reduce<I>(row[v], level.rows));
    store(to.weight[v] + lane, weight[v]);
  }
}

template <int N, Index I>
FP_INLINE void store_corner(const Words (&term)[N], uint32_t rows, Floats weight, uint32_t* row,
                            float* to_weight) {
  Words sum = term[0];
  for (int i = 1; i < N; ++i) sum = join<I>(sum, term[i]);
  store(row, reduce<I>(sum, rows));
  store(to_weight, weight);
}

// Corner k has taken one step along each of the k axes of the largest parts.
template <int N, Index I>
FP_INLINE void simplex_corners(const Cell<N>& cell, const Level& level, int lane, Corners& to) {
  Words term[N], last[N], ranks[N];
  Floats sorted[N];
  for (int i = 0; i < N; ++i) {
    term[i] = cell.base[i] * level.factors[i];
    last[i] = term[i] + level.factors[i];
    sorted[i] = cell.part[i];
  }
  rank<N>(cell.part, ranks);
  sort_down<N>(sorted);
  store_corner<N, I>(term, level.rows, 1.0f - sorted[0], to.row[0] + lane, to.weight[0] + lane);
  for (int k = 1; k < N; ++k) {
    for (int i = 0; i < N; ++i) term[i] = ranks[i] < static_cast<uint32_t>(k) ? last[i] : term[i];
    store_corner<N, I>(term, level.rows, sorted[k - 1] - sorted[k], to.row[k] + lane,
                       to.weight[k] + lane);
  }
  store_corner<N, I>(last, level.rows, sorted[N - 1], to.row[N] + lane, to.weight[N] + lane);
}

template <int N, Lattice L, Index I>
FP_INLINE void place_block(const Grid& grid, const Level& level, const Axes<N>& axes, int64_t first,
                           Corners& to) {
  for (int lane = 0; lane < BLOCK; lane += LANES) {
    const Cell<N> cell = locate<N, L>(grid, level, axes, first + lane);
    if constexpr (L == Lattice::grid)
      cube_corners<N, I>(cell, level, lane, to);
    else
      simplex_corners<N, I>(cell, level, lane, to);
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

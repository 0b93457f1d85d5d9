// Where points lie in a lattice: cells, corners, weights, rows, slopes. On the CPU a lane a point,
// included only by *_simd.cpp; in a CUDA thread one point.
#pragma once

#include "../../render/native/lanes.h"
#include "grid.h"

namespace fieldpress::fields::FIELDPRESS_ISA {

using namespace fieldpress::render::FIELDPRESS_ISA;

#ifdef FIELDPRESS_CUDA
using Words = uint32_t;
FP_INLINE Ints truncated(Floats x) { return static_cast<Ints>(x); }
FP_INLINE Floats as_floats(Ints x) { return static_cast<Floats>(x); }
FP_INLINE Words as_words(Ints x) { return static_cast<Words>(x); }
FP_INLINE Words one_where(bool mask) { return mask ? 1u : 0u; }
FP_INLINE Ints one_less_where(bool mask, Ints x) { return mask ? x - 1 : x; }
FP_INLINE bool as_mask(bool mask) { return mask; }
#else
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
FP_INLINE Ints truncated(Floats x) { return __builtin_convertvector(x, Ints); }
FP_INLINE Floats as_floats(Ints x) { return __builtin_convertvector(x, Floats); }
FP_INLINE Words as_words(Ints x) { return reinterpret_cast<Words>(x); }
FP_INLINE Words one_where(Ints mask) { return -reinterpret_cast<Words>(mask); }
FP_INLINE Ints one_less_where(Ints mask, Ints x) { return x + mask; }
template <typename M>
FP_INLINE Ints as_mask(M mask) {
  return reinterpret_cast<Ints>(mask);
}
#endif

template <int N, Lattice L>
constexpr int corners_of() {
  return L == Lattice::grid ? 1 << N : N + 1;
}

template <int N>
struct Point {
  Floats x[N];  // In [0, 1].
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
  Ints whole = truncated(x);
  if constexpr (L == Lattice::permuto) whole = one_less_where(as_floats(whole) > x, whole);
  part = x - as_floats(whole);
  return as_words(whole);
}

template <int N, Lattice L>
FP_INLINE Cell<N> locate(const Grid& grid, const Level& level, const Point<N>& point) {
  Floats u[N], y[N];
  for (int i = 0; i < N; ++i)
    u[i] = plus_product(all<Floats>(LEVEL_SHIFT), all<Floats>(level.scale), point.x[i]);
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

// What an axis adds to a row. The first one's factor is 1, but in sums.
template <Index I>
FP_INLINE Words term_of(const Level& level, int axis, Words base) {
  return I != Index::sum && axis == 0 ? base : base * level.factors[axis];
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
      const Words later = one_where(part[i] >= part[j]);
      ranks[j] += later;
      ranks[i] += 1u - later;
    }
}

// The larger first, each with its step; of equal ones the first, as ranks have it.
FP_INLINE void exchange(Floats& a, Floats& b, Words& step_a, Words& step_b) {
  const auto swapped = a < b;
  const Floats high = most(a, b);
  const Words step = swapped ? step_b : step_a;
  step_b = swapped ? step_a : step_b;
  step_a = step;
  b = least(a, b);
  a = high;
}

// Largest first, by exchanges of neighbours, which leave equal ones in their order.
template <int N>
FP_INLINE void sort_down(Floats (&v)[N], Words (&steps)[N]) {
  for (int end = N - 1; end > 0; --end)
    for (int i = 0; i < end; ++i) exchange(v[i], v[i + 1], steps[i], steps[i + 1]);
}

// Tells `use` the number, row and weight of each corner of a cube.
template <int N, Index I, typename Use>
FP_INLINE void cube_corners(const Cell<N>& cell, const Level& level, const Use& use) {
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
  for (int v = 0; v < V; ++v) use(v, reduce<I>(row[v], level.rows), weight[v]);
}

// The same of a simplex: from corner to corner one step along the axis of the largest part left. The
// last corner is a step along all axes away, whatever their order.
template <int N, Index I, typename Use>
FP_INLINE void simplex_corners(const Cell<N>& cell, const Level& level, const Use& use) {
  Words row{}, steps[N];
  Floats sorted[N];
  for (int i = 0; i < N; ++i) {
    const Words term = term_of<I>(level, i, cell.base[i]);
    row = i == 0 ? term : join<I>(row, term);
    steps[i] = Words{} + level.factors[i];
    if constexpr (I == Index::prime) steps[i] = term ^ (term + level.factors[i]);
    sorted[i] = cell.part[i];
  }
  Words last = row;
  for (int i = 0; i < N; ++i) last = join<I>(last, steps[i]);
  sort_down<N>(sorted, steps);
  use(0, reduce<I>(row, level.rows), 1.0f - sorted[0]);
  for (int k = 1; k < N; ++k) {
    row = join<I>(row, steps[k - 1]);
    use(k, reduce<I>(row, level.rows), sorted[k - 1] - sorted[k]);
  }
  use(N, reduce<I>(last, level.rows), sorted[N - 1]);
}

template <int N, Lattice L, Index I, typename Use>
FP_INLINE void corners_of_cell(const Cell<N>& cell, const Level& level, const Use& use) {
  if constexpr (L == Lattice::grid)
    cube_corners<N, I>(cell, level, use);
  else
    simplex_corners<N, I>(cell, level, use);
}

// How the parts of a cell change along a direction, by cells' coordinates.
template <int N, Lattice L>
FP_INLINE void part_changes(const Grid& grid, const Level& level, const Point<N>& along,
                            Floats (&change)[N]) {
  Floats u[N], all_axes{};
  for (int i = 0; i < N; ++i) u[i] = level.scale * along.x[i];
  for (int i = 0; i < N; ++i) all_axes += u[i];
  for (int i = 0; i < N; ++i) {
    change[i] = u[i];
    if constexpr (L == Lattice::simplex) change[i] += SKEW[N] * all_axes;
    if constexpr (L == Lattice::permuto) {
      change[i] = Floats{};
      for (int j = 0; j < N; ++j) change[i] += grid.lift[i][j] * u[j];
    }
  }
}

// Where ranks[i] is k, values[i].
template <int N>
FP_INLINE Floats of_rank(const Words (&ranks)[N], int k, const Floats (&values)[N]) {
  Floats found{};
  for (int i = 0; i < N; ++i)
    found += where(as_mask(ranks[i] == static_cast<uint32_t>(k)), values[i]);
  return found;
}

// How the weights of corners change where parts do.
template <int N, Lattice L>
FP_INLINE void weight_changes(const Cell<N>& cell, const Floats (&change)[N],
                              Floats (&found)[corners_of<N, L>()]) {
  if constexpr (L == Lattice::grid) {
    Floats weight[1 << N];
    weight[1] = cell.part[0], weight[0] = 1.0f - cell.part[0];
    found[1] = change[0], found[0] = -change[0];
    for (int i = 1; i < N; ++i)
      for (int v = 0; v < 1 << i; ++v) {
        const int up = v | 1 << i;
        found[up] = found[v] * cell.part[i] + weight[v] * change[i];
        found[v] = found[v] - found[up];
        weight[up] = weight[v] * cell.part[i];
        weight[v] = weight[v] - weight[up];
      }
  } else {
    Words ranks[N];
    rank<N>(cell.part, ranks);
    Floats before{};
    for (int k = 0; k < N; ++k) {
      const Floats here = of_rank<N>(ranks, k, change);
      found[k] = before - here;
      before = here;
    }
    found[N] = before;
  }
}

// d value / d part_i of the cell, from the products of each corner's row with the upstream.
template <int N>
FP_INLINE void cube_slopes(const Cell<N>& cell, const Floats (&dots)[1 << N], Floats (&slopes)[N]) {
  constexpr int V = 1 << N;
  for (int axis = 0; axis < N; ++axis) {
    Floats sum[V];
    for (int v = 0; v < V; ++v) sum[v] = dots[v];
    for (int i = N - 1; i >= 0; --i) {  // The highest axis first: halves lie together.
      const int half = 1 << i;
      for (int v = 0; v < half; ++v) {
        const Floats rise = sum[v + half] - sum[v];
        sum[v] = i == axis ? rise : sum[v] + cell.part[i] * rise;
      }
    }
    slopes[axis] = sum[0];
  }
}

// How those of a cube change where parts do; those of simplices do not.
template <int N>
FP_INLINE void cube_bends(const Cell<N>& cell, const Floats (&dots)[1 << N],
                          const Floats (&change)[N], Floats (&bends)[N]) {
  constexpr int V = 1 << N;
  for (int axis = 0; axis < N; ++axis) {
    Floats sum[V], bend[V];
    for (int v = 0; v < V; ++v) sum[v] = dots[v], bend[v] = Floats{};
    for (int i = N - 1; i >= 0; --i) {
      const int half = 1 << i;
      for (int v = 0; v < half; ++v) {
        const Floats rise = sum[v + half] - sum[v], turn = bend[v + half] - bend[v];
        sum[v] = i == axis ? rise : sum[v] + cell.part[i] * rise;
        bend[v] = i == axis ? turn : bend[v] + cell.part[i] * turn + change[i] * rise;
      }
    }
    bends[axis] = bend[0];
  }
}

// Along the axis of rank r the value goes from corner r to corner r + 1.
template <int N>
FP_INLINE void simplex_slopes(const Cell<N>& cell, const Floats (&dots)[N + 1],
                              Floats (&slopes)[N]) {
  Words ranks[N];
  rank<N>(cell.part, ranks);
  for (int i = 0; i < N; ++i) {
    slopes[i] = Floats{};
    for (int k = 0; k < N; ++k) {
      const auto here = ranks[i] == static_cast<uint32_t>(k);
      slopes[i] += where(as_mask(here), dots[k + 1] - dots[k]);
    }
  }
}

// d value / d x_j of a point, from the products of each corner's row with the upstream.
template <int N, Lattice L>
FP_INLINE void point_slopes(const Grid& grid, const Level& level, const Cell<N>& cell,
                            const Floats (&dots)[corners_of<N, L>()], Floats (&found)[N]) {
  Floats slopes[N], all_axes{};
  if constexpr (L == Lattice::grid)
    cube_slopes<N>(cell, dots, slopes);
  else
    simplex_slopes<N>(cell, dots, slopes);
  for (int i = 0; i < N; ++i) all_axes += slopes[i];
  for (int j = 0; j < N; ++j) {
    Floats d = slopes[j];
    if constexpr (L == Lattice::simplex) d += SKEW[N] * all_axes;
    if constexpr (L == Lattice::permuto) {
      d = Floats{};
      for (int i = 0; i < N; ++i) d += grid.lift[i][j] * slopes[i];
    }
    found[j] = level.scale * d;
  }
}

// How those change along a direction.
template <int N, Lattice L>
FP_INLINE void point_bends(const Grid& grid, const Level& level, const Cell<N>& cell,
                           const Point<N>& along, const Floats (&dots)[corners_of<N, L>()],
                           Floats (&found)[N]) {
  for (int j = 0; j < N; ++j) found[j] = Floats{};
  if constexpr (L == Lattice::grid) {
    Floats change[N];
    part_changes<N, L>(grid, level, along, change);
    cube_bends<N>(cell, dots, change, found);
    for (int j = 0; j < N; ++j) found[j] = level.scale * found[j];
  }
}

}  // namespace fieldpress::fields::FIELDPRESS_ISA

// Encoding, its gradients, and the optimiser that visits only what they touched: one copy per
// instruction set.
#include <algorithm>
#include <optional>
#include <utility>

#include "blend_simd.h"

namespace fieldpress::fields::FIELDPRESS_ISA {

constexpr int64_t AHEAD = 16;  // Lines that are asked for before they are stepped.

// Kingma and Ba 2015, for parameters whose gradient is not exactly zero: what a batch did not see
// keeps its moments, as in torch's SparseAdam and in tiny-cuda-nn. `grad` is that of line `first`.
void adam(const Moments& moments, int64_t first, int64_t last, float* grad, uint8_t* touched) {
  const AdamStep step = moments.step;
  const float keep1 = 1 - step.beta1, keep2 = 1 - step.beta2, over_root = 1 / step.root;
  float *const table = moments.table, *const mean = moments.mean, *const square = moments.square;
  for (int64_t line = first; line < last; ++line) {
    if (!touched[line]) continue;
    touched[line] = 0;
    if (line + AHEAD < last && touched[line + AHEAD]) {
      __builtin_prefetch(table + (line + AHEAD) * LINE, 1);
      __builtin_prefetch(mean + (line + AHEAD) * LINE, 1);
      __builtin_prefetch(square + (line + AHEAD) * LINE, 1);
    }
    const int64_t start = line * LINE, end = std::min(moments.size, start + LINE);
    float* const grads = grad + (line - first) * LINE;
    for (int64_t i = start; i < end; ++i) {
      const float g = grads[i - start];
      const bool seen = g != 0;
      const float m = step.beta1 * mean[i] + keep1 * g, v = step.beta2 * square[i] + keep2 * (g * g);
      const float move = step.rate * m / (__builtin_sqrtf(v) * over_root + step.epsilon);
      mean[i] = seen ? m : mean[i];
      square[i] = seen ? v : square[i];
      table[i] = seen ? table[i] - move : table[i];
      grads[i - start] = 0;
    }
  }
}

namespace {

constexpr int64_t FAR_BYTES = 1 << 18;  // Of a level: what is larger is asked for ahead of its use.
// AVX-512 gathers keep all the lines on their way that a core can: asking before is work twice.
#if defined(__AVX512F__)
constexpr bool READS_ARE_ASKED_FOR = false;
#else
constexpr bool READS_ARE_ASKED_FOR = true;
#endif
constexpr int64_t STREAMED_BYTES = 1 << 22;  // Of features: what is larger goes past the caches.

// Asks for the rows of a block before they are used, so that their latencies overlap. The two
// corners of a cube along x lie in one cache line seven times of eight.
template <int N, Lattice L>
void fetch(const Corners& at, const char* rows, int64_t row_bits) {
  for (int v = 0; v < corners_of<N, L>(); v += L == Lattice::grid ? 2 : 1)
    for (int p = 0; p < BLOCK; ++p)
      __builtin_prefetch(rows + (at.row[v][p] * row_bits >> 3), 0, 2);
}

// Goes through all points, level by level, one block ahead of what uses them: a level stays near.
// Where it `asks`, its rows, at rows_of(level), are asked for ahead of their use.
template <int N, Lattice L, typename Rows, typename Use>
void walk(const Grid& grid, int first_level, int last_level, const Places<N>& places,
          int64_t count, bool asks, const Rows& rows_of, int64_t row_bits, const Use& use) {
  Corners corners[2];
  const int64_t blocks = (count + BLOCK - 1) / BLOCK;
  const int64_t steps = blocks * (last_level - first_level);
  int64_t block = 0;
  size_t number = static_cast<size_t>(first_level);
  const auto prepare = [&](int64_t step) {
    const Level& level = grid.levels[number];
    place<N, L>(grid, level, places, block * BLOCK, corners[step & 1]);
    if (asks && level.rows * row_bits / 8 > FAR_BYTES)
      fetch<N, L>(corners[step & 1], reinterpret_cast<const char*>(rows_of(level)), row_bits);
    if (++block == blocks) block = 0, ++number;
  };
  if (steps > 0) prepare(0);
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t at = step % blocks * BLOCK;
    if (step + 1 < steps) prepare(step + 1);
    use(static_cast<size_t>(first_level + step / blocks), at,
        static_cast<int>(std::min<int64_t>(BLOCK, count - at)), corners[step & 1]);
  }
}

#if defined(__AVX512F__)
FP_INLINE void stream(float* to, Floats v) { _mm512_stream_ps(to, v); }
FP_INLINE void end_stream() { _mm_sfence(); }  // Other threads see it from here on.
#elif defined(__AVX2__)
FP_INLINE void stream(float* to, Floats v) { _mm256_stream_ps(to, v); }
FP_INLINE void end_stream() { _mm_sfence(); }
#else
FP_INLINE void stream(float* to, Floats v) { store(to, v); }
FP_INLINE void end_stream() {}
#endif

// Stores one feature of a block of points; past the caches, so that a table keeps its place there.
FP_INLINE void put(const float* values, int size, bool streams, float* to) {
  if (!streams || size < BLOCK) {
    std::copy_n(values, size, to);
    return;
  }
  for (int p = 0; p < BLOCK; p += LANES) stream(to + p, load<Floats>(values + p));
}

// The axes of directions, if there are any.
template <int N>
std::optional<Axes<N>> axes_along(const float* along, int64_t count) {
  if (!along) return std::nullopt;
  return std::optional<Axes<N>>(std::in_place, along, count, false);
}

struct Encode {
  const Grid& grid;
  const Table& table;
  const float *points, *along;
  int64_t count;
  float* out;
  int64_t stride;

#if defined(__AVX512F__)
  // False, and nothing done, where rows are not pairs or words are longer than a level.
  template <int N, Lattice L, typename Keep>
  bool look_up_at_once(const Axes<N>& axes, const Keep& keep) const {
    const auto is_short = [&](const Level& l) { return l.rows * bits_of(table.storage) < 16; };
    if (along || grid.features != 2 ||
        std::any_of(grid.levels, grid.levels + grid.count, is_short))
      return false;
    for (size_t level = 0; level < static_cast<size_t>(grid.count); ++level) {
      const auto keep_level = [&](int64_t first, const float* f) { keep(level, first, f); };
      switch (table.storage) {
        case Storage::f32:
          blend_level<N, L, Storage::f32>(grid, table, level, axes, count, keep_level);
          break;
        case Storage::f16:
          blend_level<N, L, Storage::f16>(grid, table, level, axes, count, keep_level);
          break;
        case Storage::i8:
          blend_level<N, L, Storage::i8>(grid, table, level, axes, count, keep_level);
          break;
        case Storage::b1:
          blend_level<N, L, Storage::b1>(grid, table, level, axes, count, keep_level);
      }
    }
    return true;
  }
#else
  template <int N, Lattice L, typename Keep>
  bool look_up_at_once(const Axes<N>&, const Keep&) const {
    return false;
  }
#endif

  template <int N, Lattice L>
  void run() const {
    const int64_t row_bits = grid.features * bits_of(table.storage);
    const Axes<N> axes(points, count);
    const std::optional<Axes<N>> directions = axes_along<N>(along, count);
    const bool aligned = reinterpret_cast<uintptr_t>(out) % 64 == 0 && stride % 16 == 0;
    const bool streams = aligned && 4 * count * grid.width() > STREAMED_BYTES;
    const auto keep = [&](size_t level, int64_t first, const float* values) {
      const int size = static_cast<int>(std::min<int64_t>(BLOCK, count - first));
      float* to = out + static_cast<int64_t>(level) * grid.features * stride + first;
      for (int f = 0; f < grid.features; ++f)
        put(values + f * BLOCK, size, streams, to + f * stride);
    };
    if (!look_up_at_once<N, L>(axes, keep)) {
      alignas(64) float values[BLOCK * MAX_FEATURES];
      walk<N, L>(
          grid, 0, grid.count, Places<N>{axes, directions ? &*directions : nullptr}, count,
          READS_ARE_ASKED_FOR,
          [&](const Level& level) { return level_rows(grid, table, level); }, row_bits,
          [&](size_t level, int64_t first, int, const Corners& at) {
            blend(grid, table, level, at, corners_of<N, L>(), values);
            keep(level, first, values);
          });
    }
    if (streams) end_stream();
  }
};

template <int F>
FP_INLINE void add_row_of(float* row, float weight, const float (&g)[F]) {
#if defined(__SSE2__)
  if constexpr (F == 2) {
    double* const both = reinterpret_cast<double*>(row);
    const __m128 sum = _mm_castpd_ps(_mm_load_sd(both));
    const __m128 part = _mm_setr_ps(g[0], g[1], 0, 0);
    _mm_store_sd(both, _mm_castps_pd(sum + part * _mm_set1_ps(weight)));
    return;
  }
#endif
  float sum[F];
  __builtin_memcpy(sum, row, sizeof sum);
  for (int f = 0; f < F; ++f) sum[f] += weight * g[f];
  __builtin_memcpy(row, sum, sizeof sum);
}

// With `touched` null, the level's lines are marked already.
template <int F>
void add_rows(const Corners& at, int corners, int count, const float* upstream, int64_t stride,
              float* rows, int64_t first_float, uint8_t* touched) {
  for (int p = 0; p < count; ++p) {
    float g[F];
    for (int f = 0; f < F; ++f) g[f] = upstream[f * stride + p];
    for (int v = 0; v < corners; ++v)
      add_row_of<F>(rows + static_cast<int64_t>(at.row[v][p]) * F, at.weight[v][p], g);
  }
  if (!touched) return;
  for (int v = 0; v < corners; ++v)
    for (int p = 0; p < count; ++p)  // Two threads may meet in a line: both write a one.
      __atomic_store_n(touched + (first_float + static_cast<int64_t>(at.row[v][p]) * F) / LINE,
                       uint8_t{1}, __ATOMIC_RELAXED);
}

struct Scatter {
  const Grid& grid;
  int first_level, last_level;
  const float *points, *along;
  int64_t count;
  const float* upstream;
  float* grad;
  uint8_t* touched;
  const Moments* moments;

  void add(const Corners& at, int corners, int size, const float* g, float* rows, int64_t start,
           uint8_t* marks) const {
    switch (grid.features) {
      case 1: return add_rows<1>(at, corners, size, g, count, rows, start, marks);
      case 2: return add_rows<2>(at, corners, size, g, count, rows, start, marks);
      case 4: return add_rows<4>(at, corners, size, g, count, rows, start, marks);
      default: return add_rows<8>(at, corners, size, g, count, rows, start, marks);
    }
  }

  // Lines [first, last) of a level: all that it has a part in.
  std::pair<int64_t, int64_t> lines_of(const Level& level) const {
    const int64_t start = level.first * grid.features, end = start + level.rows * grid.features;
    return {start / LINE, (end + LINE - 1) / LINE};
  }

  // Where points have many more corners than a level has lines, nearly all are touched.
  bool is_crowded(const Level& level, int corners) const {
    const auto [first, last] = lines_of(level);
    return count * corners > 2 * (last - first);
  }

  // Where nothing waits in the gradient and no level shares a line with another, levels that are
  // stepped at once take turns in the room of the largest, which stays near; null elsewhere.
  float* shared_room() const {
    if (!moments) return nullptr;
    const Level* largest = &grid.levels[first_level];
    for (int l = first_level; l < last_level; ++l) {
      const Level& level = grid.levels[l];
      const auto [first, last] = lines_of(level);
      if (level.first * grid.features % LINE || level.rows * grid.features % LINE) return nullptr;
      if (std::any_of(touched + first, touched + last, [](uint8_t mark) { return mark != 0; }))
        return nullptr;
      if (level.rows > largest->rows) largest = &level;
    }
    return grad + largest->first * grid.features;
  }

  float* gradient_of(const Level& level, float* room) const {
    return room ? room : grad + level.first * grid.features;
  }

  void finish(const Level& level, float* room) const {
    auto [first, last] = lines_of(level);
    first += level.first * grid.features % LINE != 0;
    last -= (level.first + level.rows) * grid.features % LINE != 0;
    adam(*moments, first, last, room ? room : grad + first * LINE, touched);
  }

  template <int N, Lattice L>
  void run() const {
    constexpr int V = corners_of<N, L>();
    const Axes<N> axes(points, count);
    const std::optional<Axes<N>> directions = axes_along<N>(along, count);
    float* const room = shared_room();
    const bool asks = !room;  // A room is near already.
    walk<N, L>(grid, first_level, last_level,
               Places<N>{axes, directions ? &*directions : nullptr}, count, asks,
               [&](const Level& level) { return gradient_of(level, room); }, 32 * grid.features,
               [&](size_t number, int64_t first, int size, const Corners& at) {
                 const Level& level = grid.levels[number];
                 const bool crowded = is_crowded(level, V);
                 if (crowded && first == 0) {
                   const auto [from, to] = lines_of(level);
                   for (int64_t line = from; line < to; ++line)
                     __atomic_store_n(touched + line, uint8_t{1}, __ATOMIC_RELAXED);
                 }
                 const float* g =
                     upstream + static_cast<int64_t>(number) * grid.features * count + first;
                 add(at, V, size, g, gradient_of(level, room), level.first * grid.features,
                     crowded ? nullptr : touched);
                 if (moments && first + size == count) finish(level, room);
               });
  }
};

struct Slope {
  const Grid& grid;
  const float* table;
  const float *points, *along;
  int64_t count;
  const float* upstream;
  int64_t stride;
  float* dx;

  using Dots = float[MAX_CORNERS][BLOCK];

  void dot(const Corners& at, int corners, int size, const float* g, const float* rows,
           Dots& dots) const {
    const int features = grid.features;
    for (int v = 0; v < corners; ++v)
      for (int p = 0; p < BLOCK; ++p) {
        float sum = 0;
        if (p < size)
          for (int f = 0; f < features; ++f)
            sum += rows[static_cast<int64_t>(at.row[v][p]) * features + f] * g[f * stride + p];
        dots[v][p] = sum;
      }
  }

  template <int N, Lattice L>
  void add(const Level& level, const Places<N>& places, int64_t first, const Dots& dots,
           float* sums) const {
    for (int lane = 0; lane < BLOCK; lane += LANES) {
      const Cell<N> cell = locate<N, L>(grid, level, places.axes.at(first + lane));
      Floats of_corners[corners_of<N, L>()], slopes[N];
      for (int v = 0; v < corners_of<N, L>(); ++v) of_corners[v] = load<Floats>(dots[v] + lane);
      if (places.along)
        point_bends<N, L>(grid, level, cell, places.along->at(first + lane), of_corners, slopes);
      else
        point_slopes<N, L>(grid, level, cell, of_corners, slopes);
      for (int j = 0; j < N; ++j) {
        float* to = sums + j * BLOCK + lane;
        store(to, load<Floats>(to) + slopes[j]);
      }
    }
  }

  template <int N, Lattice L>
  void run() const {
    const Axes<N> axes(points, count);
    const std::optional<Axes<N>> directions = axes_along<N>(along, count);
    const Places<N> places{axes, directions ? &*directions : nullptr};
    alignas(64) Dots dots;
    const int64_t blocks = (count + BLOCK - 1) / BLOCK;
    std::vector<float> sums(static_cast<size_t>(blocks * BLOCK * N));
    walk<N, L>(grid, 0, grid.count, Places<N>{axes, nullptr}, count, READS_ARE_ASKED_FOR,
               [&](const Level& level) { return table + level.first * grid.features; },
               32 * grid.features,
               [&](size_t number, int64_t first, int size, const Corners& at) {
                 const Level& level = grid.levels[number];
                 dot(at, corners_of<N, L>(), size,
                     upstream + static_cast<int64_t>(number) * grid.features * stride + first,
                     table + level.first * grid.features, dots);
                 add<N, L>(level, places, first, dots, sums.data() + first * N);
               });
    for (int64_t p = 0; p < count; ++p)
      for (int i = 0; i < N; ++i)
        dx[p * N + i] = sums[static_cast<size_t>((p / BLOCK * N + i) * BLOCK + p % BLOCK)];
  }
};

}  // namespace

void encode(const Grid& grid, const Table& table, const float* points, const float* along,
            int64_t count, float* out, int64_t stride) {
  by_kind(grid, Encode{grid, table, points, along, count, out, stride});
}

void scatter(const Grid& grid, int first, int last, const float* points, const float* along,
             int64_t count, const float* upstream, float* grad, uint8_t* touched,
             const Moments* moments) {
  by_kind(grid, Scatter{grid, first, last, points, along, count, upstream, grad, touched, moments});
}

void slope(const Grid& grid, const float* table, const float* points, const float* along,
           int64_t count, const float* upstream, int64_t stride, float* dx) {
  by_kind(grid, Slope{grid, table, points, along, count, upstream, stride, dx});
}

}  // namespace fieldpress::fields::FIELDPRESS_ISA

// Gradients of features [levels * F, count] to those of points [count, N]: a thread a point.
#include "kind.h"

using namespace fieldpress::fields;
using namespace fieldpress::fields::gpu;

extern "C" __global__ void __launch_bounds__(THREADS)
    slope(const Grid* grid, const void* table, const float* points, int64_t count,
          const float* upstream, float* dx) {
  const int64_t p = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  if (p >= count) return;
  const Point<N> point = point_at(points, p);
  float sum[N] = {};
  for (int number = 0; number < grid->count; ++number) {
    const Level& level = grid->levels[number];
    const char* rows = rows_of(table, level);
    const Cell<N> cell = locate<N, KIND>(*grid, level, point);
    float g[F], dots[V], slopes[N];
    for (int f = 0; f < F; ++f) g[f] = upstream[(number * F + f) * count + p];
    for_corners(cell, level, [&](int v, uint32_t row, float) {
      float values[F];
      read_row(rows, row, values);
      dots[v] = 0.0f;
      for (int f = 0; f < F; ++f) dots[v] += values[f] * g[f];
    });
    point_slopes<N, KIND>(*grid, level, cell, dots, slopes);
    for (int i = 0; i < N; ++i) sum[i] += slopes[i];
  }
  for (int i = 0; i < N; ++i) dx[p * N + i] = sum[i];
}

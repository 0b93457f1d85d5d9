// Features of points, [levels * F, count].
#include "kind.h"

using namespace fieldpress::fields;
using namespace fieldpress::fields::gpu;

extern "C" __global__ void __launch_bounds__(THREADS)
    encode(const Grid* grid, const void* table, const float* steps, const float* points,
           int64_t count, float* out) {
  const Item item = item_of(count);
  if (item.point >= count) return;
  const Level& level = grid->levels[item.level];
  float sum[F];
  features_at(*grid, level, table, steps ? steps[item.level] : 1.0f,
              point_at(points, item.point), sum);
  for (int f = 0; f < F; ++f) out[(item.level * F + f) * count + item.point] = sum[f];
}

// Gradients of features [levels * F, count] to those of the rows that they were made of, which are
// added to in whatever order the points come.
#include "kind.h"

namespace fieldpress::fields::gpu {

FP_INLINE void add_row(float* row, float weight, const float (&g)[F]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (F == 2) {
    atomicAdd(reinterpret_cast<float2*>(row), make_float2(weight * g[0], weight * g[1]));
    return;
  }
  if constexpr (F % 4 == 0) {
    for (int f = 0; f < F; f += 4)
      atomicAdd(reinterpret_cast<float4*>(row + f), make_float4(weight * g[f], weight * g[f + 1],
                                                                weight * g[f + 2],
                                                                weight * g[f + 3]));
    return;
  }
#endif
  for (int f = 0; f < F; ++f) atomicAdd(row + f, weight * g[f]);
}

}  // namespace fieldpress::fields::gpu

using namespace fieldpress::fields;
using namespace fieldpress::fields::gpu;

extern "C" __global__ void __launch_bounds__(THREADS)
    scatter(const Grid* grid, const float* points, int64_t count, const float* upstream,
            float* grad) {
  const Item item = item_of(count);
  if (item.point >= count) return;
  const Level& level = grid->levels[item.level];
  float g[F];
  for (int f = 0; f < F; ++f) g[f] = upstream[(item.level * F + f) * count + item.point];
  float* rows = grad + level.first * F;
  for_corners(locate<N, KIND>(*grid, level, point_at(points, item.point)), level,
              [&](int, uint32_t row, float weight) {
                add_row(rows + static_cast<int64_t>(row) * F, weight, g);
              });
}

// Images: one block a tile.
#include "cuda_frame.h"
#include "rays.h"

using namespace fieldpress::render;
using namespace fieldpress::render::gpu;

constexpr int CHANNELS = FIELDPRESS_CHANNELS;

extern "C" __global__ void __launch_bounds__(BLOCK) blend(const CudaFrame* frame) {
  constexpr int SIZE = CHANNELS > 4 ? 128 : BLOCK;  // So that wide rows fit into shared memory.
  __shared__ Batch<SIZE> batch;
  __shared__ Colors<CHANNELS, SIZE> colors;
  const CudaFrame& f = *frame;
  Ray ray = start_ray(f.set);
  float sums[CHANNELS] = {};
  march(
      f, batch, ray, [&](uint32_t first, int count) { colors.fill(f, first, count); },
      [&](int i, const Hit& hit) {
        float color[CHANNELS];
        colors.read(batch, i, color);
#pragma unroll
        for (int k = 0; k < CHANNELS; ++k) sums[k] += color[k] * hit.weight;
      },
      [](uint32_t, int) {});
  if (!ray.inside) return;
  const int64_t pixel = pixel_index(f.set, ray);
  const float alpha = 1.0f - ray.trans;
  f.target.alpha[pixel] = alpha;
#pragma unroll
  for (int k = 0; k < CHANNELS; ++k) {
    float value = sums[k];
    if (f.set.expected && k == CHANNELS - 1) value /= most(alpha, single(DEPTH_ALPHA_FLOOR));
    if (f.target.background) value += ray.trans * f.target.background[k];
    f.target.image[pixel * CHANNELS + k] = value;
  }
}

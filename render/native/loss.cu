// The photometric loss and its gradient: see loss.h for the mathematics and loss_simd.cpp for the
// same on the CPU. A block is a tile of one view, a thread a pixel, the channels one after another:
// the tile and what surrounds it go to shared memory, are blurred down, then across.
#include "constants.h"
#include "loss_frame.h"
#include "warp.h"

namespace fieldpress::render::gpu {

constexpr int HALO = TILE + 2 * SSIM_HALF;
constexpr int MAPS = 3;

struct LossDesk {
  float source[MAPS][HALO][HALO];
  float down[MAPS][TILE][HALO];  // Blurred down.
  float taps[SSIM_WINDOW];
  double slots[WARPS];
};

struct Place {
  int x, y, tile_x, tile_y;
  int64_t view;
  bool inside;
};

FP_INLINE Place place_of(const LossViews& views) {
  const int across = (views.width + TILE - 1) / TILE, down = (views.height + TILE - 1) / TILE;
  const int block = static_cast<int>(blockIdx.x) % (across * down);
  Place p;
  p.view = blockIdx.x / static_cast<unsigned>(across * down);
  p.tile_x = block % across * TILE;
  p.tile_y = block / across * TILE;
  p.x = p.tile_x + static_cast<int>(threadIdx.x) % TILE;
  p.y = p.tile_y + static_cast<int>(threadIdx.x) / TILE;
  p.inside = p.x < views.width && p.y < views.height;
  return p;
}

FP_INLINE int64_t value_index(const LossViews& views, const Place& p, int x, int y, int channel) {
  return ((p.view * views.height + y) * views.width + x) * 3 + channel;
}

FP_INLINE void fill_taps(LossDesk& desk) {
  const int i = static_cast<int>(threadIdx.x);
  if (i < SSIM_WINDOW) {
    double sum = 0, mine = 0;
    for (int k = 0; k < SSIM_WINDOW; ++k) {
      const double t = (k - SSIM_HALF) / SSIM_SIGMA, value = exp(-0.5 * t * t);
      sum += value;
      if (k == i) mine = value;
    }
    desk.taps[i] = static_cast<float>(mine / sum);
  }
  __syncthreads();
}

// read(x, y, inside the view, maps) fills what lies at one pixel; sums: Gaussian sums at this
// thread's. By all threads.
template <int COUNT, typename Read>
FP_INLINE void blur(LossDesk& desk, const LossViews& views, const Place& p, Read read,
                    float (&sums)[COUNT]) {
  __syncthreads();  // The last blur has been read.
  for (int k = static_cast<int>(threadIdx.x); k < HALO * HALO; k += BLOCK) {
    const int x = p.tile_x + k % HALO - SSIM_HALF, y = p.tile_y + k / HALO - SSIM_HALF;
    const bool inside = x >= 0 && y >= 0 && x < views.width && y < views.height;
    float maps[COUNT];
    read(x, y, inside, maps);
    for (int m = 0; m < COUNT; ++m) desk.source[m][k / HALO][k % HALO] = maps[m];
  }
  __syncthreads();
  for (int k = static_cast<int>(threadIdx.x); k < TILE * HALO; k += BLOCK)
    for (int m = 0; m < COUNT; ++m) {
      float sum = 0.0f;
#pragma unroll
      for (int t = 0; t < SSIM_WINDOW; ++t)
        sum += desk.taps[t] * desk.source[m][k / HALO + t][k % HALO];
      desk.down[m][k / HALO][k % HALO] = sum;
    }
  __syncthreads();
  const int row = static_cast<int>(threadIdx.x) / TILE, column = static_cast<int>(threadIdx.x) % TILE;
  for (int m = 0; m < COUNT; ++m) {
    sums[m] = 0.0f;
#pragma unroll
    for (int t = 0; t < SSIM_WINDOW; ++t) sums[m] += desk.taps[t] * desk.down[m][row][column + t];
  }
}

FP_INLINE float weight_at(const LossViews& views, const Place& p) {
  if (!p.inside) return 0.0f;
  return views.mask ? views.mask[(p.view * views.height + p.y) * views.width + p.x] : 1.0f;
}

// Sums over the block, to one place in memory.
FP_INLINE void add_sum(LossDesk& desk, float value, double* to) {
  double total;
  block_sum_before(static_cast<double>(value), desk.slots, total);
  if (threadIdx.x == 0) atomicAdd(to, total);
}

struct Moments {
  float mean_x, mean_y, square_x, variance_y, product;
};

// What the gradient needs of one value: the weighted slopes of SSIM towards the mean of x (as a part
// of the moments too), of x^2 and of x * y. Returns SSIM.
FP_INLINE float compare(const Moments& m, float weight, float* slopes) {
  const float vx = m.square_x - m.mean_x * m.mean_x, cov = m.product - m.mean_x * m.mean_y;
  const float light_x = m.mean_x + SSIM_SHIFT, light_y = m.mean_y + SSIM_SHIFT;
  const float a1 = 2.0f * light_x * light_y + SSIM_C1, a2 = 2.0f * cov + SSIM_C2;
  const float b1 = light_x * light_x + light_y * light_y + SSIM_C1;
  const float b2 = vx + m.variance_y + SSIM_C2;
  const float inverse = 1.0f / (b1 * b2), value = a1 * a2 * inverse;
  const float share = weight * inverse, by_square = -share * value * b1;
  const float by_product = 2.0f * share * a1;
  const float by_mean = 2.0f * share * (light_y * a2 - light_x * value * b2);
  slopes[0] = by_mean - 2.0f * m.mean_x * by_square - m.mean_y * by_product;
  slopes[1] = by_square;
  slopes[2] = by_product;
  return value;
}

}  // namespace fieldpress::render::gpu

using namespace fieldpress::render;
using namespace fieldpress::render::gpu;

// Mean and variance of the target.
extern "C" __global__ void __launch_bounds__(BLOCK) loss_moments(const LossFrame* frame) {
  __shared__ LossDesk desk;
  const LossViews& views = frame->views;
  const Place p = place_of(views);
  fill_taps(desk);
  for (int channel = 0; channel < 3; ++channel) {
    float sums[2];
    blur(
        desk, views, p,
        [&](int x, int y, bool inside, float (&maps)[2]) {
          const float value = inside ? views.target[value_index(views, p, x, y, channel)] : 0.0f;
          maps[0] = value - SSIM_SHIFT;
          maps[1] = maps[0] * maps[0];
        },
        sums);
    if (!p.inside) continue;
    const int64_t at = value_index(views, p, p.x, p.y, channel);
    frame->mean[at] = sums[0];
    frame->variance[at] = sums[1] - sums[0] * sums[0];
  }
}

// Weighted sums of |x - y| and of SSIM; and, where they are wanted, the maps of the gradient.
extern "C" __global__ void __launch_bounds__(BLOCK) loss_compare(const LossFrame* frame) {
  __shared__ LossDesk desk;
  const LossViews& views = frame->views;
  const Place p = place_of(views);
  const float weight = weight_at(views, p);
  float l1 = 0.0f, ssim = 0.0f;
  fill_taps(desk);
  for (int channel = 0; channel < 3; ++channel) {
    float sums[MAPS];
    blur(
        desk, views, p,
        [&](int x, int y, bool inside, float (&maps)[MAPS]) {
          const int64_t at = inside ? value_index(views, p, x, y, channel) : 0;
          maps[0] = (inside ? views.image[at] : 0.0f) - SSIM_SHIFT;
          maps[1] = maps[0] * maps[0];
          maps[2] = maps[0] * ((inside ? views.target[at] : 0.0f) - SSIM_SHIFT);
        },
        sums);
    if (!p.inside) continue;
    const int64_t at = value_index(views, p, p.x, p.y, channel);
    float slopes[MAPS];
    const Moments m = {sums[0], views.mean[at], sums[1], views.variance[at], sums[2]};
    ssim += weight * compare(m, weight, slopes);
    l1 += weight * fabsf(views.image[at] - views.target[at]);
    for (int k = 0; frame->gradient && k < MAPS; ++k) frame->maps[k][at] = slopes[k];
  }
  add_sum(desk, l1, frame->sums);
  add_sum(desk, ssim, frame->sums + 1);
}

// The gradient, from the maps. sums[2]: the sum of all weights, of three channels each.
extern "C" __global__ void __launch_bounds__(BLOCK) loss_gradient(const LossFrame* frame) {
  __shared__ LossDesk desk;
  const LossViews& views = frame->views;
  const Place p = place_of(views);
  const double total = frame->sums[2], share = static_cast<double>(frame->ssim_weight);
  const float l1_slope = total > 0 ? static_cast<float>((1 - share) / total) : 0.0f;
  const float ssim_slope = total > 0 ? static_cast<float>(-share / total) : 0.0f;
  const float weight = weight_at(views, p);
  fill_taps(desk);
  for (int channel = 0; channel < 3; ++channel) {
    float sums[MAPS];
    blur(
        desk, views, p,
        [&](int x, int y, bool inside, float (&maps)[MAPS]) {
          const int64_t at = inside ? value_index(views, p, x, y, channel) : 0;
          for (int k = 0; k < MAPS; ++k) maps[k] = inside ? frame->maps[k][at] : 0.0f;
        },
        sums);
    if (!p.inside) continue;
    const int64_t at = value_index(views, p, p.x, p.y, channel);
    const float x = views.image[at], y = views.target[at], d = x - y;
    const float sign = d > 0.0f ? 1.0f : d < 0.0f ? -1.0f : 0.0f;
    const float ssim = sums[0] + 2.0f * (x - SSIM_SHIFT) * sums[1] + (y - SSIM_SHIFT) * sums[2];
    frame->gradient[at] = ssim_slope * ssim + l1_slope * weight * sign;
  }
}

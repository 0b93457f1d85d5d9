// Gradients of the images with respect to the splats, front to back: see backward_simd.cpp, whose
// recurrence this is. Moments are summed over the warp, then over the tile's warps, then added to
// the splat's in memory, in whatever order the tiles come; or, where that is to be the same in every
// run, left for gather.cu, a row of splat_grads a pair of a splat and a tile.
#include "cuda_frame.h"
#include "fold.h"
#include "rays.h"

namespace fieldpress::render::gpu {

// Sums over pixels: q, q dy, q dy^2, q u, q u dx, q u dy with u = ax * dx + axy * dy; then weight * g
// a channel.
enum Moment { Q, QY, QYY, QU, QUX, QUY, WEIGHTED };
constexpr int CHANNELS = FIELDPRESS_CHANNELS;
#ifdef FIELDPRESS_ORDERED
constexpr bool ORDERED = true;  // background_grad: a row a warp.
#else
constexpr bool ORDERED = false;
#endif
constexpr int MOMENTS = WEIGHTED + CHANNELS;
constexpr int HELD = folded_count(MOMENTS);
constexpr float LN2 = 0.6931471805599453f;
// A ray's T stays above TRANSMITTANCE_STOP while it lives; 0 must not be divided by.
constexpr float LEAST_AFTER = single(0.1 * TRANSMITTANCE_STOP);

struct UnblendDesk {
  Batch<WARP> batch;
  Colors<CHANNELS, WARP> colors;
  unsigned touched[WARPS];                // splats of the batch that the warp has sums of
  float sums[WARPS][WARP][MOMENTS];
};

// The gradients of a pixel's channels, with the division of expected depth undone, and what lies
// behind the first splat: image . g, from which the background's share never goes.
FP_INLINE float load_pixel(const CudaFrame& f, const Ray& ray, float* grad, float* background) {
  for (int k = 0; k < CHANNELS; ++k) grad[k] = background[k] = 0.0f;
  if (!ray.inside) return 0.0f;
  const int64_t pixel = pixel_index(f.set, ray);
  const Upstream& up = f.upstream;
  const float alpha = up.alpha[pixel];
  float alpha_grad = up.alpha_grad ? up.alpha_grad[pixel] : 0.0f, behind = 0.0f;
#pragma unroll
  for (int k = 0; k < CHANNELS; ++k) {
    grad[k] = up.image_grad ? up.image_grad[pixel * CHANNELS + k] : 0.0f;
    const float along = grad[k] * up.image[pixel * CHANNELS + k];
    behind += along;
    if (f.set.expected && k == CHANNELS - 1) {
      const float divisor = most(alpha, single(DEPTH_ALPHA_FLOOR));
      grad[k] /= divisor;
      if (alpha >= single(DEPTH_ALPHA_FLOOR)) alpha_grad -= along / divisor;
    } else {
      background[k] = (1.0f - alpha) * grad[k];
    }
  }
  return behind - (1.0f - alpha) * alpha_grad;
}

FP_INLINE float tile_sum(const UnblendDesk& desk, int i, int moment) {
  float sum = 0.0f;
  for (int w = 0; w < WARPS; ++w)
    if (desk.touched[w] >> i & 1u) sum += desk.sums[w][i][moment];
  return sum;
}

// One gradient of splat i of the batch, from the moments in this tile.
FP_INLINE float combine(const UnblendDesk& desk, int i, int k) {
  const float4 a = desk.batch.quarters[0][i];
  const float ax = a.z, axy = a.w, ay = desk.batch.quarters[1][i].x;
  switch (k) {
    case GRAD_X: return 2.0f * LN2 * ax * tile_sum(desk, i, QU);
    case GRAD_Y:
      return 2.0f * LN2 * (axy * tile_sum(desk, i, QU) + ay * ay * tile_sum(desk, i, QY));
    case GRAD_AX: return -2.0f * LN2 * tile_sum(desk, i, QUX);
    case GRAD_AXY: return -2.0f * LN2 * tile_sum(desk, i, QUY);
    case GRAD_AY: return -2.0f * LN2 * ay * tile_sum(desk, i, QYY);
    case GRAD_REACH: return LN2 * tile_sum(desk, i, Q);
    default: return tile_sum(desk, i, WEIGHTED + k - GRAD_COLOR);
  }
}

FP_INLINE void add_to_splats(const CudaFrame& f, const UnblendDesk& desk, uint32_t first,
                             int count) {
  unsigned any = 0;
  for (int w = 0; w < WARPS; ++w) any |= desk.touched[w];
  const int64_t stride = grad_stride(CHANNELS);
  for (int k = static_cast<int>(threadIdx.x); k < count * MOMENTS; k += BLOCK) {
    const int i = k / MOMENTS, field = k % MOMENTS;
    if (!(any >> i & 1u)) continue;
    const float value = combine(desk, i, field);
    if (ORDERED)
      f.splat_grads[(first + static_cast<uint32_t>(i)) * stride + field] = value;
    else
      atomicAdd(f.splat_grads + desk.batch.slots[i] * stride + field, value);
  }
}

}  // namespace fieldpress::render::gpu

using namespace fieldpress::render;
using namespace fieldpress::render::gpu;

extern "C" __global__ void __launch_bounds__(BLOCK) unblend(const CudaFrame* frame) {
  __shared__ UnblendDesk desk;
  const CudaFrame& f = *frame;
  Ray ray = start_ray(f.set);
  float grad[CHANNELS], background[CHANNELS];
  float behind = load_pixel(f, ray, grad, background);
  if (f.background_grad)
    for (int k = 0; k < CHANNELS; ++k) {
      const float sum = warp_sum(background[k]);
      if (lane() != 0) continue;
      if (ORDERED)
        f.background_grad[(blockIdx.x * WARPS + warp()) * CHANNELS + k] = sum;
      else
        atomicAdd(f.background_grad + k, static_cast<double>(sum));
    }
  const float clamp = f.set.alpha_clamp;
  int index[HELD];
#pragma unroll
  for (int h = 0; h < HELD; ++h) index[h] = folded_index<MOMENTS>(h);
  march(
      f, desk.batch, ray,
      [&](uint32_t first, int count) {
        desk.colors.fill(f, first, count);
        if (lane() == 0) desk.touched[warp()] = 0;
      },
      [&](int i, const Hit& hit) {
        if (!__any_sync(FULL, hit.weight > 0.0f)) return;
        float color[CHANNELS], moment[MOMENTS], shine = 0.0f;
        desk.colors.read(desk.batch, i, color);
#pragma unroll
        for (int k = 0; k < CHANNELS; ++k) {
          shine += color[k] * grad[k];
          moment[WEIGHTED + k] = hit.weight * grad[k];
        }
        behind -= hit.weight * shine;
        // Nothing passes the clamp of alpha.
        const float q = hit.alpha < clamp
            ? hit.weight * (shine - behind / most(hit.after, LEAST_AFTER)) : 0.0f;
        const float qu = q * hit.along;
        moment[Q] = q;
        moment[QY] = q * hit.dy;
        moment[QYY] = moment[QY] * hit.dy;
        moment[QU] = qu;
        moment[QUX] = qu * hit.dx;
        moment[QUY] = qu * hit.dy;
        fold<MOMENTS>(moment);
#pragma unroll
        for (int h = 0; h < HELD; ++h)
          if (index[h] >= 0) desk.sums[warp()][i][index[h]] = moment[h];
        if (lane() == 0) desk.touched[warp()] |= 1u << i;
      },
      [&](uint32_t first, int count) {
        __syncthreads();
        add_to_splats(f, desk, first, count);
        __syncthreads();
      });
}

// What each Gaussian contributes to a view.
#include "constants.h"
#include "cuda_frame.h"
#include "rays.h"

namespace fieldpress::render::gpu {

struct MeasureDesk {
  Batch<WARP> batch;
  TileShare shares[WARPS][WARP];
};

FP_INLINE void add_to_sums(const CudaFrame& f, const MeasureDesk& desk, int i) {
  TileShare sum = {};
  for (int w = 0; w < WARPS; ++w) {
    const TileShare& share = desk.shares[w][i];
    sum.weight += share.weight;
    sum.weight_sq += share.weight_sq;
    sum.max_weight = most(sum.max_weight, share.max_weight);
    sum.hits += share.hits;
  }
  if (sum.hits == 0) return;
  const Splat& s = f.splats[desk.batch.slots[i]];
  const double opacity = exp2(static_cast<double>(s.reach)) * ALPHA_CUTOFF;
  atomicAdd(reinterpret_cast<unsigned long long*>(f.sums.hits) + s.id,
            static_cast<unsigned long long>(sum.hits));
  atomicAdd(f.sums.opacity_hits + s.id, sum.hits * opacity);
  atomicAdd(f.sums.weight + s.id, static_cast<double>(sum.weight));
  atomicAdd(f.sums.weight_sq + s.id, static_cast<double>(sum.weight_sq));
  // Not negative: ordered as its bits.
  atomicMax(reinterpret_cast<int*>(f.sums.max_weight) + s.id, __float_as_int(sum.max_weight));
}

}  // namespace fieldpress::render::gpu

using namespace fieldpress::render;
using namespace fieldpress::render::gpu;

extern "C" __global__ void __launch_bounds__(BLOCK) measure(const CudaFrame* frame) {
  __shared__ MeasureDesk desk;
  const CudaFrame& f = *frame;
  Ray ray = start_ray(f.set);
  march(
      f, desk.batch, ray,
      [&](uint32_t, int) { desk.shares[warp()][lane()] = TileShare{0, 0, 0, 0}; },
      [&](int i, const Hit& hit) {
        const unsigned drawn = __ballot_sync(FULL, hit.weight > 0.0f);
        if (!drawn) return;
        float peak = hit.weight;
#pragma unroll
        for (int step = WARP / 2; step > 0; step /= 2)
          peak = most(peak, __shfl_xor_sync(FULL, peak, step));
        const float weight = warp_sum(hit.weight), square = warp_sum(hit.weight * hit.weight);
        if (lane() == 0)
          desk.shares[warp()][i] =
              TileShare{weight, square, peak, static_cast<uint32_t>(__popc(drawn))};
      },
      [&](uint32_t, int count) {
        __syncthreads();
        if (static_cast<int>(threadIdx.x) < count)
          add_to_sums(f, desk, static_cast<int>(threadIdx.x));
        __syncthreads();
      });
}

// Samples along rays, in the order of the rays: a thread a ray.
#include "../../render/native/warp.h"
#include "ray.h"

using namespace fieldpress::fields;
using namespace fieldpress::fields::gpu;

// May there be something at t?
static inline __device__ bool is_live(const CubeRay& ray, float t, const uint8_t* cells) {
  return t < ray.far && cells[cell_at(ray, t)] != 0;
}

constexpr int WORD_COUNT = (MARCH + 31) / 32;

// progress: a counter of blocks, then a word a block, all of them cleared (warp.h). The last word tells
// how many samples there are. `points` and `rays` have room for all steps of all rays.
extern "C" __global__ void __launch_bounds__(fieldpress::render::BLOCK)
    march(const float* origins, const float* rays_d, const uint8_t* cells, const float* jitter,
          int64_t count, uint64_t* progress, float* points, int64_t* rays) {
  const int64_t chunk = take_ticket(reinterpret_cast<uint32_t*>(progress));
  const int64_t r = chunk * fieldpress::render::BLOCK + threadIdx.x;
  CubeRay ray = {};
  uint32_t live[WORD_COUNT] = {};
  uint64_t found = 0;
  if (r < count) {
    ray = cube_ray(origins + 3 * r, rays_d + 3 * r);
#pragma unroll
    for (int w = 0; w < WORD_COUNT; ++w) {
#pragma unroll 1
      for (int bit = 0; bit < 32 && w * 32 + bit < MARCH; ++bit)
        if (is_live(ray, step_place(ray, static_cast<float>(w * 32 + bit), jitter[r]), cells))
          live[w] |= 1u << bit;
      found += __popc(live[w]);
    }
  }
  uint64_t end;
  int64_t at = static_cast<int64_t>(grid_sum_before(found, progress + 1, chunk, end));
#pragma unroll
  for (int w = 0; w < WORD_COUNT; ++w)
    for (uint32_t bits = live[w]; bits; bits &= bits - 1) {
      const int step = w * 32 + __ffs(static_cast<int>(bits)) - 1;
      float point[3];
      place_on(ray, step_place(ray, static_cast<float>(step), jitter[r]), point);
      for (int i = 0; i < 3; ++i) points[3 * at + i] = point[i];
      rays[at++] = r;
    }
}

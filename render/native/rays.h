// Splats through the pixels of one tile, front to back: what the CUDA kernels of the image, the
// statistics and the gradients have in common.
//
// A block is a tile, a thread a pixel, a warp 8 x 4 of them. Splats come in batches through shared
// memory; of each 32 of a batch every lane holds one against its warp's pixels, so that a warp only
// goes through the splats whose drawn ellipse touches them.
#pragma once

#include "constants.h"
#include "cuda_frame.h"
#include "span_simd.h"
#include "warp.h"

namespace fieldpress::render::gpu {

static_assert(BLOCK == TILE * TILE, "a thread a pixel");

constexpr int ACROSS = 8, DOWN = 4;  // Pixels of a warp.
constexpr int QUARTERS = 4;          // A splat is four float4: threads read it without conflicts.
static_assert(sizeof(Splat) == QUARTERS * sizeof(float4), "Splat is read as float4");

template <int SIZE>
struct Batch {
  float4 quarters[QUARTERS][SIZE];
  uint32_t slots[SIZE];
};

struct Corner {
  int x, y;
};

FP_INLINE Corner tile_corner(const Settings& set) {
  const int across = (set.width + TILE - 1) / TILE, tile = static_cast<int>(blockIdx.x);
  return {tile % across * TILE, tile / across * TILE};
}

FP_INLINE Corner warp_corner(const Settings& set) {
  const Corner tile = tile_corner(set);
  return {tile.x + warp() % (TILE / ACROSS) * ACROSS, tile.y + warp() / (TILE / ACROSS) * DOWN};
}

struct Ray {
  int x, y;       // pixel
  bool inside;    // of the image
  bool done;
  float trans;
};

FP_INLINE Ray start_ray(const Settings& set) {
  const Corner corner = warp_corner(set);
  Ray ray;
  ray.x = corner.x + lane() % ACROSS;
  ray.y = corner.y + lane() / ACROSS;
  ray.inside = ray.x < set.width && ray.y < set.height;
  ray.done = !ray.inside;
  ray.trans = 1.0f;
  return ray;
}

FP_INLINE int64_t pixel_index(const Settings& set, const Ray& ray) {
  return static_cast<int64_t>(ray.y) * set.width + ray.x;
}

// A splat at one pixel; where it is not drawn, alpha and weight are 0.
struct Hit {
  float dx, dy;
  float along;    // ax * dx + axy * dy
  float alpha;
  float weight;   // alpha * T
  float after;    // T behind it
};

// Does the drawn ellipse touch the pixels of this warp?
template <int SIZE>
FP_INLINE bool touches(const Batch<SIZE>& batch, int i, Corner corner) {
  const float4 a = batch.quarters[0][i], b = batch.quarters[1][i], c = batch.quarters[2][i];
  Splat s;
  s.axy = a.w, s.ay = b.x, s.reach = b.y, s.widest_y = b.w, s.inverse_ax = c.x;
  const float low = static_cast<float>(corner.y) + 0.5f - a.y;
  float left, right;
  span(s, a.x, low, low + static_cast<float>(DOWN - 1), left, right);
  return right >= static_cast<float>(corner.x) + 0.5f &&
         left <= static_cast<float>(corner.x) + (ACROSS - 0.5f);
}

template <int SIZE>
FP_INLINE Hit meet(const Batch<SIZE>& batch, int i, Ray& ray) {
  const float4 a = batch.quarters[0][i], b = batch.quarters[1][i];
  Hit hit;
  hit.dx = static_cast<float>(ray.x) + 0.5f - a.x;
  hit.dy = static_cast<float>(ray.y) + 0.5f - a.y;
  hit.along = a.z * hit.dx + a.w * hit.dy;
  const float across = b.x * hit.dy;
  const float e = b.y - hit.along * hit.along - across * across;
  // The sign of e is the cutoff alpha >= 1/255.
  const bool drawn = e >= 0.0f && !ray.done;
  hit.alpha = drawn ? least(exp2f(e) * single(ALPHA_CUTOFF), b.z) : 0.0f;
  hit.weight = hit.alpha * ray.trans;
  hit.after = ray.trans - hit.weight;
  if (hit.after <= single(TRANSMITTANCE_STOP) && drawn) {
    ray.done = true;  // Before this splat.
    hit.weight = hit.alpha = 0.0f;
    hit.after = ray.trans;
  }
  ray.trans = hit.after;
  return hit;
}

// Passes the tile's rays through its list. Per batch: before(first, count) by all threads, at(i, hit)
// by whole warps for the splats that touch them, after(first, count) by all threads.
template <int SIZE, typename Before, typename At, typename After>
FP_INLINE void march(const CudaFrame& f, Batch<SIZE>& batch, Ray& ray, Before before, At at,
                     After after) {
  static_assert(SIZE % WARP == 0 && SIZE <= BLOCK, "whole warps of splats");
  const Range range = f.ranges[blockIdx.x];
  const Corner corner = warp_corner(f.set);
  const int thread = static_cast<int>(threadIdx.x);
  for (uint32_t first = range.begin; first < range.end; first += SIZE) {
    if (__syncthreads_count(!ray.done) == 0) break;
    const uint32_t rest = range.end - first;
    const int count = rest < SIZE ? static_cast<int>(rest) : SIZE;
    for (int k = thread; k < count * QUARTERS; k += BLOCK) {
      const uint32_t slot = f.lists[first + static_cast<uint32_t>(k / QUARTERS)];
      batch.quarters[k % QUARTERS][k / QUARTERS] =
          reinterpret_cast<const float4*>(f.splats + slot)[k % QUARTERS];
      if (k % QUARTERS == 0) batch.slots[k / QUARTERS] = slot;
    }
    before(first, count);
    __syncthreads();
    for (int base = 0; base < count && !__all_sync(FULL, ray.done); base += WARP) {
      const int mine = base + lane();
      const bool touched = mine < count && touches(batch, mine, corner);
      for (unsigned word = __ballot_sync(FULL, touched); word; word &= word - 1) {
        const int i = base + __ffs(static_cast<int>(word)) - 1;
        at(i, meet(batch, i, ray));
      }
    }
    after(first, count);
  }
}

// Channels of a splat in the batch: up to four lie within it, more in the rows beside it.
template <int COUNT, int SIZE>
struct Colors {
  float rows[COUNT > 4 ? SIZE : 1][COUNT > 4 ? COUNT : 1];

  // By all threads, before the batch is used.
  FP_MEMBER void fill(const CudaFrame& f, uint32_t first, int count) {
    if (COUNT <= 4) return;
    const int own = f.set.color_channels;
    for (int k = static_cast<int>(threadIdx.x); k < count * COUNT; k += BLOCK) {
      const int i = k / COUNT, c = k % COUNT;
      const Splat& s = f.splats[f.lists[first + static_cast<uint32_t>(i)]];
      rows[i][c] = c < own ? f.scene.colors[s.id * f.scene.color_stride + c] : s.depth;
    }
  }

  FP_MEMBER void read(const Batch<SIZE>& batch, int i, float* color) const {
    if (COUNT > 4) {
      for (int c = 0; c < COUNT; ++c) color[c] = rows[i][c];
      return;
    }
    const float4 c = batch.quarters[2][i], d = batch.quarters[3][i];
    const float all[4] = {c.z, c.w, d.x, d.y};
#pragma unroll
    for (int k = 0; k < COUNT; ++k) color[k] = all[k];
  }
};

}  // namespace fieldpress::render::gpu

// Colours of rays through a radiance field: a warp a ray, its lanes 32 samples at a time of cells where
// there may be something, until nothing more of them would show.
#include "../../render/native/constants.h"
#include "../../render/native/sh_simd.h"
#include "kind.h"
#include "ray.h"

namespace fieldpress::fields::gpu {

using Net = Perceptron<FIELDPRESS_LEVELS * F, FIELDPRESS_NEURONS, FIELDPRESS_HIDDEN, GEOMETRY>;
using Head = Perceptron<GEOMETRY + RADIANCE_BASES, FIELDPRESS_HEAD_NEURONS, FIELDPRESS_HEAD_HIDDEN, 3>;
constexpr float DARK = render::single(render::TRANSMITTANCE_STOP);
constexpr float MIDST = static_cast<float>(MIDDLE);
static_assert(N == 3, "a field of places");

struct Desk {
  float weights[Net::FLOATS + Head::FLOATS];
  float of_direction[WARPS][Head::NEURONS];  // What the head's first neurons have of the ray's.
  int pending[WARPS][2 * WARP];              // Steps that are live and not yet sampled.

  FP_MEMBER const float* head() const { return weights + Net::FLOATS; }
};

// The share of a ray's direction in the head's first layer, a neuron a lane.
FP_INLINE void start_head(const float* head, const float (&direction)[3], float* share) {
  float bases[RADIANCE_BASES];
  render::gpu::sh_bases(RADIANCE_SH_DEGREE, direction[0], direction[1], direction[2], bases);
  for (int j = lane(); j < Head::NEURONS; j += WARP) {
    float sum = 0.0f;
    for (int k = 0; k < RADIANCE_BASES; ++k)
      sum += head[(GEOMETRY + k) * Head::NEURONS + j] * bases[k];
    share[j] = sum;
  }
}

struct Sample {
  float depth;  // Optical, of its step.
  float color[3];
};

FP_INLINE Sample sample_at(const Grid& grid, const void* table, const Desk& desk,
                           const Point<N>& point) {
  forget_loads();
  float first[Net::NEURONS], raw[Net::WIDE], inner[Head::NEURONS], color[Head::WIDE];
  first_layer<Net>(grid, table, point, desk.weights, first);
  finish<Net>(desk.weights, first, raw);
#pragma unroll
  for (int j = 0; j < Head::NEURONS; ++j) inner[j] = desk.of_direction[warp()][j];
#pragma unroll
  for (int k = 0; k < GEOMETRY; ++k)
    add_product<Head::NEURONS>(desk.head() + k * Head::NEURONS, raw[k], inner);
  finish<Head>(desk.head(), inner, color);
  Sample found;
  found.depth = expf(least(raw[0], static_cast<float>(MAX_LOG_DENSITY))) * static_cast<float>(STEP);
  for (int c = 0; c < 3; ++c) found.color[c] = 1.0f / (1.0f + expf(-color[c]));
  return found;
}

// Adds live steps among the 32 from `from` on to the warp's pending ones.
FP_INLINE int gather(const CubeRay& ray, int from, const uint8_t* cells, int* pending, int count) {
  const int step = from + lane();
  const float t = step_place(ray, static_cast<float>(step), MIDST);
  const bool live = step < MARCH && t < ray.far && cells[cell_at(ray, t)];
  const unsigned all = __ballot_sync(FULL, live);
  if (live) pending[count + __popc(all & ((1u << lane()) - 1u))] = step;
  __syncwarp();
  return count + __popc(all);
}

}  // namespace fieldpress::fields::gpu

using namespace fieldpress::fields;
using namespace fieldpress::fields::gpu;

// packed: the network's matrices, then the head's (perceptron.h). colors: [count, 3].
extern "C" __global__ void __launch_bounds__(THREADS)
    radiance(const Grid* grid, const void* table, const float* origins, const float* rays_d,
             int64_t count, const uint8_t* cells, const float* packed, float* colors) {
  alignas(16) __shared__ Desk desk;
  copy_floats(packed, Net::FLOATS + Head::FLOATS, desk.weights);
  __syncthreads();
  int* const pending = desk.pending[warp()];
  for (int64_t r = first_item() / WARP; r < count; r += item_stride() / WARP) {
    const CubeRay ray = cube_ray(origins + 3 * r, rays_d + 3 * r);
    start_head(desk.head(), ray.direction, desk.of_direction[warp()]);
    __syncwarp();
    float color[3] = {}, trans = 1.0f;
    int from = 0, waiting = 0;
    while (trans > DARK) {
      while (waiting < WARP && from < MARCH) {
        const bool beyond = step_place(ray, static_cast<float>(from), MIDST) >= ray.far;
        if (!beyond) waiting = gather(ray, from, cells, pending, waiting);
        from = beyond ? MARCH : from + WARP;
      }
      if (waiting == 0) break;
      const int now = least(waiting, WARP);
      Sample sample = {};
      if (lane() < now) {
        Point<N> point;
        place_on(ray, step_place(ray, static_cast<float>(pending[lane()]), MIDST), point.x);
        sample = sample_at(*grid, table, desk, point);
      }
      const float before = warp_prefix(sample.depth) - sample.depth;
      const float weight = trans * expf(-before) * (1.0f - expf(-sample.depth));
      for (int c = 0; c < 3; ++c) color[c] += weight * sample.color[c];
      trans *= expf(-warp_sum(sample.depth));
      const int kept = pending[WARP + lane()];
      __syncwarp();
      pending[lane()] = kept;
      __syncwarp();
      waiting -= now;
    }
    for (int c = 0; c < 3; ++c) {
      const float sum = warp_sum(color[c]);
      if (lane() == 0) colors[3 * r + c] = sum;
    }
  }
}

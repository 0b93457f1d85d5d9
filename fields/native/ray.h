// Rays through the unit cube and its occupancy grid: nerf.py's march, a step at a time.
#pragma once

#include "../../render/native/warp.h"
#include "radiance.h"

namespace fieldpress::fields::gpu {

using namespace fieldpress::render::gpu;

struct CubeRay {
  float origin[3], direction[3];
  float near, far;  // Empty where near >= far.
};

FP_INLINE CubeRay cube_ray(const float* origins, const float* rays_d, int64_t r) {
  CubeRay ray;
  ray.near = 0.0f;
  ray.far = 3.0e38f;
  for (int i = 0; i < 3; ++i) {
    ray.origin[i] = origins[3 * r + i];
    ray.direction[i] = rays_d[3 * r + i];
    constexpr float least_direction = static_cast<float>(LEAST_DIRECTION);
    const bool flat = fabsf(ray.direction[i]) < least_direction;
    const float inverse = 1.0f / (flat ? least_direction : ray.direction[i]);
    const float a = -ray.origin[i] * inverse, b = (1.0f - ray.origin[i]) * inverse;
    ray.near = most(ray.near, least(a, b));
    ray.far = least(ray.far, most(a, b));
  }
  return ray;
}

FP_INLINE float step_place(const CubeRay& ray, int step, float jitter) {
  return ray.near + static_cast<float>(STEP) * (static_cast<float>(step) + jitter);
}

// May there be something at t?
FP_INLINE bool is_live(const CubeRay& ray, float t, const uint8_t* cells) {
  if (!(t < ray.far)) return false;
  int cell[3];
  for (int i = 0; i < 3; ++i) {
    const float x = (ray.origin[i] + t * ray.direction[i]) * CELL_SIDE;
    cell[i] = least(most(static_cast<int>(x), 0), CELL_SIDE - 1);
  }
  return cells[cell[0] + CELL_SIDE * (cell[1] + CELL_SIDE * cell[2])] != 0;
}

FP_INLINE void place_on(const CubeRay& ray, float t, float (&point)[3]) {
  for (int i = 0; i < 3; ++i)
    point[i] = least(most(ray.origin[i] + t * ray.direction[i], 0.0f), 1.0f);
}

}  // namespace fieldpress::fields::gpu

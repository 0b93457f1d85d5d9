// Rays through the unit cube and its occupancy grid, a step at a time (nerf.py's march): on the CPU
// several steps in a vector, in a CUDA thread one.
#pragma once

#include "lattice_simd.h"
#include "radiance.h"

namespace fieldpress::fields::FIELDPRESS_ISA {

struct CubeRay {
  float origin[3], direction[3];
  float near, far;  // Empty where near >= far.
};

FP_INLINE CubeRay cube_ray(const float* origin, const float* direction) {
  CubeRay ray;
  ray.near = 0.0f;
  ray.far = 3.0e38f;
  for (int i = 0; i < 3; ++i) {
    ray.origin[i] = origin[i];
    ray.direction[i] = direction[i];
    const float least_direction = static_cast<float>(LEAST_DIRECTION), d = direction[i];
    const bool flat = d < least_direction && d > -least_direction;
    const float inverse = 1.0f / (flat ? least_direction : d);
    const float a = -origin[i] * inverse, b = (1.0f - origin[i]) * inverse;
    ray.near = most(ray.near, least(a, b));
    ray.far = least(ray.far, most(a, b));
  }
  return ray;
}

FP_INLINE Floats step_place(const CubeRay& ray, Floats step, float jitter) {
  return ray.near + static_cast<float>(STEP) * (step + jitter);
}

// The number of the cell at t; of the nearest one where t lies outside of the cube.
FP_INLINE Ints cell_at(const CubeRay& ray, Floats t) {
  const Floats top = all<Floats>(CELL_SIDE - 1), zero{};
  Ints cell[3];
  for (int i = 0; i < 3; ++i) {
    const Floats x = (ray.origin[i] + t * ray.direction[i]) * static_cast<float>(CELL_SIDE);
    cell[i] = truncated(least(most(x, zero), top));
  }
  return cell[0] + CELL_SIDE * (cell[1] + CELL_SIDE * cell[2]);
}

FP_INLINE void place_on(const CubeRay& ray, float t, float* point) {
  for (int i = 0; i < 3; ++i)
    point[i] = least(most(ray.origin[i] + t * ray.direction[i], 0.0f), 1.0f);
}

}  // namespace fieldpress::fields::FIELDPRESS_ISA

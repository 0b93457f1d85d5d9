// Rows of floats that each thread reads or adds to alone: four at a time where their place allows it,
// or else each access of a warp would touch as many lines as there are lanes, for four bytes of each.
#pragma once

#include "scalar.h"

namespace fieldpress::render::gpu {

FP_INLINE bool in_fours(const float* row) { return (reinterpret_cast<uintptr_t>(row) & 15u) == 0; }

template <int COUNT>
FP_INLINE void load_row(const float* from, float* all) {
  if (COUNT % 4 == 0 && in_fours(from)) {
#pragma unroll
    for (int k = 0; k < COUNT / 4; ++k) {
      const float4 v = reinterpret_cast<const float4*>(from)[k];
      all[4 * k] = v.x, all[4 * k + 1] = v.y, all[4 * k + 2] = v.z, all[4 * k + 3] = v.w;
    }
    return;
  }
#pragma unroll
  for (int k = 0; k < COUNT; ++k) all[k] = from[k];
}

template <int COUNT>
FP_INLINE void add_to_row(float* to, const float* more) {
  if (COUNT % 4 == 0 && in_fours(to)) {
#pragma unroll
    for (int k = 0; k < COUNT / 4; ++k) {
      float4 v = reinterpret_cast<float4*>(to)[k];
      v.x += more[4 * k], v.y += more[4 * k + 1], v.z += more[4 * k + 2], v.w += more[4 * k + 3];
      reinterpret_cast<float4*>(to)[k] = v;
    }
    return;
  }
#pragma unroll
  for (int k = 0; k < COUNT; ++k) to[k] += more[k];
}

}  // namespace fieldpress::render::gpu

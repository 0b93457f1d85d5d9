// The vector types of simd.h with one lane: what a CUDA thread computes with.
#pragma once

#include <cmath>
#include <cstdint>

#define FP_INLINE static inline __device__
#define FP_MEMBER inline __device__
#define FIELDPRESS_ISA gpu

namespace fieldpress::render::gpu {

constexpr int LANES = 1;

using Floats = float;
using Ints = int;

template <typename V>
FP_INLINE V all(float x) {
  return x;
}

// The second where the first is NaN, as in simd.h.
FP_INLINE float least(float a, float b) { return a < b ? a : b; }
FP_INLINE float most(float a, float b) { return a > b ? a : b; }
FP_INLINE int least(int a, int b) { return a < b ? a : b; }
FP_INLINE int most(int a, int b) { return a > b ? a : b; }

template <typename V, typename M>
FP_INLINE V where(M mask, V a) {
  return mask ? a : V{};
}

// a + b * c, which the compiler makes one operation.
FP_INLINE float plus_product(float a, float b, float c) { return a + b * c; }

FP_INLINE float root(float a) { return sqrtf(a); }
FP_INLINE float rough_root(float a) { return sqrtf(a); }
FP_INLINE float log2_of(float a) { return log2f(a); }

}  // namespace fieldpress::render::gpu

// A step of Adam for the parameters that have a gradient, which is forgotten: see encoding_simd.cpp.
#include "../../render/native/warp.h"
#include "grid.h"

using namespace fieldpress::fields;
using namespace fieldpress::render::gpu;

// The numbers of AdamStep come two in a word.
static inline __device__ float low_of(int64_t pair) {
  return __uint_as_float(static_cast<uint32_t>(pair));
}
static inline __device__ float high_of(int64_t pair) {
  return __uint_as_float(static_cast<uint32_t>(pair >> 32));
}

extern "C" __global__ void __launch_bounds__(fieldpress::render::BLOCK)
    adam(float* table, float* mean, float* square, float* grad, int64_t size, int64_t rate_beta1,
         int64_t beta2_root, int64_t epsilon) {
  const AdamStep step = {low_of(rate_beta1), high_of(rate_beta1), low_of(beta2_root),
                         high_of(beta2_root), low_of(epsilon)};
  for (int64_t i = first_item(); i < size; i += item_stride()) {
    const float g = grad[i];
    if (g == 0.0f) continue;
    const float m = step.beta1 * mean[i] + (1.0f - step.beta1) * g;
    const float v = step.beta2 * square[i] + (1.0f - step.beta2) * (g * g);
    mean[i] = m;
    square[i] = v;
    table[i] -= step.rate * m / (sqrtf(v) / step.root + step.epsilon);
    grad[i] = 0.0f;
  }
}

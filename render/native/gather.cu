// Gradients of splats, each the sum of what its tiles left, in the order of the lists of tiles: what
// unblend does by atomics, the same bits in every run.
#include "warp.h"

using namespace fieldpress::render;
using namespace fieldpress::render::gpu;

// pairs: [pairs, stride] gradients. order: [pairs] their numbers, by splat. starts: [splats + 1]
// where each splat's begin among those. A thread a number.
extern "C" __global__ void __launch_bounds__(BLOCK)
    gather(const float* pairs, const int64_t* order, const int64_t* starts, int64_t splats,
           int64_t stride, float* splat_grads) {
  for (int64_t i = first_item(); i < splats * stride; i += item_stride()) {
    const int64_t splat = i / stride, field = i % stride;
    float sum = 0.0f;
    for (int64_t k = starts[splat]; k < starts[splat + 1]; ++k)
      sum += pairs[order[k] * stride + field];
    splat_grads[i] = sum;
  }
}

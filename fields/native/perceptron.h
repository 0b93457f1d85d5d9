// A small perceptron with rectifiers and no biases, a point a thread: neurons in registers, weights
// in shared memory, where all threads read the same four at once.
//
// Matrices come transposed, [in, out] with `out` filled up to whole fours, one after another
// (network_cuda.py packs them).
#pragma once

#include "../../render/native/scalar.h"

namespace fieldpress::fields::gpu {

using namespace fieldpress::render::gpu;

constexpr int in_fours(int count) { return (count + 3) / 4 * 4; }

// IN numbers through one or two layers of WIDTH neurons, a multiple of four, to OUT numbers.
template <int IN, int WIDTH, int HIDDEN, int OUT>
struct Perceptron {
  static_assert(WIDTH % 4 == 0 && (HIDDEN == 1 || HIDDEN == 2), "what finish() is written for");
  static constexpr int INPUTS = IN, NEURONS = WIDTH, OUTPUTS = OUT, WIDE = in_fours(OUT);
  static constexpr int SECOND = IN * WIDTH, LAST = SECOND + (HIDDEN - 1) * WIDTH * WIDTH;
  static constexpr int FLOATS = LAST + WIDTH * WIDE;
};

FP_INLINE float rectified(float x) { return most(x, 0.0f); }

// sums += value * row
template <int COUNT>
FP_INLINE void add_product(const float* row, float value, float (&sums)[COUNT]) {
#pragma unroll
  for (int k = 0; k < COUNT; k += 4) {
    const float4 w = *reinterpret_cast<const float4*>(row + k);
    sums[k] += value * w.x;
    sums[k + 1] += value * w.y;
    sums[k + 2] += value * w.z;
    sums[k + 3] += value * w.w;
  }
}

// From the sums of the first layer's neurons to the outputs; out[OUTPUTS..] is filler.
template <typename Net>
FP_INLINE void finish(const float* weights, const float (&first)[Net::NEURONS],
                      float (&out)[Net::WIDE]) {
  const float* last = weights + Net::LAST;
#pragma unroll
  for (int o = 0; o < Net::WIDE; ++o) out[o] = 0.0f;
  if constexpr (Net::SECOND == Net::LAST) {
#pragma unroll
    for (int i = 0; i < Net::NEURONS; ++i)
      add_product<Net::WIDE>(last + i * Net::WIDE, rectified(first[i]), out);
  } else {
    // Four neurons of the second layer at a time go straight to the outputs.
    for (int j = 0; j < Net::NEURONS; j += 4) {
      const float* second = weights + Net::SECOND + j;
      float sums[4] = {};
#pragma unroll
      for (int i = 0; i < Net::NEURONS; ++i)
        add_product<4>(second + i * Net::NEURONS, rectified(first[i]), sums);
#pragma unroll
      for (int k = 0; k < 4; ++k)
        add_product<Net::WIDE>(last + (j + k) * Net::WIDE, rectified(sums[k]), out);
    }
  }
}

// Or else weights are read once for all points of a thread, into more registers than there are.
FP_INLINE void forget_loads() { asm volatile("" ::: "memory"); }

// By all threads of a block, before a __syncthreads.
FP_INLINE void copy_floats(const float* from, int count, float* to) {
  for (int k = static_cast<int>(threadIdx.x); k < count; k += static_cast<int>(blockDim.x))
    to[k] = from[k];
}

}  // namespace fieldpress::fields::gpu

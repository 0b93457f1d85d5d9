// Sums of several numbers over a warp at once, each to a lane of its own: half of the numbers go to
// half of the lanes, then a quarter, and so on, so that nine cost twelve shuffles in place of 45.
#pragma once

#include "warp.h"

namespace fieldpress::render::gpu {

constexpr int half_of(int n) { return (n + 1) / 2; }
constexpr int folded_count(int n) {
  for (int step = 0; step < 5; ++step) n = half_of(n);
  return n;
}

// Sums values[0 .. COUNT) over the warp; the lane then holds folded_count of the sums in front.
template <int COUNT>
FP_INLINE void fold(float* values) {
  int n = COUNT;
#pragma unroll
  for (int step = WARP / 2; step > 0; step /= 2) {
    const int half = half_of(n);
    const bool upper = (lane() & step) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float low = values[i], high = i + half < n ? values[i + half] : 0.0f;
      values[i] = (upper ? high : low) + __shfl_xor_sync(FULL, upper ? low : high, step);
    }
    n = half;
  }
}

// Which of the COUNT sums lies at `place` of this lane after fold(); -1: none.
template <int COUNT>
FP_INLINE int folded_index(int place) {
  int sizes[5] = {COUNT};
  for (int i = 1; i < 5; ++i) sizes[i] = half_of(sizes[i - 1]);
  int index = place;
  for (int i = 4; i >= 0; --i) {
    if (lane() & (WARP / 2 >> i)) index += half_of(sizes[i]);
    if (index >= sizes[i]) return -1;
  }
  return index;
}

}  // namespace fieldpress::render::gpu

// Sums over warps, blocks and whole grids. Blocks have BLOCK threads in one dimension, and every
// thread comes along: nothing here may be called where some have left.
#pragma once

#include "cuda_frame.h"
#include "scalar.h"

namespace fieldpress::render::gpu {

constexpr unsigned FULL = 0xffffffffu;
constexpr int WARP = 32;
constexpr int WARPS = BLOCK / WARP;

FP_INLINE int lane() { return static_cast<int>(threadIdx.x) % WARP; }
FP_INLINE int warp() { return static_cast<int>(threadIdx.x) / WARP; }
FP_INLINE int64_t first_item() { return static_cast<int64_t>(blockIdx.x) * BLOCK + threadIdx.x; }
FP_INLINE int64_t item_stride() { return static_cast<int64_t>(gridDim.x) * BLOCK; }

template <typename T>
FP_INLINE T warp_sum(T value) {
#pragma unroll
  for (int step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(FULL, value, step);
  return value;
}

// Sum of the lanes up to this one.
template <typename T>
FP_INLINE T warp_prefix(T value) {
#pragma unroll
  for (int step = 1; step < WARP; step *= 2) {
    const T below = __shfl_up_sync(FULL, value, step);
    if (lane() >= step) value += below;
  }
  return value;
}

// Sum of the threads before this one; total: of all. Slots: WARPS of shared memory.
template <typename T>
FP_INLINE T block_sum_before(T value, T* slots, T& total) {
  const T mine = warp_prefix(value);
  __syncthreads();
  if (lane() == WARP - 1) slots[warp()] = mine;
  __syncthreads();
  T before = mine - value;
  total = 0;
#pragma unroll
  for (int w = 0; w < WARPS; ++w) {
    if (w == warp()) before += total;
    total += slots[w];
  }
  return before;
}

// Chunks are handed out in order, so that whoever waits for an earlier one waits for a block that
// runs.
FP_INLINE uint32_t take_ticket(uint32_t* counter) {
  __shared__ uint32_t ticket;
  __syncthreads();
  if (threadIdx.x == 0) ticket = atomicAdd(counter, 1u);
  __syncthreads();
  return ticket;
}

// One number of an earlier chunk: none yet, its own sum, or the sum up to and with it (Merrill and
// Garland 2016, decoupled look-back). Value and state are one word, so no fence is needed.
constexpr uint64_t CHAIN_SUM = uint64_t{1} << 62, CHAIN_PREFIX = uint64_t{2} << 62;
constexpr uint64_t CHAIN_VALUE = CHAIN_SUM - 1;

FP_INLINE uint64_t wait_for(const uint64_t* state) {
  const volatile uint64_t* at = state;
  uint64_t seen = *at;
  while (seen < CHAIN_SUM) {
    __nanosleep(20);
    seen = *at;
  }
  return seen;
}

// By one warp: the sum of all chunks before `chunk`, whose own sum is `total`.
FP_INLINE uint64_t look_back(uint64_t* states, int64_t chunk, uint64_t total) {
  volatile uint64_t* mine = states + chunk;
  if (lane() == 0) *mine = (chunk == 0 ? CHAIN_PREFIX : CHAIN_SUM) | total;
  uint64_t before = 0;
  for (int64_t end = chunk - 1; end >= 0; end -= WARP) {
    const int64_t at = end - lane();
    const uint64_t state = at >= 0 ? wait_for(states + at) : CHAIN_PREFIX;
    const unsigned prefixes = __ballot_sync(FULL, state >= CHAIN_PREFIX);
    const int last = prefixes ? __ffs(static_cast<int>(prefixes)) - 1 : WARP - 1;
    before += warp_sum(lane() <= last ? state & CHAIN_VALUE : uint64_t{0});
    if (prefixes) break;
  }
  if (lane() == 0 && chunk > 0) *mine = CHAIN_PREFIX | (before + total);
  return before;
}

// Sum of the threads before this one over all chunks of the grid; end: with this chunk's.
FP_INLINE uint64_t grid_sum_before(uint64_t value, uint64_t* states, int64_t chunk, uint64_t& end) {
  __shared__ uint64_t slots[WARPS];
  __shared__ uint64_t chunks_before;
  uint64_t total;
  const uint64_t before = block_sum_before(value, slots, total);
  if (warp() == 0) {
    const uint64_t found = look_back(states, chunk, total);
    if (lane() == 0) chunks_before = found;
  }
  __syncthreads();
  end = chunks_before + total;
  return chunks_before + before;
}

}  // namespace fieldpress::render::gpu

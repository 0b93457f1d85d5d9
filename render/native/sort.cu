// Stable radix sort, 8 bits a pass, each pass one sweep over the keys (Adinets and Merrill 2022).
#include "cuda_frame.h"
#include "warp.h"

namespace fieldpress::render::gpu {

// A digit's count of one part: none yet, the part's own, or that of all parts up to it.
constexpr uint32_t PART_SUM = 1u << 30, PART_PREFIX = 2u << 30, PART_VALUE = PART_SUM - 1;

FP_INLINE uint32_t digit_of(uint32_t key, int pass) {
  return key >> (RADIX_BITS * pass) & (RADIX - 1);
}

// By the thread of each digit: the counts of all earlier parts.
FP_INLINE uint32_t digits_before(uint32_t* states, int64_t part, uint32_t own) {
  volatile uint32_t* column = states + threadIdx.x;
  column[part * RADIX] = (part == 0 ? PART_PREFIX : PART_SUM) | own;
  uint32_t before = 0;
  for (int64_t at = part - 1; at >= 0; --at) {
    uint32_t state = column[at * RADIX];
    while (state < PART_SUM) {
      __nanosleep(20);
      state = column[at * RADIX];
    }
    before += state & PART_VALUE;
    if (state >= PART_PREFIX) break;
  }
  if (part > 0) column[part * RADIX] = PART_PREFIX | (before + own);
  return before;
}

struct SortDesk {
  uint32_t counts[WARPS][RADIX];  // per warp, then where each warp's keys of a digit begin
  uint32_t slots[WARPS];
  uint32_t shift[RADIX];          // from a place in the part to its place in the result
  uint32_t keys[SORT_PART], values[SORT_PART];
};

// Where each key lies among those of its digit in its warp; keys in order of item, then lane.
FP_INLINE void rank_keys(SortDesk& desk, const uint32_t* keys, int pass, uint32_t* ranks) {
  uint32_t* counts = desk.counts[warp()];
  const unsigned lower = (1u << lane()) - 1u;
#pragma unroll
  for (int j = 0; j < SORT_ITEMS; ++j) {
    const uint32_t digit = digit_of(keys[j], pass);
    const unsigned peers = __match_any_sync(FULL, digit);
    const int leader = __ffs(static_cast<int>(peers)) - 1;
    uint32_t start = 0;
    if (lane() == leader) {
      start = counts[digit];
      counts[digit] = start + static_cast<uint32_t>(__popc(peers));
    }
    start = __shfl_sync(FULL, start, leader);
    ranks[j] = start + static_cast<uint32_t>(__popc(peers & lower));
    __syncwarp();
  }
}

// From counts per warp to places; the thread of each digit.
FP_INLINE void place_digits(SortDesk& desk, const Sort& sort, int pass, int64_t part) {
  const int digit = static_cast<int>(threadIdx.x);
  uint32_t own = 0, total;
  for (int w = 0; w < WARPS; ++w) own += desk.counts[w][digit];
  const uint32_t local = block_sum_before(own, desk.slots, total);
  uint32_t* states = sort.states + pass * sort.parts * RADIX;
  const uint32_t before = digits_before(states, part, own);
  desk.shift[digit] = sort.histogram[pass * RADIX + digit] + before - local;
  uint32_t place = local;
  for (int w = 0; w < WARPS; ++w) {
    const uint32_t here = desk.counts[w][digit];
    desk.counts[w][digit] = place;
    place += here;
  }
}

}  // namespace fieldpress::render::gpu

using namespace fieldpress::render;
using namespace fieldpress::render::gpu;

// Counts the digits of all passes in one reading.
extern "C" __global__ void __launch_bounds__(BLOCK) sort_count(const CudaFrame* frame,
                                                               int64_t tiles) {
  __shared__ uint32_t counts[SORT_PASSES * RADIX];
  const Sort& sort = tiles ? frame->by_tile : frame->by_depth;
  const int64_t count = *sort.count;
  const int bins = sort.passes * RADIX;
  for (int k = static_cast<int>(threadIdx.x); k < bins; k += BLOCK) counts[k] = 0;
  __syncthreads();
  for (int64_t i = first_item(); i < count; i += item_stride()) {
    const uint32_t key = sort.keys[0][i];
    for (int pass = 0; pass < sort.passes; ++pass)
      atomicAdd(&counts[pass * RADIX + static_cast<int>(digit_of(key, pass))], 1u);
  }
  __syncthreads();
  for (int k = static_cast<int>(threadIdx.x); k < bins; k += BLOCK)
    if (counts[k]) atomicAdd(&sort.histogram[k], counts[k]);
}

// One block a pass: where each digit begins.
extern "C" __global__ void __launch_bounds__(BLOCK) sort_begin(const CudaFrame* frame,
                                                               int64_t tiles) {
  __shared__ uint32_t slots[WARPS];
  const Sort& sort = tiles ? frame->by_tile : frame->by_depth;
  uint32_t* counts = sort.histogram + blockIdx.x * RADIX;
  uint32_t total;
  const uint32_t before = block_sum_before(counts[threadIdx.x], slots, total);
  counts[threadIdx.x] = before;
}

extern "C" __global__ void __launch_bounds__(BLOCK) sort_pass(const CudaFrame* frame,
                                                              int64_t tiles, int64_t number) {
  __shared__ SortDesk desk;
  const Sort& sort = tiles ? frame->by_tile : frame->by_depth;
  const int pass = static_cast<int>(number), from = pass & 1;
  const int64_t count = *sort.count, parts = (count + SORT_PART - 1) / SORT_PART;
  for (;;) {
    const int64_t part = take_ticket(&sort.tickets[pass]);
    if (part >= parts) return;
    uint32_t keys[SORT_ITEMS], ranks[SORT_ITEMS];
    for (int w = 0; w < WARPS; ++w) desk.counts[w][threadIdx.x] = 0;
    __syncthreads();
    const int64_t base = part * SORT_PART + warp() * (WARP * SORT_ITEMS) + lane();
#pragma unroll
    for (int j = 0; j < SORT_ITEMS; ++j) {
      const int64_t i = base + j * WARP;
      keys[j] = i < count ? sort.keys[from][i] : ~0u;  // The last digit, behind all others.
    }
    rank_keys(desk, keys, pass, ranks);
    __syncthreads();
    place_digits(desk, sort, pass, part);
    __syncthreads();
#pragma unroll
    for (int j = 0; j < SORT_ITEMS; ++j) {
      const uint32_t place = desk.counts[warp()][digit_of(keys[j], pass)] + ranks[j];
      const int64_t i = base + j * WARP;
      desk.keys[place] = keys[j];
      if (i < count) desk.values[place] = sort.values[from][i];  // Not before: registers are few.
    }
    __syncthreads();
    const int64_t rest = count - part * SORT_PART;
    for (int k = static_cast<int>(threadIdx.x); k < SORT_PART && k < rest; k += BLOCK) {
      const uint32_t key = desk.keys[k];
      const uint32_t to = static_cast<uint32_t>(k) + desk.shift[digit_of(key, pass)];
      sort.keys[1 - from][to] = key;
      sort.values[1 - from][to] = desk.values[k];
    }
  }
}

// Which tiles each splat touches, exactly, and where each tile's list begins and ends.
#include "constants.h"
#include "cuda_frame.h"
#include "span_simd.h"
#include "warp.h"

namespace fieldpress::render::gpu {

constexpr int MANY_ROWS = 4;  // A splat of more is spread over its warp.

struct Grid {
  int x, y;  // tiles
};

struct Rows {
  int first, end;
};

FP_INLINE Grid grid_of(const Settings& set) {
  return {(set.width + TILE - 1) / TILE, (set.height + TILE - 1) / TILE};
}

FP_INLINE Rows rows_of(const Splat& s, Grid grid) {
  constexpr float LAST = TILE - 0.5f;  // Centre of a tile's last pixel.
  constexpr float MANY = 1e6f;
  const float top = (s.y - s.extent_y - SLACK_PIXELS - LAST) * (1.0f / TILE);
  const float bottom = (s.y + s.extent_y + SLACK_PIXELS - 0.5f) * (1.0f / TILE);
  const int first = static_cast<int>(most(least(top + 1.0f, MANY), 0.0f));
  const int end = static_cast<int>(most(least(bottom, MANY), -1.0f) + 1.0f);
  return {first, least(end, grid.y)};
}

// First and one past the last tile of one row; rounded up and down by truncation. A row that the
// ellipse misses is NaN, which most() turns into its second argument: an empty run.
FP_INLINE Rows run_of(const Splat& s, int row, Grid grid) {
  constexpr float LAST = TILE - 0.5f, MANY = 1e6f;
  const float low = static_cast<float>(row) * TILE + (0.5f - s.y);
  float left, right;
  span(s, s.x, low, low + static_cast<float>(TILE - 1), left, right);
  const float begin = least(most((left - LAST) * (1.0f / TILE), -1.0f), MANY);
  const float end = least(most((right - 0.5f) * (1.0f / TILE), -1.0f), MANY);
  const int first = static_cast<int>(begin + 1.0f);
  return {first, most(first, least(static_cast<int>(end + 1.0f), grid.x))};
}

FP_INLINE uint32_t count_tiles(const Splat& s, Rows rows, Grid grid) {
  uint32_t count = 0;
  for (int row = rows.first; row < rows.end; ++row) {
    const Rows run = run_of(s, row, grid);
    count += static_cast<uint32_t>(run.end - run.first);
  }
  return count;
}

FP_INLINE void write_run(const CudaFrame& f, uint32_t slot, int row, Rows run, Grid grid,
                         uint64_t place) {
  for (int x = run.first; x < run.end; ++x, ++place) {
    if (place >= static_cast<uint64_t>(f.pair_room)) return;
    f.by_tile.keys[0][place] = static_cast<uint32_t>(row * grid.x + x);
    f.by_tile.values[0][place] = slot;
  }
}

// A splat of many rows, a row a lane. Returns its tiles; writes them where WRITE.
template <bool WRITE>
FP_INLINE uint32_t share_rows(const CudaFrame& f, uint32_t slot, Grid grid, uint64_t place) {
  const Splat& s = f.splats[slot];
  const Rows rows = rows_of(s, grid);
  uint32_t sum = 0;
  for (int row = rows.first; row < rows.end; row += WARP) {
    const bool mine = row + lane() < rows.end;
    const Rows run = mine ? run_of(s, row + lane(), grid) : Rows{0, 0};
    const uint32_t tiles = static_cast<uint32_t>(run.end - run.first);
    const uint32_t upto = warp_prefix(tiles);
    if (WRITE && mine) write_run(f, slot, row + lane(), run, grid, place + sum + (upto - tiles));
    sum += __shfl_sync(FULL, upto, WARP - 1);
  }
  return sum;
}

// Calls body(slot, lane of its owner) for each lane's splat that is for the whole warp.
template <typename Body>
FP_INLINE void for_each_large(bool large, uint32_t slot, Body body) {
  for (unsigned rest = __ballot_sync(FULL, large); rest; rest &= rest - 1) {
    const int owner = __ffs(static_cast<int>(rest)) - 1;
    body(__shfl_sync(FULL, slot, owner), owner);
  }
}

}  // namespace fieldpress::render::gpu

using namespace fieldpress::render;
using namespace fieldpress::render::gpu;

// Pairs of a tile and a splat, splats front to back.
extern "C" __global__ void __launch_bounds__(BLOCK) emit(const CudaFrame* frame) {
  const CudaFrame& f = *frame;
  Progress& progress = *f.progress;
  const int64_t count = progress.drawn, chunks = (count + BLOCK - 1) / BLOCK;
  const Grid grid = grid_of(f.set);
  for (;;) {
    const int64_t chunk = take_ticket(&progress.tickets[TICKET_EMIT]);
    if (chunk >= chunks) return;
    const int64_t rank = chunk * BLOCK + threadIdx.x;
    const bool mine = rank < count;
    const uint32_t slot = mine ? f.order[rank] : 0u;
    const Rows rows = mine ? rows_of(f.splats[slot], grid) : Rows{0, 0};
    const bool large = rows.end - rows.first > MANY_ROWS;
    uint32_t tiles = mine && !large ? count_tiles(f.splats[slot], rows, grid) : 0u;
    for_each_large(large, slot, [&](uint32_t one, int owner) {
      const uint32_t found = share_rows<false>(f, one, grid, 0);
      if (lane() == owner) tiles = found;
    });
    if (mine && f.details.tiles_per_gauss)
      f.details.tiles_per_gauss[f.splats[slot].id] = static_cast<int32_t>(tiles);
    uint64_t end;
    uint64_t place = grid_sum_before(tiles, f.emit_chain, chunk, end);
    for_each_large(large, slot, [&](uint32_t one, int owner) {
      share_rows<true>(f, one, grid, __shfl_sync(FULL, place, owner));
    });
    if (mine && !large)
      for (int row = rows.first; row < rows.end; ++row) {
        const Rows run = run_of(f.splats[slot], row, grid);
        write_run(f, slot, row, run, grid, place);
        place += static_cast<uint64_t>(run.end - run.first);
      }
    if (threadIdx.x == 0 && chunk == chunks - 1) {
      progress.pairs = end;
      const bool fits = end <= static_cast<uint64_t>(f.pair_room);
      progress.listed = fits ? static_cast<uint32_t>(end) : 0u;
      if (!fits) progress.faults = FAULT_PAIRS;
    }
  }
}

extern "C" __global__ void __launch_bounds__(BLOCK) find_ranges(const CudaFrame* frame) {
  const CudaFrame& f = *frame;
  const int64_t count = f.progress->listed;
  for (int64_t i = first_item(); i < count; i += item_stride()) {
    const uint32_t tile = f.tiles[i];
    if (i == 0 || f.tiles[i - 1] != tile) f.ranges[tile].begin = static_cast<uint32_t>(i);
    if (i == count - 1 || f.tiles[i + 1] != tile) f.ranges[tile].end = static_cast<uint32_t>(i + 1);
  }
}

#include "order.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "constants.h"
#include "pool.h"

namespace fieldpress::render {
namespace {

constexpr int DIGIT_BITS = 11;
constexpr uint32_t DIGITS = 1u << DIGIT_BITS;
constexpr int64_t MAX_PAIRS = 1 << 29;    // 2 GB: a scene of screen-filling splats, not a capture.
constexpr int64_t SERIAL_SORT = 1 << 15;  // Below this, waking a thread costs more than it saves.

int64_t part_begin(int64_t count, int parts, int part) { return count * part / parts; }

// One stable counting pass over bits [shift, shift + DIGIT_BITS), parts side by side.
void counting_pass(const Key* from, Key* to, int64_t count, int shift, int parts, int threads,
                   uint32_t* counters) {
  parallel(threads, parts, [&](int part) {
    uint32_t* mine = counters + part * DIGITS;
    std::memset(mine, 0, DIGITS * sizeof(uint32_t));
    const int64_t end = part_begin(count, parts, part + 1);
    for (int64_t i = part_begin(count, parts, part); i < end; ++i)
      ++mine[from[i] >> shift & (DIGITS - 1)];
  });
  uint32_t position = 0;
  for (uint32_t digit = 0; digit < DIGITS; ++digit)
    for (int part = 0; part < parts; ++part) {
      uint32_t& slot = counters[part * DIGITS + digit];
      const uint32_t here = slot;
      slot = position;
      position += here;
    }
  parallel(threads, parts, [&](int part) {
    uint32_t* mine = counters + part * DIGITS;
    const int64_t end = part_begin(count, parts, part + 1);
    for (int64_t i = part_begin(count, parts, part); i < end; ++i)
      to[mine[from[i] >> shift & (DIGITS - 1)]++] = from[i];
  });
}

// Tile runs of one part's splats, and where in `edges` runs begin (+1) and end (-1).
void find_runs(const Kernels& kernels, const Splat* splats, const Key* sorted, int64_t begin,
               int64_t end, const TileLists& lists, std::vector<uint32_t>& runs,
               uint16_t* run_counts, uint32_t* edges) {
  const size_t room = 2 * static_cast<size_t>(lists.tiles_y);
  size_t used = 0;
  for (int64_t i = begin; i < end; ++i) {
    if (runs.size() < used + room) runs.resize(2 * (used + room));
    if (i + 8 < end) __builtin_prefetch(&splats[static_cast<uint32_t>(sorted[i + 8])]);
    const Splat& splat = splats[static_cast<uint32_t>(sorted[i])];
    const int n = kernels.cover(splat, lists.tiles_x, lists.tiles_y, runs.data() + used);
    for (int k = 0; k < n; ++k) {
      ++edges[runs[used + 2 * k]];
      --edges[runs[used + 2 * k + 1]];
    }
    run_counts[i] = static_cast<uint16_t>(n);
    used += 2 * static_cast<size_t>(n);
  }
}

// Sums the edges to counts and the counts to positions: lists.starts, and in place of each part's
// edges where that part writes next. Returns the length of all lists together.
int64_t place_lists(int parts, int64_t tiles, uint32_t* cursors, TileLists& lists) {
  lists.starts.resize(static_cast<size_t>(tiles) + 1);
  std::vector<uint32_t> covering(static_cast<size_t>(parts), 0);  // Splats on the current tile.
  int64_t position = 0;
  for (int64_t t = 0; t < tiles; ++t) {
    lists.starts[static_cast<size_t>(t)] = position;
    for (int part = 0; part < parts; ++part) {
      uint32_t& slot = cursors[part * (tiles + 1) + t];
      covering[static_cast<size_t>(part)] += slot;
      slot = static_cast<uint32_t>(position);
      position += covering[static_cast<size_t>(part)];
    }
  }
  lists.starts[static_cast<size_t>(tiles)] = position;
  return position;
}

}  // namespace

Key* sort_by_depth(Key* keys, Key* spare, int64_t count, int threads,
                   Buffer<uint32_t>& counters) {
  const int parts = count < SERIAL_SORT ? 1 : threads;
  uint32_t* slots = counters.fit(static_cast<size_t>(parts) * DIGITS);
  for (int shift = 32; shift < 64; shift += DIGIT_BITS) {
    counting_pass(keys, spare, count, shift, parts, parts, slots);
    std::swap(keys, spare);
  }
  return keys;
}

void fill_tiles(const Kernels& kernels, const Splat* splats, const Key* sorted, int64_t count,
                const Settings& set, BinScratch& scratch, TileLists& lists) {
  lists.tiles_x = (set.width + TILE - 1) / TILE;
  lists.tiles_y = (set.height + TILE - 1) / TILE;
  const int64_t tiles = static_cast<int64_t>(lists.tiles_x) * lists.tiles_y;
  const int parts = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(set.threads, count)));
  scratch.runs.resize(static_cast<size_t>(parts));
  uint16_t* run_counts = scratch.run_counts.fit(static_cast<size_t>(count));
  uint32_t* cursors = scratch.cursors.fit(static_cast<size_t>(parts * (tiles + 1)));

  parallel(parts, parts, [&](int part) {
    uint32_t* edges = cursors + part * (tiles + 1);
    std::memset(edges, 0, static_cast<size_t>(tiles + 1) * sizeof(uint32_t));
    find_runs(kernels, splats, sorted, part_begin(count, parts, part),
              part_begin(count, parts, part + 1), lists, scratch.runs[static_cast<size_t>(part)],
              run_counts, edges);
  });
  const int64_t length = place_lists(parts, tiles, cursors, lists);
  if (length > MAX_PAIRS)
    throw std::length_error("means: expected at most 2^29 pairs of a splat and a tile, got " +
                            std::to_string(length));
  uint32_t* out = lists.splats.fit(static_cast<size_t>(length));

  parallel(parts, parts, [&](int part) {
    uint32_t* mine = cursors + part * (tiles + 1);
    const uint32_t* run = scratch.runs[static_cast<size_t>(part)].data();
    const int64_t end = part_begin(count, parts, part + 1);
    for (int64_t i = part_begin(count, parts, part); i < end; ++i) {
      const uint32_t index = static_cast<uint32_t>(sorted[i]);
      for (int n = run_counts[i]; n > 0; --n, run += 2)
        for (uint32_t t = run[0]; t < run[1]; ++t) out[mine[t]++] = index;
    }
  });
}

}  // namespace fieldpress::render

// Splats through the pixels of one tile, front to back: what the image, the statistics and the
// gradients have in common.
//
// A tile is 32 cells of 4 x 2 pixels. Splats come in batches of 64; each cell has a 64-bit word of
// the splats of the batch whose drawn ellipse touches it. A block, one cell or a pair of them, goes
// through its word with transmittance and sums in registers. Lane i of a vector is the pixel at
// column i / ROWS, row i % ROWS, so that a row's terms reach all columns by one broadcast.
#pragma once

#include <cstddef>

#include "constants.h"
#include "frame.h"
#include "simd.h"
#include "span_simd.h"

namespace fieldpress::render::FIELDPRESS_ISA {
namespace {

constexpr int BATCH = 64;
constexpr int CELLS = 32;
constexpr int COLUMNS = 4;                         // Pixels per block across.
constexpr int ROWS = LANES / COLUMNS;              // Rows per vector.
constexpr int HEIGHT = ROWS > 2 ? ROWS : 2;        // Rows per block.
constexpr int PIXELS = COLUMNS * HEIGHT;
constexpr int PARTS = PIXELS / LANES;              // Vectors per block.
constexpr int PER_BLOCK = HEIGHT / 2;              // Cells per block.
constexpr int BLOCKS = CELLS / PER_BLOCK;
constexpr int RUN = 4 / PER_BLOCK;                 // Blocks in the upper or lower half of a column.
constexpr int WIDE = MAX_CHANNELS + 1;             // Any number of channels, and depth.
// The next float: T - STOP < 0 says T <= TRANSMITTANCE_STOP.
constexpr float STOP = static_cast<float>(TRANSMITTANCE_STOP * (1.0 + 1.0 / (1 << 24)));
constexpr float NEVER = -1.0f;                     // Threshold of a finished pixel, whose T is 0.

// A number that a whole vector shares, stored so that arithmetic takes it from memory: AVX-512 can
// spread one by itself, elsewhere that costs an instruction in the innermost loop.
#if defined(__AVX512F__)
using Spread = float;
#else
using Spread = Floats;
#endif

FP_INLINE Spread spread(float x) { return x - Spread{}; }
FP_INLINE Floats whole(Spread x) { return x - Floats{}; }

// A splat as one tile sees it.
struct Entry {
  alignas(32) float shift[TILE];  // per row: axy * dy - ax * x; the first square is
  float room[TILE];               // (ax * column + shift)^2; per row: reach - (ay * dy)^2
  Spread ax, ceiling, color[4];
};
static_assert(offsetof(Entry, room) == TILE * sizeof(float), "opacity() steps across");

struct Batch {
  Entry entries[BATCH + 1];  // The last is never drawn: it makes a pair of an odd one.
  uint64_t words[BLOCKS];

  Batch() {
    Entry& none = entries[BATCH];
    for (int r = 0; r < TILE; ++r) none.shift[r] = 0.0f, none.room[r] = -1.0f;
    for (Spread& c : none.color) c = spread(0.0f);
    none.ax = none.ceiling = spread(0.0f);
  }
};

struct alignas(64) Block {
  float trans[PIXELS];  // 0 once finished
  float stop[PIXELS];
  float left[PIXELS];   // transmittance of the finished pixels
};

// Cells are numbered as pack() orders them: half of the tile, column, row of cells.
constexpr int block_x(int b) { return b / RUN % COLUMNS * COLUMNS; }
constexpr int block_y(int b) { return (b / (RUN * COLUMNS) * RUN + b % RUN) * HEIGHT; }
constexpr int pixel_x(int i) { return i % LANES / ROWS; }
constexpr int pixel_y(int i) { return i / LANES * ROWS + i % LANES % ROWS; }

// All ones in the bytes of the cells that the drawn ellipse touches. x, y: the mean seen from the
// tile's corner. Rows of cells that it misses are NaN and compare false.
FP_INLINE Bytes touched(const Splat& s, float x, float y) {
  const Eight low = Eight{0.5f, 2.5f, 4.5f, 6.5f, 8.5f, 10.5f, 12.5f, 14.5f} - y;
  const Eight high = low + 1.0f;
  Eight left, right;
  span(s, x, low, high, left, right);
  EightInts hit[COLUMNS];
  for (int c = 0; c < COLUMNS; ++c)
    hit[c] = (right >= c * COLUMNS + 0.5f) & (left <= c * COLUMNS + (COLUMNS - 0.5f));
  return pack(hit);
}

template <int COLORS>
FP_INLINE Bytes enter(Entry& entry, const Splat& s, const Tile& tile) {
  const float x = s.x - static_cast<float>(tile.x), y = s.y - static_cast<float>(tile.y);
  const float start = s.ax * x;
  for (int r = 0; r < TILE; ++r) {
    const float dy = (static_cast<float>(r) + 0.5f) - y;
    const float t = s.ay * dy;
    entry.shift[r] = s.axy * dy - start;
    entry.room[r] = s.reach - t * t;
  }
  for (int k = 0; k < COLORS; ++k) entry.color[k] = spread(s.color[k]);
  entry.ax = spread(s.ax);
  entry.ceiling = spread(s.ceiling);
  return touched(s, x, y);
}

// Takes up to BATCH splats of the tile's list and finds the words of all blocks.
template <int COLORS>
FP_INLINE void fill(Batch& batch, const Splat* splats, const Tile& tile, int64_t start, int count) {
  uint8_t planes[BATCH / 8][CELLS];
  for (int group = 0; group < BATCH / 8; ++group) {
    Bytes plane{};
    for (int k = 0; k < least(8, count - group * 8); ++k) {
      const int i = group * 8 + k;
      if (start + i + 8 < tile.count) __builtin_prefetch(&splats[tile.list[start + i + 8]]);
      const int8_t bit = static_cast<int8_t>(1 << k);
      plane |= enter<COLORS>(batch.entries[i], splats[tile.list[start + i]], tile) & bit;
    }
    store(planes[group], plane);
  }
  uint64_t words[CELLS];
  for (int cell = 0; cell < CELLS; ++cell) {
    uint64_t word = 0;
    for (int group = 0; group < BATCH / 8; ++group)
      word |= static_cast<uint64_t>(planes[group][cell]) << (8 * group);
    words[cell] = word;
  }
  for (int b = 0; b < BLOCKS; ++b)
    batch.words[b] = words[b * PER_BLOCK] | words[b * PER_BLOCK + PER_BLOCK - 1];
}

FP_INLINE bool is_whole(const Settings& set, const Tile& tile) {
  return tile.x + TILE <= set.width && tile.y + TILE <= set.height;
}

// Pixels outside the image are born finished. Returns the blocks with a pixel inside.
FP_INLINE unsigned open_blocks(Block* blocks, const Settings& set, const Tile& tile) {
  const bool whole = is_whole(set, tile);
  unsigned open = 0;
  for (int b = 0; b < BLOCKS; ++b) {
    const int width = set.width - tile.x - block_x(b), height = set.height - tile.y - block_y(b);
    open |= (width > 0 && height > 0 ? 1u : 0u) << b;
    for (int i = 0; i < PIXELS; ++i) {
      blocks[b].trans[i] = 1.0f;
      blocks[b].stop[i] = STOP;
      blocks[b].left[i] = 0.0f;
    }
    for (int i = 0; !whole && i < PIXELS; ++i)
      if (pixel_x(i) >= width || pixel_y(i) >= height) {
        blocks[b].trans[i] = 0.0f;
        blocks[b].stop[i] = NEVER;
      }
  }
  return open;
}

FP_INLINE Floats block_columns(int b) {
  Floats columns;
  for (int i = 0; i < LANES; ++i) columns[i] = static_cast<float>(block_x(b) + pixel_x(i)) + 0.5f;
  return columns;
}

// The rays of one block: transmittance in registers, the rest touched only when a ray ends.
struct Rays {
  Floats trans[PARTS];
  Block* block;
  Floats columns;
  int row;
};

// A ray ends before the splat that would take it to the threshold. Returns whether all have ended.
FP_INLINE bool end_rays(Rays& rays, const Floats* slack, Floats* after, Floats* weight) {
  bool finished = true;
  for (int p = 0; p < PARTS; ++p) {
    float* stop = rays.block->stop + p * LANES;
    float* left = rays.block->left + p * LANES;
    const Ints over = reinterpret_cast<Ints>(slack[p]) >> 31;
    store(left, load<Floats>(left) + where(over, rays.trans[p]));
    store(stop, select(over, all<Floats>(NEVER), load<Floats>(stop)));
    weight[p] = where(~over, weight[p]);
    after[p] = where(~over, after[p]);
    finished &= !bits(after[p] > 0.0f);
  }
  return finished;
}

FP_INLINE size_t take_first(uint64_t& word) {
  const size_t first = word ? static_cast<size_t>(__builtin_ctzll(word)) : BATCH;
  word &= word - 1;
  return first;
}

// alpha of a splat at the pixels of a block; 0 where it is not drawn. along: the root of the first
// square. rows: the entry's shift from the block's first row on.
FP_INLINE void opacity(const Entry& entry, const float* rows, const Rays& rays, Floats* alpha,
                       Floats* along) {
  for (int p = 0; p < PARTS; ++p) {
    const Floats u = plus_product(repeat_rows(rows + p * ROWS), whole(entry.ax), rays.columns);
    const Floats e = minus_product(repeat_rows(rows + TILE + p * ROWS), u, u);
    along[p] = u;
    // The sign of e is the cutoff alpha >= 1/255, and clears what exp2 makes of smaller ones.
    alpha[p] = zero_where_negative(e, least(exp2_over_255(e), whole(entry.ceiling)));
  }
}

// weight = alpha * T; returns whether a ray would fall to the threshold.
FP_INLINE bool attenuate(const Block* block, const Floats* trans, const Floats* alpha,
                         Floats* weight, Floats* after, Floats* slack) {
  Ints any{};
  for (int p = 0; p < PARTS; ++p) {
    weight[p] = alpha[p] * trans[p];
    after[p] = minus_product(trans[p], alpha[p], trans[p]);
    slack[p] = after[p] - load<Floats>(block->stop + p * LANES);
    any |= reinterpret_cast<Ints>(slack[p]);
  }
  return bits(any) != 0;
}

// A splat at the pixels of a block; where a ray has ended, weight and after are 0.
struct Hit {
  const Floats* alpha;   // 0 where it is not drawn
  const Floats* along;   // ax * dx + axy * dy
  const Floats* weight;  // alpha * T
  const Floats* after;   // T behind it
};

// Two splats at a time: the exponentials of both are under way while T waits for neither.
struct Pair {
  size_t at[2];
  Floats alpha[2][PARTS], along[2][PARTS];
};

// base: the entries; rows: their shifts from the block's first row on.
FP_INLINE void take_pair(const char* base, const char* rows, uint64_t& word, const Rays& rays,
                         Pair& pair) {
  for (int j = 0; j < 2; ++j) {
    const size_t at = pair.at[j] = take_first(word);
    opacity(*reinterpret_cast<const Entry*>(base + at * sizeof(Entry)),
            reinterpret_cast<const float*>(rows + at * sizeof(Entry)), rays, pair.alpha[j],
            pair.along[j]);
  }
}

// Passes the rays of a block through the splats of a word, front to back. sink(i, hit) takes splat
// i; i is BATCH once where their number is odd. Returns true once no ray is left. AHEAD: begins
// the next pair before the last one is done, for sinks that a processor cannot look across.
template <bool AHEAD, typename Sink>
FP_INLINE bool march(const Batch& batch, uint64_t word, Rays& rays, Sink sink) {
  const char* base = reinterpret_cast<const char*>(batch.entries);
  const char* rows = base + rays.row * sizeof(float);
  FP_OPAQUE(rows);  // Else each row's address is summed anew.
  Pair pair;
  if (AHEAD) take_pair(base, rows, word, rays, pair);
  for (;;) {
    if (!AHEAD) take_pair(base, rows, word, rays, pair);
    const bool more = word != 0;
    Pair next;
    if (AHEAD && more) take_pair(base, rows, word, rays, next);
    Floats weight[2][PARTS], middle[PARTS], after[PARTS], slack[PARTS];
    for (int p = 0; p < PARTS; ++p) {
      weight[0][p] = pair.alpha[0][p] * rays.trans[p];
      middle[p] = minus_product(rays.trans[p], pair.alpha[0][p], rays.trans[p]);
    }
    const Floats(*alpha)[PARTS] = pair.alpha;
    if (__builtin_expect(attenuate(rays.block, middle, alpha[1], weight[1], after, slack), 0)) {
      for (int j = 0; j < 2; ++j) {
        bool finished = false;
        if (attenuate(rays.block, rays.trans, alpha[j], weight[j], after, slack))
          finished = end_rays(rays, slack, after, weight[j]);
        sink(pair.at[j], Hit{alpha[j], pair.along[j], weight[j], after});
        for (int p = 0; p < PARTS; ++p) rays.trans[p] = after[p];
        if (finished) return true;
      }
    } else {
      for (int p = 0; p < PARTS; ++p) rays.trans[p] = after[p];
      for (int j = 0; j < 2; ++j)
        sink(pair.at[j], Hit{alpha[j], pair.along[j], weight[j], j == 0 ? middle : after});
    }
    if (!more) return false;
    if (AHEAD) pair = next;
  }
}

// Runs the batches of a tile: before(start, count) once a batch is filled, inside(b, word, rays)
// for each block with work, which returns true when the block is finished, at last
// after(start, count).
template <int COLORS, typename Before, typename Inside, typename After>
FP_INLINE void run_batches(const Settings& set, const Splat* splats, const Tile& tile,
                           Block* blocks, Batch& batch, Before before, Inside inside,
                           After after) {
  unsigned open = open_blocks(blocks, set, tile);
  for (int64_t start = 0; start < tile.count && open; start += BATCH) {
    const int count = tile.count - start < BATCH ? static_cast<int>(tile.count - start) : BATCH;
    fill<COLORS>(batch, splats, tile, start, count);
    before(start, count);
    for (unsigned rest = open; rest; rest &= rest - 1) {
      const int b = __builtin_ctz(rest);
      const uint64_t word = batch.words[b];
      if (!word) continue;
      Rays rays;
      rays.block = &blocks[b];
      rays.columns = block_columns(b);
      rays.row = block_y(b);
      for (int p = 0; p < PARTS; ++p) rays.trans[p] = load<Floats>(blocks[b].trans + p * LANES);
      if (inside(b, word, rays)) open &= ~(1u << b);
      for (int p = 0; p < PARTS; ++p) store(blocks[b].trans + p * LANES, rays.trans[p]);
    }
    after(start, count);
  }
}

}  // namespace
}  // namespace fieldpress::render::FIELDPRESS_ISA

// One tile, front to back: image, or per-splat statistics.
//
// A tile is 4 x 4 blocks of 4 x 4 pixels. Splats come in batches; each block has a list of the
// splats of the batch whose drawn ellipse touches it, and goes through that list with
// transmittance and colour in registers. Lane i of a vector is the pixel at column i / ROWS, row
// i % ROWS of its strip of ROWS rows, so that a row's terms reach all columns by one broadcast.
#include "constants.h"
#include "frame.h"
#include "simd.h"

namespace fieldpress::render::FIELDPRESS_ISA {
namespace {

constexpr int BATCH = 128;
constexpr int BLOCK = 4;                      // Pixels per block side.
constexpr int SIDE = TILE / BLOCK;            // Blocks per tile side.
constexpr int BLOCKS = SIDE * SIDE;
constexpr int PIXELS = BLOCK * BLOCK;
constexpr int PARTS = PIXELS / LANES;         // Vectors per block.
constexpr int ROWS = LANES / BLOCK;           // Rows per vector.
constexpr int WIDE = MAX_CHANNELS + 1;        // Any number of channels, and depth.
constexpr float SLACK_PIXELS = 0.02f;
constexpr float SLACK_REACH = 1e-3f;
// The next float: T - STOP < 0 says T <= TRANSMITTANCE_STOP.
constexpr float STOP = static_cast<float>(TRANSMITTANCE_STOP * (1.0 + 1.0 / (1 << 24)));
constexpr float NEVER = -1.0f;                // Threshold of a finished pixel, whose T is 0.

struct alignas(64) Row {
  float shift[TILE];  // axy * dy - ax * x: the first square is (ax * column + shift)^2
  float room[TILE];   // reach - (ay * dy)^2
};

struct Batch {
  Row rows[BATCH];
  float ax[BATCH], ceiling[BATCH];
  uint8_t lists[BLOCKS][BATCH];
  int lengths[BLOCKS];
};

struct alignas(64) Block {
  float trans[PIXELS];  // 0 once finished
  float stop[PIXELS];
  float left[PIXELS];   // transmittance of the finished pixels
};

// Blocks of the tile that the drawn ellipse touches: bit column * SIDE + row. x, y: the mean seen
// from the tile's corner.
FP_INLINE unsigned touched(const Splat& s, float x, float y) {
  const Quad low = Quad{0, BLOCK, 2 * BLOCK, 3 * BLOCK} + (0.5f - y);
  const Quad high = low + static_cast<float>(BLOCK - 1);
  const Quad up = least(most(all<Quad>(s.widest_y), low), high);
  const Quad down = least(most(all<Quad>(-s.widest_y), low), high);
  const Quad room_up = s.reach + SLACK_REACH - (s.ay * up) * (s.ay * up);
  const Quad room_down = s.reach + SLACK_REACH - (s.ay * down) * (s.ay * down);
  const Quad zero{};
  const Quad right = x + SLACK_PIXELS + (root(most(room_up, zero)) - s.axy * up) * s.inverse_ax;
  const Quad left = x - SLACK_PIXELS - (root(most(room_down, zero)) + s.axy * down) * s.inverse_ax;
  const unsigned inside = ~(signs(room_up) | signs(room_down)) & 15u;
  unsigned mask = 0;
  for (int c = 0; c < SIDE; ++c) {
    const QuadInts hit = (right >= c * BLOCK + 0.5f) & (left <= c * BLOCK + (BLOCK - 0.5f));
    mask |= (bits(hit) & inside) << (c * SIDE);
  }
  return mask;
}

FP_INLINE void fill_rows(const Splat& s, float x, float y, Row& row) {
  const float start = s.ax * x;
  for (int r = 0; r < TILE; ++r) {
    const float dy = static_cast<float>(r) + 0.5f - y;
    const float t = s.ay * dy;
    row.shift[r] = s.axy * dy - start;
    row.room[r] = s.reach - t * t;
  }
}

// Adds splat i of the batch to the lists of the open blocks it touches.
FP_INLINE void enlist(Batch& batch, int i, const Splat& s, const Tile& tile, unsigned open) {
  const float x = s.x - static_cast<float>(tile.x), y = s.y - static_cast<float>(tile.y);
  unsigned mask = touched(s, x, y) & open;
  fill_rows(s, x, y, batch.rows[i]);
  batch.ax[i] = s.ax;
  batch.ceiling[i] = s.ceiling;
  for (; mask; mask &= mask - 1) {
    const int b = __builtin_ctz(mask);
    batch.lists[b][batch.lengths[b]++] = static_cast<uint8_t>(i);
  }
}

FP_INLINE int lane_pixel_x(int lane) { return lane / ROWS; }
FP_INLINE int lane_pixel_y(int lane) { return lane % ROWS; }

// Pixels outside the image are born finished. Returns whether any pixel is inside.
FP_INLINE bool open_block(Block& block, const Settings& set, const Tile& tile, int b) {
  const int x0 = tile.x + b / SIDE * BLOCK, y0 = tile.y + b % SIDE * BLOCK;
  bool any = false;
  for (int i = 0; i < PIXELS; ++i) {
    const int x = x0 + lane_pixel_x(i % LANES), y = y0 + i / LANES * ROWS + lane_pixel_y(i % LANES);
    const bool inside = x < set.width && y < set.height;
    block.trans[i] = inside ? 1.0f : 0.0f;
    block.stop[i] = inside ? STOP : NEVER;
    block.left[i] = 0.0f;
    any |= inside;
  }
  return any;
}

// State of one block in registers.
struct Rays {
  Floats trans[PARTS], stop[PARTS], left[PARTS];
};

FP_INLINE Rays take(const Block& block) {
  Rays rays;
  for (int p = 0; p < PARTS; ++p) {
    rays.trans[p] = load<Floats>(block.trans + p * LANES);
    rays.stop[p] = load<Floats>(block.stop + p * LANES);
    rays.left[p] = load<Floats>(block.left + p * LANES);
  }
  return rays;
}

FP_INLINE void put_back(const Rays& rays, Block& block) {
  for (int p = 0; p < PARTS; ++p) {
    store(block.trans + p * LANES, rays.trans[p]);
    store(block.stop + p * LANES, rays.stop[p]);
    store(block.left + p * LANES, rays.left[p]);
  }
}

FP_INLINE Floats block_columns(int b) {
  Floats columns;
  for (int i = 0; i < LANES; ++i)
    columns[i] = static_cast<float>(b / SIDE * BLOCK + lane_pixel_x(i)) + 0.5f;
  return columns;
}

// Passes the rays of a block through splat i; weight[] is alpha * T where it is drawn, else 0.
// Returns true once no ray is left.
FP_INLINE bool pass(const Batch& batch, int i, Floats columns, int band, Rays& rays,
                    Floats* weight) {
  const Floats ax = all<Floats>(batch.ax[i]);
  const Floats ceiling = all<Floats>(batch.ceiling[i]);
  const Row& rows = batch.rows[i];
  Floats after[PARTS], slack[PARTS];
  unsigned stopped = 0;
  for (int p = 0; p < PARTS; ++p) {
    const int r = band * BLOCK + p * ROWS;
    const Floats u = ax * columns + repeat_rows(rows.shift + r);
    const Floats e = repeat_rows(rows.room + r) - u * u;
    // The sign of e is the cutoff alpha >= 1/255, and clears what exp2 makes of smaller ones.
    const Ints drawn = ~(reinterpret_cast<Ints>(e) >> 31);
    const Floats alpha = where(drawn, least(exp2_over_255(e), ceiling));
    weight[p] = alpha * rays.trans[p];
    after[p] = rays.trans[p] - weight[p];
    slack[p] = after[p] - rays.stop[p];
  }
  Ints any = reinterpret_cast<Ints>(slack[0]);
  for (int p = 1; p < PARTS; ++p) any |= reinterpret_cast<Ints>(slack[p]);
  stopped = bits(any);
  bool finished = false;
  if (__builtin_expect(stopped != 0, 0)) {
    finished = true;
    for (int p = 0; p < PARTS; ++p) {
      const Ints over = reinterpret_cast<Ints>(slack[p]) >> 31;
      rays.left[p] += where(over, rays.trans[p]);
      weight[p] = where(~over, weight[p]);
      after[p] = where(~over, after[p]);
      rays.stop[p] = select(over, all<Floats>(NEVER), rays.stop[p]);
      finished &= !bits(after[p] > 0.0f);
    }
  }
  for (int p = 0; p < PARTS; ++p) rays.trans[p] = after[p];
  return finished;
}

// Runs the batches of a tile: before(i, splat) for each splat taken, inside(b, rays, columns) for
// each block with work, which returns true when the block is finished.
template <typename Before, typename Inside, typename After>
FP_INLINE void run_batches(const Settings& set, const Splat* splats, const Tile& tile,
                           Block* blocks, Batch& batch, Before before, Inside inside,
                           After after) {
  unsigned open = 0;
  for (int b = 0; b < BLOCKS; ++b) open |= (open_block(blocks[b], set, tile, b) ? 1u : 0u) << b;
  for (int64_t start = 0; start < tile.count && open; start += BATCH) {
    const int count = tile.count - start < BATCH ? static_cast<int>(tile.count - start) : BATCH;
    for (int b = 0; b < BLOCKS; ++b) batch.lengths[b] = 0;
    for (int i = 0; i < count; ++i) {
      if (start + i + 8 < tile.count) __builtin_prefetch(&splats[tile.list[start + i + 8]]);
      const Splat& s = splats[tile.list[start + i]];
      enlist(batch, i, s, tile, open);
      before(i, s);
    }
    for (int b = 0; b < BLOCKS; ++b) {
      if (!batch.lengths[b]) continue;
      Rays rays = take(blocks[b]);
      if (inside(b, rays)) open &= ~(1u << b);
      put_back(rays, blocks[b]);
    }
    after(start, count);
  }
}

FP_INLINE void write_pixels(const Settings& set, const Tile& tile, const Target& target,
                            const Block* blocks, const float* sums, int channels, int stride) {
  for (int b = 0; b < BLOCKS; ++b) {
    const int x0 = tile.x + b / SIDE * BLOCK, y0 = tile.y + b % SIDE * BLOCK;
    for (int i = 0; i < PIXELS; ++i) {
      const int x = x0 + lane_pixel_x(i % LANES);
      const int y = y0 + i / LANES * ROWS + lane_pixel_y(i % LANES);
      if (x >= set.width || y >= set.height) continue;
      const int64_t pixel = static_cast<int64_t>(y) * set.width + x;
      const float trans = blocks[b].trans[i] + blocks[b].left[i];
      float* out = target.image + pixel * channels;
      for (int k = 0; k < channels; ++k) {
        float value = sums[(b * stride + k) * PIXELS + i];
        if (set.expected && k == channels - 1) value /= most(1.0f - trans, single(DEPTH_ALPHA_FLOOR));
        out[k] = value + (target.background ? trans * target.background[k] : 0.0f);
      }
      target.alpha[pixel] = 1.0f - trans;
    }
  }
}

// Up to four channels, summed in registers.
template <int CHANNELS>
void blend_narrow(const Settings& set, const Splat* splats, const Tile& tile,
                  const Target& target) {
  Block blocks[BLOCKS];
  Batch batch;
  alignas(64) float sums[BLOCKS * CHANNELS * PIXELS] = {};
  float colors[BATCH][4];
  run_batches(
      set, splats, tile, blocks, batch,
      [&](int i, const Splat& s) { __builtin_memcpy(colors[i], s.color, sizeof colors[i]); },
      [&](int b, Rays& rays) {
        const Floats columns = block_columns(b);
        float* sum = sums + b * CHANNELS * PIXELS;
        Floats total[CHANNELS][PARTS];
        for (int k = 0; k < CHANNELS; ++k)
          for (int p = 0; p < PARTS; ++p) total[k][p] = load<Floats>(sum + k * PIXELS + p * LANES);
        bool finished = false;
        const int length = batch.lengths[b];
        for (int j = 0; j < length && !finished; ++j) {
          const int i = batch.lists[b][j];
          Floats weight[PARTS];
          finished = pass(batch, i, columns, b % SIDE, rays, weight);
          for (int k = 0; k < CHANNELS; ++k)
            for (int p = 0; p < PARTS; ++p) total[k][p] += colors[i][k] * weight[p];
        }
        for (int k = 0; k < CHANNELS; ++k)
          for (int p = 0; p < PARTS; ++p) store(sum + k * PIXELS + p * LANES, total[k][p]);
        return finished;
      },
      [](int64_t, int) {});
  write_pixels(set, tile, target, blocks, sums, CHANNELS, CHANNELS);
}

// Any number of channels, summed in memory.
void blend_wide(const Scene& scene, const Settings& set, const Splat* splats, const Tile& tile,
                const Target& target) {
  Block blocks[BLOCKS];
  Batch batch;
  const int channels = set.channels();
  alignas(64) float sums[BLOCKS * WIDE * PIXELS];
  __builtin_memset(sums, 0, sizeof sums);
  float colors[BATCH][WIDE];
  run_batches(
      set, splats, tile, blocks, batch,
      [&](int i, const Splat& s) {
        const float* source = scene.colors + s.id * scene.color_stride;
        for (int k = 0; k < set.color_channels; ++k) colors[i][k] = source[k];
        if (set.depth) colors[i][set.color_channels] = s.depth;
      },
      [&](int b, Rays& rays) {
        const Floats columns = block_columns(b);
        float* sum = sums + b * WIDE * PIXELS;
        bool finished = false;
        const int length = batch.lengths[b];
        for (int j = 0; j < length && !finished; ++j) {
          const int i = batch.lists[b][j];
          Floats weight[PARTS];
          finished = pass(batch, i, columns, b % SIDE, rays, weight);
          for (int k = 0; k < channels; ++k)
            for (int p = 0; p < PARTS; ++p) {
              float* slot = sum + k * PIXELS + p * LANES;
              store(slot, load<Floats>(slot) + colors[i][k] * weight[p]);
            }
        }
        return finished;
      },
      [](int64_t, int) {});
  write_pixels(set, tile, target, blocks, sums, channels, WIDE);
}

// Per-lane sums of one splat of the batch.
struct alignas(64) Tally {
  float weight[LANES], weight_sq[LANES], max_weight[LANES];
  uint32_t hits;
};

FP_INLINE TileShare folded(const Tally& tally) {
  TileShare share = {0, 0, 0, tally.hits};
  for (int lane = 0; lane < LANES; ++lane) {
    share.weight += tally.weight[lane];
    share.weight_sq += tally.weight_sq[lane];
    share.max_weight = most(share.max_weight, tally.max_weight[lane]);
  }
  return share;
}

}  // namespace

void blend(const Scene& scene, const Settings& set, const Splat* splats, const Tile& tile,
           const Target& target) {
  switch (set.channels()) {
    case 1: return blend_narrow<1>(set, splats, tile, target);
    case 2: return blend_narrow<2>(set, splats, tile, target);
    case 3: return blend_narrow<3>(set, splats, tile, target);
    case 4: return blend_narrow<4>(set, splats, tile, target);
    default: return blend_wide(scene, set, splats, tile, target);
  }
}

void measure(const Settings& set, const Splat* splats, const Tile& tile, TileShare* shares) {
  Block blocks[BLOCKS];
  Batch batch;
  Tally tallies[BATCH];
  __builtin_memset(shares, 0, sizeof(TileShare) * static_cast<size_t>(tile.count));
  run_batches(
      set, splats, tile, blocks, batch,
      [&](int i, const Splat&) { __builtin_memset(&tallies[i], 0, sizeof(Tally)); },
      [&](int b, Rays& rays) {
        const Floats columns = block_columns(b);
        bool finished = false;
        const int length = batch.lengths[b];
        for (int j = 0; j < length && !finished; ++j) {
          const int i = batch.lists[b][j];
          Tally& tally = tallies[i];
          Floats weight[PARTS];
          finished = pass(batch, i, columns, b % SIDE, rays, weight);
          Floats sum{}, square{}, peak{};
          for (int p = 0; p < PARTS; ++p) {
            sum += weight[p];
            square += weight[p] * weight[p];
            peak = most(peak, weight[p]);
            tally.hits += static_cast<uint32_t>(__builtin_popcount(bits(weight[p] > 0.0f)));
          }
          store(tally.weight, load<Floats>(tally.weight) + sum);
          store(tally.weight_sq, load<Floats>(tally.weight_sq) + square);
          store(tally.max_weight, most(load<Floats>(tally.max_weight), peak));
        }
        return finished;
      },
      [&](int64_t start, int count) {
        for (int i = 0; i < count; ++i) shares[start + i] = folded(tallies[i]);
      });
}

}  // namespace fieldpress::render::FIELDPRESS_ISA

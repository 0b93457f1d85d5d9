// One tile: image, or per-splat statistics.
#include "constants.h"
#include "frame.h"
#include "march_simd.h"
#include "simd.h"

namespace fieldpress::render::FIELDPRESS_ISA {
namespace {

// One block's sums and transmittance to the image.
FP_INLINE void write_block(const Settings& set, const Target& target, const Block& block,
                           const float* sums, int channels, int x0, int y0) {
  alignas(64) float alpha[PIXELS];
  alignas(64) float values[WIDE * PIXELS];
  for (int p = 0; p < PARTS; ++p) {
    const int at = p * LANES;
    const Floats trans = load<Floats>(block.trans + at) + load<Floats>(block.left + at);
    store(alpha + at, 1.0f - trans);
    for (int k = 0; k < channels; ++k) {
      Floats value = load<Floats>(sums + k * PIXELS + at);
      if (set.expected && k == channels - 1)
        value /= most(1.0f - trans, all<Floats>(single(DEPTH_ALPHA_FLOOR)));
      if (target.background) value += trans * target.background[k];
      store(values + k * PIXELS + at, value);
    }
  }
  const int width = least(COLUMNS, set.width - x0), height = least(HEIGHT, set.height - y0);
  const int64_t corner = static_cast<int64_t>(y0) * set.width + x0;
  const auto copy = [&](int x, int y) {
    const int i = y / ROWS * LANES + x * ROWS + y % ROWS;
    const int64_t pixel = corner + static_cast<int64_t>(y) * set.width + x;
    for (int k = 0; k < channels; ++k) target.image[pixel * channels + k] = values[k * PIXELS + i];
    target.alpha[pixel] = alpha[i];
  };
  if (width == COLUMNS && height == HEIGHT) {
    for (int y = 0; y < HEIGHT; ++y)
      for (int x = 0; x < COLUMNS; ++x) copy(x, y);
    return;
  }
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) copy(x, y);
}

// Up to four channels, summed in registers.
template <int CHANNELS>
void blend_narrow(const Settings& set, const Splat* splats, const Tile& tile,
                  const Target& target) {
  Block blocks[BLOCKS];
  Batch batch;
  alignas(64) float sums[BLOCKS][CHANNELS * PIXELS] = {};
  run_batches<CHANNELS>(
      set, splats, tile, blocks, batch, [](int64_t, int) {},
      [&](int b, uint64_t word, Rays& rays) {
        Floats total[CHANNELS][PARTS];
        for (int k = 0; k < CHANNELS; ++k)
          for (int p = 0; p < PARTS; ++p)
            total[k][p] = load<Floats>(sums[b] + k * PIXELS + p * LANES);
        const bool finished = march<false>(batch, word, rays, [&](size_t i, const Hit& hit) {
          for (int k = 0; k < CHANNELS; ++k)
            for (int p = 0; p < PARTS; ++p)
              total[k][p] += batch.entries[i].color[k] * hit.weight[p];
        });
        for (int k = 0; k < CHANNELS; ++k)
          for (int p = 0; p < PARTS; ++p) store(sums[b] + k * PIXELS + p * LANES, total[k][p]);
        return finished;
      },
      [](int64_t, int) {});
  for (int b = 0; b < BLOCKS; ++b)
    write_block(set, target, blocks[b], sums[b], CHANNELS, tile.x + block_x(b),
                tile.y + block_y(b));
}

// Any number of channels, summed in memory.
void blend_wide(const Scene& scene, const Settings& set, const Splat* splats, const Tile& tile,
                const Target& target) {
  Block blocks[BLOCKS];
  Batch batch;
  const int channels = set.channels();
  alignas(64) float sums[BLOCKS][WIDE * PIXELS];
  __builtin_memset(sums, 0, sizeof sums);
  float colors[BATCH + 1][WIDE];
  __builtin_memset(colors[BATCH], 0, sizeof colors[BATCH]);
  run_batches<0>(
      set, splats, tile, blocks, batch,
      [&](int64_t start, int count) {
        for (int i = 0; i < count; ++i) {
          const Splat& s = splats[tile.list[start + i]];
          const float* source = scene.colors + s.id * scene.color_stride;
          for (int k = 0; k < set.color_channels; ++k) colors[i][k] = source[k];
          if (set.depth) colors[i][set.color_channels] = s.depth;
        }
      },
      [&](int b, uint64_t word, Rays& rays) {
        return march<false>(batch, word, rays, [&](size_t i, const Hit& hit) {
          for (int k = 0; k < channels; ++k)
            for (int p = 0; p < PARTS; ++p) {
              float* slot = sums[b] + k * PIXELS + p * LANES;
              store(slot, load<Floats>(slot) + colors[i][k] * hit.weight[p]);
            }
        });
      },
      [](int64_t, int) {});
  for (int b = 0; b < BLOCKS; ++b)
    write_block(set, target, blocks[b], sums[b], channels, tile.x + block_x(b),
                tile.y + block_y(b));
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

FP_INLINE void count(Tally& tally, const Floats* weight) {
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
  Tally tallies[BATCH + 1];
  __builtin_memset(&tallies[BATCH], 0, sizeof(Tally));
  __builtin_memset(shares, 0, sizeof(TileShare) * static_cast<size_t>(tile.count));
  run_batches<0>(
      set, splats, tile, blocks, batch,
      [&](int64_t, int n) { __builtin_memset(tallies, 0, sizeof(Tally) * static_cast<size_t>(n)); },
      [&](int, uint64_t word, Rays& rays) {
        return march<false>(batch, word, rays,
                     [&](size_t i, const Hit& hit) { count(tallies[i], hit.weight); });
      },
      [&](int64_t start, int n) {
        for (int i = 0; i < n; ++i) shares[start + i] = folded(tallies[i]);
      });
}

}  // namespace fieldpress::render::FIELDPRESS_ISA

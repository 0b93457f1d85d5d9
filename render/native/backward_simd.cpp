// Gradients of one tile's pixels with respect to its splats, front to back.
//
// With g the gradient of a pixel's channels, s = color . g of a splat, and R = the part of
// image . g that lies behind the splat (from the image itself: no second pass), a channel-free
// scalar recurrence gives dL/dalpha = T s - R / (1 - alpha). The exponent e of
// alpha = 2^e / 255 then gets q = w (s - R / T_after) times ln 2, w = alpha T; the splat's fields
// follow from the moments of q over the pixels.
#include "constants.h"
#include "frame.h"
#include "march_simd.h"
#include "simd.h"

namespace fieldpress::render::FIELDPRESS_ISA {
namespace {

// Sums over pixels: q, q y, q y^2, q u, q u x, q u y with u = ax * dx + axy * dy, x from the tile's
// left edge, y from its middle; then weight * g a channel.
enum Moment { Q, QY, QYY, QU, QUX, QUY, WEIGHTED };
constexpr float MIDDLE = 0.5f * TILE;
constexpr float LN2 = 0.6931471805599453f;
// A ray's T stays above TRANSMITTANCE_STOP while it lives; 0 afterwards must not be divided by.
constexpr float LEAST_AFTER = single(0.1 * TRANSMITTANCE_STOP);

// Room for a number of channels known when compiled, or for all.
template <int CHANNELS>
constexpr int ROOM = CHANNELS ? CHANNELS : WIDE;

template <int CHANNELS>
struct Pixels {
  alignas(64) float grad[BLOCKS][ROOM<CHANNELS> * PIXELS];  // of each channel
  alignas(64) float behind[BLOCKS][PIXELS];  // R
};

template <int CHANNELS>
struct Sums {
  Floats at[WEIGHTED + ROOM<CHANNELS>];
};

FP_INLINE float total(Floats v) {
  float sum = 0.0f;
  for (int lane = 0; lane < LANES; ++lane) sum += v[lane];
  return sum;
}

// Copies a block's rows: pixels of `channels` floats to one run of PIXELS per channel.
FP_INLINE void stage(const float* from, int channels, int64_t corner, int64_t row, int width,
                     int height, float* to) {
  for (int i = 0; i < PIXELS; ++i) {
    const bool inside = pixel_x(i) < width && pixel_y(i) < height;
    const float* pixel = from + (corner + pixel_y(i) * row + pixel_x(i)) * channels;
    for (int k = 0; k < channels; ++k) to[k * PIXELS + i] = inside ? pixel[k] : 0.0f;
  }
}

// The gradients of a block's channels, with the division of expected depth undone, and R before
// the first splat. alpha = 1 - T; image holds the background, whose share of R stays to the end.
template <int CHANNELS>
FP_INLINE void load_block(const Settings& set, const Tile& tile, const Upstream& up, int b,
                          Pixels<CHANNELS>& pixels, float* background_grad) {
  const int channels = CHANNELS ? CHANNELS : set.channels();
  const int x = tile.x + block_x(b), y = tile.y + block_y(b);
  const int width = is_whole(set, tile) ? COLUMNS : set.width - x;
  const int height = is_whole(set, tile) ? HEIGHT : set.height - y;
  const int64_t corner = static_cast<int64_t>(y) * set.width + x;
  alignas(64) float image[ROOM<CHANNELS> * PIXELS], alphas[PIXELS], alpha_grads[PIXELS] = {};
  float* grads = pixels.grad[b];
  stage(up.image, channels, corner, set.width, width, height, image);
  stage(up.alpha, 1, corner, set.width, width, height, alphas);
  if (up.alpha_grad) stage(up.alpha_grad, 1, corner, set.width, width, height, alpha_grads);
  if (up.image_grad)
    stage(up.image_grad, channels, corner, set.width, width, height, grads);
  else
    __builtin_memset(grads, 0, sizeof(float) * static_cast<size_t>(channels) * PIXELS);
  for (int p = 0; p < PARTS; ++p) {
    const int at = p * LANES;
    const Floats alpha = load<Floats>(alphas + at);
    Floats alpha_grad = load<Floats>(alpha_grads + at), behind{};
    for (int k = 0; k < channels; ++k) {
      Floats g = load<Floats>(grads + k * PIXELS + at);
      const Floats along = g * load<Floats>(image + k * PIXELS + at);
      behind += along;
      if (set.expected && k == channels - 1) {
        const Floats floor = all<Floats>(single(DEPTH_ALPHA_FLOOR)), divisor = most(alpha, floor);
        store(grads + k * PIXELS + at, g / divisor);
        alpha_grad -= where(alpha >= floor, along / divisor);
      } else if (background_grad) {
        background_grad[k] += total((1.0f - alpha) * g);
      }
    }
    store(pixels.behind[b] + at, behind - (1.0f - alpha) * alpha_grad);
  }
}

// Lane i becomes the sum over the lanes of vector i, `step` bytes after the one before.
FP_INLINE Floats fold(const void* first, size_t step) {
  const char* from = static_cast<const char*>(first);
#if defined(__AVX2__)
  Eight sums[LANES / 8];
  for (int half = 0; half < LANES / 8; ++half, from += 8 * step) {
    Eight v[8];
    for (int i = 0; i < 8; ++i) {
      v[i] = load<Eight>(from + static_cast<size_t>(i) * step);
      if (LANES == 16) v[i] += load<Eight>(from + static_cast<size_t>(i) * step + sizeof(Eight));
    }
    Eight low = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    Eight high = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
    sums[half] = _mm256_permute2f128_ps(low, high, 0x20) + _mm256_permute2f128_ps(low, high, 0x31);
  }
  return load<Floats>(sums);
#else
  Floats sums;
  for (int i = 0; i < LANES; ++i)
    sums[i] = total(load<Floats>(from + static_cast<size_t>(i) * step));
  return sums;
#endif
}

// LANES splats of a batch side by side: the gradients of their fields, from the moments in one
// tile, to grads.
FP_INLINE void combine(const Splat* const* splats, const Tile& tile, const Floats* moment,
                       Floats* grads) {
  float fields[5][LANES];
  for (int lane = 0; lane < LANES; ++lane) {
    const Splat& s = *splats[lane];
    fields[0][lane] = s.x, fields[1][lane] = s.y, fields[2][lane] = s.ax;
    fields[3][lane] = s.axy, fields[4][lane] = s.ay;
  }
  const Floats x = load<Floats>(fields[0]) - static_cast<float>(tile.x);
  const Floats y = load<Floats>(fields[1]) - (static_cast<float>(tile.y) + MIDDLE);
  const Floats ax = load<Floats>(fields[2]), axy = load<Floats>(fields[3]);
  const Floats ay = load<Floats>(fields[4]);
  const Floats qdy = moment[QY] - y * moment[Q];
  const Floats qdyy = moment[QYY] - y * (2.0f * moment[QY] - y * moment[Q]);
  grads[GRAD_X] = 2.0f * LN2 * ax * moment[QU];
  grads[GRAD_Y] = 2.0f * LN2 * (axy * moment[QU] + ay * ay * qdy);
  grads[GRAD_AX] = -2.0f * LN2 * (moment[QUX] - x * moment[QU]);
  grads[GRAD_AXY] = -2.0f * LN2 * (moment[QUY] - y * moment[QU]);
  grads[GRAD_AY] = -2.0f * LN2 * ay * qdyy;
  grads[GRAD_REACH] = LN2 * moment[Q];
}

// The records of up to LANES splats of a batch.
template <int CHANNELS>
FP_INLINE void write_records(const Splat* const* splats, const Tile& tile,
                             const Sums<CHANNELS>* sums, int channels, int count, float* records) {
  Floats moment[WEIGHTED], grads[GRAD_COLOR];
  const int64_t stride = grad_stride(channels);
  float rows[GRAD_COLOR + ROOM<CHANNELS>][LANES];
  for (int k = 0; k < WEIGHTED; ++k) moment[k] = fold(&sums->at[k], sizeof *sums);
  combine(splats, tile, moment, grads);
  for (int k = 0; k < GRAD_COLOR; ++k) store(rows[k], grads[k]);
  for (int k = 0; k < channels; ++k)
    store(rows[GRAD_COLOR + k], fold(&sums->at[WEIGHTED + k], sizeof *sums));
  for (int lane = 0; lane < count; ++lane) {
    float* record = records + lane * stride;
    for (int k = 0; k < GRAD_COLOR + channels; ++k) record[k] = rows[k][lane];
    for (int64_t k = GRAD_COLOR + channels; k < stride; ++k) record[k] = 0.0f;
  }
}

FP_INLINE void read_colors(const Scene& scene, const Settings& set, const Splat& s, float* color) {
  const float* source = scene.colors + s.id * scene.color_stride;
  for (int k = 0; k < set.color_channels; ++k) color[k] = source[k];
  if (set.depth) color[set.color_channels] = s.depth;
}

// What one tile needs. CHANNELS 0: any number of them, whose colours are read from the scene.
template <int CHANNELS>
struct Desk {
  Block blocks[BLOCKS];
  Batch batch;
  Pixels<CHANNELS> pixels;
  alignas(64) Sums<CHANNELS> sums[BATCH + 1];
  float colors[CHANNELS ? 1 : BATCH + 1][WIDE];
};

// color . g of splat i at part p of block b; adds weight * g to its sums.
template <int CHANNELS>
FP_INLINE Floats shine(Desk<CHANNELS>& desk, int channels, size_t i, int b, int p, Floats weight,
                       const Floats (*grad)[PARTS]) {
  Floats s{};
  Floats* sum = desk.sums[i].at + WEIGHTED;
  for (int k = 0; k < CHANNELS; ++k) {
    s += desk.batch.entries[i].color[k] * grad[k][p];
    sum[k] += weight * grad[k][p];
  }
  for (int k = 0; !CHANNELS && k < channels; ++k) {
    const Floats g = load<Floats>(desk.pixels.grad[b] + k * PIXELS + p * LANES);
    s += desk.colors[CHANNELS ? 0 : i][k] * g;
    sum[k] += weight * g;
  }
  return s;
}

// The rays of one block through the splats of its word; returns true once none is left.
template <int CHANNELS>
FP_INLINE bool unblend_block(const Settings& set, Desk<CHANNELS>& desk, int channels, int b,
                             uint64_t word, Rays& rays) {
  Floats behind[PARTS], rows[PARTS], grad[CHANNELS ? CHANNELS : 1][PARTS];
  for (int p = 0; p < PARTS; ++p) {
    behind[p] = load<Floats>(desk.pixels.behind[b] + p * LANES);
    for (int i = 0; i < LANES; ++i)
      rows[p][i] = static_cast<float>(rays.row + pixel_y(p * LANES + i)) + 0.5f - MIDDLE;
    for (int k = 0; k < CHANNELS; ++k)
      grad[k][p] = load<Floats>(desk.pixels.grad[b] + k * PIXELS + p * LANES);
  }
  const bool finished = march<true>(desk.batch, word, rays, [&](size_t i, const Hit& hit) {
    Floats* sum = desk.sums[i].at;
    for (int p = 0; p < PARTS; ++p) {
      const Floats w = hit.weight[p], s = shine(desk, channels, i, b, p, w, grad);
      behind[p] = minus_product(behind[p], w, s);
      const Floats inverse = reciprocal(most(hit.after[p], all<Floats>(LEAST_AFTER)));
      // Nothing passes the clamp of alpha.
      const Floats q = where(hit.alpha[p] < set.alpha_clamp,
                             w * minus_product(s, behind[p], inverse));
      const Floats qu = q * hit.along[p], qy = q * rows[p];
      sum[Q] += q;
      sum[QY] += qy;
      sum[QYY] += qy * rows[p];
      sum[QU] += qu;
      sum[QUX] += qu * rays.columns;
      sum[QUY] += qu * rows[p];
    }
  });
  for (int p = 0; p < PARTS; ++p) store(desk.pixels.behind[b] + p * LANES, behind[p]);
  return finished;
}

template <int CHANNELS>
int64_t unblend_tile(const Scene& scene, const Settings& set, const Splat* splats,
                     const Tile& tile, const Upstream& up, float* records,
                     float* background_grad) {
  const int channels = CHANNELS ? CHANNELS : set.channels();
  const int64_t stride = grad_stride(channels);
  Desk<CHANNELS> desk;
  for (int b = 0; b < BLOCKS; ++b) load_block(set, tile, up, b, desk.pixels, background_grad);
  if (!CHANNELS) __builtin_memset(desk.colors[CHANNELS ? 0 : BATCH], 0, sizeof desk.colors[0]);
  int64_t reached = 0;
  run_batches<CHANNELS>(
      set, splats, tile, desk.blocks, desk.batch,
      [&](int64_t start, int count) {
        __builtin_memset(desk.sums, 0, sizeof(desk.sums[0]) * static_cast<size_t>(count));
        for (int i = 0; !CHANNELS && i < count; ++i)
          read_colors(scene, set, splats[tile.list[start + i]], desk.colors[i]);
      },
      [&](int b, uint64_t word, Rays& rays) {
        return unblend_block(set, desk, channels, b, word, rays);
      },
      [&](int64_t start, int count) {
        for (int i = 0; i < count; i += LANES) {
          const int valid = least(count - i, LANES);
          const Splat* some[LANES];
          for (int lane = 0; lane < LANES; ++lane)
            some[lane] = &splats[tile.list[start + i + (lane < valid ? lane : 0)]];
          write_records(some, tile, desk.sums + i, channels, valid, records + (start + i) * stride);
        }
        reached = start + count;
      });
  return reached;
}

}  // namespace

int64_t unblend(const Scene& scene, const Settings& set, const Splat* splats, const Tile& tile,
                const Upstream& up, float* records, float* behind) {
  switch (set.channels()) {
    case 1: return unblend_tile<1>(scene, set, splats, tile, up, records, behind);
    case 2: return unblend_tile<2>(scene, set, splats, tile, up, records, behind);
    case 3: return unblend_tile<3>(scene, set, splats, tile, up, records, behind);
    case 4: return unblend_tile<4>(scene, set, splats, tile, up, records, behind);
    default: return unblend_tile<0>(scene, set, splats, tile, up, records, behind);
  }
}

}  // namespace fieldpress::render::FIELDPRESS_ISA

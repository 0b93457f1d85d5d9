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
struct alignas(64) Sums {
  Floats at[(WEIGHTED + ROOM<CHANNELS> + 3) / 4 * 4];
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

// Horizontal sums of a multiple of four vectors.
FP_INLINE void fold(const Floats* v, int count, float* sums) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  for (int i = 0; i < count; i += 4) {
    const Floats a = _mm256_hadd_ps(v[i], v[i + 1]), b = _mm256_hadd_ps(v[i + 2], v[i + 3]);
    const Floats c = _mm256_hadd_ps(a, b);
    store(sums + i, _mm256_castps256_ps128(c) + _mm256_extractf128_ps(c, 1));
  }
#else
  for (int i = 0; i < count; ++i) {
    float sum = 0.0f;
    for (int lane = 0; lane < LANES; ++lane) sum += v[i][lane];
    sums[i] = sum;
  }
#endif
}

// The gradients of a splat's fields from its moments in one tile.
FP_INLINE void write_record(const Splat& s, const Tile& tile, const float* m, int channels,
                            float* record) {
  const float x = s.x - static_cast<float>(tile.x);
  const float y = s.y - (static_cast<float>(tile.y) + MIDDLE);
  const float qdy = m[QY] - y * m[Q];
  const float qdyy = m[QYY] - y * (2.0f * m[QY] - y * m[Q]);
  record[GRAD_X] = 2.0f * LN2 * s.ax * m[QU];
  record[GRAD_Y] = 2.0f * LN2 * (s.axy * m[QU] + s.ay * s.ay * qdy);
  record[GRAD_AX] = -2.0f * LN2 * (m[QUX] - x * m[QU]);
  record[GRAD_AXY] = -2.0f * LN2 * (m[QUY] - y * m[QU]);
  record[GRAD_AY] = -2.0f * LN2 * s.ay * qdyy;
  record[GRAD_REACH] = LN2 * m[Q];
  for (int k = 0; k < channels; ++k) record[GRAD_COLOR + k] = m[WEIGHTED + k];
}

FP_INLINE void read_colors(const Scene& scene, const Settings& set, const Splat& s, float* color) {
  const float* source = scene.colors + s.id * scene.color_stride;
  for (int k = 0; k < set.color_channels; ++k) color[k] = source[k];
  if (set.depth) color[set.color_channels] = s.depth;
}

// CHANNELS 0: any number of them.
template <int CHANNELS>
int64_t unblend_tile(const Scene& scene, const Settings& set, const Splat* splats,
                     const Tile& tile, const Upstream& up, float* records,
                     float* background_grad) {
  constexpr int NARROW = CHANNELS ? CHANNELS : 1;
  const int channels = CHANNELS ? CHANNELS : set.channels();
  const int vectors = (WEIGHTED + channels + 3) / 4 * 4;
  const int64_t stride = grad_stride(channels);
  Block blocks[BLOCKS];
  Batch batch;
  Pixels<CHANNELS> pixels;
  for (int b = 0; b < BLOCKS; ++b) load_block(set, tile, up, b, pixels, background_grad);
  Sums<CHANNELS> sums[BATCH + 1];
  float colors[CHANNELS ? 1 : BATCH + 1][WIDE];
  if (!CHANNELS) __builtin_memset(colors[BATCH * !CHANNELS], 0, sizeof colors[0]);
  int64_t reached = 0;
  run_batches<CHANNELS>(
      set, splats, tile, blocks, batch,
      [&](int64_t start, int count) {
        __builtin_memset(sums, 0, sizeof(sums[0]) * static_cast<size_t>(count));
        for (int i = 0; !CHANNELS && i < count; ++i)
          read_colors(scene, set, splats[tile.list[start + i]], colors[i]);
      },
      [&](int b, uint64_t word, Rays& rays) {
        Floats behind[PARTS], rows[PARTS], grad[NARROW][PARTS];
        for (int p = 0; p < PARTS; ++p) {
          behind[p] = load<Floats>(pixels.behind[b] + p * LANES);
          for (int i = 0; i < LANES; ++i)
            rows[p][i] = static_cast<float>(rays.row + pixel_y(p * LANES + i)) + 0.5f - MIDDLE;
          for (int k = 0; k < CHANNELS; ++k)
            grad[k][p] = load<Floats>(pixels.grad[b] + k * PIXELS + p * LANES);
        }
        const bool finished = march(batch, word, rays, [&](size_t i, const Hit& hit) {
          Floats* sum = sums[i].at;
          for (int p = 0; p < PARTS; ++p) {
            const Floats w = hit.weight[p];
            Floats s{};
            if (CHANNELS) {
              for (int k = 0; k < CHANNELS; ++k) {
                s += batch.entries[i].color[k] * grad[k][p];
                sum[WEIGHTED + k] += w * grad[k][p];
              }
            } else {
              for (int k = 0; k < channels; ++k) {
                const Floats g = load<Floats>(pixels.grad[b] + k * PIXELS + p * LANES);
                s += colors[i][k] * g;
                sum[WEIGHTED + k] += w * g;
              }
            }
            behind[p] = minus_product(behind[p], w, s);
            Floats q = w * (s - behind[p] / most(hit.after[p], all<Floats>(LEAST_AFTER)));
            q = where(hit.alpha[p] < set.alpha_clamp, q);
            const Floats qu = q * hit.along[p], qy = q * rows[p];
            sum[Q] += q;
            sum[QY] += qy;
            sum[QYY] += qy * rows[p];
            sum[QU] += qu;
            sum[QUX] += qu * rays.columns;
            sum[QUY] += qu * rows[p];
          }
        });
        for (int p = 0; p < PARTS; ++p) store(pixels.behind[b] + p * LANES, behind[p]);
        return finished;
      },
      [&](int64_t start, int count) {
        for (int i = 0; i < count; ++i) {
          alignas(64) float moments[(WEIGHTED + ROOM<CHANNELS> + 3) / 4 * 4];
          fold(sums[i].at, vectors, moments);
          write_record(splats[tile.list[start + i]], tile, moments, channels,
                       records + (start + i) * stride);
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

// From Gaussians to screen-space splats: EWA projection (Zwicker et al. 2001, as in Kerbl et al.
// 2023), culling, colour from spherical harmonics, and the tiles that each splat touches.
#include "constants.h"
#include "frame.h"
#include "project_simd.h"
#include "sh_simd.h"
#include "simd.h"
#include "span_simd.h"

namespace fieldpress::render::FIELDPRESS_ISA {
namespace {

// LANES rows of 3 or 4 floats to one vector per column.
template <int WIDTH>
FP_INLINE void columns_of(const float* rows, Floats* columns) {
#if defined(__AVX512F__)
  const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (int k = 0; k < WIDTH; ++k)
    columns[k] = _mm512_i32gather_ps(reinterpret_cast<__m512i>(lane * WIDTH + k), rows, 4);
#elif defined(__AVX2__)
  if (WIDTH == 3) {
    const Floats a = load<Floats>(rows), b = load<Floats>(rows + 8), c = load<Floats>(rows + 16);
    // Each vector holds 8 of the 24 numbers: picked in place, merged, then put in order.
    const Floats x = _mm256_blend_ps(_mm256_blend_ps(a, b, 0x92), c, 0x24);
    const Floats y = _mm256_blend_ps(_mm256_blend_ps(a, b, 0x24), c, 0x49);
    const Floats z = _mm256_blend_ps(_mm256_blend_ps(a, b, 0x49), c, 0x92);
    columns[0] = __builtin_shuffle(x, Ints{0, 3, 6, 1, 4, 7, 2, 5});
    columns[1] = __builtin_shuffle(y, Ints{1, 4, 7, 2, 5, 0, 3, 6});
    columns[2] = __builtin_shuffle(z, Ints{2, 5, 0, 3, 6, 1, 4, 7});
  } else {
    Floats pair[4];  // Rows i and i + 4.
    for (int i = 0; i < 4; ++i)
      pair[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(rows + 4 * i)),
                                     _mm_loadu_ps(rows + 4 * i + 16), 1);
    const Floats low01 = _mm256_unpacklo_ps(pair[0], pair[1]);
    const Floats low23 = _mm256_unpacklo_ps(pair[2], pair[3]);
    const Floats high01 = _mm256_unpackhi_ps(pair[0], pair[1]);
    const Floats high23 = _mm256_unpackhi_ps(pair[2], pair[3]);
    columns[0] = _mm256_shuffle_ps(low01, low23, 0x44);
    columns[1] = _mm256_shuffle_ps(low01, low23, 0xee);
    columns[2] = _mm256_shuffle_ps(high01, high23, 0x44);
    columns[3] = _mm256_shuffle_ps(high01, high23, 0xee);
  }
#else
  for (int k = 0; k < WIDTH; ++k)
    for (int lane = 0; lane < LANES; ++lane) columns[k][lane] = rows[lane * WIDTH + k];
#endif
}

// Whole groups are read in place; the last one, if short, is copied and filled up with zeros.
FP_INLINE Group gather(const Scene& scene, int64_t begin, int valid) {
  Group g;
  const float* means = scene.means + 3 * begin;
  const float* quats = scene.quats + 4 * begin;
  const float* scales = scene.scales + 3 * begin;
  const float* opacities = scene.opacities + begin;
  float rest[4][4 * LANES] = {};
  if (valid < LANES) {
    const size_t row = static_cast<size_t>(valid) * sizeof(float);
    means = static_cast<float*>(__builtin_memcpy(rest[0], means, 3 * row));
    quats = static_cast<float*>(__builtin_memcpy(rest[1], quats, 4 * row));
    scales = static_cast<float*>(__builtin_memcpy(rest[2], scales, 3 * row));
    opacities = static_cast<float*>(__builtin_memcpy(rest[3], opacities, row));
  }
  columns_of<3>(means, g.mean);
  columns_of<4>(quats, g.quat);
  columns_of<3>(scales, g.scale);
  g.opacity = load<Floats>(opacities);
  return g;
}

FP_INLINE bool all_finite(const float* values, int count) {
  constexpr uint32_t EXPONENT = 0x7f800000u;
  bool good = true;
  for (int i = 0; i < count; ++i) {
    uint32_t raw;
    __builtin_memcpy(&raw, values + i, sizeof raw);
    good &= (raw & EXPONENT) != EXPONENT;
  }
  return good;
}

// Sum over bases of basis * coefficients, three channels at once; false where it is no number,
// which it is not once a coefficient is none. The last coefficient is read alone: a quad would
// reach past the end of the tensor.
FP_INLINE bool sh_color(const float* coefficients, const float* basis, int bases, float* color) {
  Quad even{}, odd{};
  int k = 0;
  for (; k + 2 < bases; k += 2) {
    even += basis[k * LANES] * load<Quad>(coefficients + 3 * k);
    odd += basis[(k + 1) * LANES] * load<Quad>(coefficients + 3 * k + 3);
  }
  float sum[4];
  store(sum, even + odd);
  for (; k < bases; ++k)
    for (int c = 0; c < 3; ++c) sum[c] += basis[k * LANES] * coefficients[3 * k + c];
  for (int c = 0; c < 3; ++c) color[c] = most(sum[c] + single(SH_OFFSET), 0.0f);
  return all_finite(sum, 3);
}

// Colour channels of one splat; false where they are no numbers.
FP_INLINE bool paint(const Scene& scene, const Settings& set, int64_t id, const float* basis,
                     float* color) {
  if (!scene.colors) return true;
  const float* source = scene.colors + id * scene.color_stride;
  if (scene.sh_degree >= 0)
    return sh_color(source, basis, (scene.sh_degree + 1) * (scene.sh_degree + 1), color);
  for (int k = 0; k < least(set.color_channels, 4); ++k) color[k] = source[k];
  return all_finite(source, set.color_channels);
}

int64_t write_splats(const Scene& scene, const Settings& set, const Projected& p,
                     const Floats* basis, int64_t begin, unsigned alive, Splat* out) {
  float fields[11][LANES];
  const Floats columns[11] = {p.x,        p.y,          p.ax,       p.axy,  p.ay,   p.reach,
                              p.ceiling,  p.widest_y,   p.inverse_ax, p.extent_y, p.depth};
  for (int k = 0; k < 11; ++k) store(fields[k], columns[k]);
  int64_t written = 0;
  for (; alive; alive &= alive - 1) {
    const int lane = __builtin_ctz(alive);
    Splat& s = out[written];
    float* head = &s.x;
    for (int k = 0; k < 10; ++k) head[k] = fields[k][lane];
    s.depth = fields[10][lane];
    s.id = static_cast<uint32_t>(begin + lane);
    if (!paint(scene, set, s.id, reinterpret_cast<const float*>(basis) + lane, s.color)) continue;
    if (set.depth && set.color_channels < 4) s.color[set.color_channels] = s.depth;
    ++written;
  }
  return written;
}

}  // namespace

int64_t project(const Scene& scene, const Camera& camera, const Settings& set, int64_t begin,
                int64_t end, Splat* out) {
  int64_t written = 0;
  Floats basis[MAX_BASES];
  for (int64_t i = begin; i < end; i += LANES) {
    const int valid = end - i < LANES ? static_cast<int>(end - i) : LANES;
    const Group group = gather(scene, i, valid);
    Floats offset[3];
    const Projected p = project_group(group, camera, set, offset);
    const unsigned alive = bits(p.alive) & ((1u << valid) - 1u);
    if (!alive) continue;
    if (scene.colors && scene.sh_degree >= 0) {
      const Floats inverse = inverse_length(offset);
      sh_bases(scene.sh_degree, offset[0] * inverse, offset[1] * inverse, offset[2] * inverse,
               basis);
    }
    written += write_splats(scene, set, p, basis, i, alive, out + written);
  }
  return written;
}

int cover(const Splat& s, int tiles_x, int tiles_y, uint32_t* runs) {
  constexpr float LAST = TILE - 0.5f;  // Centre of a tile's last pixel.
  constexpr float MANY = 1e6f;
  const float top = (s.y - s.extent_y - SLACK_PIXELS - LAST) * (1.0f / TILE);
  const float bottom = (s.y + s.extent_y + SLACK_PIXELS - 0.5f) * (1.0f / TILE);
  const int first = static_cast<int>(most(least(top + 1.0f, MANY), 0.0f));
  const int end_row = static_cast<int>(most(least(bottom, MANY), -1.0f) + 1.0f);
  const int last = least(end_row, tiles_y) - 1;
  int count = 0;
  for (int row = first; row <= last; row += 4) {
    const Quad low = Quad{0, TILE, 2 * TILE, 3 * TILE} +
                     (static_cast<float>(row) * TILE + (0.5f - s.y));
    const Quad high = low + static_cast<float>(TILE - 1);
    Quad left, right;
    span(s, s.x, low, high, left, right);
    // Rounded up and down by truncation. A row that the ellipse misses is NaN, which most() turns
    // into its second argument: an empty run.
    const Quad outside = all<Quad>(-1.0f), many = all<Quad>(MANY);
    const Quad begin = least(most((left - LAST) * (1.0f / TILE), outside), many);
    const Quad end = least(most((right - 0.5f) * (1.0f / TILE), outside), many);
    int32_t x0[4], x1[4];
    store(x0, __builtin_convertvector(begin + 1.0f, QuadInts));
    store(x1, __builtin_convertvector(end + 1.0f, QuadInts));
    for (int k = 0; k < least(4, last - row + 1); ++k) {
      const int stop = least(x1[k], tiles_x);
      if (x0[k] >= stop) continue;
      const uint32_t base = static_cast<uint32_t>((row + k) * tiles_x);
      runs[2 * count] = base + static_cast<uint32_t>(x0[k]);
      runs[2 * count + 1] = base + static_cast<uint32_t>(stop);
      ++count;
    }
  }
  return count;
}

}  // namespace fieldpress::render::FIELDPRESS_ISA

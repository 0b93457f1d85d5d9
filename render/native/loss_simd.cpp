// SSIM by separable blurs. Rows are 3 * width floats, so the neighbour of a value is 3 floats on
// and one loop serves all channels. Down first, four rows at a time from fourteen, then across;
// the maps that the gradient needs stay in a ring of rows and are blurred the same way.
#include "loss.h"
#include "simd.h"

namespace fieldpress::render::FIELDPRESS_ISA {
namespace {

constexpr int ROWS = 4;  // Blurred down together.
constexpr int SOURCES = ROWS + SSIM_WINDOW - 1;
constexpr int MAPS = 3;
// Rows of maps kept: what one block of the gradient reads, and what was added before it could.
constexpr int RING = 20;
static_assert(RING >= SOURCES + ROWS - 1);
constexpr int MARGIN = 16;     // Floats beside a row: at least 3 * SSIM_HALF, and whole vectors.
constexpr int CHUNK = 32 * LANES;  // Columns summed in single before they join the double.

struct Taps {
  float w[SSIM_WINDOW];

  Taps() {
    double values[SSIM_WINDOW], sum = 0;
    for (int i = 0; i < SSIM_WINDOW; ++i) {
      const double t = (i - SSIM_HALF) / SSIM_SIGMA;
      sum += values[i] = std::exp(-0.5 * t * t);
    }
    for (int i = 0; i < SSIM_WINDOW; ++i) w[i] = static_cast<float>(values[i] / sum);
  }
};

// Rows of floats with margins, in one allocation. Values that no one wrote are never used.
class Workspace {
 public:
  explicit Workspace(int length)
      : stride_(MARGIN + (length + 15) / 16 * 16 + MARGIN),
        memory_(new float[static_cast<size_t>(stride_) * COUNT + 16]),
        first_(align(memory_) + MARGIN) {
    zero = row(0), plain = row(1);
    fill(zero, 0, 0.0f);
    fill(plain, length, 0.0f);
    for (int i = 0; i < length; ++i) plain[i] = 1.0f;
    for (int i = 0; i < ROWS * MAPS; ++i) blurred[i / MAPS][i % MAPS] = row(2 + i);
    for (int i = 0; i < RING; ++i) {
      weights[i] = row(2 + ROWS * MAPS + i);
      for (int m = 0; m < MAPS; ++m) maps[i][m] = row(2 + ROWS * MAPS + RING * (m + 1) + i);
    }
  }

  ~Workspace() { delete[] memory_; }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // Sets what is left and right of the first `length` columns.
  void fill(float* row, int length, float value) const {
    for (int i = 0; i < MARGIN; ++i) row[i - MARGIN] = value;
    for (int i = length; i < stride_ - MARGIN; ++i) row[i] = value;
  }

  float* zero;
  float* plain;                 // Weights of 1, then 0.
  float* blurred[ROWS][MAPS];
  float* weights[RING];
  float* maps[RING][MAPS];

 private:
  static constexpr int COUNT = 2 + ROWS * MAPS + RING * (MAPS + 1);

  static float* align(float* p) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(p);
    return p + ((at + 63) / 64 * 64 - at) / sizeof(float);
  }
  float* row(int i) const { return first_ + static_cast<ptrdiff_t>(stride_) * i; }

  int stride_;
  float* memory_;
  float* first_;
};

FP_INLINE Floats load_some(const float* from, int count) {
  Floats v{};
  if (count >= LANES) return load<Floats>(from);
  for (int i = 0; i < count; ++i) v[i] = from[i];
  return v;
}

FP_INLINE void store_some(float* to, Floats v, int count) {
  if (count >= LANES) return store(to, v);
  for (int i = 0; i < count; ++i) to[i] = v[i];
}

// The Gaussian sums of ROWS vectors of `COUNT` maps; read(k, v) gives the maps of source row k.
// Every output adds its taps in the same order, whatever its place among the four.
template <int COUNT, typename Read>
FP_INLINE void blur_down(const Taps& taps, Read read, Floats (&sums)[ROWS][COUNT]) {
  for (int j = 0; j < ROWS; ++j)
    for (int m = 0; m < COUNT; ++m) sums[j][m] = Floats{};
#pragma GCC unroll 14
  for (int k = 0; k < SOURCES; ++k) {
    Floats v[COUNT];
    read(k, v);
#pragma GCC unroll 4
    for (int j = 0; j < ROWS; ++j) {
      if (k < j || k - j >= SSIM_WINDOW) continue;
      const Floats w = all<Floats>(taps.w[k - j]);
      for (int m = 0; m < COUNT; ++m) sums[j][m] += w * v[m];
    }
  }
}

FP_INLINE Floats blur_across(const Taps& taps, const float* at) {
  Floats sum = all<Floats>(taps.w[SSIM_HALF]) * load<Floats>(at);
#pragma GCC unroll 5
  for (int k = 1; k <= SSIM_HALF; ++k)
    sum += all<Floats>(taps.w[SSIM_HALF + k]) *
           (load<Floats>(at - 3 * k) + load<Floats>(at + 3 * k));
  return sum;
}

// The blurred rows of one block, ready to be blurred across.
template <int COUNT, typename Read>
void blur_block(const Taps& taps, const Workspace& work, int length, const float (&beyond)[COUNT],
                Read read) {
  const auto run = [&](int i, int count) {
    Floats sums[ROWS][COUNT];
    blur_down<COUNT>(taps, [&](int k, Floats* v) { read(k, i, count, v); }, sums);
    for (int j = 0; j < ROWS; ++j)
      for (int m = 0; m < COUNT; ++m) store(work.blurred[j][m] + i, sums[j][m]);
  };
  int i = 0;
  for (; i + LANES <= length; i += LANES) run(i, LANES);
  if (i < length) run(i, length - i);
  for (int j = 0; j < ROWS; ++j)
    for (int m = 0; m < COUNT; ++m) work.fill(work.blurred[j][m], length, beyond[m]);
}

struct Sources {
  const float* at[SOURCES];
};

// Rows first - SSIM_HALF on of one view; black ones beyond it.
Sources image_rows(const float* view, int first, int height, int length, const float* zero) {
  Sources rows;
  for (int k = 0; k < SOURCES; ++k) {
    const int row = first - SSIM_HALF + k;
    rows.at[k] = row < 0 || row >= height ? zero : view + static_cast<ptrdiff_t>(length) * row;
  }
  return rows;
}

FP_INLINE double sum_of(Floats v) {
  double sum = 0;
  for (int i = 0; i < LANES; ++i) sum += static_cast<double>(v[i]);
  return sum;
}

// One view, as a band sees it.
class Band {
 public:
  Band(const LossViews& views, const LossBand& band)
      : length_(3 * views.width),
        height_(views.height),
        first_(band.first),
        last_(band.last),
        row0_(band.view * views.height),
        views_(views),
        work_(length_) {}

  void moments(float* mean, float* variance);
  void photometric(const LossSlopes& slopes, LossSums* sums, float* gradient);

 private:
  void blur_pair(int row);
  void weigh(int row);
  LossSums compare(int row, int j, bool maps);
  void combine(int row, int begin, int end, const LossSlopes& slopes, float* gradient);
  void combine_row(int row, int j, const LossSlopes& slopes, float* out);
  const float* row_of(const float* images, int row) const {
    return images + length_ * (row0_ + row);
  }

  int length_, height_, first_, last_;
  int64_t row0_;
  const LossViews& views_;
  Workspace work_;
  Taps taps_;
};

void Band::moments(float* mean, float* variance) {
  constexpr float beyond[2] = {-SSIM_SHIFT, SSIM_SHIFT * SSIM_SHIFT};
  for (int row = first_; row < last_; row += ROWS) {
    const Sources from =
        image_rows(row_of(views_.target, 0), row, height_, length_, work_.zero);
    blur_block(taps_, work_, length_, beyond, [&](int k, int i, int count, Floats* v) {
      v[0] = load_some(from.at[k] + i, count) - SSIM_SHIFT;
      v[1] = v[0] * v[0];
    });
    for (int j = 0; j < ROWS && row + j < last_; ++j)
      for (int i = 0; i < length_; i += LANES) {
        const ptrdiff_t at = length_ * (row0_ + row + j) + i;
        const Floats m = blur_across(taps_, work_.blurred[j][0] + i);
        const Floats square = blur_across(taps_, work_.blurred[j][1] + i);
        store_some(mean + at, m, length_ - i);
        store_some(variance + at, square - m * m, length_ - i);
      }
  }
}

// Down over the three moments that the image has a part in.
void Band::blur_pair(int row) {
  constexpr float square = SSIM_SHIFT * SSIM_SHIFT;
  constexpr float beyond[MAPS] = {-SSIM_SHIFT, square, square};
  const Sources x = image_rows(row_of(views_.image, 0), row, height_, length_, work_.zero);
  const Sources y = image_rows(row_of(views_.target, 0), row, height_, length_, work_.zero);
  blur_block(taps_, work_, length_, beyond, [&](int k, int i, int count, Floats* v) {
    v[0] = load_some(x.at[k] + i, count) - SSIM_SHIFT;
    v[1] = v[0] * v[0];
    v[2] = v[0] * (load_some(y.at[k] + i, count) - SSIM_SHIFT);
  });
}

// The weights of one row, three of each, into its place in the ring.
void Band::weigh(int row) {
  float* weights = work_.weights[row % RING];
  const float* mask = views_.mask + static_cast<ptrdiff_t>(views_.width) * (row0_ + row);
  for (int i = 0; i < views_.width; ++i)
    weights[3 * i] = weights[3 * i + 1] = weights[3 * i + 2] = mask[i];
  work_.fill(weights, length_, 0.0f);
}

// Across, then SSIM of one row. With `maps`, what the gradient needs of it: the weighted slopes
// towards the mean of x (as a part of the moments too), of x^2 and of x * y.
LossSums Band::compare(int row, int j, bool maps) {
  const float *x = row_of(views_.image, row), *y = row_of(views_.target, row);
  const float *mean = row_of(views_.mean, row), *variance = row_of(views_.variance, row);
  const float* weights = views_.mask ? work_.weights[row % RING] : work_.plain;
  float* const* blurred = work_.blurred[j];
  float* const* out = work_.maps[row % RING];
  LossSums sums;
  for (int begin = 0; begin < length_; begin += CHUNK) {
    Floats l1{}, ssim{};
    for (int i = begin; i < least(begin + CHUNK, length_); i += LANES) {
      const int count = length_ - i;
      const Floats mx = blur_across(taps_, blurred[0] + i), my = load_some(mean + i, count);
      const Floats vx = blur_across(taps_, blurred[1] + i) - mx * mx;
      const Floats cov = blur_across(taps_, blurred[2] + i) - mx * my;
      const Floats light_x = mx + SSIM_SHIFT, light_y = my + SSIM_SHIFT;
      const Floats a1 = 2.0f * light_x * light_y + SSIM_C1, a2 = 2.0f * cov + SSIM_C2;
      const Floats b1 = light_x * light_x + light_y * light_y + SSIM_C1;
      const Floats b2 = vx + load_some(variance + i, count) + SSIM_C2;
      const Floats inverse = 1.0f / (b1 * b2), value = a1 * a2 * inverse;
      const Floats weight = load<Floats>(weights + i);
      const Floats d = load_some(x + i, count) - load_some(y + i, count);
      l1 += weight * where<Floats>(Ints{} + 0x7fffffff, d);
      ssim += weight * value;
      if (!maps) continue;
      const Floats share = weight * inverse, by_square = -share * value * b1;
      const Floats by_product = 2.0f * share * a1;
      const Floats by_mean = 2.0f * share * (light_y * a2 - light_x * value * b2);
      store(out[0] + i, by_mean - 2.0f * mx * by_square - my * by_product);
      store(out[1] + i, by_square);
      store(out[2] + i, by_product);
    }
    sums.l1 += sum_of(l1);
    sums.ssim += sum_of(ssim);
  }
  return sums;
}

void Band::combine_row(int row, int j, const LossSlopes& slopes, float* out) {
  const float *x = row_of(views_.image, row), *y = row_of(views_.target, row);
  const float* weights = views_.mask ? work_.weights[row % RING] : work_.plain;
  float* const* blurred = work_.blurred[j];
  for (int i = 0; i < length_; i += LANES) {
    const int count = length_ - i;
    const Floats u = load_some(x + i, count), v = load_some(y + i, count), d = u - v;
    const Floats along_x = 2.0f * (u - SSIM_SHIFT) * blur_across(taps_, blurred[1] + i);
    const Floats along_y = (v - SSIM_SHIFT) * blur_across(taps_, blurred[2] + i);
    const Floats slope = slopes.l1 * load<Floats>(weights + i);
    const Floats sign = where<Floats>(d > 0.0f, slope) - where<Floats>(d < 0.0f, slope);
    const Floats ssim = blur_across(taps_, blurred[0] + i) + along_x + along_y;
    store_some(out + i, slopes.ssim * ssim + sign, count);
  }
}

// The gradient of up to ROWS rows, from the maps of rows [begin, end).
void Band::combine(int row, int begin, int end, const LossSlopes& slopes, float* gradient) {
  constexpr float beyond[MAPS] = {};
  float* const* from[SOURCES];
  float* const none[MAPS] = {work_.zero, work_.zero, work_.zero};
  for (int k = 0; k < SOURCES; ++k) {
    const int source = row - SSIM_HALF + k;
    from[k] = source < begin || source >= end ? none : work_.maps[source % RING];
  }
  blur_block(taps_, work_, length_, beyond, [&](int k, int i, int, Floats* v) {
    for (int m = 0; m < MAPS; ++m) v[m] = load<Floats>(from[k][m] + i);
  });
  for (int j = 0; j < ROWS && row + j < last_; ++j)
    combine_row(row + j, j, slopes, gradient + length_ * (row0_ + row + j));
}

void Band::photometric(const LossSlopes& slopes, LossSums* sums, float* gradient) {
  const int begin = gradient ? most(0, first_ - SSIM_HALF) : first_;
  const int end = gradient ? least(height_, last_ + SSIM_HALF) : last_;
  int next = first_;
  for (int row = begin; row < end; row += ROWS) {
    const int done = least(row + ROWS, end);
    blur_pair(row);
    for (int r = row; r < done; ++r) {
      if (views_.mask) weigh(r);
      const LossSums found = compare(r, r - row, gradient != nullptr);
      if (r >= first_ && r < last_) sums[row0_ + r] = found;
    }
    if (!gradient) continue;
    for (; next < last_ && (done == end || next + ROWS + SSIM_HALF <= done); next += ROWS)
      combine(next, begin, end, slopes, gradient);
  }
}

}  // namespace

void photometric(const LossViews& views, const LossBand& band, const LossSlopes& slopes,
                 LossSums* sums, float* gradient) {
  Band(views, band).photometric(slopes, sums, gradient);
}

void moments(const LossViews& views, const LossBand& band, float* mean, float* variance) {
  Band(views, band).moments(mean, variance);
}

}  // namespace fieldpress::render::FIELDPRESS_ISA

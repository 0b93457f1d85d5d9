// Dense layers over rows of places, and the lines that taps read. Included only by *_simd.cpp.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <type_traits>

#include "latent.h"

#if defined(__GNUC__)
#define FP_TIGHT inline __attribute__((always_inline))
#else
#define FP_TIGHT __forceinline
#endif

namespace fieldpress::fields::FIELDPRESS_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
constexpr int PAIR = 2 * LANES;
constexpr int LINE_SIZE = PATCH + 2 * MAX_REACH + 32;

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t IVec __attribute__((vector_size(4 * LANES)));
typedef float Loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

FP_TIGHT Vec load(const float* from) { return *reinterpret_cast<const Loose*>(from); }
FP_TIGHT void store(float* to, Vec x) { *reinterpret_cast<Loose*>(to) = x; }
FP_TIGHT Vec rectified(Vec x) { return x > 0.0f ? x : Vec{}; }

// Zeros. Not a std::vector: its functions would be shared with copies for other machines.
template <typename T>
class Zeros {
 public:
  explicit Zeros(size_t size) : data_(new T[size]()) {}
  T& operator[](size_t i) const { return data_[i]; }
  T* begin() const { return data_.get(); }

 private:
  std::unique_ptr<T[]> data_;
};

// y[o] (+)= w[o] x + bias[o] for OUT rows of y, in a fixed order of sums.
template <int OUT>
FP_TIGHT void dense_tile(const float* w, int inputs, const float* bias, const float* const* x,
                         float (*y)[PATCH], bool add, int count) {
  for (int n = 0; n < count; n += PAIR) {
    Vec sum[OUT][2];
    for (int o = 0; o < OUT; ++o) {
      const Vec start = Vec{} + (bias ? bias[o] : 0.0f);
      sum[o][0] = add ? load(y[o] + n) + start : start;
      sum[o][1] = add ? load(y[o] + n + LANES) + start : start;
    }
    for (int i = 0; i < inputs; ++i) {
      const Vec low = load(x[i] + n), high = load(x[i] + n + LANES);
      for (int o = 0; o < OUT; ++o) {
        sum[o][0] += w[o * inputs + i] * low;
        sum[o][1] += w[o * inputs + i] * high;
      }
    }
    for (int o = 0; o < OUT; ++o) {
      store(y[o] + n, sum[o][0]);
      store(y[o] + n + LANES, sum[o][1]);
    }
  }
}

inline void dense(const float* w, int inputs, const float* bias, const float* const* x,
                  float (*y)[PATCH], int outputs, bool add, int count) {
  constexpr int WIDE = LANES == 16 ? 8 : 4;
  const auto step = [&](auto rows) {  // Not a pointer to a tile: that is inlined at -O2 only.
    constexpr int SIZE = decltype(rows)::value;
    dense_tile<SIZE>(w, inputs, bias, x, y, add, count);
    w += SIZE * inputs, y += SIZE, outputs -= SIZE;
    if (bias) bias += SIZE;
  };
  while (outputs >= WIDE) step(std::integral_constant<int, WIDE>{});
  while (outputs >= 4) step(std::integral_constant<int, 4>{});
  while (outputs >= 2) step(std::integral_constant<int, 2>{});
  if (outputs) step(std::integral_constant<int, 1>{});
}

inline void rectify(float (*y)[PATCH], int rows, int count) {
  for (int o = 0; o < rows; ++o)
    for (int n = 0; n < count; n += LANES) store(y[o] + n, rectified(load(y[o] + n)));
}

inline void add_rows(float (*y)[PATCH], const float (*x)[PATCH], int rows, int count) {
  for (int o = 0; o < rows; ++o)
    for (int n = 0; n < count; n += LANES) store(y[o] + n, load(y[o] + n) + load(x[o] + n));
}

// Where the parameters of a network lie in its flat array.
struct Layout {
  int64_t a = 0, a0 = 0, b = 0, b0 = 0, c = 0, d = 0, c0 = 0;
  explicit Layout(const SlidingNet& net) {
    const int64_t t = net.inputs(), h = net.layers > 0 ? net.hidden : 0, o = net.outputs;
    a0 = a + h * t;
    b = a0 + h;
    b0 = net.layers > 1 ? b + h * h : b;
    c = net.layers > 1 ? b0 + h : b;
    d = c + o * h;
    c0 = d + o * t;
  }
};

// The rows that taps read, as far as a patch needs them, each once.
class Lines {
 public:
  explicit Lines(const SlidingNet& net)
      : net_(net), data_(MAX_TAPS * LINE_SIZE + 64), sums_(MAX_TAPS * LINE_SIZE + 64) {
    for (int i = 0; i < net.inputs(); ++i) {
      const Tap& tap = net.taps[static_cast<size_t>(i)];
      int at = 0;
      while (at < lines_ && (line_[at].plane != tap.plane || line_[at].dy != tap.dy)) ++at;
      if (at == lines_) line_[lines_++] = {tap.plane, tap.dy};
      const int shift = net.planes[static_cast<size_t>(tap.plane)].shift;
      start_[i] = at * LINE_SIZE + MAX_REACH + tap.dx * (1 << shift);
      taps_[i] = data_.begin() + start_[i];
    }
  }

  // Rows of the taps for places x0.. of row y.
  const float* const* read(const float* buffer, int y, int x0, int count) {
    for (int k = 0; k < lines_; ++k) {
      const LatentPlane& plane = net_.planes[static_cast<size_t>(line_[k].plane)];
      float* const line = data_.begin() + k * LINE_SIZE;
      int row = (y >> plane.shift) + line_[k].dy;
      const bool outside = row < 0 || row >= plane.height;
      if (outside && !net_.replicate) {
        std::fill(line, line + LINE_SIZE, 0.0f);
        continue;
      }
      row = std::min(plane.height - 1, std::max(0, row));
      fill(line, buffer + plane.first + int64_t{row} * plane.width, plane, x0, count);
    }
    return taps_;
  }

  // Adds gradients of taps to those of the buffer.
  void spread(const float (*upstream)[PATCH], float* grad, int y, int x0, int count) {
    std::fill(sums_.begin(), sums_.begin() + lines_ * LINE_SIZE, 0.0f);
    for (int i = 0; i < net_.inputs(); ++i) {
      float* const to = sums_.begin() + start_[i];
      for (int n = 0; n < count; n += LANES) store(to + n, load(to + n) + load(upstream[i] + n));
    }
    for (int k = 0; k < lines_; ++k) {
      const LatentPlane& plane = net_.planes[static_cast<size_t>(line_[k].plane)];
      int row = (y >> plane.shift) + line_[k].dy;
      if ((row < 0 || row >= plane.height) && !net_.replicate) continue;
      row = std::min(plane.height - 1, std::max(0, row));
      drain(sums_.begin() + k * LINE_SIZE, grad + plane.first + int64_t{row} * plane.width, plane,
            x0, count);
    }
  }

 private:
  struct Line {
    int plane, dy;
  };
  void fill(float* line, const float* row, const LatentPlane& plane, int x0, int count) const {
    const int first = x0 - MAX_REACH, end = x0 + count + MAX_REACH;
    const int last = plane.width << plane.shift;
    const float before = net_.replicate ? row[0] : 0.0f;
    const float behind = net_.replicate ? row[plane.width - 1] : 0.0f;
    const int a = std::min(end, std::max(0, first)), b = std::max(a, std::min(last, end));
    std::fill(line, line + (a - first), before);
    if (plane.shift == 0) {
      std::memcpy(line + (a - first), row + a, static_cast<size_t>(b - a) * sizeof(float));
    } else {
      for (int x = a; x < b; ++x) line[x - first] = row[x >> plane.shift];
    }
    std::fill(line + (b - first), line + LINE_SIZE, behind);
  }

  void drain(const float* line, float* row, const LatentPlane& plane, int x0, int count) const {
    const int first = x0 - MAX_REACH, end = x0 + count + MAX_REACH;
    const int last = plane.width << plane.shift;
    const int a = std::min(end, std::max(0, first)), b = std::max(a, std::min(last, end));
    if (plane.shift == 0) {
      for (int x = a; x < b; ++x) row[x] += line[x - first];
    } else {
      for (int x = a; x < b; ++x) row[x >> plane.shift] += line[x - first];
    }
    if (!net_.replicate) return;
    for (int x = first; x < a; ++x) row[0] += line[x - first];
    for (int x = b; x < end; ++x) row[plane.width - 1] += line[x - first];
  }

  const SlidingNet& net_;
  Line line_[MAX_TAPS];
  int lines_ = 0, start_[MAX_TAPS];
  Zeros<float> data_, sums_;
  const float* taps_[MAX_TAPS];
};

// Activations of one patch.
struct Patch {
  alignas(64) float h1[MAX_HIDDEN][PATCH], h2[MAX_HIDDEN][PATCH], out[MAX_OUTPUTS][PATCH];
  const float *h1_rows[MAX_HIDDEN], *h2_rows[MAX_HIDDEN], *out_rows[MAX_OUTPUTS];
  Patch() {
    std::memset(h1, 0, sizeof h1);
    std::memset(h2, 0, sizeof h2);
    std::memset(out, 0, sizeof out);
    for (int i = 0; i < MAX_HIDDEN; ++i) h1_rows[i] = h1[i], h2_rows[i] = h2[i];
    for (int i = 0; i < MAX_OUTPUTS; ++i) out_rows[i] = out[i];
  }
};

inline void run_forward(const SlidingNet& net, const Layout& at, const float* p,
                        const float* const* taps, int count, Patch& patch) {
  const int t = net.inputs();
  dense(p + at.d, t, p + at.c0, taps, patch.out, net.outputs, false, count);
  if (net.layers == 0) return;
  dense(p + at.a, t, p + at.a0, taps, patch.h1, net.hidden, false, count);
  rectify(patch.h1, net.hidden, count);
  if (net.layers > 1) {
    dense(p + at.b, net.hidden, p + at.b0, patch.h1_rows, patch.h2, net.hidden, false, count);
    add_rows(patch.h2, patch.h1, net.hidden, count);
    rectify(patch.h2, net.hidden, count);
  }
  const float* const* last = net.layers > 1 ? patch.h2_rows : patch.h1_rows;
  dense(p + at.c, net.hidden, nullptr, last, patch.out, net.outputs, true, count);
}

}  // namespace
}  // namespace fieldpress::fields::FIELDPRESS_ISA

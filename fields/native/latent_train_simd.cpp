// Gradients of sliding networks, the rate that one predicts, and the gradient of upsampling.
#include "latent_simd.h"

namespace fieldpress::fields::FIELDPRESS_ISA {
namespace {

constexpr float LN2 = 0.69314718f;

FP_TIGHT Vec select(IVec mask, Vec yes, Vec no) { return mask ? yes : no; }
FP_TIGHT Vec clipped(Vec x, float low, float high) {
  x = select(x < low, Vec{} + low, x);
  return select(x > high, Vec{} + high, x);
}

// 2^x, relative error below 1e-6.
FP_TIGHT Vec exp2_of(Vec x) {
  x = clipped(x, -120.0f, 120.0f);
  const Vec whole = (x + 12582912.0f) - 12582912.0f, f = x - whole;
  Vec p = f * 1.5403530e-4f + 1.3333558e-3f;
  p = p * f + 9.6181291e-3f;
  p = p * f + 5.5504109e-2f;
  p = p * f + 2.4022651e-1f;
  p = p * f + 6.9314718e-1f;
  p = p * f + 1.0f;
  const IVec bits = (__builtin_convertvector(whole, IVec) + 127) << 23;
  return p * reinterpret_cast<const Vec&>(bits);
}

// log2 of normal positive numbers, absolute error below 1e-6.
FP_TIGHT Vec log2_of(Vec x) {
  const IVec bits = reinterpret_cast<const IVec&>(x) - 0x3f3504f3;  // From sqrt(1/2) on.
  const IVec mantissa = (bits & 0x7fffff) + 0x3f3504f3;
  const Vec m = reinterpret_cast<const Vec&>(mantissa), t = (m - 1.0f) / (m + 1.0f), s = t * t;
  const Vec series = t * (2.8853901f + s * (0.9617967f + s * (0.5770780f + s * 0.4121986f)));
  return __builtin_convertvector(bits >> 23, Vec) + series;
}

struct Head {
  Vec bits, mu, octave;  // The value and its gradients.
};

// Bits of the unit interval around y under a Laplace distribution whose tail halves every 2^octave.
FP_TIGHT Head laplace(Vec y, Vec mu, Vec octave) {
  const Vec u = clipped(octave, LEAST_OCTAVE, MOST_OCTAVE), r = exp2_of(-u);
  const Vec d = y - mu, size = select(d < 0.0f, -d, d);
  const Vec near = select(size < 0.5f, 0.5f - size, size - 0.5f), far = size + 0.5f;
  const IVec inside = size < 0.5f;
  const Vec e1 = exp2_of(-near * r), e2 = exp2_of(-far * r), fall = exp2_of(-r);
  const Vec p = clipped(1.0f - 0.5f * (e1 + e2), 1e-7f, 1.0f);
  const Vec mass = clipped(1.0f - fall, 1e-7f, 1.0f);
  const Vec log = log2_of(select(inside, p, 0.5f * mass));
  const Vec over = 0.5f / p;
  const Vec by_size = select(inside, over * r * (e1 - e2), r);
  const Vec by_r = select(inside, -over * (e1 * near + e2 * far), near - fall / mass);
  Vec by_u = by_r * r * -LN2;
  // Beyond the limits only what leads back passes.
  by_u = select((octave < LEAST_OCTAVE) & (by_u > 0.0f), Vec{}, by_u);
  by_u = select((octave > MOST_OCTAVE) & (by_u < 0.0f), Vec{}, by_u);
  return {select(inside, -log, near * r - log), select(d < 0.0f, by_size, -by_size), by_u};
}

FP_TIGHT Vec floor_of(Vec x) {
  const Vec whole = (x + 12582912.0f) - 12582912.0f;
  return whole - select(whole > x, Vec{} + 1.0f, Vec{});
}
FP_TIGHT Vec tanh_of(Vec x) { return 1.0f - 2.0f / (1.0f + exp2_of(x * 2.8853901f)); }

// Towards the nearest whole number (Agustsson and Theis 2020); multiplies `slope` by its own.
FP_TIGHT Vec soft_round(Vec x, float cold, float over, Vec& slope) {
  const Vec floor = floor_of(x), t = tanh_of((x - floor - 0.5f) * cold);
  slope *= (1.0f - t * t) * (over * cold);
  return floor + 0.5f + t * over;
}

// sums[o][i] += dy[o] x[i], lane by lane.
template <int OUT, int IN>
FP_TIGHT void outer_tile(const float (*dy)[PATCH], const float* const* x, int stride, Vec* sums,
                         int count) {
  Vec sum[OUT][IN];
  for (int o = 0; o < OUT; ++o)
    for (int i = 0; i < IN; ++i) sum[o][i] = sums[o * stride + i];
  for (int n = 0; n < count; n += LANES) {
    Vec in[IN];
    for (int i = 0; i < IN; ++i) in[i] = load(x[i] + n);
    for (int o = 0; o < OUT; ++o) {
      const Vec g = load(dy[o] + n);
      for (int i = 0; i < IN; ++i) sum[o][i] += g * in[i];
    }
  }
  for (int o = 0; o < OUT; ++o)
    for (int i = 0; i < IN; ++i) sums[o * stride + i] = sum[o][i];
}

template <int OUT>
FP_TIGHT void outer_rows(const float (*dy)[PATCH], const float* const* x, int inputs, Vec* sums,
                         int count) {
  int i = 0;
  for (; i + 4 <= inputs; i += 4) outer_tile<OUT, 4>(dy, x + i, inputs, sums + i, count);
  for (; i < inputs; ++i) outer_tile<OUT, 1>(dy, x + i, inputs, sums + i, count);
}

inline void outer(const float (*dy)[PATCH], int outputs, const float* const* x, int inputs,
                  Vec* sums, Vec* bias_sums, int count) {
  for (int o = 0; o < outputs && bias_sums; ++o)
    for (int n = 0; n < count; n += LANES) bias_sums[o] += load(dy[o] + n);
  int o = 0;
  for (; o + 4 <= outputs; o += 4) outer_rows<4>(dy + o, x, inputs, sums + o * inputs, count);
  for (; o < outputs; ++o) outer_rows<1>(dy + o, x, inputs, sums + o * inputs, count);
}

void transpose(const float* w, int rows, int columns, float* to) {
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) to[c * rows + r] = w[r * columns + c];
}

// The way back through a network, for one patch after another.
class Backward {
 public:
  Backward(const SlidingNet& net, const float* parameters)
      : net_(net), at_(net), turned_(static_cast<size_t>(net.parameters())),
        sums_(static_cast<size_t>(net.parameters())), work_(std::make_unique<Work>()) {
    const int t = net.inputs(), h = net.hidden, o = net.outputs;
    transpose(parameters + at_.d, o, t, turned_.begin() + at_.d);
    if (net.layers == 0) return;
    transpose(parameters + at_.a, h, t, turned_.begin() + at_.a);
    transpose(parameters + at_.c, o, h, turned_.begin() + at_.c);
    if (net.layers > 1) transpose(parameters + at_.b, h, h, turned_.begin() + at_.b);
  }

  // Gradients of the taps, from those of the outputs, which must be 0 from `count` on.
  const float (*run(const float* const* taps, Patch& patch, const float (*d_out)[PATCH],
                    int count))[PATCH] {
    Work& w = *work_;
    const int t = net_.inputs(), h = net_.hidden, o = net_.outputs;
    const float* out_rows[MAX_OUTPUTS];
    for (int i = 0; i < o; ++i) out_rows[i] = d_out[i];
    outer(d_out, o, taps, t, &sums_[at_.d], &sums_[at_.c0], count);
    dense(&turned_[at_.d], o, nullptr, out_rows, w.d_taps, t, false, count);
    if (net_.layers == 0) return w.d_taps;
    const bool two = net_.layers > 1;
    float(*const last)[PATCH] = two ? w.d_h2 : w.d_h1;
    outer(d_out, o, two ? patch.h2_rows : patch.h1_rows, h, &sums_[at_.c], nullptr, count);
    dense(&turned_[at_.c], o, nullptr, out_rows, last, h, false, count);
    if (two) {
      mask(w.d_h2, patch.h2, count);
      outer(w.d_h2, h, patch.h1_rows, h, &sums_[at_.b], &sums_[at_.b0], count);
      for (int i = 0; i < h; ++i) std::memcpy(w.d_h1[i], w.d_h2[i], sizeof w.d_h1[i]);
      dense(&turned_[at_.b], h, nullptr, w.h2_rows, w.d_h1, h, true, count);
    }
    mask(w.d_h1, patch.h1, count);
    outer(w.d_h1, h, taps, t, &sums_[at_.a], &sums_[at_.a0], count);
    dense(&turned_[at_.a], h, nullptr, w.h1_rows, w.d_taps, t, true, count);
    return w.d_taps;
  }

  void finish(float* grad) const {
    for (int64_t i = 0; i < net_.parameters(); ++i)
      for (int lane = 0; lane < LANES; ++lane) grad[i] += sums_[static_cast<size_t>(i)][lane];
  }

 private:
  struct Work {
    alignas(64) float d_h1[MAX_HIDDEN][PATCH], d_h2[MAX_HIDDEN][PATCH], d_taps[MAX_TAPS][PATCH];
    const float *h1_rows[MAX_HIDDEN], *h2_rows[MAX_HIDDEN];
    Work() {
      for (int i = 0; i < MAX_HIDDEN; ++i) h1_rows[i] = d_h1[i], h2_rows[i] = d_h2[i];
    }
  };
  void mask(float (*d)[PATCH], const float (*h)[PATCH], int count) const {
    for (int i = 0; i < net_.hidden; ++i)
      for (int n = 0; n < count; n += LANES)
        store(d[i] + n, select(load(h[i] + n) > 0.0f, load(d[i] + n), Vec{}));
  }

  const SlidingNet& net_;
  const Layout at_;
  const Zeros<float> turned_;
  const Zeros<Vec> sums_;
  const std::unique_ptr<Work> work_;
};

// Places from `count` to the next pair of vectors hold nothing.
FP_TIGHT void clear_tail(float (*rows)[PATCH], int outputs, int count) {
  for (int o = 0; o < outputs; ++o)
    for (int n = count; n < PATCH && n < count + PAIR; ++n) rows[o][n] = 0;
}

}  // namespace

void slide_back(const SlidingNet& net, const float* buffer, const float* parameters,
                const float* upstream, float* grad, float* parameter_grad) {
  const Layout at(net);
  Lines lines(net);
  Backward backward(net, parameters);
  const auto patch = std::make_unique<Patch>();
  alignas(64) float d_out[MAX_OUTPUTS][PATCH] = {};
  for (int y = 0; y < net.height; ++y) {
    for (int x = 0; x < net.width; x += PATCH) {
      const int count = std::min(PATCH, net.width - x);
      const float* const* taps = lines.read(buffer, y, x, count);
      run_forward(net, at, parameters, taps, count, *patch);
      for (int o = 0; o < net.outputs; ++o) {
        const float* from = upstream + (int64_t{o} * net.height + y) * net.width + x;
        std::memcpy(d_out[o], from, static_cast<size_t>(count) * sizeof(float));
      }
      clear_tail(d_out, net.outputs, count);
      const auto* d_taps = backward.run(taps, *patch, d_out, count);
      if (grad) lines.spread(d_taps, grad, y, x, count);
    }
  }
  backward.finish(parameter_grad);
}

// Softly rounded, disturbed, and softly rounded again (Kim et al. 2024, C3); cold: 1 / temperature,
// over: 0.5 / tanh(cold / 2).
void soften(const float* x, const float* noise, int64_t count, float cold, float over,
            float spread, float* out, float* slope) {
  for (int64_t n = 0; n < count; n += LANES) {
    const size_t some = static_cast<size_t>(std::min<int64_t>(LANES, count - n)) * sizeof(float);
    Vec value{}, disturbed{}, by = Vec{} + 1.0f;
    std::memcpy(&value, x + n, some);
    std::memcpy(&disturbed, noise + n, some);
    value = soft_round(value, cold, over, by) + disturbed * spread;
    value = soft_round(value, cold, over, by);
    std::memcpy(out + n, &value, some);
    std::memcpy(slope + n, &by, some);
  }
}

double rate(const SlidingNet& net, const float* buffer, const float* parameters, float* grad,
            float* parameter_grad, float* each) {
  const Layout at(net);
  Lines lines(net);
  Backward backward(net, parameters);
  const auto patch = std::make_unique<Patch>();
  alignas(64) float d_out[MAX_OUTPUTS][PATCH] = {};
  const LatentPlane& own = net.planes[0];
  double total = 0;
  for (int y = 0; y < net.height; ++y) {
    for (int x = 0; x < net.width; x += PATCH) {
      const int count = std::min(PATCH, net.width - x);
      const float* const* taps = lines.read(buffer, y, x, count);
      run_forward(net, at, parameters, taps, count, *patch);
      const int64_t first = own.first + int64_t{y} * own.width + x;
      alignas(64) float values[PATCH] = {}, bits[PATCH];
      std::memcpy(values, buffer + first, static_cast<size_t>(count) * sizeof(float));
      for (int n = 0; n < count; n += LANES) {
        const Head head =
            laplace(load(values + n), load(patch->out[0] + n), load(patch->out[1] + n));
        store(bits + n, head.bits);
        store(d_out[0] + n, head.mu);
        store(d_out[1] + n, head.octave);
      }
      float sum = 0;
      for (int n = 0; n < count; ++n) sum += bits[n];
      total += sum;
      if (each) std::memcpy(each + first, bits, static_cast<size_t>(count) * sizeof(float));
      if (!grad) continue;
      clear_tail(d_out, 2, count);
      for (int n = 0; n < count; ++n) grad[first + n] -= d_out[0][n];
      lines.spread(backward.run(taps, *patch, d_out, count), grad, y, x, count);
    }
  }
  if (grad) backward.finish(parameter_grad);
  return total;
}

void upsample_back(const float* x, int height, int width, const float* kernel,
                   const float* upstream, int out_height, int out_width, float* grad,
                   float* kernel_grad) {
  const float a = kernel[0], b = kernel[1], c = kernel[2], d = kernel[3];
  const size_t row_size = static_cast<size_t>(width) + 8 + LANES;
  const Zeros<float> work(5 * row_size);
  float *const even = work.begin() + 4, *const odd = even + row_size, *const m = odd + row_size,
              *const dm = m + row_size;
  double sums[4] = {};
  for (int y = 0; y < out_height; ++y) {
    const float* row[4];
    float* grad_row[4];
    for (int k = 0; k < 4; ++k) {
      const int at = (y >> 1) + (y & 1 ? 2 - k : k - 2);
      const int64_t start = int64_t{std::min(height - 1, std::max(0, at))} * width;
      row[k] = x + start, grad_row[k] = grad + start;
    }
    for (int i = 0; i < width; ++i)
      m[i] = a * row[0][i] + b * row[1][i] + c * row[2][i] + d * row[3][i];
    m[-2] = m[-1] = m[0];
    m[width] = m[width + 1] = m[width - 1];
    const float* const up = upstream + int64_t{y} * out_width;
    for (int i = 0; i < out_width / 2; ++i) even[i] = up[2 * i], odd[i] = up[2 * i + 1];
    if (out_width & 1) even[out_width / 2] = up[out_width - 1], odd[out_width / 2] = 0;
    float part[4][LANES] = {};
    const int whole = width / LANES * LANES;
    for (int i = 0; i < whole; i += LANES)
      for (int lane = 0; lane < LANES; ++lane) {
        const int n = i + lane;
        part[0][lane] += even[n] * m[n - 2] + odd[n] * m[n + 2];
        part[1][lane] += even[n] * m[n - 1] + odd[n] * m[n + 1];
        part[2][lane] += even[n] * m[n] + odd[n] * m[n];
        part[3][lane] += even[n] * m[n + 1] + odd[n] * m[n - 1];
      }
    for (int n = whole; n < width; ++n) {
      part[0][0] += even[n] * m[n - 2] + odd[n] * m[n + 2];
      part[1][0] += even[n] * m[n - 1] + odd[n] * m[n + 1];
      part[2][0] += even[n] * m[n] + odd[n] * m[n];
      part[3][0] += even[n] * m[n + 1] + odd[n] * m[n - 1];
    }
    for (int i = -2; i < width + 2; ++i)
      dm[i] = a * (even[i + 2] + odd[i - 2]) + b * (even[i + 1] + odd[i - 1]) +
              c * (even[i] + odd[i]) + d * (even[i - 1] + odd[i + 1]);
    dm[0] += dm[-2] + dm[-1];
    dm[width - 1] += dm[width] + dm[width + 1];
    for (int k = 0; k < 4; ++k) {
      float dot = 0;
      const float weight = kernel[k];
      float lanes[LANES] = {};
      for (int i = 0; i < whole; i += LANES)
        for (int lane = 0; lane < LANES; ++lane) lanes[lane] += dm[i + lane] * row[k][i + lane];
      for (int i = whole; i < width; ++i) dot += dm[i] * row[k][i];
      for (int i = 0; i < width; ++i) grad_row[k][i] += weight * dm[i];
      for (int lane = 0; lane < LANES; ++lane) dot += lanes[lane] + part[k][lane];
      sums[k] += dot;
    }
  }
  for (int k = 0; k < 4; ++k) kernel_grad[k] += static_cast<float>(sums[k]);
}

}  // namespace fieldpress::fields::FIELDPRESS_ISA

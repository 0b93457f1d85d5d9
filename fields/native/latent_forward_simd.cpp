// What decoding runs in floating point: compiled without contraction, every sum in a fixed order, so
// that pixels are the same bits with every instruction set and on every machine.
#include "latent_simd.h"

namespace fieldpress::fields::FIELDPRESS_ISA {

void slide(const SlidingNet& net, const float* buffer, const float* parameters, int first, int last,
           float* out) {
  const Layout at(net);
  Lines lines(net);
  const auto patch = std::make_unique<Patch>();
  for (int y = first; y < last; ++y) {
    for (int x = 0; x < net.width; x += PATCH) {
      const int count = std::min(PATCH, net.width - x);
      run_forward(net, at, parameters, lines.read(buffer, y, x, count), count, *patch);
      for (int o = 0; o < net.outputs; ++o) {
        float* const to = out + (int64_t{o} * net.height + y) * net.width + x;
        std::memcpy(to, patch->out[o], static_cast<size_t>(count) * sizeof(float));
      }
    }
  }
}

// Twice the size, rows first: even places lie a quarter before a place of x, odd ones behind it.
// kernel: [4] weights of places i - 2 to i + 1 for the even one; the odd one mirrors it.
void upsample(const float* x, int height, int width, const float* kernel, int out_height,
              int out_width, float* out) {
  const float a = kernel[0], b = kernel[1], c = kernel[2], d = kernel[3];
  const Zeros<float> middle(static_cast<size_t>(width) + 4);
  float* const m = middle.begin() + 2;
  for (int y = 0; y < out_height; ++y) {
    const float* row[4];
    for (int k = 0; k < 4; ++k) {
      const int at = (y >> 1) + (y & 1 ? 2 - k : k - 2);
      row[k] = x + int64_t{std::min(height - 1, std::max(0, at))} * width;
    }
    for (int i = 0; i < width; ++i)
      m[i] = a * row[0][i] + b * row[1][i] + c * row[2][i] + d * row[3][i];
    m[-2] = m[-1] = m[0];
    m[width] = m[width + 1] = m[width - 1];
    float* const to = out + int64_t{y} * out_width;
    for (int i = 0; i < out_width / 2; ++i) {
      to[2 * i] = a * m[i - 2] + b * m[i - 1] + c * m[i] + d * m[i + 1];
      to[2 * i + 1] = a * m[i + 2] + b * m[i + 1] + c * m[i] + d * m[i - 1];
    }
    if (out_width & 1) {
      const int i = out_width / 2;
      to[2 * i] = a * m[i - 2] + b * m[i - 1] + c * m[i] + d * m[i + 1];
    }
  }
}

// What is not a number is black.
void to_bytes(const float* planes, int height, int width, int first, int last, uint8_t* out) {
  const int64_t plane = int64_t{height} * width;
  for (int64_t i = int64_t{first} * width; i < int64_t{last} * width; ++i)
    for (int k = 0; k < 3; ++k) {
      float x = planes[k * plane + i] * 255.0f + 0.5f;
      x = x > 0.0f ? x : 0.0f;
      out[3 * i + k] = static_cast<uint8_t>(static_cast<int>(x < 255.0f ? x : 255.0f));
    }
}

}  // namespace fieldpress::fields::FIELDPRESS_ISA

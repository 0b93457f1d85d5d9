// Blocks of float planes moved by quarters of a pixel, and how far they are from what is wanted.
#include "latent_coder.h"
#include "latent_motion.h"

namespace fieldpress::fields::FIELDPRESS_ISA {
namespace {

template <int SIZE>
void moved(const float* from, int64_t stride, int dy, int dx, float* to) {
  float h[TAPS], v[TAPS], middle[(SIZE + TAPS - 1) * SIZE];
  for (int k = 0; k < TAPS; ++k) {
    h[k] = static_cast<float>(FILTER[dx][k]) / 64;
    v[k] = static_cast<float>(FILTER[dy][k]) / 64;
  }
  const int first = dy ? 0 : BEFORE, last = dy ? SIZE + TAPS - 1 : BEFORE + SIZE;
  for (int y = first; y < last; ++y) {
    const float* const row = from + y * stride;
    float* const line = middle + y * SIZE;
    if (dx) {
      for (int x = 0; x < SIZE; ++x) {
        float sum = 0;
        for (int k = 0; k < TAPS; ++k) sum += h[k] * row[x + k];
        line[x] = sum;
      }
    } else {
      for (int x = 0; x < SIZE; ++x) line[x] = row[x + BEFORE];
    }
  }
  if (dy) {
    for (int y = 0; y < SIZE; ++y)
      for (int x = 0; x < SIZE; ++x) {
        float sum = 0;
        for (int k = 0; k < TAPS; ++k) sum += v[k] * middle[(y + k) * SIZE + x];
        to[y * SIZE + x] = sum;
      }
  } else {
    for (int at = 0; at < SIZE * SIZE; ++at) to[at] = middle[BEFORE * SIZE + at];
  }
}

template <int SIZE>
float error(const float* a, const float* b, const float* target, int rows, int columns) {
  float sums[8] = {};
  const int whole = columns & ~7;
  for (int channel = 0; channel < 3; ++channel)
    for (int y = 0; y < rows; ++y) {
      const int at = (channel * SIZE + y) * SIZE;
      for (int x = 0; x < whole; x += 8)
        for (int lane = 0; lane < 8; ++lane) {
          const int n = at + x + lane;
          const float away = (b ? 0.5f * (a[n] + b[n]) : a[n]) - target[n];
          sums[lane] += away * away;
        }
      for (int x = whole; x < columns; ++x) {
        const int n = at + x;
        const float away = (b ? 0.5f * (a[n] + b[n]) : a[n]) - target[n];
        sums[0] += away * away;
      }
    }
  float sum = 0;
  for (const float part : sums) sum += part;
  return sum;
}

}  // namespace

void move_block(const float* from, int64_t stride, int64_t plane, int size, int dy, int dx,
                float* to) {
  const auto run = size == 8 ? moved<8> : size == 16 ? moved<16> : moved<32>;
  for (int channel = 0; channel < 3; ++channel)
    run(from + channel * plane, stride, dy & 3, dx & 3, to + channel * size * size);
}

float block_error(const float* a, const float* b, const float* target, int size, int rows,
                  int columns) {
  const auto run = size == 8 ? error<8> : size == 16 ? error<16> : error<32>;
  return run(a, b, target, rows, columns);
}

}  // namespace fieldpress::fields::FIELDPRESS_ISA

// Perceptrons with rectifiers and no biases, a block of points at a time: its neurons stay in the
// nearest cache, sums in registers.
#include <algorithm>

#include "encoding.h"
#include "lattice_simd.h"

namespace fieldpress::fields::FIELDPRESS_ISA {
namespace {

constexpr int VECTORS = LANES == 16 ? 4 : 2;  // Of points that are summed together, and how many
constexpr int ROWS = LANES == 4 ? 3 : 6;      // neurons: what registers hold.

// out [rows, BLOCK] of ROWS neurons, from x [columns, BLOCK].
template <int COUNT>
void multiply(const float* weights, int columns, const float* x, bool rectify, float* out) {
  for (int at = 0; at < BLOCK; at += VECTORS * LANES) {
    Floats sums[COUNT][VECTORS] = {};
    for (int i = 0; i < columns; ++i) {
      Floats values[VECTORS];
      for (int v = 0; v < VECTORS; ++v) values[v] = load<Floats>(x + i * BLOCK + at + v * LANES);
      for (int o = 0; o < COUNT; ++o) {
        const Floats weight = all<Floats>(weights[o * columns + i]);
        for (int v = 0; v < VECTORS; ++v)
          sums[o][v] = plus_product(sums[o][v], weight, values[v]);
      }
    }
    for (int o = 0; o < COUNT; ++o)
      for (int v = 0; v < VECTORS; ++v)
        store(out + o * BLOCK + at + v * LANES, rectify ? most(sums[o][v], Floats{}) : sums[o][v]);
  }
}

template <int COUNT>
void multiply_rest(int count, const float* weights, int columns, const float* x, bool rectify,
                   float* out) {
  if (count == COUNT) return multiply<COUNT>(weights, columns, x, rectify, out);
  if constexpr (COUNT > 1) multiply_rest<COUNT - 1>(count, weights, columns, x, rectify, out);
}

}  // namespace

void perceptron(const Perceptron& net, const float* inputs, int64_t count, int64_t stride,
                float* outputs) {
  alignas(64) float x[MAX_NEURONS * BLOCK], y[MAX_NEURONS * BLOCK];
  for (int64_t first = 0; first < count; first += BLOCK) {
    const int size = static_cast<int>(std::min<int64_t>(BLOCK, count - first));
    for (int i = 0; i < net.widths[0]; ++i) {
      std::copy_n(inputs + i * stride + first, size, x + i * BLOCK);
      std::fill_n(x + i * BLOCK + size, BLOCK - size, 0.0f);
    }
    float *from = x, *to = y;
    for (int layer = 0; layer < net.layers; ++layer) {
      const int columns = net.widths[layer], rows = net.widths[layer + 1];
      const bool rectify = layer + 1 < net.layers;
      for (int o = 0; o < rows; o += ROWS)
        multiply_rest<ROWS>(std::min(ROWS, rows - o), net.weights[layer] + o * columns, columns,
                            from, rectify, to + o * BLOCK);
      std::swap(from, to);
    }
    for (int o = 0; o < net.widths[net.layers]; ++o)
      std::copy_n(from + o * BLOCK, size, outputs + o * stride + first);
  }
}

}  // namespace fieldpress::fields::FIELDPRESS_ISA

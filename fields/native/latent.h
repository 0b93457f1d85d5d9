// Codecs of latent grids (Ladune et al. 2023, Kim et al. 2024): small networks that slide over stacks
// of planes, their gradients, the rate of what they predict, and the coder that runs one in integers.
#pragma once

#include <cstdint>
#include <vector>

namespace fieldpress::fields {

constexpr int PATCH = 128;     // Places of a row that go through a network together.
constexpr int MAX_REACH = 8;   // Places that a tap may lie beside.
constexpr int MAX_TAPS = 64, MAX_HIDDEN = 64, MAX_OUTPUTS = 8;
constexpr float LEAST_OCTAVE = -5, MOST_OCTAVE = 6;  // Of a distribution's half-life.

// One plane of a buffer: `first` element, rows of `width`. A place (y, x) of the network reads it at
// (y >> shift, x >> shift).
struct LatentPlane {
  int64_t first;
  int height, width, shift;
};

struct Tap {
  int plane, dy, dx;
};

// A perceptron of taps t: h1 = relu(A t + a), h2 = relu(B h1 + b + h1), out = C h + D t + c, with
// `layers` of h. Parameters lie flat in the order A, a, B, b, C, D, c.
struct SlidingNet {
  int layers, hidden, outputs;
  std::vector<LatentPlane> planes;
  std::vector<Tap> taps;
  bool replicate;  // What lies outside of a plane: its border, or zeros.
  int height, width;

  int inputs() const { return static_cast<int>(taps.size()); }
  int64_t parameters() const {
    const int64_t t = inputs(), h = hidden, o = outputs;
    return (layers > 0 ? h * t + h + o * h : 0) + (layers > 1 ? h * h + h : 0) + o * t + o;
  }
};

// The integer network of the coder: parameters in the same order, in 1/1024 (biases in 1/2^18),
// inputs in whole numbers, activations in 1/256.
constexpr int WEIGHT_BITS = 10, UNIT_BITS = 8;

// Distributions of symbols: of each scale the tail beyond j/16, j = 0.., and how far it reaches.
struct TailTables {
  const uint16_t* tails;
  const int32_t *first, *reach;  // [scales]
  int scales;
};

}  // namespace fieldpress::fields

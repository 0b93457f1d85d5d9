// Closed-loop linear prediction and quantisation of an integer matrix, in integers.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fieldpress::quant {

constexpr int kWeightBits = 12;                      // prediction weights are in 1/4096
constexpr int64_t kValueLimit = (int64_t{1} << 28);  // reconstructed values stay within this
constexpr int kBiasBits = 6;                         // reconstruction bias is in 1/64 of a step

struct Prediction {
  int64_t rows = 0, channels = 0, k = 0, previous = 0, sides = 0;
  const int32_t* scale = nullptr;      // [rows] >= 1: quantisation step of the row, in value units
  const int32_t* neighbors = nullptr;  // [rows, k] earlier rows, or -1
  const int32_t* side = nullptr;       // [rows, sides] values decoded before
  const int32_t* weights = nullptr;    // [channels, k + previous + sides + 1], last is the constant
  const int32_t* fill = nullptr;       // [channels] value of a neighbour that is not there
  int64_t bias = 0;                    // towards the prediction, for +-1 and beyond
};

inline int64_t predict(const Prediction& p, const int32_t* values, int64_t i, int64_t c) {
  const int32_t* w = p.weights + c * (p.k + p.previous + p.sides + 1);
  int64_t sum = static_cast<int64_t>(w[p.k + p.previous + p.sides]) * (int64_t{1} << kWeightBits);
  for (int64_t n = 0; n < p.k; ++n) {
    const int64_t j = p.neighbors[i * p.k + n];
    sum += static_cast<int64_t>(w[n]) * (j < 0 ? p.fill[c] : values[j * p.channels + c]);
  }
  for (int64_t n = 0; n < p.previous; ++n) {  // the n-th channel before this one
    if (c - 1 - n < 0) break;
    sum += static_cast<int64_t>(w[p.k + n]) * values[i * p.channels + c - 1 - n];
  }
  for (int64_t n = 0; n < p.sides; ++n) {
    sum += static_cast<int64_t>(w[p.k + p.previous + n]) * p.side[i * p.sides + n];
  }
  constexpr int64_t kOne = int64_t{1} << kWeightBits;
  const int64_t rounded = sum + kOne / 2;  // floor division: the same on every machine
  return rounded >= 0 ? rounded / kOne : -((-rounded + kOne - 1) / kOne);
}

inline int32_t restore(const Prediction& p, int64_t prediction, int64_t symbol, int64_t scale) {
  int64_t value = prediction + symbol * scale;
  const int64_t pull = (scale * p.bias) / (int64_t{1} << kBiasBits);
  if (symbol > 0) value -= pull;
  if (symbol < 0) value += pull;
  return static_cast<int32_t>(std::min(kValueLimit, std::max(-kValueLimit, value)));
}

// symbols -> values.
inline void reconstruct(const Prediction& p, const int32_t* symbols, int32_t* values) {
  for (int64_t i = 0; i < p.rows; ++i) {
    for (int64_t c = 0; c < p.channels; ++c) {
      const int64_t at = i * p.channels + c;
      values[at] = restore(p, predict(p, values, i, c), symbols[at], p.scale[i]);
    }
  }
}

// wanted values -> symbols and the values that the decoder will see. `round` in (0, 64]: the
// fraction of a step, in 1/64, at which a magnitude is rounded up (32 is to nearest).
inline void quantise(const Prediction& p, const int32_t* wanted, int64_t round, int32_t* symbols,
                     int32_t* values) {
  constexpr int64_t kMost = (int64_t{1} << 24) - 1;
  for (int64_t i = 0; i < p.rows; ++i) {
    const int64_t scale = p.scale[i];
    for (int64_t c = 0; c < p.channels; ++c) {
      const int64_t at = i * p.channels + c;
      const int64_t prediction = predict(p, values, i, c);
      const int64_t rest = wanted[at] - prediction;
      const int64_t magnitude = rest < 0 ? -rest : rest;
      int64_t symbol = std::min(kMost, (magnitude * 64 + scale * (64 - round)) / (scale * 64));
      if (rest < 0) symbol = -symbol;
      symbols[at] = static_cast<int32_t>(symbol);
      values[at] = restore(p, prediction, symbol, scale);
    }
  }
}

}  // namespace fieldpress::quant

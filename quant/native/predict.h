// Closed-loop linear prediction and quantisation of an integer matrix, in integers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

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

inline int32_t restore(int64_t prediction, int64_t symbol, int64_t scale, int64_t pull) {
  const int64_t pulled = symbol > 0 ? -pull : symbol < 0 ? pull : 0;
  const int64_t value = prediction + symbol * scale + pulled;
  return static_cast<int32_t>(std::min(kValueLimit, std::max(-kValueLimit, value)));
}

// Runs over the rows: `step(place, prediction, scale, pull)` gives each value from its prediction.
template <class Step>
class Predictor {
 public:
  Predictor(const Prediction& p, int32_t* values, const Step& step)
      : p_(p), columns_(p.k + p.previous + p.sides + 1), values_(values), step_(step),
        near_(static_cast<size_t>(p.k)), sum_(static_cast<size_t>(p.channels)) {}

  void run() {
    const bool alike = neighbors_weigh_alike();
    for (int64_t i = 0; i < p_.rows; ++i) {
      for (int64_t n = 0; n < p_.k; ++n) {
        const int64_t j = p_.neighbors[i * p_.k + n];
        near_[static_cast<size_t>(n)] = j < 0 ? p_.fill : values_ + j * p_.channels;
      }
      if (alike) row_alike(i); else row(i);
    }
  }

 private:
  // With one weight for all neighbours, as wide attributes have, their sum is enough.
  bool neighbors_weigh_alike() const {
    if (p_.previous || p_.sides || p_.k < 1) return false;
    if (p_.k > 7) return false;  // Sums of eight values may take more than 32 bits.
    for (int64_t c = 0; c < p_.channels; ++c) {
      for (int64_t n = 1; n < p_.k; ++n) {
        if (p_.weights[c * columns_ + n] != p_.weights[c * columns_]) return false;
      }
    }
    return true;
  }
  void row_alike(int64_t i) {
    const int64_t channels = p_.channels, scale = p_.scale[i], pull = scale * p_.bias >> kBiasBits;
    int32_t* sum = sum_.data();
    std::copy(near_[0], near_[0] + channels, sum);
    for (size_t n = 1; n < near_.size(); ++n) {
      const int32_t* near = near_[n];
      for (int64_t c = 0; c < channels; ++c) sum[c] += near[c];
    }
    int32_t* row = values_ + i * channels;
    for (int64_t c = 0; c < channels; ++c) {
      const int32_t* w = p_.weights + c * columns_;
      const int64_t total = int64_t{w[0]} * sum[c] + constant(w);
      row[c] = step_(i * channels + c, total >> kWeightBits, scale, pull);
    }
  }
  void row(int64_t i) {
    const int64_t scale = p_.scale[i], pull = scale * p_.bias >> kBiasBits;
    int32_t* row = values_ + i * p_.channels;
    for (int64_t c = 0; c < p_.channels; ++c) {
      const int32_t* w = p_.weights + c * columns_;
      int64_t total = constant(w);
      for (size_t n = 0; n < near_.size(); ++n) total += int64_t{*w++} * near_[n][c];
      for (int64_t n = 0; n < p_.previous && n < c; ++n) total += int64_t{w[n]} * row[c - 1 - n];
      w += p_.previous;
      for (int64_t n = 0; n < p_.sides; ++n) total += int64_t{w[n]} * p_.side[i * p_.sides + n];
      row[c] = step_(i * p_.channels + c, total >> kWeightBits, scale, pull);
    }
  }
  int64_t constant(const int32_t* w) const {  // with the half that rounds
    return int64_t{w[columns_ - 1]} * (1 << kWeightBits) + (1 << (kWeightBits - 1));
  }

  const Prediction& p_;
  int64_t columns_;
  int32_t* values_;
  const Step& step_;
  std::vector<const int32_t*> near_;
  std::vector<int32_t> sum_;
};
template <class Step>
void predict(const Prediction& p, int32_t* values, const Step& step) {
  Predictor<Step>(p, values, step).run();
}

// symbols -> values.
inline void reconstruct(const Prediction& p, const int32_t* symbols, int32_t* values) {
  predict(p, values, [&](int64_t at, int64_t prediction, int64_t scale, int64_t pull) {
    return restore(prediction, symbols[at], scale, pull);
  });
}

// wanted values -> symbols and the values that the decoder will see. `round` in (0, 64]: the
// fraction of a step, in 1/64, at which a magnitude is rounded up (32 is to nearest).
inline void quantise(const Prediction& p, const int32_t* wanted, int64_t round, int32_t* symbols,
                     int32_t* values) {
  constexpr int64_t kMost = (int64_t{1} << 24) - 1;
  predict(p, values, [&](int64_t at, int64_t prediction, int64_t scale, int64_t pull) {
    const int64_t rest = wanted[at] - prediction, magnitude = rest < 0 ? -rest : rest;
    int64_t symbol = std::min(kMost, (magnitude * 64 + scale * (64 - round)) / (scale * 64));
    if (rest < 0) symbol = -symbol;
    symbols[at] = static_cast<int32_t>(symbol);
    return restore(prediction, symbol, scale, pull);
  });
}

}  // namespace fieldpress::quant

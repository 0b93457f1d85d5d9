// Logistic mixing of adaptive bits (Mahoney's PAQ: stretch, weighted sum, squash).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "coder.h"

namespace fieldpress::quant {

constexpr int kStretchLimit = 2047;     // stretch() is in 1/256 nats, clipped here
constexpr int kMixerShift = 16;         // weights are in 1/65536
constexpr int kMixerLimit = 1 << 22;
constexpr int kMixerRateFloor = 10;     // rate = floor + boost / (uses of this set / 16 + 1)
constexpr int kMixerRateBoost = 40;

// squash(x) = 65536 / (1 + exp(-x / 256)) by interpolation of a 33-point table, as integers.
// The table is written out (not computed with exp) because it is part of the format.
constexpr int32_t kSquashTable[33] = {
    22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743,
    32768, 40793, 47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374,
    65438, 65476, 65500, 65514};

constexpr int32_t squash(int32_t x) {
  x = x > kStretchLimit ? kStretchLimit : x < -kStretchLimit ? -kStretchLimit : x;
  const int32_t shifted = x + 2048;
  const int32_t cell = shifted >> 7, rest = shifted & 127;
  return (kSquashTable[cell] * (128 - rest) + kSquashTable[cell + 1] * rest + 64) >> 7;
}
// stretch is the inverse of squash by search over its own integer values: exact by construction.
struct StretchTable {
  int16_t value[4096] = {};
  constexpr StretchTable() {
    int32_t x = -kStretchLimit;
    for (int32_t p = 0; p < 4096; ++p) {
      while (x < kStretchLimit && squash(x) < p * 16 + 8) ++x;
      value[p] = static_cast<int16_t>(x);
    }
  }
};
inline constexpr StretchTable kStretch;

// Mixes predictions; a set of weights per selector.
template <int kInputs>
class Mixer {
 public:
  explicit Mixer(size_t sets) : sets_(sets) {}

  template <class Io>
  int code(Io& io, Bit* const* bits, size_t set, int y) {
    Set& s = sets_[set];
    int32_t input[kInputs];
    int64_t sum = 0;
    for (int k = 0; k < kInputs; ++k) {
      input[k] = kStretch.value[bits[k]->p >> 4];
      sum += int64_t{input[k]} * s.weight[k];
    }
    const int32_t p = squash(static_cast<int32_t>(sum >> kMixerShift));
    y = io.bit(y, static_cast<uint32_t>(p) >> 1);
    const int32_t rate = kMixerRateFloor + kMixerRateBoost / (1 + (s.uses >> 4));
    s.uses += s.uses < 65535;
    const int32_t error = ((y << 16) - p) * rate >> 8;
    for (int k = 0; k < kInputs; ++k) {
      const int32_t weight = s.weight[k] + ((input[k] * error + 2048) >> 12);
      s.weight[k] = std::min(kMixerLimit, std::max(-kMixerLimit, weight));
      update(*bits[k], y);
    }
    return y;
  }

 private:
  struct Set {
    int32_t weight[kInputs], uses = 0;
    Set() { std::fill(weight, weight + kInputs, (1 << kMixerShift) * 3 / (2 * kInputs)); }
  };
  std::vector<Set> sets_;
};

}  // namespace fieldpress::quant

// Binary adaptive range coder with logistic mixing, in integers only: the same bytes give the
// same symbols on every machine. Structure after Mahoney's PAQ mixing (stretch, weighted sum,
// squash); every constant that decoding depends on stands in this file and in docs/format.md.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace fieldpress::quant {

constexpr int kProbBits = 16;              // probabilities of a one, in 1/65536
constexpr int kProbFloor = 24;             // no symbol costs more than log2(65536/24) bits
constexpr int kStretchLimit = 2047;        // stretch() is in 1/256 nats, clipped here
constexpr int kCountLimit = 126;           // adaptation slows down to 1/(126 + 1.5)
constexpr int kMixerShift = 16;            // mixer weights are in 1/65536
constexpr int kMixerRateShift = 20;        // learning: weight += err * input * rate / 2^20
constexpr int kMixerRateFloor = 10;         // rate = floor + boost / (uses of this set / 16 + 1)
constexpr int kMixerRateBoost = 40;

// squash(x) = 65536 / (1 + exp(-x / 256)) by interpolation of a 33-point table, as integers.
// The table is written out (not computed with exp) because it is part of the format.
constexpr std::array<int32_t, 33> kSquashTable = {
    22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743,
    32768, 40793, 47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374,
    65438, 65476, 65500, 65514};

inline int32_t squash(int32_t x) {
  if (x > kStretchLimit) x = kStretchLimit;
  if (x < -kStretchLimit) x = -kStretchLimit;
  const int32_t shifted = x + 2048;
  const int32_t cell = shifted >> 7, rest = shifted & 127;
  return (kSquashTable[cell] * (128 - rest) + kSquashTable[cell + 1] * rest + 64) >> 7;
}

// stretch is the inverse of squash by search over its own integer values: exact by construction.
struct StretchTable {
  std::array<int16_t, 4096> value;
  StretchTable() {
    int32_t x = -kStretchLimit;
    for (int32_t p = 0; p < 4096; ++p) {
      while (x < kStretchLimit && squash(x) < p * 16 + 8) ++x;
      value[p] = static_cast<int16_t>(x);
    }
  }
};
inline const StretchTable& stretch_table() {
  static const StretchTable table;
  return table;
}

// Adaptive probability: starts at 1/2, moves by 1/(n + 1.5) of the error, n up to a limit.
struct Bit {
  uint16_t p = 1u << 15;
  uint16_t n = 0;
};
struct RateTable {
  std::array<int32_t, kCountLimit + 1> value;
  RateTable() {
    for (int32_t n = 0; n <= kCountLimit; ++n) value[n] = (2 * 65536) / (2 * n + 3);
  }
};
inline const RateTable& rate_table() {
  static const RateTable table;
  return table;
}
inline void update(Bit& bit, int y, int limit = kCountLimit) {
  const int32_t target = y ? 65535 : 0;
  const int64_t delta = static_cast<int64_t>(target - bit.p) * rate_table().value[bit.n];
  // Division truncates towards zero on every machine; a shift of a negative would not promise to.
  int32_t p = bit.p + static_cast<int32_t>(delta / 65536);
  if (p < kProbFloor) p = kProbFloor;
  if (p > 65536 - kProbFloor) p = 65536 - kProbFloor;
  bit.p = static_cast<uint16_t>(p);
  if (bit.n < limit) ++bit.n;
}

class Encoder {
 public:
  void encode(int y, int32_t p1) {
    const uint32_t range = high_ - low_;
    const uint32_t mid =
        low_ + (range >> kProbBits) * static_cast<uint32_t>(p1) +
        (((range & 0xffffu) * static_cast<uint32_t>(p1)) >> kProbBits);
    if (y) high_ = mid; else low_ = mid + 1;
    while (((low_ ^ high_) & 0xff000000u) == 0) {
      bytes_.push_back(static_cast<uint8_t>(high_ >> 24));
      low_ <<= 8;
      high_ = (high_ << 8) | 255u;
    }
  }
  // As few bytes as still decode: the decoder reads zeros past the end.
  std::vector<uint8_t> finish() {
    if (low_ > 0) {
      uint32_t value = low_;
      for (int keep = 1; keep <= 4; ++keep) {
        const uint32_t mask = keep == 4 ? 0u : (0xffffffffu >> (8 * keep));
        const uint64_t up = (static_cast<uint64_t>(low_) + mask) & ~static_cast<uint64_t>(mask);
        if (up <= high_) {
          value = static_cast<uint32_t>(up);
          for (int k = 0; k < keep; ++k) bytes_.push_back(static_cast<uint8_t>(value >> (24 - 8 * k)));
          break;
        }
      }
    }
    while (!bytes_.empty() && bytes_.back() == 0) bytes_.pop_back();
    return std::move(bytes_);
  }

 private:
  uint32_t low_ = 0, high_ = 0xffffffffu;
  std::vector<uint8_t> bytes_;
};

class Decoder {
 public:
  Decoder(const uint8_t* data, size_t size) : data_(data), size_(size) {
    for (int k = 0; k < 4; ++k) code_ = (code_ << 8) | next();
  }
  int decode(int32_t p1) {
    const uint32_t range = high_ - low_;
    const uint32_t mid =
        low_ + (range >> kProbBits) * static_cast<uint32_t>(p1) +
        (((range & 0xffffu) * static_cast<uint32_t>(p1)) >> kProbBits);
    const int y = code_ <= mid;
    if (y) high_ = mid; else low_ = mid + 1;
    while (((low_ ^ high_) & 0xff000000u) == 0) {
      low_ <<= 8;
      high_ = (high_ << 8) | 255u;
      code_ = (code_ << 8) | next();
    }
    return y;
  }
  // The encoder drops trailing zero bytes, so a good stream is read at most 4 bytes past its
  // last byte plus the dropped zeros; a stream that goes on for ever is damaged. The callers
  // bound the number of symbols, so that this only has to say whether all bytes were used.
  bool consumed() const { return position_ >= size_; }

 private:
  uint32_t next() { return position_ < size_ ? data_[position_++] : (++past_, 0u); }
  const uint8_t* data_;
  size_t size_, position_ = 0, past_ = 0;
  uint32_t low_ = 0, high_ = 0xffffffffu, code_ = 0;
};

// Mixes up to kMaxInputs predictions; a set of weights per selector.
template <int kInputs>
class Mixer {
 public:
  explicit Mixer(size_t sets)
      : weights_(sets * kInputs, (1 << kMixerShift) * 3 / (2 * kInputs)), uses_(sets, 0) {}
  int32_t mix(const Bit* const* bits, size_t set) {
    weight_ = &weights_[set * kInputs];
    use_ = &uses_[set];
    int64_t sum = 0;
    for (int k = 0; k < kInputs; ++k) {
      input_[k] = stretch_table().value[bits[k]->p >> 4];
      sum += static_cast<int64_t>(input_[k]) * weight_[k];
    }
    int32_t p = squash(static_cast<int32_t>(sum / (1 << kMixerShift)));
    if (p < kProbFloor) p = kProbFloor;
    if (p > 65536 - kProbFloor) p = 65536 - kProbFloor;
    p_ = p;
    return p;
  }
  void learn(int y) {
    const int32_t error = (y ? 65535 : 0) - p_;
    const int32_t rate = kMixerRateFloor + kMixerRateBoost / (1 + (*use_ >> 4));
    if (*use_ < 65535) ++*use_;
    for (int k = 0; k < kInputs; ++k) {
      const int64_t step = static_cast<int64_t>(input_[k]) * error * rate;
      int64_t w = weight_[k] + step / (1 << kMixerRateShift);
      if (w > (1 << 22)) w = 1 << 22;
      if (w < -(1 << 22)) w = -(1 << 22);
      weight_[k] = static_cast<int32_t>(w);
    }
  }

 private:
  std::vector<int32_t> weights_;
  std::vector<uint16_t> uses_;
  int32_t* weight_ = nullptr;
  uint16_t* use_ = nullptr;
  int32_t input_[kInputs] = {};
  int32_t p_ = 32768;
};

// One coder for both directions, so that encoder and decoder cannot drift apart.
template <class Io, int kInputs>
int code_bit(Io& io, Mixer<kInputs>& mixer, Bit* const* bits, size_t set, int y) {
  const int32_t p = mixer.mix(bits, set);
  y = io.code(y, p);
  mixer.learn(y);
  for (int k = 0; k < kInputs; ++k) update(*bits[k], y);
  return y;
}
struct EncodeIo {
  Encoder coder;
  static constexpr bool kDecodes = false;
  int code(int y, int32_t p) { coder.encode(y, p); return y; }
};
struct DecodeIo {
  Decoder coder;
  static constexpr bool kDecodes = true;
  int code(int, int32_t p) { return coder.decode(p); }
};

}  // namespace fieldpress::quant

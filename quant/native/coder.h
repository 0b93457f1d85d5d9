// Asymmetric numeral system (Duda 2013) and adaptive bits, in integers only: the same bytes give
// the same symbols on every machine. Every constant that decoding depends on stands in this
// folder and in docs/format.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#if defined(_MSC_VER)
#include <intrin.h>
#endif

#if defined(__GNUC__)
#define FIELDPRESS_INLINE inline __attribute__((always_inline))
#else
#define FIELDPRESS_INLINE __forceinline
#endif

namespace fieldpress::quant {

static_assert((-3 >> 1) == -2, "shifts of negative integers round down");

constexpr int kScaleBits = 15;  // probabilities are in 1/32768
constexpr uint32_t kScale = 1u << kScaleBits;
constexpr uint64_t kLowest = uint64_t{1} << 31;  // a state below it takes in 32 bits

inline int top_bit(uint64_t x) {  // x > 0
#if defined(_MSC_VER)
  unsigned long found;
  _BitScanReverse64(&found, x);
  return static_cast<int>(found);
#else
  return 63 - __builtin_clzll(x);
#endif
}
inline int lowest_bit(uint32_t x) {  // x > 0
#if defined(_MSC_VER)
  unsigned long found;
  _BitScanForward(&found, x);
  return static_cast<int>(found);
#else
  return __builtin_ctz(x);
#endif
}

// Collects intervals of [0, 2^15) and codes them last to first, so that a decoder meets them in
// order.
class Encoder {
 public:
  void put(uint32_t start, uint32_t size) { steps_.push_back(start | size << 16); }

  // The state stands first: 5 to 8 bytes if words follow, so that the length tells how many do,
  // else as few as hold it, none for the 1 that every state grows from.
  std::vector<uint8_t> finish() const {
    std::vector<uint32_t> words;
    const uint64_t state = run(words);
    std::vector<uint8_t> bytes;
    int count = words.empty() ? 0 : 5;
    while (count < 8 && state >> (8 * count) != 0) ++count;
    if (words.empty() && state == 1) count = 0;
    bytes.reserve(static_cast<size_t>(count) + 4 * words.size());
    for (int k = count; k-- > 0;) bytes.push_back(static_cast<uint8_t>(state >> (8 * k)));
    for (size_t n = words.size(); n-- > 0;) {
      for (int k = 4; k-- > 0;) bytes.push_back(static_cast<uint8_t>(words[n] >> (8 * k)));
    }
    return bytes;
  }

 private:
  uint64_t run(std::vector<uint32_t>& words) const {
    uint64_t state = 1;
    for (size_t n = steps_.size(); n-- > 0;) {
      const uint32_t start = steps_[n] & 0xffffu, size = steps_[n] >> 16;
      if (state >= uint64_t{size} << (63 - kScaleBits)) {
        words.push_back(static_cast<uint32_t>(state));
        state >>= 32;
      }
      state = (state / size << kScaleBits) + state % size + start;
    }
    return state;
  }

  std::vector<uint32_t> steps_;
};

class Decoder {
 public:
  Decoder(const uint8_t* data, size_t size) : at_(data), end_(data + size) {
    const size_t head = size <= 8 ? size : 5 + (size + 3) % 4;
    state_ = size ? 0 : 1;
    for (size_t k = 0; k < head; ++k) state_ = state_ << 8 | *at_++;
  }
  uint32_t slot() const { return static_cast<uint32_t>(state_) & (kScale - 1); }
  // The slot lies in [start, start + size).
  void take(uint32_t start, uint32_t size) {
    state_ = size * (state_ >> kScaleBits) + slot() - start;
    if (state_ < kLowest && at_ != end_) {
      const uint32_t high = uint32_t{at_[0]} << 24 | uint32_t{at_[1]} << 16;
      state_ = state_ << 32 | high | uint32_t{at_[2]} << 8 | at_[3];
      at_ += 4;
    }
  }
  // A good stream ends where its encoder began; one that was damaged hardly does.
  bool finished() const { return at_ == end_ && state_ == 1; }

 private:
  const uint8_t *at_, *end_;
  uint64_t state_ = 1;
};

// One coder for both directions, so that encoder and decoder cannot drift apart.
struct EncodeIo {
  Encoder coder;
  static constexpr bool kDecodes = false;
  void interval(uint32_t start, uint32_t size) { coder.put(start, size); }
  int bit(int y, uint32_t p1) {  // p1: of a one, 1..32767
    coder.put(y ? 0 : p1, y ? p1 : kScale - p1);
    return y;
  }
  uint32_t raw(uint32_t value, int bits) {
    coder.put(value << (kScaleBits - bits), kScale >> bits);
    return value;
  }
};
struct DecodeIo {
  Decoder coder;
  static constexpr bool kDecodes = true;
  void interval(uint32_t start, uint32_t size) { coder.take(start, size); }
  int bit(int, uint32_t p1) {
    const uint32_t zero = coder.slot() < p1 ? 0 : ~0u;  // No branch: half of them would go wrong.
    coder.take(p1 & zero, p1 + ((kScale - 2 * p1) & zero));
    return static_cast<int>(1 + zero);
  }
  uint32_t raw(uint32_t, int bits) {
    const uint32_t value = coder.slot() >> (kScaleBits - bits);
    coder.take(value << (kScaleBits - bits), kScale >> bits);
    return value;
  }
};

// A step towards a target: error * rate / 2^17, rounded to nearest. |error * rate| < 2^31.
inline int part(int error, int rate) { return ((error * rate >> 16) + 1) >> 1; }
constexpr int kFastest = 32767;  // rates of adaptation: 1/4
constexpr int kSlowest = 800;    // 1/164

// Adaptive probability of a one, in 1/65536. Its rate r, in 1/2^17, loses about r * r at a step:
// it falls as 1/n does, to kSlowest.
struct Bit {
  uint16_t p = 1u << 15;
  int16_t rate = kFastest;
};
constexpr int kProbFloor = 32;
inline void update(Bit& bit, int y) {
  const int target = y ? 65536 - kProbFloor : kProbFloor;
  bit.p = static_cast<uint16_t>(bit.p + part(target - bit.p, bit.rate));
  bit.rate = static_cast<int16_t>(bit.rate + part(kSlowest - bit.rate, bit.rate));
}
template <class Io>
int code_bit(Io& io, Bit& bit, int y) {
  y = io.bit(y, bit.p >> 1);
  update(bit, y);
  return y;
}

}  // namespace fieldpress::quant

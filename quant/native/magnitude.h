// Magnitudes as tokens: 0 to 3, then two an octave and the bits below them; the last is open.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "tally.h"

namespace fieldpress::quant {

constexpr int kLastToken = kTokens - 1;
// The last token's magnitudes, 192 and more, less the offset have so many bits below their highest.
constexpr uint32_t kOpenOffset = 128;
constexpr int kOpenBits = 6, kMostBits = 23;
constexpr int kModelledBits = 4;  // of those below a token, from the top
constexpr int kEvenStart = 6096;  // rate, 1/21.5: they are to stay even for a while

// log2(m + 0.4) in 1/256, linear between powers of two.
inline int log_of(uint32_t m) {
  const uint32_t v = 5 * m + 2;
  const int l = top_bit(v);
  return 256 * l + static_cast<int>((v << (31 - l) >> 23) & 255) - 594;
}
constexpr int kSmallLogs[4] = {-338, 110, 302, 446};  // of 0..3
inline int token_of(uint32_t m) {
  if (m < 4) return static_cast<int>(m);
  const int l = top_bit(m);
  return std::min(kLastToken, 2 * l + static_cast<int>(m >> (l - 1) & 1));
}
constexpr int token_bits(int t) { return t < 4 ? 0 : t / 2 - 1; }
constexpr uint32_t token_low(int t) {
  return static_cast<uint32_t>(t < 4 ? t : (2 + (t & 1)) << (t / 2 - 1));
}

constexpr int kLevels = 40;        // of an estimated logarithm, four an octave
constexpr int kLevelOffset = 768;  // the first ends at -3 octaves
constexpr int kMiddleScale = 848;  // logarithm of the scale 8 * 1.2

// What tallies begin with.
struct Priors {
  Tally level[kLevels] = {};           // a Laplace distribution of the level's size
  Tally last[kLevels] = {};            // the same without zero
  Tally even[kModelledBits + 1] = {};  // 2^b values, all alike
  constexpr Priors() {
    for (int e = 0; e < kLevels; ++e) fill(e);
    for (int b = 1; b <= kModelledBits; ++b) {
      even[b].edge[0] = kEvenStart;
      for (int j = 1; j < kTokens; ++j) {
        const int edge = j < 1 << b ? (kTop - kTokens) * j >> b : kTop - kTokens + j;
        even[b].edge[j] = static_cast<uint16_t>(edge);
      }
    }
  }

 private:
  constexpr void fill(int e) {
    constexpr uint32_t root[4] = {256, 215, 181, 152};  // 256 / 2^(r / 4)
    level[e].edge[0] = last[e].edge[0] = kTallyStart;
    for (int j = 1; j < kTokens; ++j) {
      // Octaves, in 1/256, that the tail has fallen at half a step below the token.
      const uint32_t fallen = (2 * token_low(j) - 1) * root[e & 3] * 8 >> (e >> 2);
      const int whole = static_cast<int>(fallen >> 8 < 20 ? fallen >> 8 : 20);
      const int tail = (31000 >> whole) * (512 - static_cast<int>(fallen & 255)) >> 9;
      level[e].edge[j] = static_cast<uint16_t>(kTop - 16 * (kTokens - j) - tail);
    }
    const int zero = level[e].edge[1];
    last[e].edge[1] = 1;
    for (int j = 2; j < kTokens; ++j) {
      const int edge = (level[e].edge[j] - zero) * (kTop - 2 * kTokens) / (kTop - zero);
      last[e].edge[j] = static_cast<uint16_t>(edge + j);
    }
  }
};
inline constexpr Priors kPriors;

// The bits of one channel's magnitudes below their tokens.
class Below {
 public:
  Below() {
    for (int t = 4; t < kLastToken; ++t) {
      tops_[t] = kPriors.even[std::min(kModelledBits, token_bits(t))];
    }
  }
  template <class Io>
  FIELDPRESS_INLINE uint32_t code(Io& io, int token, uint32_t magnitude) {
    if (token < 4) return static_cast<uint32_t>(token);
    if (token == kLastToken) {
      Io rare = std::move(io);  // So that `io` itself never leaves its registers.
      const uint32_t found = open(rare, magnitude);
      io = std::move(rare);
      return found;
    }
    const int raw = std::max(0, token_bits(token) - kModelledBits);
    const uint32_t rest = magnitude - token_low(token);
    const int top = Io::kDecodes ? 0 : static_cast<int>(rest >> raw);
    uint32_t found = static_cast<uint32_t>(code_token(io, tops_[token], top));
    if (raw) found = found << raw | io.raw(rest & ((1u << raw) - 1), raw);
    return token_low(token) + found;
  }

 private:
  template <class Io>
  uint32_t open(Io& io, uint32_t magnitude) {
    const uint32_t rest = magnitude - kOpenOffset;
    int bits = kOpenBits;
    while (bits < kMostBits && code_bit(io, longer_[bits - kOpenBits], (rest >> bits) > 1)) ++bits;
    uint32_t found = 1;
    for (int left = bits; left > 0;) {
      const int some = std::min(8, left);
      left -= some;
      found = found << some | io.raw(rest >> left & ((1u << some) - 1), some);
    }
    return found + kOpenOffset;
  }

  Tally tops_[kTokens] = {};
  Bit longer_[kMostBits - kOpenBits];
};

}  // namespace fieldpress::quant

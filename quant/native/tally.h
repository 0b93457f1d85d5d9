// Adaptive distributions over sixteen tokens, averaged and updated lane by lane.
#pragma once

#include <cstdint>

#include "coder.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace fieldpress::quant {

constexpr int kTokens = 16;
constexpr int kTallyStart = 29127;  // a first rate of 1/4.5
constexpr int kTop = static_cast<int>(kScale) - kTokens;

// edge[j], j = 1..15: probability of a token below j, in 1/32768. edge[0] is no edge but the rate
// of adaptation, in 1/2^17, which the same step as the edges' brings from its start to kSlowest.
struct alignas(16) Tally {
  uint16_t edge[kTokens];
};

struct TargetTable {
  alignas(16) int16_t value[kTokens][kTokens] = {};  // [token][j]: where a token draws the lanes
  constexpr TargetTable() {
    for (int t = 0; t < kTokens; ++t) {
      value[t][0] = kSlowest;
      for (int j = 1; j < kTokens; ++j) {
        value[t][j] = static_cast<int16_t>(j <= t ? j : kTop - kTokens + j);
      }
    }
  }
};
inline constexpr TargetTable kTargets;

inline void update(Tally& t, int token) {
#if defined(__SSE2__)
  __m128i* edges = reinterpret_cast<__m128i*>(t.edge);
  const __m128i* target = reinterpret_cast<const __m128i*>(kTargets.value[token]);
  const __m128i low = _mm_load_si128(edges), high = _mm_load_si128(edges + 1);
  const __m128i rate = _mm_shuffle_epi32(_mm_shufflelo_epi16(low, 0), 0), one = _mm_set1_epi16(1);
  const auto moved = [&](__m128i edge, __m128i to) {
    const __m128i part = _mm_mulhi_epi16(_mm_sub_epi16(to, edge), rate);
    return _mm_add_epi16(edge, _mm_srai_epi16(_mm_add_epi16(part, one), 1));
  };
  _mm_store_si128(edges, moved(low, _mm_load_si128(target)));
  _mm_store_si128(edges + 1, moved(high, _mm_load_si128(target + 1)));
#else
  const int rate = t.edge[0];
  for (int j = 0; j < kTokens; ++j) {
    t.edge[j] = static_cast<uint16_t>(t.edge[j] + part(kTargets.value[token][j] - t.edge[j], rate));
  }
#endif
}

// The edges that a token is coded with: the mean of four tallies', rounded up at each halving, plus
// j, so that no token is impossible.
class Edges {
 public:
  Edges(const Tally& a, const Tally& b, const Tally& c, const Tally& d) {
#if defined(__SSE2__)
    const auto mean = [&](int half) {
      const auto at = [half](const Tally& t) {
        return _mm_load_si128(reinterpret_cast<const __m128i*>(t.edge) + half);
      };
      return _mm_avg_epu16(_mm_avg_epu16(at(a), at(b)), _mm_avg_epu16(at(c), at(d)));
    };
    const __m128i edge = _mm_setr_epi16(0, -1, -1, -1, -1, -1, -1, -1);
    low_ = _mm_and_si128(edge, _mm_add_epi16(mean(0), _mm_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7)));
    high_ = _mm_add_epi16(mean(1), _mm_setr_epi16(8, 9, 10, 11, 12, 13, 14, 15));
    _mm_store_si128(reinterpret_cast<__m128i*>(edge_), low_);
    _mm_store_si128(reinterpret_cast<__m128i*>(edge_) + 1, high_);
#else
    for (int j = 1; j < kTokens; ++j) {
      const int ab = (a.edge[j] + b.edge[j] + 1) >> 1, cd = (c.edge[j] + d.edge[j] + 1) >> 1;
      edge_[j] = static_cast<uint16_t>(((ab + cd + 1) >> 1) + j);
    }
    edge_[0] = 0;
#endif
    edge_[kTokens] = kScale;
  }
  uint32_t start(int token) const { return edge_[token]; }
  uint32_t size(int token) const { return edge_[token + 1] - uint32_t{edge_[token]}; }
  int find(uint32_t slot) const {  // the token whose interval holds the slot
#if defined(__SSE2__)
    const __m128i s = _mm_set1_epi16(static_cast<int16_t>(slot));
    const __m128i above = _mm_packs_epi16(_mm_cmpgt_epi16(low_, s), _mm_cmpgt_epi16(high_, s));
    return lowest_bit(static_cast<uint32_t>(_mm_movemask_epi8(above)) >> 1 | 1u << (kTokens - 1));
#else
    int token = 0;
    for (int j = 1; j < kTokens; ++j) token += edge_[j] <= slot;
    return token;
#endif
  }

 private:
  alignas(16) uint16_t edge_[kTokens + 1];
#if defined(__SSE2__)
  __m128i low_, high_;
#endif
};

template <class Io>
FIELDPRESS_INLINE int code_token(Io& io, const Edges& edges, int token) {
  if constexpr (Io::kDecodes) token = edges.find(io.coder.slot());
  io.interval(edges.start(token), edges.size(token));
  return token;
}
// The same under one tally, which learns.
template <class Io>
FIELDPRESS_INLINE int code_token(Io& io, Tally& tally, int token) {
  token = code_token(io, Edges(tally, tally, tally, tally), token);
  update(tally, token);
  return token;
}

}  // namespace fieldpress::quant

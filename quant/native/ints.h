// Context-mixed coding of an integer matrix, row by row: signed symbols that are small where
// their neighbours' are. Knows rows, channels and causal neighbours; no scene, no Gaussian.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "coder.h"

namespace fieldpress::quant {

constexpr int kMaxExponent = 24;   // |symbol| < 2^24
constexpr int kNodes = 128;        // nodes of the binarisation tree, below
constexpr int kMagnitudeBuckets = 16;
constexpr int kIntInputs = 6;

// Nodes: 0 zero?, 1 sign, 2..26 unary exponent of |s|, 27.. three per exponent: the top two
// mantissa bits as a tree; lower mantissa bits share one node per exponent (102..126).
constexpr int kNodeExponent = 2, kNodeMantissa = 27, kNodeLow = 102;

struct IntMatrix {
  int64_t rows = 0, channels = 0;
  const int32_t* scale = nullptr;       // [rows] >= 1: size of one symbol unit of this row
  const uint8_t* context = nullptr;     // [rows, 2] side contexts, each < 32
  const int32_t* neighbors = nullptr;   // [rows, k] earlier rows, or -1
  int64_t k = 0;
  const int32_t* limits = nullptr;      // [rows] or null: channels >= limit are zero, limit-1 is not
};

// Bucket of a magnitude given in quarters: 0, then roughly two buckets an octave.
inline int bucket(uint64_t quarters) {
  if (quarters < 4) return static_cast<int>(quarters);
  int log = 2;
  while (log < 40 && (quarters >> (log + 1)) != 0) ++log;
  const int half = static_cast<int>((quarters >> (log - 1)) & 1);
  return std::min(kMagnitudeBuckets - 1, 4 + (log - 2) * 2 + half);
}

class IntModel {
 public:
  explicit IntModel(int64_t channels)
      : channels_(channels),
        by_first_(size(channels * 32)), by_second_(size(channels * 32)),
        by_neighbors_(size(channels * kMagnitudeBuckets)),
        by_row_(size(channels * 16)),
        by_both_(size(kMagnitudeBuckets * kMagnitudeBuckets * 4)),
        by_sides_(size(32 * 32)),
        mixer_(static_cast<size_t>(channels) * kNodes) {}

  struct Context {
    int64_t first, second, neighbors, row, both, sides;
  };

  template <class Io>
  int32_t code(Io& io, int64_t channel, const Context& c, bool nonzero, int32_t symbol) {
    channel_ = channel;
    context_ = &c;
    if (!nonzero && bit(io, 0, symbol != 0) == 0) return 0;
    const int negative = bit(io, 1, symbol < 0);
    const uint32_t magnitude = static_cast<uint32_t>(negative ? -int64_t{symbol} : symbol);
    int exponent = 0;  // magnitude in [2^exponent, 2^(exponent + 1))
    while (exponent < kMaxExponent &&
           bit(io, kNodeExponent + exponent, (magnitude >> exponent) > 1)) {
      ++exponent;
    }
    uint32_t value = 1;
    for (int k = exponent - 1; k >= 0; --k) {
      const int depth = exponent - 1 - k;
      const int node = depth == 0   ? kNodeMantissa + 3 * exponent
                       : depth == 1 ? kNodeMantissa + 3 * exponent + 1 + static_cast<int>(value & 1)
                                    : kNodeLow + exponent;
      value = value * 2 + static_cast<uint32_t>(bit(io, node, (magnitude >> k) & 1));
    }
    return negative ? -static_cast<int32_t>(value) : static_cast<int32_t>(value);
  }

 private:
  static size_t size(int64_t contexts) { return static_cast<size_t>(contexts) * kNodes; }

  template <class Io>
  int bit(Io& io, int node, int y) {
    const Context& c = *context_;
    Bit* bits[kIntInputs] = {
        &by_first_[(channel_ * 32 + c.first) * kNodes + node],
        &by_second_[(channel_ * 32 + c.second) * kNodes + node],
        &by_neighbors_[(channel_ * kMagnitudeBuckets + c.neighbors) * kNodes + node],
        &by_row_[(channel_ * 16 + c.row) * kNodes + node],
        &by_both_[c.both * kNodes + node],
        &by_sides_[c.sides * kNodes + node],
    };
    return code_bit<Io, kIntInputs>(io, mixer_, bits, static_cast<size_t>(channel_) * kNodes + node, y);
  }

  int64_t channels_, channel_ = 0;
  std::vector<Bit> by_first_, by_second_, by_neighbors_, by_row_, by_both_, by_sides_;
  Mixer<kIntInputs> mixer_;
  const Context* context_ = nullptr;
};

// Codes (or decodes into) symbols[rows, channels].
template <class Io>
void code_ints(Io& io, const IntMatrix& m, int32_t* symbols) {
  IntModel model(m.channels);
  for (int64_t i = 0; i < m.rows; ++i) {
    int32_t* row = symbols + i * m.channels;
    const int64_t limit = m.limits ? m.limits[i] : m.channels;
    const int64_t first = m.context[2 * i], second = m.context[2 * i + 1];
    uint64_t seen = 0;  // sum of this row's magnitudes so far
    for (int64_t c = 0; c < m.channels; ++c) {
      if (c >= limit) {
        if (Io::kDecodes) row[c] = 0;
        continue;
      }
      uint64_t total = 0, parts = 0;
      for (int64_t k = 0; k < m.k; ++k) {
        const int64_t j = m.neighbors[i * m.k + k];
        if (j < 0) continue;
        const int64_t s = symbols[j * m.channels + c];
        total += static_cast<uint64_t>(s < 0 ? -s : s) * static_cast<uint64_t>(m.scale[j]);
        ++parts;
      }
      const uint64_t near = parts ? 4 * total / (parts * static_cast<uint64_t>(m.scale[i])) : 1;
      const auto magnitude = [&](int64_t channel) -> int64_t {
        if (channel < 0) return 0;
        const int64_t s = row[channel];
        return std::min<int64_t>(3, s < 0 ? -s : s);
      };
      const int64_t last = magnitude(c - 1), before = magnitude(c - 2);
      const int64_t near_bucket = bucket(near);
      const int64_t seen_bucket = bucket(c ? 4 * seen / static_cast<uint64_t>(std::min<int64_t>(c, 8)) : 0);
      const IntModel::Context context = {
          first, second, near_bucket, last * 4 + before,
          (near_bucket * kMagnitudeBuckets + seen_bucket) * 4 + std::min<int64_t>(3, c),
          first * 32 + second,
      };
      row[c] = model.code(io, c, context, m.limits != nullptr && c == limit - 1, row[c]);
      const int64_t s = row[c];
      seen += static_cast<uint64_t>(s < 0 ? -s : s);
      if (c >= 8) {
        const int64_t old = row[c - 8];
        seen -= static_cast<uint64_t>(old < 0 ? -old : old);
      }
    }
  }
}

}  // namespace fieldpress::quant

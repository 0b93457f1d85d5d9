// Coding of an integer matrix, row by row: signed symbols that are small where their neighbours'
// are. Knows rows, channels and causal neighbours; no scene, no Gaussian.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "estimate.h"
#include "magnitude.h"

namespace fieldpress::quant {

struct IntMatrix {
  int64_t rows = 0, channels = 0;
  const int32_t* scale = nullptr;      // [rows] >= 1: size of one symbol unit of this row
  const uint8_t* context = nullptr;    // [rows, 2] side contexts, each < 32
  const int32_t* neighbors = nullptr;  // [rows, k] earlier rows, or -1
  int64_t k = 0;
  const int32_t* limits = nullptr;  // [rows] or null: channels >= limit are zero, limit-1 is not
};

constexpr int kContexts = 32;
constexpr int kNear = 3;  // neighbours that are looked at
constexpr int64_t kManyChannels = 8;
constexpr int kGroupBits = 3;  // above kManyChannels, so many channels share a group

// State of one channel.
struct Channel {
  Tally by_level[kLevels];
  Below below;
  Weights weights = {{1000, 700, 600, 1200, 0, 0, 0, 0}};
  int32_t center = 0;                                               // in 1/4096 octaves,
  int32_t first_bias[kContexts] = {}, second_bias[kContexts] = {};  // as the others
  Bit sign_near[kContexts][3][3], sign_before[kContexts][3];
  Channel() { std::copy(std::begin(kPriors.level), std::end(kPriors.level), by_level); }
};
// State that channels may share. Levels count in threes and eights where there is a side context.
struct Group {
  Tally by_before[kTokens][kLevels], last[kLevels];
  Tally by_second[kContexts][kLevels / 3 + 1], by_scale[kContexts][kLevels / 8];
  Group() {
    std::copy(std::begin(kPriors.last), std::end(kPriors.last), last);
    for (auto& row : by_before) std::copy(std::begin(kPriors.level), std::end(kPriors.level), row);
    for (int i = 0; i < kContexts; ++i) {
      for (int e = 0; e < kLevels; ++e) {  // Each begins as the middle one of its levels.
        by_second[i][e / 3] = kPriors.level[std::min(kLevels - 1, e / 3 * 3 + 1)];
        by_scale[i][e / 8] = kPriors.level[e / 8 * 8 + 4];
      }
    }
  }
};

class IntModel {
 public:
  explicit IntModel(const IntMatrix& m)
      : m_(m), group_bits_(m.channels > kManyChannels ? kGroupBits : 0),
        logs_(static_cast<size_t>(m.rows * m.channels)), absent_(static_cast<size_t>(m.channels)),
        zeros_(static_cast<size_t>(m.channels)), channels_(static_cast<size_t>(m.channels)),
        groups_(static_cast<size_t>((m.channels - 1) >> group_bits_) + 1) {}

  // Codes row i, or decodes into it (zeros).
  template <class Io>
  void code(Io& shared, int64_t i, int32_t* symbols) {
    Io io = std::move(shared);  // A local one stays in registers.
    Row row = about(i, symbols);
    const int64_t limit = m_.limits ? m_.limits[i] : m_.channels;
    Guess guess(row.scale), next(row.scale);
    if (limit > 0) look(0, row, next);
    for (int64_t c = 0; c < limit; ++c) {
      guess = next;  // The next one's is made before it is needed: it takes long.
      if (c + 1 < limit) look(c + 1, row, next);
      code_symbol(io, c, m_.limits && c == limit - 1, guess, row);
    }
    const int16_t zero = static_cast<int16_t>(log_of(0) + row.scale);
    std::fill(row.logs + limit, row.logs + m_.channels, zero);
    shared = std::move(io);
  }

 private:
  // What a row's symbols are coded with, and what they have left so far.
  struct Row {
    int scale, scale_context, first, second;
    const int16_t* near[kNear];  // logarithms of neighbours' magnitudes
    const int32_t* nearest;      // symbols
    int32_t* symbols;
    int16_t* logs;
    int mean = 0;              // running mean of the row's logarithms
    int before = 0, sign = 1;  // of the channel before: token and sign, sign
  };
  // What is expected of one symbol.
  struct Guess {
    Features features;
    int estimate = 0, level = 0;  // of the logarithm
    explicit Guess(int scale) : features(scale - kMiddleScale, 256) {}
  };

  Row about(int64_t i, int32_t* symbols) {
    Row row;
    row.scale = log_of(static_cast<uint32_t>(m_.scale[i]));
    row.first = m_.context[2 * i];
    row.second = m_.context[2 * i + 1];
    row.scale_context = m_.scale[i] == 1 ? row.first : row.scale >> 6 & (kContexts - 1);
    row.before = row.first & (kTokens - 1);
    row.symbols = symbols + i * m_.channels;
    row.logs = logs_.data() + i * m_.channels;
    row.nearest = zeros_.data();
    for (int64_t q = 0; q < kNear; ++q) {
      const int64_t j = q < m_.k ? m_.neighbors[i * m_.k + q] : -1;
      row.near[q] = j < 0 ? absent_.data() : logs_.data() + j * m_.channels;
      for (size_t c = 0; c < absent_.size() && j < 0; ++c) {
        absent_[c] = static_cast<int16_t>(row.scale + (channels_[c].center >> 4));
      }
      if (q == 0 && j >= 0) row.nearest = symbols + j * m_.channels;
    }
    return row;
  }

  // The guess at channel c, where all channels but the last one are known.
  FIELDPRESS_INLINE void look(int64_t c, const Row& row, Guess& guess) const {
    const Channel& channel = channels_[static_cast<size_t>(c)];
    const int center = channel.center >> 4, mean = c > 1 ? row.mean - center : 0;
    guess.features.set(
        row.near[0][c], row.near[1][c], row.near[2][c], center + row.scale, mean);
    const int bias = channel.first_bias[row.first] + channel.second_bias[row.second];
    guess.estimate = (guess.features.dot(channel.weights) >> 12) + (bias >> 4) + center;
    guess.level = std::min(kLevels - 1, std::max(0, (guess.estimate + kLevelOffset) >> 6));
  }

  template <class Io>
  FIELDPRESS_INLINE void code_symbol(
      Io& io, int64_t c, bool last, const Guess& guess, Row& row) {
    Channel& channel = channels_[static_cast<size_t>(c)];
    Group& group = groups_[static_cast<size_t>(c >> group_bits_)];
    const int level = guess.level;
    const int32_t symbol = row.symbols[c];
    uint32_t magnitude = static_cast<uint32_t>(symbol < 0 ? -symbol : symbol);
    int token = Io::kDecodes ? 0 : token_of(magnitude), log;
    if (last) {
      token = code_token(io, group.last[level], token);
      magnitude = channel.below.code(io, token, magnitude);
      log = token < 4 ? kSmallLogs[token] : log_of(magnitude);
    } else {
      Tally &p = channel.by_level[level], &q = group.by_second[row.second][level / 3];
      Tally &r = group.by_before[row.before][level];
      Tally &s = group.by_scale[row.scale_context][level / 8];
      token = code_token(io, Edges(p, q, r, s), token);
      update(p, token);
      update(q, token);
      update(r, token);
      update(s, token);
      magnitude = channel.below.code(io, token, magnitude);
      log = token < 4 ? kSmallLogs[token] : log_of(magnitude);
      const int error = std::min(kMostError, std::max(-kMostError, log - guess.estimate));
      guess.features.learn(channel.weights, error);
      channel.first_bias[row.first] += error >> 2;
      channel.second_bias[row.second] += error >> 3;
      channel.center += (16 * log - channel.center) >> 7;
    }
    row.mean = c ? row.mean + ((log - row.mean) >> (group_bits_ ? 2 : 1)) : log;
    row.logs[c] = static_cast<int16_t>(log + row.scale);
    row.sign = magnitude ? code_sign(io, c, channel, token, magnitude, row) : 1;
    row.before = std::min(kTokens / 2 - 1, token) * 2 + (row.sign == 0);
  }

  // 0 or 2 for a symbol below or above zero; decoding writes it.
  template <class Io>
  static FIELDPRESS_INLINE int code_sign(
      Io& io, int64_t c, Channel& channel, int token, uint32_t magnitude, Row& row) {
    const int32_t near = row.nearest[c];
    const int size = std::min(2, (token - 1) / 2);
    Bit& a = channel.sign_near[row.first][1 + (near > 0) - (near < 0)][size];
    Bit& b = channel.sign_before[row.second][row.sign];
    const int negative = io.bit(row.symbols[c] < 0, (a.p + b.p) >> 2);
    update(a, negative);
    update(b, negative);
    const int32_t value = static_cast<int32_t>(magnitude);
    if (Io::kDecodes) row.symbols[c] = negative ? -value : value;
    return negative ? 0 : 2;
  }

  const IntMatrix& m_;
  int group_bits_;
  std::vector<int16_t> logs_, absent_;
  std::vector<int32_t> zeros_;
  std::vector<Channel> channels_;
  std::vector<Group> groups_;
};

// Codes symbols[rows, channels], or decodes into it (zeros).
template <class Io>
void code_ints(Io& io, const IntMatrix& m, int32_t* symbols) {
  IntModel model(m);
  for (int64_t i = 0; i < m.rows; ++i) model.code(io, i, symbols);
}

}  // namespace fieldpress::quant

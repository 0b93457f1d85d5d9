#include "noise.h"

#include <algorithm>

namespace fieldpress::fields {
namespace {

constexpr int LANES = 256;
constexpr float UNIT = 1.0f / 4096;

struct Words {
  uint32_t w[4][LANES];
};

inline uint32_t high(uint64_t x) { return static_cast<uint32_t>(x >> 32); }
inline uint32_t low(uint64_t x) { return static_cast<uint32_t>(x); }

// Ten rounds on candidates first .. first + LANES - 1.
void generate(uint32_t first, uint32_t group, Place place, Words& out) {
  for (int i = 0; i < LANES; ++i) {
    uint32_t a = first + static_cast<uint32_t>(i), b = group, c = place.block, d = place.level;
#pragma GCC unroll 10
    for (uint32_t round = 0; round < 10; ++round) {
      const uint64_t left = uint64_t{0xD2511F53} * a, right = uint64_t{0xCD9E8D57} * c;
      a = high(right) ^ b ^ (round * 0x9E3779B9u);
      b = low(right);
      c = high(left) ^ d ^ (round * 0xBB67AE85u);
      d = low(left);
    }
    out.w[0][i] = a;
    out.w[1][i] = b;
    out.w[2][i] = c;
    out.w[3][i] = d;
  }
}

}  // namespace

void score(const int16_t* table, const float* coefficients, int64_t rows, int64_t dims, Place place,
           uint32_t first, int64_t count, float* out) {
  std::fill(out, out + rows * count, 0.0f);
  Words words;
  float z[LANES];
  for (int64_t start = 0; start < count; start += LANES) {
    const int64_t size = std::min<int64_t>(LANES, count - start);
    for (int64_t j = 0; j < dims; ++j) {
      const int part = static_cast<int>(j % NORMALS);
      if (part == 0)
        generate(first + static_cast<uint32_t>(start), static_cast<uint32_t>(j / NORMALS), place,
                 words);
      const uint32_t* const word = words.w[part / 2];
      const int shift = 16 * (part % 2);
      for (int i = 0; i < LANES; ++i) z[i] = UNIT * table[word[i] >> shift & 0xFFFF];
      for (int64_t row = 0; row < rows; ++row) {
        const float square = coefficients[row * 2 * dims + j];
        const float linear = coefficients[row * 2 * dims + dims + j];
        float* const to = out + row * count + start;
        for (int64_t i = 0; i < size; ++i) to[i] += (square * z[i] + linear) * z[i];
      }
    }
  }
}

}  // namespace fieldpress::fields

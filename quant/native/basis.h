// Integers times a basis of signed bytes, summed exactly.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace fieldpress::quant {

// Products of rows of values with basis[rows, columns].
class ByteBasis {
 public:
  ByteBasis(const int8_t* basis, size_t rows, size_t columns)
      : basis_(basis), rows_(rows), columns_(columns), pairs_((rows + 1) / 2),
        tiles_((columns + kTile - 1) / kTile), lanes_(tiles_ * pairs_), both_(pairs_) {
    for (size_t k = 0; k < rows; ++k) {
      for (size_t j = 0; j < columns; ++j) {
        lanes_[j / kTile * pairs_ + k / 2].value[j % kTile * 2 + k % 2] = basis[k * columns + j];
      }
    }
  }
  // out[j] = factor * sum over k of values[k] * basis[k][j]; the sum is exact.
  void apply(const int32_t* values, double factor, float* out) {
    int32_t low = 0, high = 0;
    for (size_t k = 0; k < rows_; ++k) {
      low = std::min(low, values[k]);
      high = std::max(high, values[k]);
    }
    const bool small = low >= -32768 && high <= 32767;
    if (small && rows_ <= kMostRows) return apply_small(values, factor, out);
    for (size_t j = 0; j < columns_; ++j) {
      int64_t sum = 0;
      for (size_t k = 0; k < rows_; ++k) sum += int64_t{values[k]} * basis_[k * columns_ + j];
      out[j] = static_cast<float>(static_cast<double>(sum) * factor);
    }
  }

 private:
  static constexpr size_t kTile = 16;       // columns that are summed at once
  static constexpr size_t kMostRows = 256;  // so that sums stay below 256 * 2^15 * 2^7 = 2^30
  struct alignas(16) Lane {
    int16_t value[2 * kTile] = {};  // of two rows, column by column
  };

  void apply_small(const int32_t* values, double factor, float* out) {
    for (size_t p = 0; p < pairs_; ++p) {
      const uint32_t a = static_cast<uint32_t>(values[2 * p]);
      const uint32_t b = 2 * p + 1 < rows_ ? static_cast<uint32_t>(values[2 * p + 1]) : 0;
      both_[p] = static_cast<int32_t>(b << 16 | (a & 0xffffu));
    }
    for (size_t tile = 0; tile < tiles_; ++tile) {
      alignas(16) int32_t sums[kTile];
      sum(&lanes_[tile * pairs_], sums);
      const size_t count = std::min(kTile, columns_ - tile * kTile);
      float* to = out + tile * kTile;
      for (size_t j = 0; j < count; ++j) to[j] = static_cast<float>(sums[j] * factor);
    }
  }
  void sum(const Lane* lanes, int32_t* sums) const {
#if defined(__SSE2__)
    __m128i total[4] = {};
    for (size_t p = 0; p < pairs_; ++p) {
      const __m128i both = _mm_set1_epi32(both_[p]);
      const __m128i* lane = reinterpret_cast<const __m128i*>(lanes[p].value);
      for (int t = 0; t < 4; ++t) {
        total[t] = _mm_add_epi32(total[t], _mm_madd_epi16(both, _mm_load_si128(lane + t)));
      }
    }
    for (int t = 0; t < 4; ++t) _mm_store_si128(reinterpret_cast<__m128i*>(sums) + t, total[t]);
#else
    std::fill(sums, sums + kTile, 0);
    for (size_t p = 0; p < pairs_; ++p) {
      const int16_t a = static_cast<int16_t>(both_[p]), b = static_cast<int16_t>(both_[p] >> 16);
      for (size_t j = 0; j < kTile; ++j) {
        sums[j] += a * lanes[p].value[2 * j] + b * lanes[p].value[2 * j + 1];
      }
    }
#endif
  }

  const int8_t* basis_;
  size_t rows_, columns_, pairs_, tiles_;
  std::vector<Lane> lanes_;
  std::vector<int32_t> both_;
};

}  // namespace fieldpress::quant

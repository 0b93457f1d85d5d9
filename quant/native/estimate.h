// Online least squares (least mean squares) of a logarithm on eight features, in sixteen bits.
#pragma once

#include <algorithm>
#include <cstdint>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace fieldpress::quant {

constexpr int kFeatures = 8;
constexpr int kMostError = 4095;

struct alignas(16) Weights {
  int16_t value[kFeatures];  // in 1/4096
};

// Features of one row: three neighbours' logarithms, less what they are compared with, and one more
// change from channel to channel.
class Features {
 public:
  Features(int fifth, int sixth) {
    const int16_t e = static_cast<int16_t>(fifth), f = static_cast<int16_t>(sixth);
#if defined(__SSE2__)
    base_ = now_ = _mm_setr_epi16(0, 0, 0, 0, e, f, 0, 0);
#else
    now_[4] = e;
    now_[5] = f;
#endif
  }
  void set(int16_t a, int16_t b, int16_t c, int less, int fourth) {
#if defined(__SSE2__)
    const __m128i three = _mm_srli_si128(_mm_set1_epi16(static_cast<int16_t>(less)), 10);
    __m128i v = _mm_insert_epi16(base_, a, 0);
    v = _mm_insert_epi16(v, b, 1);
    v = _mm_insert_epi16(v, c, 2);
    now_ = _mm_sub_epi16(_mm_insert_epi16(v, fourth, 3), three);
#else
    now_[0] = static_cast<int16_t>(a - less);
    now_[1] = static_cast<int16_t>(b - less);
    now_[2] = static_cast<int16_t>(c - less);
    now_[3] = static_cast<int16_t>(fourth);
#endif
  }
  int dot(const Weights& w) const {  // 4096 times the estimate
#if defined(__SSE2__)
    __m128i s = _mm_madd_epi16(now_, _mm_load_si128(reinterpret_cast<const __m128i*>(w.value)));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
#else
    int sum = 0;
    for (int k = 0; k < kFeatures; ++k) sum += w.value[k] * now_[k];
    return sum;
#endif
  }
  // error within +-kMostError
  void learn(Weights& w, int error) const {
#if defined(__SSE2__)
    __m128i* at = reinterpret_cast<__m128i*>(w.value);
    const __m128i part = _mm_mulhi_epi16(now_, _mm_set1_epi16(static_cast<int16_t>(8 * error)));
    const __m128i step = _mm_srai_epi16(_mm_add_epi16(part, _mm_set1_epi16(1)), 1);
    _mm_store_si128(at, _mm_adds_epi16(_mm_load_si128(at), step));
#else
    for (int k = 0; k < kFeatures; ++k) {
      const int moved = w.value[k] + (((8 * error * now_[k] >> 16) + 1) >> 1);
      w.value[k] = static_cast<int16_t>(std::min(32767, std::max(-32768, moved)));
    }
#endif
  }

 private:
#if defined(__SSE2__)
  __m128i base_, now_;
#else
  int16_t now_[kFeatures] = {};
#endif
};

}  // namespace fieldpress::quant

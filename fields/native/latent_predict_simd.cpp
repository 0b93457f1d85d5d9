// The context network of the coder in integers: sums modulo 2^32, so that no order matters.
#include "latent_coder.h"

namespace fieldpress::fields::FIELDPRESS_ISA {
namespace {

typedef uint32_t Words __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));

inline __attribute__((always_inline)) Words load(const int32_t* from) {
  return *reinterpret_cast<const Words*>(from);
}

template <int N>
inline __attribute__((always_inline)) void add_products(const int32_t* columns, int32_t by,
                                                        Words (&sum)[N]) {
  for (int n = 0; n < N; ++n) sum[n] += load(columns + n * WORDS) * static_cast<uint32_t>(by);
}

template <int N>
inline __attribute__((always_inline)) void activate(Words (&sum)[N], int32_t* to) {
  for (int n = 0; n < N; ++n) {
    Ints x = reinterpret_cast<const Ints&>(sum[n]) >> WEIGHT_BITS;
    x = x > 0 ? x : Ints{};
    x = x < MOST_UNITS ? x : Ints{} + MOST_UNITS;
    *reinterpret_cast<Ints*>(to + n * WORDS) = x;
  }
}

template <int N>
void layers(const IntegerNet& net, const int32_t* taps, int32_t* out) {
  constexpr int PADDED = N * WORDS;
  alignas(64) int32_t h1[PADDED], h2[PADDED];
  Words sum[N], other[N];
  for (int n = 0; n < N; ++n) sum[n] = load(net.a0 + n * WORDS), other[n] = Words{};
  int i = 0;
  for (; i + 2 <= net.inputs; i += 2) {
    add_products<N>(net.a + i * PADDED, taps[i], sum);
    add_products<N>(net.a + (i + 1) * PADDED, taps[i + 1], other);
  }
  if (i < net.inputs) add_products<N>(net.a + i * PADDED, taps[i], sum);
  for (int n = 0; n < N; ++n) sum[n] += other[n];
  activate<N>(sum, h1);
  for (int n = 0; n < N; ++n) {
    sum[n] = load(net.b0 + n * WORDS) + (load(h1 + n * WORDS) << WEIGHT_BITS);
    other[n] = Words{};
  }
  for (int first = 0; first < PADDED; first += 8) {
    int32_t any = 0;  // Padding is all zeros.
    for (int k = first; k < first + 8; ++k) any |= h1[k];
    if (!any) continue;
    for (int k = first; k < first + 8; k += 2) {
      add_products<N>(net.b + k * PADDED, h1[k], sum);
      add_products<N>(net.b + (k + 1) * PADDED, h1[k + 1], other);
    }
  }
  for (int n = 0; n < N; ++n) sum[n] += other[n];
  activate<N>(sum, h2);
  for (int o = 0; o < 2; ++o) {
    Words mix{};
    for (int n = 0; n < N; ++n) mix += load(net.c + o * PADDED + n * WORDS) * load(h2 + n * WORDS);
    uint32_t total = static_cast<uint32_t>(net.c0[o]);
    for (int lane = 0; lane < WORDS; ++lane) total += mix[lane];
    for (int k = 0; k < net.inputs; ++k)
      total += static_cast<uint32_t>(net.d[o * MAX_TAPS + k]) * static_cast<uint32_t>(taps[k]);
    out[o] = static_cast<int32_t>(total) >> WEIGHT_BITS;
  }
}

}  // namespace

void predict(const IntegerNet& net, const int32_t* taps, int32_t* out) {
  switch (net.blocks) {
    case 1: return layers<1>(net, taps, out);
    case 2: return layers<2>(net, taps, out);
    default: return layers<4>(net, taps, out);
  }
}

}  // namespace fieldpress::fields::FIELDPRESS_ISA

// Morton codes: the bits of three coordinates interleaved, x lowest.
#pragma once

#include <cstdint>

namespace fieldpress::quant {

inline uint64_t spread_bits(uint64_t v) {  // abc -> a00b00c
  v &= 0x1fffffull;
  v = (v | v << 32) & 0x1f00000000ffffull;
  v = (v | v << 16) & 0x1f0000ff0000ffull;
  v = (v | v << 8) & 0x100f00f00f00f00full;
  v = (v | v << 4) & 0x10c30c30c30c30c3ull;
  v = (v | v << 2) & 0x1249249249249249ull;
  return v;
}
inline uint64_t gather_bits(uint64_t v) {
  v &= 0x1249249249249249ull;
  v = (v ^ v >> 2) & 0x10c30c30c30c30c3ull;
  v = (v ^ v >> 4) & 0x100f00f00f00f00full;
  v = (v ^ v >> 8) & 0x1f0000ff0000ffull;
  v = (v ^ v >> 16) & 0x1f00000000ffffull;
  v = (v ^ v >> 32) & 0x1fffffull;
  return v;
}
inline uint64_t morton(uint64_t x, uint64_t y, uint64_t z) {
  return spread_bits(x) | spread_bits(y) << 1 | spread_bits(z) << 2;
}
inline int ones(int byte) {
  byte -= byte >> 1 & 0x55;
  byte = (byte & 0x33) + (byte >> 2 & 0x33);
  return (byte + (byte >> 4)) & 15;
}

}  // namespace fieldpress::quant

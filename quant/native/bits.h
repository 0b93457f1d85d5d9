// Fields of some bits each, most significant first, and a checksum.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace fieldpress::quant {

class BitWriter {
 public:
  void put(uint32_t value, int width) {  // width 1..32
    pending_ = pending_ << width | value;
    held_ += width;
    while (held_ >= 8) {
      held_ -= 8;
      bytes_.push_back(static_cast<uint8_t>(pending_ >> held_));
    }
  }
  std::vector<uint8_t> finish() {
    if (held_) bytes_.push_back(static_cast<uint8_t>(pending_ << (8 - held_)));
    return std::move(bytes_);
  }

 private:
  std::vector<uint8_t> bytes_;
  uint64_t pending_ = 0;
  int held_ = 0;
};

class BitReader {
 public:
  explicit BitReader(const uint8_t* bytes) : bytes_(bytes) {}
  uint32_t get(int width) {  // width 0..32; the caller knows that the bits are there
    while (held_ < width) {
      pending_ = pending_ << 8 | *bytes_++;
      held_ += 8;
    }
    held_ -= width;
    return static_cast<uint32_t>((pending_ >> held_) & ((uint64_t{1} << width) - 1));
  }

 private:
  const uint8_t* bytes_;
  uint64_t pending_ = 0;
  int held_ = 0;
};

// CRC-32C (Castagnoli), eight bytes at a time: table[k] is a byte followed by k zero bytes.
struct CrcTables {
  uint32_t value[8][256] = {};
  constexpr CrcTables() {
    for (uint32_t n = 0; n < 256; ++n) {
      uint32_t c = n;
      for (int bit = 0; bit < 8; ++bit) c = c & 1 ? 0x82f63b78u ^ (c >> 1) : c >> 1;
      value[0][n] = c;
    }
    for (int k = 1; k < 8; ++k) {
      for (int n = 0; n < 256; ++n) {
        value[k][n] = value[0][value[k - 1][n] & 255] ^ (value[k - 1][n] >> 8);
      }
    }
  }
};
inline constexpr CrcTables kCrc;

inline uint32_t crc32c(const uint8_t* bytes, size_t size) {
  uint32_t crc = 0xffffffffu;
  for (; size >= 8; size -= 8, bytes += 8) {
    uint32_t next = 0;
    for (int k = 0; k < 8; ++k) {
      const uint32_t byte = k < 4 ? (crc >> (8 * k) ^ bytes[k]) & 255 : bytes[k];
      next ^= kCrc.value[7 - k][byte];
    }
    crc = next;
  }
  for (; size > 0; --size) crc = kCrc.value[0][(crc ^ *bytes++) & 255] ^ (crc >> 8);
  return crc ^ 0xffffffffu;
}

}  // namespace fieldpress::quant

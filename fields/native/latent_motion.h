// Motion of blocks in quarters of a pixel, in integers.
#pragma once

#include <cstdint>

namespace fieldpress::fields {

constexpr int MAX_BLOCK = 32;
constexpr int MAX_MOTION = 1 << 12;  // In quarters of a pixel.

struct Picture {
  const uint8_t* data;  // [height, width, channels]
  int height, width, channels;
};

// The vector that a block's own is coded against: the median of those left, above, above right.
void guess_motion(const int32_t* motion, int columns, int row, int column, int* guess);
// Of grey pictures: motion [rows, columns, 2], dy and dx in quarters, of least absolute difference
// plus `price` a bit, around the guess and within `reach` pixels of none.
void search_motion(const Picture& now, const Picture& before, int block, int reach, int price,
                   int32_t* motion);
// [channels, height, width] in 0..1: each block from where its vector points, of the rows of blocks
// [first, last).
void move_picture(const Picture& from, const int32_t* motion, int block, int first, int last,
                  float* out);

}  // namespace fieldpress::fields

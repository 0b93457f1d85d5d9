// Motion of blocks in quarters of a pixel, in integers.
#pragma once

#include <cstdint>
#include <vector>

namespace fieldpress::fields {

constexpr int MAX_BLOCK = 32;
constexpr int MAX_MOTION = 1 << 12;  // In quarters of a pixel.
constexpr int TAPS = 8, BEFORE = 3;  // Of interpolation, and those of them before a sample.
// HEVC's interpolation (ITU-T H.265, 8.5.3.3.3.1), in 1/64, by quarters.
constexpr int FILTER[4][TAPS] = {{0, 0, 0, 64, 0, 0, 0, 0},
                                 {-1, 4, -10, 58, 17, -5, 1, 0},
                                 {-1, 4, -11, 40, 40, -11, 4, -1},
                                 {0, 1, -5, 17, 58, -10, 4, -1}};

struct Picture {
  const uint8_t* data;  // [height, width, channels]
  int height, width, channels;
};

// One channel of a block moved by (dy, dx), in 1/4096: to rows of MAX_BLOCK.
void interpolate(const Picture& from, int channel, int y0, int x0, int rows, int columns, int dy,
                 int dx, int* to);
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

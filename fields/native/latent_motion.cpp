// Motion of blocks in quarters of a pixel, in integers: search, and the moved picture.
#include "latent_motion.h"

#include <algorithm>
#include <cstdlib>

namespace fieldpress::fields {
namespace {

constexpr float UNIT = 1.0f / (4096.0f * 255.0f);

int clamped(int x, int size) { return std::min(size - 1, std::max(0, x)); }

}  // namespace

void interpolate(const Picture& from, int channel, int y0, int x0, int rows, int columns, int dy,
                 int dx, int* to) {
  int middle[(MAX_BLOCK + TAPS) * MAX_BLOCK], across[MAX_BLOCK + TAPS];
  const int* const h = FILTER[dx & 3];
  const int* const v = FILTER[dy & 3];
  const int top = y0 + (dy >> 2) - BEFORE, left = x0 + (dx >> 2) - BEFORE;
  const bool still_y = (dy & 3) == 0, still_x = (dx & 3) == 0;  // Then one tap is not zero.
  const int begin = still_y ? BEFORE : 0, end = rows + (still_y ? BEFORE : TAPS - 1);
  for (int y = begin; y < end; ++y) {
    const uint8_t* const row = from.data + static_cast<int64_t>(clamped(top + y, from.height)) *
                                               from.width * from.channels + channel;
    for (int x = 0; x < columns + TAPS - 1; ++x)
      across[x] = row[static_cast<int64_t>(clamped(left + x, from.width)) * from.channels];
    int* const line = middle + y * MAX_BLOCK;
    if (still_x) {
      for (int x = 0; x < columns; ++x) line[x] = h[BEFORE] * across[x + BEFORE];
      continue;
    }
    for (int x = 0; x < columns; ++x) {
      int sum = 0;
      for (int k = 0; k < TAPS; ++k) sum += h[k] * across[x + k];
      line[x] = sum;
    }
  }
  for (int y = 0; y < rows; ++y)
    for (int x = 0; x < columns; ++x) {
      if (still_y) {
        to[y * MAX_BLOCK + x] = v[BEFORE] * middle[(y + BEFORE) * MAX_BLOCK + x];
        continue;
      }
      int sum = 0;
      for (int k = 0; k < TAPS; ++k) sum += v[k] * middle[(y + k) * MAX_BLOCK + x];
      to[y * MAX_BLOCK + x] = sum;
    }
}

namespace {

struct Searched {
  const Picture &now, &before;
  int block, y0, x0, rows, columns, price, guess_y, guess_x;

  int fee(int dy, int dx) const {  // What the vector costs beside its error.
    const int away[2] = {std::abs(dy - guess_y), std::abs(dx - guess_x)};
    int bits = 2;
    for (int d : away)
      while (d) ++bits, ++bits, d >>= 1;
    return price * bits;
  }
  int whole(int dy, int dx, int best) const {  // Of whole pixels.
    int sum = fee(4 * dy, 4 * dx);
    const bool inside = y0 + dy >= 0 && y0 + dy + rows <= before.height && x0 + dx >= 0 &&
                        x0 + dx + columns <= before.width;
    for (int y = 0; y < rows && sum < best; ++y) {
      const uint8_t* const a = now.data + static_cast<int64_t>(y0 + y) * now.width + x0;
      const uint8_t* const b =
          before.data + static_cast<int64_t>(clamped(y0 + y + dy, before.height)) * before.width;
      if (inside) {
        for (int x = 0; x < columns; ++x) sum += std::abs(a[x] - b[x0 + x + dx]);
      } else {
        for (int x = 0; x < columns; ++x)
          sum += std::abs(a[x] - b[clamped(x0 + x + dx, before.width)]);
      }
    }
    return sum;
  }
  int part(int dy, int dx) const {  // Of quarters.
    int moved[MAX_BLOCK * MAX_BLOCK];
    interpolate(before, 0, y0, x0, rows, columns, dy, dx, moved);
    int sum = fee(dy, dx);
    for (int y = 0; y < rows; ++y)
      for (int x = 0; x < columns; ++x) {
        const int here = now.data[static_cast<int64_t>(y0 + y) * now.width + x0 + x];
        sum += std::abs(here - ((moved[y * MAX_BLOCK + x] + 2048) >> 12));
      }
    return sum;
  }
};

int middle_of(int a, int b, int c) { return std::max(std::min(a, b), std::min(std::max(a, b), c)); }

}  // namespace

void guess_motion(const int32_t* motion, int columns, int row, int column, int* guess) {
  for (int axis = 0; axis < 2; ++axis) {
    const auto at = [&](int r, int c) { return motion[2 * (r * columns + c) + axis]; };
    const bool left = column > 0, up = row > 0;
    const int a = left ? at(row, column - 1) : up ? at(row - 1, column) : 0;
    const int b = up ? at(row - 1, column) : a;
    const int c = up && column + 1 < columns ? at(row - 1, column + 1) : up ? b : a;
    guess[axis] = middle_of(a, b, c);
  }
}

void search_motion(const Picture& now, const Picture& before, int block, int reach, int price,
                   int32_t* motion) {
  const int across = (now.width + block - 1) / block, down = (now.height + block - 1) / block;
  for (int row = 0; row < down; ++row)
    for (int column = 0; column < across; ++column) {
      int guess[2];
      guess_motion(motion, across, row, column, guess);
      const int y0 = row * block, x0 = column * block;
      const Searched s{now, before, block, y0, x0, std::min(block, now.height - y0),
                       std::min(block, now.width - x0), price, guess[0], guess[1]};
      int best = 1 << 30, found[2] = {0, 0};
      const auto whole = [&](int dy, int dx) {
        const int cost = s.whole(dy, dx, best);
        if (cost < best) best = cost, found[0] = dy, found[1] = dx;
      };
      const int near[2] = {(guess[0] + 2) >> 2, (guess[1] + 2) >> 2};
      for (int dy = -2; dy <= 2; ++dy)
        for (int dx = -2; dx <= 2; ++dx) whole(near[0] + dy, near[1] + dx);
      for (int dy = -reach; dy <= reach; ++dy)
        for (int dx = -reach; dx <= reach; ++dx) whole(dy, dx);
      int at[2] = {4 * found[0], 4 * found[1]};
      best = s.part(at[0], at[1]);
      const auto part = [&](int dy, int dx, int* to) {
        const int cost = s.part(dy, dx);
        if (cost < best) best = cost, to[0] = dy, to[1] = dx;
      };
      int next[2] = {at[0], at[1]};
      part(guess[0], guess[1], next);
      for (int step = 2; step >= 1; --step) {
        at[0] = next[0], at[1] = next[1];
        for (int k = 0; k < 9; ++k)
          if (k != 4) part(at[0] + (k / 3 - 1) * step, at[1] + (k % 3 - 1) * step, next);
      }
      motion[2 * (row * across + column)] = next[0];
      motion[2 * (row * across + column) + 1] = next[1];
    }
}

void move_picture(const Picture& from, const int32_t* motion, int block, int first, int last,
                  float* out) {
  const int across = (from.width + block - 1) / block;
  int moved[MAX_BLOCK * MAX_BLOCK];
  for (int row = first; row < last; ++row)
    for (int column = 0; column < across; ++column) {
      const int32_t* const by = motion + 2 * (row * across + column);
      const int y0 = row * block, x0 = column * block;
      const int rows = std::min(block, from.height - y0);
      const int columns = std::min(block, from.width - x0);
      for (int channel = 0; channel < from.channels; ++channel) {
        interpolate(from, channel, y0, x0, rows, columns, by[0], by[1], moved);
        for (int y = 0; y < rows; ++y) {
          float* const to =
              out + (int64_t{channel} * from.height + y0 + y) * from.width + x0;
          for (int x = 0; x < columns; ++x)
            to[x] = static_cast<float>(moved[y * MAX_BLOCK + x]) * UNIT;
        }
      }
    }
}

}  // namespace fieldpress::fields

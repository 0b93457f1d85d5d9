// Vectors and modes of blocks that take the least squared error plus bits, all of a frame's.
#include <algorithm>
#include <cstdlib>
#include <limits>
#include <vector>

#include "latent_motion.h"

namespace fieldpress::fields {
namespace {

constexpr int CHANNELS = 3, MARGIN = 48, LEAST_MARGIN = 8;  // Of replicated pixels; for the filter.
constexpr int AREA = CHANNELS * MAX_BLOCK * MAX_BLOCK;
constexpr int ROUNDS = 6;  // Of a descent at one step.

// A picture as planes of floats, its border repeated.
class Padded {
 public:
  explicit Padded(const Picture& of)
      : height_(of.height + 2 * MARGIN), width_(of.width + 2 * MARGIN),
        values_(static_cast<size_t>(CHANNELS) * height_ * width_) {
    float* to = values_.data();
    for (int channel = 0; channel < CHANNELS; ++channel)
      for (int y = 0; y < height_; ++y) {
        const int row = std::clamp(y - MARGIN, 0, of.height - 1);
        const uint8_t* const from = of.data + static_cast<int64_t>(row) * of.width * CHANNELS;
        for (int x = 0; x < width_; ++x)
          *to++ = from[std::clamp(x - MARGIN, 0, of.width - 1) * CHANNELS + channel];
      }
  }
  // Whether a block moved so far is still made of these pixels.
  bool holds(int y0, int x0, int block, int dy, int dx) const {
    const int y = y0 + (dy >> 2), x = x0 + (dx >> 2), reach = MARGIN - LEAST_MARGIN;
    return std::max(std::abs(dy), std::abs(dx)) <= MAX_MOTION && y >= -reach && x >= -reach &&
           y + block <= height_ - 2 * MARGIN + reach &&
           x + block <= width_ - 2 * MARGIN + reach;
  }
  // A block [CHANNELS, block, block] in grey levels, as `move_picture` makes it.
  void block(int y0, int x0, int block, int dy, int dx, float* to) const {
    float h[TAPS], v[TAPS];
    for (int k = 0; k < TAPS; ++k) {
      h[k] = static_cast<float>(FILTER[dx & 3][k]) / 64;
      v[k] = static_cast<float>(FILTER[dy & 3][k]) / 64;
    }
    float middle[(MAX_BLOCK + TAPS) * MAX_BLOCK];
    const int top = y0 + (dy >> 2) + MARGIN - BEFORE, left = x0 + (dx >> 2) + MARGIN - BEFORE;
    for (int channel = 0; channel < CHANNELS; ++channel, to += block * block) {
      const float* from =
          values_.data() + (static_cast<size_t>(channel) * height_ + top) * width_ + left;
      for (int y = 0; y < block + TAPS - 1; ++y, from += width_) {
        float* const line = middle + y * block;
        if (dx & 3) {
          for (int x = 0; x < block; ++x) {
            float sum = 0;
            for (int k = 0; k < TAPS; ++k) sum += h[k] * from[x + k];
            line[x] = sum;
          }
        } else {
          std::copy(from + BEFORE, from + BEFORE + block, line);
        }
      }
      if (dy & 3) {
        for (int at = 0; at < block * block; ++at) {
          float sum = 0;
          for (int k = 0; k < TAPS; ++k) sum += v[k] * middle[at + k * block];
          to[at] = sum;
        }
      } else {
        std::copy(middle + BEFORE * block, middle + (BEFORE + block) * block, to);
      }
    }
  }

 private:
  int height_, width_;
  std::vector<float> values_;
};

struct Vector {
  int dy, dx;
};

class Refining {
 public:
  Refining(const Picture& now, const std::vector<Picture>& references, int block,
           const Prices& prices, int32_t* vectors, int32_t* modes)
      : now_(now), block_(block), across_((now.width + block - 1) / block),
        down_((now.height + block - 1) / block), prices_(prices), modes_(modes),
        padded_(references.begin(), references.end()) {
    for (size_t k = 0; k < references.size(); ++k)
      vectors_[k] = vectors + 2 * static_cast<int64_t>(k) * down_ * across_;
  }

  void pass() {
    for (int row = 0; row < down_; ++row)
      for (int column = 0; column < across_; ++column) settle(row, column);
  }

 private:
  int32_t* vector(int k, int row, int column) { return vectors_[k] + 2 * (row * across_ + column); }
  void put(int k, int row, int column, Vector v) {
    int32_t* const to = vector(k, row, column);
    to[0] = v.dy, to[1] = v.dx;
  }
  // Mode 0 is of both references, mode 1 + k of one.
  static bool uses(int mode, int k) { return mode == 0 || mode == 1 + k; }

  float own_bits(int k, int row, int column) {
    int guess[2];
    guess_motion(vectors_[k], across_, row, column, guess);
    const int32_t* const v = vector(k, row, column);
    float sum = 0;
    for (int axis = 0; axis < 2; ++axis)
      sum += prices_.away[std::min(std::abs(v[axis] - guess[axis]), MAX_AWAY)];
    return sum;
  }
  // Of a vector and of those that are coded against it.
  float bits(int k, int row, int column) {
    float sum = own_bits(k, row, column);
    const int others[3][2] = {{row, column + 1}, {row + 1, column}, {row + 1, column - 1}};
    for (const auto& [r, c] : others)
      if (r < down_ && 0 <= c && c < across_ && uses(modes_[r * across_ + c], k))
        sum += own_bits(k, r, c);
    return sum;
  }
  float error(const float* a, const float* b) const {  // Of a prediction, or the mean of two.
    float sum = 0;
    for (int channel = 0; channel < CHANNELS; ++channel)
      for (int y = 0; y < rows_; ++y) {
        const int at = (channel * block_ + y) * block_;
        for (int x = 0; x < columns_; ++x) {
          const float made = b ? 0.5f * (a[at + x] + b[at + x]) : a[at + x];
          const float away = made - target_[at + x];
          sum += away * away;
        }
      }
    return sum;
  }

  struct Found {
    Vector v;
    float cost;  // Error and bits of this vector.
    float pixels[AREA];
  };

  // The best vector near some, beside the other reference's prediction if there is one.
  void descend(int k, int row, int column, const Vector* starts, int count, const float* other,
               Found& found) {
    float trial[AREA];
    found.cost = std::numeric_limits<float>::infinity();
    found.v = starts[0];
    const auto attempt = [&](Vector v) {
      if (!padded_[k].holds(row * block_, column * block_, block_, v.dy, v.dx)) return false;
      put(k, row, column, v);
      const float fee = prices_.bit * bits(k, row, column);
      if (fee >= found.cost) return false;
      padded_[k].block(row * block_, column * block_, block_, v.dy, v.dx, trial);
      const float cost = fee + error(trial, other);
      if (cost >= found.cost) return false;
      found.cost = cost, found.v = v;
      std::copy(trial, trial + CHANNELS * block_ * block_, found.pixels);
      return true;
    };
    for (int i = 0; i < count; ++i) attempt(starts[i]);
    for (int step = 4; step >= 1; step /= 2)
      for (int round = 0; round < ROUNDS; ++round) {
        const Vector at = found.v;
        bool better = false;
        for (int i = 0; i < 9; ++i)
          if (i != 4) better |= attempt({at.dy + (i / 3 - 1) * step, at.dx + (i % 3 - 1) * step});
        if (!better) break;
      }
    put(k, row, column, found.v);
  }

  // Where to start: the block's own vector, its guess, none, its neighbors'.
  int starts_of(int k, int row, int column, Vector own, Vector* to) {
    int guess[2], count = 0;
    guess_motion(vectors_[k], across_, row, column, guess);
    to[count++] = own;
    to[count++] = {guess[0], guess[1]};
    to[count++] = {0, 0};
    const int others[4][2] = {{row, column - 1}, {row - 1, column}, {row, column + 1},
                              {row + 1, column}};
    for (const auto& [r, c] : others)
      if (0 <= r && r < down_ && 0 <= c && c < across_) {
        const int32_t* const v = vector(k, r, c);
        to[count++] = {v[0], v[1]};
      }
    return count;
  }

  void read_target(int row, int column) {
    rows_ = std::min(block_, now_.height - row * block_);
    columns_ = std::min(block_, now_.width - column * block_);
    for (int channel = 0; channel < CHANNELS; ++channel)
      for (int y = 0; y < rows_; ++y)
        for (int x = 0; x < columns_; ++x) {
          const int64_t at = int64_t{row * block_ + y} * now_.width + column * block_ + x;
          target_[(channel * block_ + y) * block_ + x] = now_.data[at * CHANNELS + channel];
        }
  }

  // The vector of a reference that a block does not use is its guess; gives what that costs.
  float leave(int k, int row, int column) {
    int guess[2];
    guess_motion(vectors_[k], across_, row, column, guess);
    put(k, row, column, {guess[0], guess[1]});
    return prices_.bit * bits(k, row, column);
  }

  void settle(int row, int column) {
    read_target(row, column);
    const int references = static_cast<int>(padded_.size());
    Vector starts[8], singles[2], both[2];
    float costs[3] = {0, 0, 0};
    for (int k = 0; k < references; ++k) {
      const int32_t* const v = vector(k, row, column);
      both[k] = {v[0], v[1]};
    }
    for (int k = 0; k < references; ++k) {
      const int count = starts_of(k, row, column, both[k], starts);
      descend(k, row, column, starts, count, nullptr, alone_[k]);
      singles[k] = alone_[k].v;
      costs[1 + k] = alone_[k].cost;
    }
    int best = 1;
    if (references == 2) {
      for (int k = 0; k < 2; ++k)
        costs[1 + k] += leave(1 - k, row, column) + prices_.bit * prices_.mode[1 + k];
      costs[0] = pair(row, column, both) + prices_.bit * prices_.mode[0];
      best = static_cast<int>(std::min_element(costs, costs + 3) - costs);
    }
    modes_[row * across_ + column] = best;
    for (int k = 0; k < references; ++k) {
      if (uses(best, k)) put(k, row, column, best ? singles[k] : both[k]);
      else leave(k, row, column);
    }
  }

  // Both vectors, each in turn beside the other; gives what they cost.
  float pair(int row, int column, Vector* both) {
    Vector starts[10];
    for (int k = 0; k < 2; ++k) put(k, row, column, both[k]);
    const float* other = alone_[1].pixels;
    if (padded_[1].holds(row * block_, column * block_, block_, both[1].dy, both[1].dx)) {
      padded_[1].block(row * block_, column * block_, block_, both[1].dy, both[1].dx,
                       paired_[1].pixels);
      other = paired_[1].pixels;
    } else {
      both[1] = alone_[1].v;
      put(1, row, column, both[1]);
    }
    for (int turn = 0; turn < 3; ++turn) {
      const int k = turn & 1;
      int count = starts_of(k, row, column, both[k], starts);
      starts[count++] = alone_[k].v;
      starts[count++] = {-both[1 - k].dy, -both[1 - k].dx};
      descend(k, row, column, starts, count, other, paired_[k]);
      both[k] = paired_[k].v;
      other = paired_[k].pixels;
    }
    return paired_[0].cost + prices_.bit * bits(1, row, column);
  }

  const Picture& now_;
  const int block_, across_, down_;
  const Prices& prices_;
  int32_t* vectors_[2] = {};
  int32_t* const modes_;
  std::vector<Padded> padded_;
  int rows_ = 0, columns_ = 0;
  float target_[AREA];
  Found alone_[2], paired_[2];
};

}  // namespace

void refine_motion(const Picture& now, const std::vector<Picture>& references, int block,
                   const Prices& prices, int32_t* vectors, int32_t* modes) {
  Refining(now, references, block, prices, vectors, modes).pass();
}

}  // namespace fieldpress::fields

// Parts of a picture that take the least squared error plus bits.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "encoding.h"
#include "latent_part_code.h"

namespace fieldpress::fields {
namespace {

constexpr int CHANNELS = 3, MARGIN = 56, LEAST_MARGIN = 8;  // Of replicated pixels; for the filter.
constexpr int MOST_SIZE = CELL * WIDEST, AREA = CHANNELS * MOST_SIZE * MOST_SIZE;
constexpr int ROUNDS = 6;         // Of a descent at one step.
constexpr float BEFOREHAND = 16;  // How many bits what is known beforehand counts as.
constexpr int MOST_STARTS = 24;

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
  bool holds(int y0, int x0, int size, Vector by) const {
    const int y = y0 + (by.dy >> 2), x = x0 + (by.dx >> 2), reach = MARGIN - LEAST_MARGIN;
    return std::max(std::abs(by.dy), std::abs(by.dx)) <= MAX_MOTION && y >= -reach && x >= -reach &&
           y + size <= height_ - 2 * MARGIN + reach && x + size <= width_ - 2 * MARGIN + reach;
  }
  // A block [CHANNELS, size, size] in grey levels.
  void block(int y0, int x0, int size, Vector by, float* to) const {
    const int64_t top = y0 + (by.dy >> 2) + MARGIN - BEFORE;
    const int64_t left = x0 + (by.dx >> 2) + MARGIN - BEFORE;
    const int64_t plane = int64_t{height_} * width_;
    move_(values_.data() + top * width_ + left, width_, plane, size, by.dy, by.dx, to);
  }

 private:
  int height_, width_;
  std::vector<float> values_;
  decltype(LatentKernels::move_block) move_ = kernels().latent.move_block;
};

struct Made {  // Of a reference alone or beside another.
  Vector v;
  float cost, error;  // Of both; of the pixels.
  float pixels[AREA];
};

class Searching {
 public:
  Searching(const Picture& now, const std::vector<Picture>& references, float price,
            const std::vector<const int32_t*>& seeds, Field& field)
      : now_(now), price_(price), seeds_(seeds), field_(field), old_(field),
        error_(kernels().latent.block_error), padded_(references.begin(), references.end()) {}

  void pass(bool first) {
    first_ = first;
    learn();
    old_ = field_;
    field_.forget();
    for (int row = 0; row < field_.rows(); row += WIDEST)
      for (int column = 0; column < field_.columns(); column += WIDEST)
        node(row, column, LEVELS - 1);
  }

 private:
  // Prices of bits, from the parts of the last pass and from what is known beforehand.
  void learn() {
    float counts[context::COUNT][2] = {};
    if (!first_) count_parts(field_, counts);
    for (int k = 0; k < context::COUNT; ++k) {
      const float one = static_cast<float>(shipped_probability(field_.kind(), k)) / 65536;
      const float ones = counts[k][1] + BEFOREHAND * one, zeros = counts[k][0] + BEFOREHAND * (1 - one);
      prices_[k][0] = -std::log2(zeros / (ones + zeros));
      prices_[k][1] = -std::log2(ones / (ones + zeros));
    }
  }

  // The best of a node and all below it, which it puts into the field; gives what it costs.
  float node(int row, int column, int level) {
    if (!field_.holds(row, column)) return 0;
    const int cells = 1 << level;
    float split = std::numeric_limits<float>::infinity(), fee[2] = {0, 0};
    std::vector<Cell> below;
    if (level > 0) {
      const int which = split_context(field_, row, column, level);
      for (int y = 0; y < 2; ++y) fee[y] = price_ * prices_[which][y];
      split = fee[1];
      for (int k = 0; k < 4; ++k)
        split += node(row + (k >> 1) * cells / 2, column + (k & 1) * cells / 2, level - 1);
      for (int r = row; r < std::min(field_.rows(), row + cells); ++r)
        for (int c = column; c < std::min(field_.columns(), column + cells); ++c)
          below.push_back(field_.at(r, c));
      field_.fill(row, column, cells, {});
    }
    Cell cell;
    const float whole = fee[0] + part(row, column, level, below, cell);
    if (whole <= split) {
      field_.fill(row, column, cells, cell);
      return whole;
    }
    size_t at = 0;
    for (int r = row; r < std::min(field_.rows(), row + cells); ++r)
      for (int c = column; c < std::min(field_.columns(), column + cells); ++c)
        field_.at(r, c) = below[at++];
    return split;
  }

  float bits(int row, int column, int level, Cell cell) const {
    Costing io{prices_};
    code_motion(io, field_, row, column, 1 << level, level, cell);
    return io.sum;
  }

  struct Starts {
    Vector v[MOST_STARTS];
    int count = 0;
    void add(Vector by) {
      for (int k = 0; k < count; ++k)
        if (v[k] == by) return;
      if (count < MOST_STARTS) v[count++] = by;
    }
  };

  void read_target(int row, int column, int size) {
    rows_ = std::min(size, now_.height - row * CELL);
    columns_ = std::min(size, now_.width - column * CELL);
    for (int channel = 0; channel < CHANNELS; ++channel)
      for (int y = 0; y < rows_; ++y) {
        const uint8_t* from =
            now_.data + (int64_t{row * CELL + y} * now_.width + column * CELL) * CHANNELS + channel;
        float* const to = target_ + (channel * size + y) * size;
        for (int x = 0; x < columns_; ++x) to[x] = from[x * CHANNELS];
      }
  }

  // The best motion of a part; gives what it costs.
  float part(int row, int column, int level, const std::vector<Cell>& below, Cell& best) {
    const int cells = 1 << level, size = cells * CELL, references = field_.references();
    read_target(row, column, size);
    best.level = level;
    float least = std::numeric_limits<float>::infinity();
    const auto consider = [&](Cell cell, float error) {
      cell.level = level;
      const float cost = error + price_ * bits(row, column, level, cell);
      if (cost < least) least = cost, best = cell;
    };
    // As its neighbors.
    Cell others[3];
    const int count = field_.others(row, column, cells, others);
    for (int k = 0; k < count; ++k) consider(others[k], error_of(row, column, size, others[k]));
    // By vectors of its own.
    Starts starts[MOST_REFERENCES];
    for (int k = 0; k < references; ++k) {
      Starts& s = starts[k];
      s.add(field_.guess(row, column, cells, k));
      s.add({});  // That one never leaves the picture.
      for (int i = 0; i < count; ++i) s.add(others[i].v[k]);
      for (const Cell& cell : below)
        if (cell.uses(k)) s.add(cell.v[k]);
      if (first_) {
        for (const int32_t* seed : seeds_)
          for (int r = row; r < std::min(field_.rows(), row + cells); r += std::max(1, cells / 2))
            for (int c = column; c < std::min(field_.columns(), column + cells);
                 c += std::max(1, cells / 2)) {
              const int64_t at = (int64_t{k} * field_.rows() + r) * field_.columns() + c;
              s.add({seed[2 * at], seed[2 * at + 1]});
            }
      } else {
        s.add(old_.at(row, column).v[k]);
        for (const auto& [r, c] : {std::pair{row, column + cells}, std::pair{row + cells, column},
                                   std::pair{row + cells / 2, column + cells / 2}})
          if (old_.holds(r, c) && old_.at(r, c).uses(k)) s.add(old_.at(r, c).v[k]);
      }
    }
    for (int k = 0; k < references; ++k) {
      Cell cell;
      cell.mode = 1 + k;
      descend(row, column, level, k, cell, starts[k], nullptr, alone_[k]);
      cell.v[k] = alone_[k].v;
      if (references == 2) cell.v[1 - k] = field_.guess(row, column, cells, 1 - k);
      consider(cell, alone_[k].error);
    }
    if (references == 2) {
      Cell cell;
      cell.mode = 0;
      cell.v[0] = alone_[0].v, cell.v[1] = alone_[1].v;
      const float* other = alone_[1].pixels;
      for (int turn = 0; turn < 3; ++turn) {
        const int k = turn & 1;
        starts[k].add(alone_[k].v);
        if (k == 1) {
          const Vector guess = field_.guess(row, column, cells, 0);
          const Vector by{field_.follows(cell.v[0].dy - guess.dy),
                          field_.follows(cell.v[0].dx - guess.dx)};
          starts[1].add(field_.guess(row, column, cells, 1) + by);
        }
        descend(row, column, level, k, cell, starts[k], other, paired_[k]);
        cell.v[k] = paired_[k].v;
        other = paired_[k].pixels;
      }
      if (paired_[0].cost < least) least = paired_[0].cost, best = cell, best.level = level;
    }
    return least;
  }

  float error_of(int row, int column, int size, const Cell& cell) {
    const float* made[2];
    int count = 0;
    for (int k = 0; k < field_.references(); ++k) {
      if (!cell.uses(k)) continue;
      if (!padded_[static_cast<size_t>(k)].holds(row * CELL, column * CELL, size, cell.v[k]))
        return std::numeric_limits<float>::infinity();
      float* const to = trial_[count];
      padded_[static_cast<size_t>(k)].block(row * CELL, column * CELL, size, cell.v[k], to);
      made[count++] = to;
    }
    return error_(made[0], count == 2 ? made[1] : nullptr, target_, size, rows_, columns_);
  }

  // The best vector of a reference near some, beside the other one's pixels if there are any.
  void descend(int row, int column, int level, int k, Cell cell, const Starts& starts,
               const float* other, Made& found) {
    const int size = CELL << level;
    const Padded& from = padded_[static_cast<size_t>(k)];
    found.cost = std::numeric_limits<float>::infinity();
    found.v = {};
    const auto attempt = [&](Vector v) {
      if (!from.holds(row * CELL, column * CELL, size, v)) return false;
      cell.v[k] = v;
      const float fee = price_ * bits(row, column, level, cell);
      if (fee >= found.cost) return false;
      from.block(row * CELL, column * CELL, size, v, trial_[0]);
      const float error = error_(trial_[0], other, target_, size, rows_, columns_);
      if (fee + error >= found.cost) return false;
      found.cost = fee + error, found.error = error, found.v = v;
      std::memcpy(found.pixels, trial_[0], sizeof(float) * CHANNELS * size * size);
      return true;
    };
    for (int i = 0; i < starts.count; ++i) attempt(starts.v[i]);
    for (int step = first_ ? 4 : 2; step >= 1; step /= 2)
      for (int round = 0; round < ROUNDS; ++round) {
        const Vector at = found.v;
        bool better = false;
        for (int i = 0; i < 9; ++i)
          if (i != 4) better |= attempt({at.dy + (i / 3 - 1) * step, at.dx + (i % 3 - 1) * step});
        if (!better) break;
      }
  }

  const Picture& now_;
  const float price_;
  const std::vector<const int32_t*>& seeds_;
  Field& field_;
  Field old_;
  bool first_ = true;
  decltype(LatentKernels::block_error) error_;
  std::vector<Padded> padded_;
  float prices_[context::COUNT][2];
  int rows_ = 0, columns_ = 0;
  float target_[AREA], trial_[2][AREA];
  Made alone_[2], paired_[2];
};

}  // namespace

void search_parts(const Picture& now, const std::vector<Picture>& references, float price,
                  int passes, const std::vector<const int32_t*>& seeds, Field& field) {
  const auto searching = std::make_unique<Searching>(now, references, price, seeds, field);
  for (int k = 0; k < passes; ++k) searching->pass(k == 0);
}

}  // namespace fieldpress::fields

// Motion by parts: squares of 32 pixels, each whole or in quarters, down to cells of 8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "latent_motion.h"

namespace fieldpress::fields {

constexpr int CELL = 8, LEVELS = 3, WIDEST = 1 << (LEVELS - 1);  // Cells across the largest part.
constexpr int MOST_REFERENCES = 2, KINDS = 3;
constexpr int PART_CONTEXTS = 59;  // Of the bits that parts are written in.

struct Vector {
  int32_t dy = 0, dx = 0;
  bool operator==(const Vector& b) const { return dy == b.dy && dx == b.dx; }
  Vector operator+(const Vector& b) const { return {dy + b.dy, dx + b.dx}; }
};

// What a cell is made of. Mode 0 is the mean of both references, mode 1 + k one of them; the vector
// of one that is not used is its guess.
struct Cell {
  int32_t level = -1;  // Of the part that it lies in, 0 to 2; -1 where nothing is known yet.
  int32_t mode = 1;
  Vector v[MOST_REFERENCES];
  bool uses(int k) const { return mode == 0 || mode == 1 + k; }
  bool moves_as(const Cell& b) const { return mode == b.mode && v[0] == b.v[0] && v[1] == b.v[1]; }
  // The same pixels of the same place.
  bool paints_as(const Cell& b) const {
    return mode == b.mode && (!uses(0) || v[0] == b.v[0]) && (!uses(1) || v[1] == b.v[1]);
  }
};

// The cells of a picture, row by row.
class Field {
 public:
  // away: how many frames on each reference lies.
  Field(int height, int width, const std::vector<int>& away)
      : rows_((height + CELL - 1) / CELL), columns_((width + CELL - 1) / CELL),
        references_(static_cast<int>(away.size())), away_{away.front(), away.back()},
        cells_(static_cast<size_t>(rows_) * columns_) {}
  int rows() const { return rows_; }
  int columns() const { return columns_; }
  int references() const { return references_; }
  // One reference, two, one on each side.
  int kind() const { return references_ - 1 + (away_[0] < 0 && away_[1] > 0); }
  bool holds(int row, int column) const {
    return 0 <= row && row < rows_ && 0 <= column && column < columns_;
  }
  Cell& at(int row, int column) { return cells_[static_cast<size_t>(row) * columns_ + column]; }
  const Cell& at(int row, int column) const {
    return cells_[static_cast<size_t>(row) * columns_ + column];
  }
  // Null where nothing is known yet.
  const Cell* known(int row, int column) const {
    return holds(row, column) && at(row, column).level >= 0 ? &at(row, column) : nullptr;
  }
  void fill(int row, int column, int cells, const Cell& with);
  void forget();
  // The vector that a part's own is coded against: the median of those left, above, above right.
  Vector guess(int row, int column, int cells, int reference) const;
  // How far the second vector is from its guess if the first is so far from its own, and both point
  // along one line.
  int follows(int first) const;
  // Of those around a part, what it may be made of as it is: each once. Gives how many.
  int others(int row, int column, int cells, Cell* to) const;

 private:
  int rows_, columns_, references_;
  int away_[MOST_REFERENCES];
  std::vector<Cell> cells_;
};

std::vector<uint8_t> encode_parts(const Field&);
// Throws std::invalid_argument for damage.
void decode_parts(const uint8_t* data, size_t size, Field&);
// Adds how often each bit of `latent_part_code.h` is what.
void count_parts(const Field&, float (*counts)[2]);
// Rows of cells [first, last) of [channels, height, width] in 0..1.
void compose(const Field&, const std::vector<Picture>& references, int first, int last, float* out);
// Parts of least squared error plus `price` a bit, passed over `passes` times. `seeds`: vectors
// [references, rows, columns, 2] of cells to begin with, some fields of them.
void search_parts(const Picture& now, const std::vector<Picture>& references, float price,
                  int passes, const std::vector<const int32_t*>& seeds, Field&);

}  // namespace fieldpress::fields

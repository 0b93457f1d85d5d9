// How parts are written: one function for writing, reading, and for what it would take.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <utility>

#include "../../quant/native/coder.h"
#include "latent_parts.h"

namespace fieldpress::fields {

constexpr int MOST_PREFIX = 14;  // Of what is less than twice as far as any vector is long, twice.

// Numbers of contexts.
namespace context {
constexpr int SPLIT = 0;                    // [2 levels][neighbors that are smaller]
constexpr int SAME = SPLIT + 2 * 3;         // [level][neighbors that are the same]
constexpr int WHICH = SAME + LEVELS * 3;    // [how many][first or second question]
constexpr int BOTH = WHICH + 2 * 2;         // [neighbors of both]
constexpr int SECOND = BOTH + 3;            // [neighbors of the second only]
constexpr int MOVED = SECOND + 3;           // [reference][axis, and whether dy was 0]
constexpr int PREFIX = MOVED + 2 * 3;       // [axis][bits]
constexpr int COUNT = PREFIX + 2 * MOST_PREFIX;
static_assert(COUNT == PART_CONTEXTS, "contexts");
}  // namespace context

// Of a one, in 1/65536, before anything is known of a frame of some kind.
uint16_t shipped_probability(int kind, int which);
constexpr int FIRST_RATE = 131072 / 12;  // Of adaptation.

template <class Coder>
struct Adaptive {  // Io for the coder of `quant`.
  Coder io;
  quant::Bit bits[context::COUNT];
  Adaptive(Coder coder, int kind) : io(std::move(coder)) {
    for (int k = 0; k < context::COUNT; ++k)
      bits[k] = {shipped_probability(kind, k), FIRST_RATE};
  }
  int bit(int which, int y) { return quant::code_bit(io, bits[which], y); }
  int raw(int value, int count) {
    return static_cast<int>(io.raw(static_cast<uint32_t>(value), count));
  }
  static constexpr bool kDecodes = Coder::kDecodes;
};

// The bits that something takes at fixed prices.
struct Costing {
  const float (*prices)[2];
  float sum = 0;
  int bit(int which, int y) {
    sum += prices[which][y];
    return y;
  }
  int raw(int value, int count) {
    sum += static_cast<float>(count);
    return value;
  }
  static constexpr bool kDecodes = false;
};

// How often each bit is what.
struct Counting {
  float (*counts)[2];
  int bit(int which, int y) {
    counts[which][y] += 1;
    return y;
  }
  int raw(int value, int) { return value; }
  static constexpr bool kDecodes = false;
};

template <class Io>
int code_difference(Io& io, int reference, int axis, bool first_is_0, int difference) {
  const int moved = context::MOVED + 3 * reference + (axis ? 1 + first_is_0 : 0);
  if (!io.bit(moved, difference != 0)) return 0;
  const uint32_t size = static_cast<uint32_t>(std::abs(difference));
  int prefix = 0, wanted = Io::kDecodes ? 0 : quant::top_bit(size);
  while (prefix < MOST_PREFIX &&
         io.bit(context::PREFIX + MOST_PREFIX * axis + prefix, prefix < wanted))
    ++prefix;
  int found = 1 << prefix;
  if (prefix) found |= io.raw(static_cast<int>(size) & (found - 1), prefix);
  return io.raw(difference < 0, 1) ? -found : found;
}

inline Vector within(Vector v) {
  return {std::clamp(v.dy, -MAX_MOTION, MAX_MOTION), std::clamp(v.dx, -MAX_MOTION, MAX_MOTION)};
}

// Mode and vectors of a part.
template <class Io>
void code_motion(Io& io, const Field& field, int row, int column, int cells, int level,
                 Cell& cell) {
  Cell others[3];
  const int count = field.others(row, column, cells, others);
  const Cell* const left = field.known(row, column - 1);
  const Cell* const above = field.known(row - 1, column);
  if (count) {
    int which = count;
    if (!Io::kDecodes)
      for (which = 0; which < count && !others[which].moves_as(cell);) ++which;
    const int alike = count == 1 ? (left && above ? 2 : 1) : 0;
    if (io.bit(context::SAME + 3 * level + alike, which < count)) {
      int found = 0;
      while (found + 1 < count &&
             io.bit(context::WHICH + 2 * (count - 2) + found, which > found))
        ++found;
      const int own = cell.level;
      cell = others[found];
      cell.level = own;
      return;
    }
  }
  const int references = field.references();
  if (references == 1) {
    cell.mode = 1;
  } else {
    const auto number = [&](int mode) {
      return (left && left->mode == mode) + (above && above->mode == mode);
    };
    if (io.bit(context::BOTH + number(0), cell.mode == 0)) cell.mode = 0;
    else cell.mode = io.bit(context::SECOND + number(2), cell.mode == 2) ? 2 : 1;
  }
  Vector along;  // Where the first reference's leads the second's.
  for (int k = 0; k < references; ++k) {
    Vector guess = field.guess(row, column, cells, k);
    Vector& v = cell.v[k];
    if (!cell.uses(k)) {
      v = guess;
      continue;
    }
    if (k == 1 && cell.mode == 0) guess = within(guess + along);
    const int dy = code_difference(io, k, 0, false, v.dy - guess.dy);
    const int dx = code_difference(io, k, 1, dy == 0, v.dx - guess.dx);
    v = {guess.dy + dy, guess.dx + dx};
    along = {field.follows(dy), field.follows(dx)};
    if (std::max(std::abs(v.dy), std::abs(v.dx)) > MAX_MOTION)
      throw std::invalid_argument("motion: damaged stream");
  }
}

inline int split_context(const Field& field, int row, int column, int level) {
  const Cell* const left = field.known(row, column - 1);
  const Cell* const above = field.known(row - 1, column);
  const int smaller = (left && left->level < level) + (above && above->level < level);
  return context::SPLIT + 3 * (level - 1) + smaller;
}

}  // namespace fieldpress::fields

// Parts as bytes and back, and the picture that they make.
#include "latent_parts.h"

#include "latent_part_code.h"

namespace fieldpress::fields {
namespace {

constexpr float UNIT = 1.0f / (4096.0f * 255.0f);

// Of ones among the bits of other clips, by kind of frame and context (bench/latent_parts.py).
const uint16_t SHIPPED[KINDS][context::COUNT] = {
    {11684, 34277, 54122, 16700, 42378, 57880, 28610, 18461, 36254, 34036, 21123, 40864, 37259,
      30694, 46509, 25638, 32768, 34007, 16589, 32768, 32768, 32768, 32768, 32768, 32768, 53719,
      51475, 63483, 32768, 32768, 32768, 47925, 44467, 44741, 46080, 31823, 16086, 11916, 5958,
      32768, 32768, 32768, 32768, 32768, 32768, 48046, 45258, 44790, 43657, 36977, 23880, 17284,
      2621, 32768, 32768, 32768, 32768, 32768, 32768},
    {10960, 31769, 47915, 18590, 39550, 53765, 33720, 23455, 40529, 35627, 27156, 43008, 31858,
      23718, 50014, 23881, 32768, 32807, 17902, 9433, 22926, 33168, 6357, 23579, 37449, 49135,
      46290, 50972, 52429, 54594, 34372, 47831, 46710, 50226, 45502, 34284, 30658, 23103, 22282,
      3641, 32768, 32768, 32768, 32768, 32768, 48212, 47932, 50273, 44367, 36475, 26557, 20972,
      11189, 8192, 32768, 32768, 32768, 32768, 32768},
    {11494, 32382, 50589, 6909, 33209, 52295, 34180, 30122, 43511, 44751, 32113, 45891, 43897,
      39587, 56671, 25551, 32768, 34197, 18353, 25237, 31328, 36341, 24625, 43465, 53361, 46588,
      50096, 40450, 40055, 48088, 27044, 45001, 38490, 39499, 37894, 35996, 17760, 5840, 6554,
      32768, 32768, 32768, 32768, 32768, 32768, 46029, 40714, 40627, 33223, 33166, 16875, 8286,
      5461, 32768, 32768, 32768, 32768, 32768, 32768},
};

int median(int a, int b, int c) { return std::max(std::min(a, b), std::min(std::max(a, b), c)); }

// Of a node of the quadtree and all below it. `from`: what is written, the same field or null.
template <class Io>
void code_node(Io& io, Field& field, const Field* from, int row, int column, int level) {
  if (!field.holds(row, column)) return;
  const int cells = 1 << level;
  Cell cell;
  if (!Io::kDecodes) cell = from->at(row, column);
  if (level > 0 && io.bit(split_context(field, row, column, level), cell.level < level)) {
    for (int k = 0; k < 4; ++k)
      code_node(io, field, from, row + (k >> 1) * cells / 2, column + (k & 1) * cells / 2,
                level - 1);
    return;
  }
  cell.level = level;
  code_motion(io, field, row, column, cells, level, cell);
  field.fill(row, column, cells, cell);
}

template <class Io>
void code_field(Io& io, Field& field, const Field* from) {
  for (int row = 0; row < field.rows(); row += WIDEST)
    for (int column = 0; column < field.columns(); column += WIDEST)
      code_node(io, field, from, row, column, LEVELS - 1);
}

// How much of a neighbor's a cell is made of, in 1/32, by the distance from it (overlapped blocks:
// Orchard and Sullivan 1994; about two thirds of what H.263, annex F, has).
constexpr int OVERLAP[CELL] = {5, 4, 2, 2, 0, 0, 0, 0}, OVERLAPPED = 4, WHOLE = 32;

class Composing {
 public:
  Composing(const Field& field, const std::vector<Picture>& references)
      : field_(field), references_(references), size_(references[0]) {}

  // Cells [column, next) of a row, which all move alike.
  void run(int row, int column, int next, float* out) const {
    const Cell& cell = field_.at(row, column);
    const int y0 = row * CELL, x0 = column * CELL;
    const int rows = std::min(CELL, size_.height - y0);
    const int columns = std::min(next * CELL, size_.width) - x0;
    int own[CELL * MAX_BLOCK], sum[CELL * MAX_BLOCK], other[CELL * MAX_BLOCK];
    for (int channel = 0; channel < size_.channels; ++channel) {
      paint(cell, channel, y0, x0, rows, columns, own);
      for (int y = 0; y < rows; ++y)
        for (int at = y * MAX_BLOCK; at < y * MAX_BLOCK + columns; ++at) sum[at] = WHOLE * own[at];
      // Rows from `top`, columns from `left` of the run, of which a cell beyond an edge has its part;
      // `edge` is the row or column next to it.
      const auto lap = [&](int r, int c, int top, int left, int height, int width, int edge,
                           bool across) {
        if (!field_.holds(r, c) || field_.at(r, c).paints_as(cell)) return;
        height = std::min(height, rows - top), width = std::min(width, columns - left);
        if (height <= 0 || width <= 0) return;
        paint(field_.at(r, c), channel, y0 + top, x0 + left, height, width, other);
        for (int y = 0; y < height; ++y)
          for (int x = 0; x < width; ++x) {
            const int at = (top + y) * MAX_BLOCK + left + x;
            const int away = std::abs(edge - (across ? left + x : top + y));
            sum[at] += OVERLAP[away] * (other[y * MAX_BLOCK + x] - own[at]);
          }
      };
      for (int c = column; c < next; ++c) {
        const int left = (c - column) * CELL;
        lap(row - 1, c, 0, left, OVERLAPPED, CELL, 0, false);
        lap(row + 1, c, CELL - OVERLAPPED, left, OVERLAPPED, CELL, CELL - 1, false);
      }
      const int end = (next - column) * CELL;
      lap(row, column - 1, 0, 0, CELL, OVERLAPPED, 0, true);
      lap(row, next, 0, end - OVERLAPPED, CELL, OVERLAPPED, end - 1, true);
      for (int y = 0; y < rows; ++y) {
        float* const to = out + (int64_t{channel} * size_.height + y0 + y) * size_.width + x0;
        for (int x = 0; x < columns; ++x)
          to[x] = static_cast<float>(sum[y * MAX_BLOCK + x]) * (UNIT / (2 * WHOLE));
      }
    }
  }

 private:
  // In 1/8192: rows of MAX_BLOCK.
  void paint(const Cell& cell, int channel, int y0, int x0, int rows, int columns, int* to) const {
    int moved[CELL * MAX_BLOCK], made = 0;
    for (int k = 0; k < field_.references(); ++k)
      if (cell.uses(k))
        interpolate(references_[static_cast<size_t>(k)], channel, y0, x0, rows, columns,
                    cell.v[k].dy, cell.v[k].dx, made++ ? moved : to);
    for (int y = 0; y < rows; ++y)
      for (int at = y * MAX_BLOCK; at < y * MAX_BLOCK + columns; ++at)
        to[at] += made == 2 ? moved[at] : to[at];
  }

  const Field& field_;
  const std::vector<Picture>& references_;
  const Picture& size_;
};

}  // namespace

uint16_t shipped_probability(int kind, int which) { return SHIPPED[kind][which]; }

void Field::fill(int row, int column, int cells, const Cell& with) {
  for (int r = row; r < std::min(rows_, row + cells); ++r)
    for (int c = column; c < std::min(columns_, column + cells); ++c) at(r, c) = with;
}

void Field::forget() { fill(0, 0, std::max(rows_, columns_), {}); }

Vector Field::guess(int row, int column, int cells, int reference) const {
  const Cell* const left = known(row, column - 1);
  const Cell* const above = known(row - 1, column);
  const Cell* beyond = known(row - 1, column + cells);
  if (!beyond) beyond = known(row - 1, column - 1);
  const Vector none;
  const Vector a = left ? left->v[reference] : above ? above->v[reference] : none;
  const Vector b = above ? above->v[reference] : a;
  const Vector c = beyond ? beyond->v[reference] : b;
  return {median(a.dy, b.dy, c.dy), median(a.dx, b.dx, c.dx)};
}

int Field::follows(int first) const {
  const int sign = away_[0] < 0 ? -1 : 1, by = sign * away_[0];
  const int64_t twice = int64_t{2} * first * sign * away_[1] + by;
  const int64_t down = (twice >= 0 ? twice : twice - 2 * by + 1) / (2 * by);
  return static_cast<int>(std::clamp<int64_t>(down, -2 * MAX_MOTION, 2 * MAX_MOTION));
}

int Field::others(int row, int column, int cells, Cell* to) const {
  const Cell* beyond = known(row - 1, column + cells);
  if (!beyond) beyond = known(row - 1, column - 1);
  int count = 0;
  for (const Cell* cell : {known(row, column - 1), known(row - 1, column), beyond}) {
    bool other = cell != nullptr;
    for (int k = 0; k < count && other; ++k) other = !to[k].moves_as(*cell);
    if (other) to[count++] = *cell;
  }
  return count;
}

std::vector<uint8_t> encode_parts(const Field& field) {
  Adaptive<quant::EncodeIo> io({}, field.kind());
  Field again = field;
  again.forget();
  code_field(io, again, &field);
  return io.io.coder.finish();
}

void decode_parts(const uint8_t* data, size_t size, Field& field) {
  Adaptive<quant::DecodeIo> io({{data, size}}, field.kind());
  code_field(io, field, nullptr);
  if (!io.io.coder.finished()) throw std::invalid_argument("motion: damaged stream");
}

void count_parts(const Field& field, float (*counts)[2]) {
  Counting io{counts};
  Field again = field;
  again.forget();
  code_field(io, again, &field);
}

void compose(const Field& field, const std::vector<Picture>& references, int first, int last,
             float* out) {
  const Composing composing(field, references);
  for (int row = first; row < last; ++row)
    for (int column = 0, next; column < field.columns(); column = next) {
      next = column + 1;
      while (next < field.columns() && next - column < MAX_BLOCK / CELL &&
             field.at(row, next).paints_as(field.at(row, column)))
        ++next;
      composing.run(row, column, next, out);
    }
}

}  // namespace fieldpress::fields

// Causal neighbours: for each point the K nearest among those before it, in integers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "coder.h"
#include "morton.h"

namespace fieldpress::quant {

constexpr int kMaxNeighbors = 8;
constexpr int64_t kPointsPerCell = 5;  // of the search grid, at most
constexpr int64_t kMostPerCell = 12;   // the latest points of a cell; bounds the worst case
constexpr int kFineBits = 10;          // of coordinates within a cell of the grid
constexpr int kRankBits = 22;          // of the distance in rows, below those of the distance
constexpr uint64_t kNobody = ~uint64_t{0};
constexpr float kFarthest = 16777216.0f;  // 2^24

// Open-addressing map from Morton code to index into the codes; fixed hash, linear probing.
class CellMap {
 public:
  explicit CellMap(const std::vector<uint64_t>& cells) : cells_(cells) {
    int bits = 4;
    while ((size_t{1} << bits) < 2 * cells.size()) ++bits;
    shift_ = 64 - bits;
    mask_ = (size_t{1} << bits) - 1;
    slots_.assign(mask_ + 1, 0);
    for (size_t n = 0; n < cells.size(); ++n) {
      size_t slot = hash(cells[n]);
      while (slots_[slot]) slot = (slot + 1) & mask_;
      slots_[slot] = static_cast<uint32_t>(n + 1);
    }
  }
  int64_t find(uint64_t key) const {
    for (size_t slot = hash(key);; slot = (slot + 1) & mask_) {
      const uint32_t n = slots_[slot];
      if (!n) return -1;
      if (cells_[n - 1] == key) return n - 1;
    }
  }

 private:
  size_t hash(uint64_t key) const { return (key * 0x9e3779b97f4a7c15ull) >> shift_; }
  const std::vector<uint64_t>& cells_;
  std::vector<uint32_t> slots_;
  size_t mask_ = 0;
  int shift_ = 0;
};

// The coarsest level that has at least a fifth as many occupied cells as points.
inline int search_level(const uint64_t* codes, int64_t count, int depth) {
  std::vector<int64_t> first(static_cast<size_t>(depth) + 1, 0);  // cells first told apart there
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t change = i ? codes[i] ^ codes[i - 1] : 0;
    const int level = i == 0 ? 0 : change == 0 ? depth + 1 : depth - top_bit(change) / 3;
    if (level <= depth) ++first[static_cast<size_t>(level)];
  }
  int64_t cells = 0;
  for (int level = 0; level < depth; ++level) {
    cells += first[static_cast<size_t>(level)];
    if (cells * kPointsPerCell >= count) return level;
  }
  return depth;
}

// The occupied cells of a grid, and where the points of each start.
struct CellGrid {
  std::vector<uint64_t> cells;
  std::vector<int64_t> starts;
  CellGrid(const uint64_t* codes, int64_t count, int shift) {
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t cell = codes[i] >> shift;
      if (!cells.empty() && cells.back() == cell) continue;
      cells.push_back(cell);
      starts.push_back(i);
    }
    starts.push_back(count);
  }
};

// Codes of the cells in and around `home` that do not come later; how many.
inline int cells_around(uint64_t home, int level, uint64_t* out) {
  constexpr uint64_t kX = 0x1249249249249249ull;
  const uint64_t full = (uint64_t{1} << (3 * level)) - 1;
  uint64_t axis[3][3];
  bool inside[3][3];
  for (int a = 0; a < 3; ++a) {  // The bits of one axis count as one number, carries and all.
    const uint64_t mask = (kX << a) & full, here = home & mask;
    axis[a][0] = (here - 1) & mask;
    axis[a][1] = here;
    axis[a][2] = ((here | ~mask) + 1) & mask;
    inside[a][0] = here != 0;
    inside[a][1] = true;
    inside[a][2] = here != mask;
  }
  int found = 0;
  for (int q = 0; q < 27; ++q) {
    const int a = q % 3, b = q / 3 % 3, c = q / 9;
    const uint64_t code = axis[0][a] | axis[1][b] | axis[2][c];
    if (inside[0][a] && inside[1][b] && inside[2][c] && code <= home) out[found++] = code;
  }
  return found;
}

// Points that may be neighbours, side by side for a tight loop. Their coordinates are so small
// that squared distances are exact in single precision.
class Candidates {
 public:
  explicit Candidates(size_t most) : x_(most), y_(most), z_(most), distance_(most), rows_(most) {}
  void clear() { count_ = 0; }
  size_t count() const { return count_; }
  void add(const float* place, int64_t row) {
    x_[count_] = place[0];
    y_[count_] = place[1];
    z_[count_] = place[2];
    rows_[count_++] = static_cast<int32_t>(row);
  }
  // The k best for point i at `here`, sorted: squared distance, then distance in rows, as one
  // number. `skip` candidates from `first` on are left out.
  template <int k>
  void nearest(const float* here, int64_t i, size_t first, size_t skip, uint64_t* best) {
    const float hx = here[0], hy = here[1], hz = here[2];
    for (size_t n = 0; n < count_; ++n) {
      const float dx = x_[n] - hx, dy = y_[n] - hy, dz = z_[n] - hz;
      distance_[n] = dx * dx + dy * dy + dz * dz;
    }
    std::fill(best, best + k, kNobody);
    float worst = kFarthest;
    for (size_t n = count_; n-- > 0;) {  // The last are likely to be the nearest.
      if (distance_[n] > worst || n - first < skip) continue;
      const uint64_t distance = static_cast<uint64_t>(distance_[n]);
      uint64_t key = distance << kRankBits | static_cast<uint64_t>(i - rows_[n]);
      for (int t = 0; t < k; ++t) {
        const uint64_t least = std::min(best[t], key);
        key = std::max(best[t], key);
        best[t] = least;
      }
      if (best[k - 1] != kNobody) worst = static_cast<float>(best[k - 1] >> kRankBits);
    }
  }

 private:
  std::vector<float> x_, y_, z_, distance_;
  std::vector<int32_t> rows_;
  size_t count_ = 0;
};

// Rows of the neighbours named by `best`, then those just before i, then -1.
template <int k>
void write_neighbors(int64_t i, const uint64_t* best, int32_t* row) {
  int have = 0;
  for (; have < k && best[have] != kNobody; ++have) {
    const uint64_t back = best[have] & ((uint64_t{1} << kRankBits) - 1);
    row[have] = static_cast<int32_t>(i - static_cast<int64_t>(back));
  }
  for (int64_t j = i - 1; j >= 0 && have < k; --j) {
    const int32_t other = static_cast<int32_t>(j);
    if (std::find(row, row + have, other) == row + have) row[have++] = other;
  }
  std::fill(row + have, row + k, -1);
}

// `codes` are sorted Morton codes of `depth` bits an axis. Ties go to the later point. Points
// without enough neighbours in the 27 cells around take the points just before them.
template <int k>
void causal_neighbors(const uint64_t* codes, int64_t count, int depth, int32_t* out) {
  const int level = search_level(codes, count, depth);
  const int drop = std::max(0, depth - level - kFineBits);
  const CellGrid grid(codes, count, 3 * (depth - level));
  const CellMap map(grid.cells);
  std::vector<float> places(static_cast<size_t>(3 * count));
  for (size_t n = 0; n < places.size(); ++n) {
    places[n] = static_cast<float>(gather_bits(codes[n / 3] >> n % 3) >> drop);
  }
  int64_t most = 0;
  for (size_t n = 0; n < grid.cells.size(); ++n) {
    most = std::max(most, grid.starts[n + 1] - grid.starts[n]);
  }
  Candidates candidates(static_cast<size_t>(27 * kMostPerCell + most));
  for (size_t n = 0; n < grid.cells.size(); ++n) {
    uint64_t near[27];
    candidates.clear();
    for (int found = cells_around(grid.cells[n], level, near); found-- > 0;) {
      const int64_t cell = near[found] == grid.cells[n] ? -1 : map.find(near[found]);
      if (cell < 0) continue;
      const int64_t start = grid.starts[static_cast<size_t>(cell)];
      const int64_t end = grid.starts[static_cast<size_t>(cell) + 1];
      for (int64_t j = std::max(start, end - kMostPerCell); j < end; ++j) {
        candidates.add(&places[static_cast<size_t>(3 * j)], j);
      }
    }
    const size_t others = candidates.count();
    for (int64_t i = grid.starts[n]; i < grid.starts[n + 1]; ++i) {
      const float* here = &places[static_cast<size_t>(3 * i)];
      const int64_t surplus = std::max<int64_t>(0, i - grid.starts[n] - kMostPerCell);
      uint64_t best[k];
      candidates.nearest<k>(here, i, others, static_cast<size_t>(surplus), best);
      candidates.add(here, i);
      write_neighbors<k>(i, best, out + i * k);
    }
  }
}

}  // namespace fieldpress::quant

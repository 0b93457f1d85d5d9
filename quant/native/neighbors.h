// Causal neighbours: for each point the K nearest among those before it, in integers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "octree.h"

namespace fieldpress::quant {

constexpr int kMaxNeighbors = 8;

// `codes` are sorted Morton codes of `depth` bits an axis. The search grid is the coarsest level
// that has at least a third as many occupied cells as points; ties go to the later point. Points
// without enough neighbours in the 27 cells around take the points just before them.
inline void causal_neighbors(const uint64_t* codes, int64_t count, int depth, int k, int32_t* out) {
  int level = 0;
  for (; level < depth; ++level) {
    int64_t cells = 0;
    uint64_t previous = ~uint64_t{0};
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t cell = codes[i] >> (3 * (depth - level));
      cells += cell != previous;
      previous = cell;
    }
    if (cells * 3 >= count) break;
  }
  const int shift = 3 * (depth - level);
  std::vector<uint64_t> cells;
  std::vector<int64_t> starts;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t cell = codes[i] >> shift;
    if (cells.empty() || cells.back() != cell) {
      cells.push_back(cell);
      starts.push_back(i);
    }
  }
  starts.push_back(count);
  CellMap map(cells.size());
  for (size_t n = 0; n < cells.size(); ++n) map.insert(cells[n], static_cast<uint32_t>(n));
  const int64_t side = int64_t{1} << level;
  const auto axis = [&](int64_t i, int a) { return static_cast<int64_t>(gather_bits(codes[i] >> a)); };
  constexpr int64_t kMostPerCell = 24;  // the latest points of a cell; bounds the worst case
  for (size_t n = 0; n < cells.size(); ++n) {
    int64_t near[27], found = 0;
    const int64_t cx = static_cast<int64_t>(gather_bits(cells[n]));
    const int64_t cy = static_cast<int64_t>(gather_bits(cells[n] >> 1));
    const int64_t cz = static_cast<int64_t>(gather_bits(cells[n] >> 2));
    for (int q = 0; q < 27; ++q) {
      const int64_t a = cx + q % 3 - 1, b = cy + q / 3 % 3 - 1, c = cz + q / 9 - 1;
      if (a < 0 || b < 0 || c < 0 || a >= side || b >= side || c >= side) continue;
      const int64_t cell = map.find(morton(static_cast<uint64_t>(a), static_cast<uint64_t>(b), static_cast<uint64_t>(c)));
      if (cell >= 0 && cell <= static_cast<int64_t>(n)) near[found++] = cell;
    }
    for (int64_t i = starts[n]; i < starts[n + 1]; ++i) {
      int64_t best[kMaxNeighbors], distance[kMaxNeighbors];
      int have = 0;
      const int64_t x = axis(i, 0), y = axis(i, 1), z = axis(i, 2);
      for (int64_t f = 0; f < found; ++f) {
        const size_t cell = static_cast<size_t>(near[f]);
        const int64_t end = std::min(starts[cell + 1], i);
        for (int64_t j = std::max(starts[cell], end - kMostPerCell); j < end; ++j) {
          const int64_t dx = axis(j, 0) - x, dy = axis(j, 1) - y, dz = axis(j, 2) - z;
          const int64_t d = dx * dx + dy * dy + dz * dz;
          int slot = have < k ? have : k;
          while (slot > 0 && (d < distance[slot - 1] || (d == distance[slot - 1] && j > best[slot - 1]))) --slot;
          if (slot >= k) continue;
          const int last = have < k ? have : k - 1;
          for (int t = last; t > slot; --t) {
            best[t] = best[t - 1];
            distance[t] = distance[t - 1];
          }
          best[slot] = j;
          distance[slot] = d;
          if (have < k) ++have;
        }
      }
      for (int64_t j = i - 1; j >= 0 && have < k; --j) {
        bool used = false;
        for (int t = 0; t < have; ++t) used |= best[t] == j;
        if (!used) best[have++] = j;
      }
      for (int t = 0; t < k; ++t) out[i * k + t] = t < have ? static_cast<int32_t>(best[t]) : -1;
    }
  }
}

}  // namespace fieldpress::quant

// Octree occupancy of sorted Morton codes, breadth first, with integer context mixing.
#pragma once

#include <cstdint>
#include <vector>

#include "coder.h"

namespace fieldpress::quant {

constexpr int kMaxOctreeDepth = 20;
constexpr int kOctreeInputs = 5;

inline uint64_t spread_bits(uint64_t v) {  // abc -> a00b00c
  v &= 0x1fffffull;
  v = (v | v << 32) & 0x1f00000000ffffull;
  v = (v | v << 16) & 0x1f0000ff0000ffull;
  v = (v | v << 8) & 0x100f00f00f00f00full;
  v = (v | v << 4) & 0x10c30c30c30c30c3ull;
  v = (v | v << 2) & 0x1249249249249249ull;
  return v;
}
inline uint64_t gather_bits(uint64_t v) {
  v &= 0x1249249249249249ull;
  v = (v ^ v >> 2) & 0x10c30c30c30c30c3ull;
  v = (v ^ v >> 4) & 0x100f00f00f00f00full;
  v = (v ^ v >> 8) & 0x1f0000ff0000ffull;
  v = (v ^ v >> 16) & 0x1f00000000ffffull;
  v = (v ^ v >> 32) & 0x1fffffull;
  return v;
}
inline uint64_t morton(uint64_t x, uint64_t y, uint64_t z) {
  return spread_bits(x) | spread_bits(y) << 1 | spread_bits(z) << 2;
}

// Open-addressing map from Morton code to index; fixed hash, linear probing.
class CellMap {
 public:
  explicit CellMap(size_t count) {
    size_t size = 16;
    while (size < 2 * count) size *= 2;
    mask_ = size - 1;
    keys_.assign(size, ~uint64_t{0});
    values_.resize(size);
  }
  void insert(uint64_t key, uint32_t value) {
    size_t slot = hash(key);
    while (keys_[slot] != ~uint64_t{0}) slot = (slot + 1) & mask_;
    keys_[slot] = key;
    values_[slot] = value;
  }
  int64_t find(uint64_t key) const {
    size_t slot = hash(key);
    while (keys_[slot] != ~uint64_t{0}) {
      if (keys_[slot] == key) return values_[slot];
      slot = (slot + 1) & mask_;
    }
    return -1;
  }

 private:
  size_t hash(uint64_t key) const { return (key * 0x9e3779b97f4a7c15ull >> 32) & mask_; }
  std::vector<uint64_t> keys_;
  std::vector<uint32_t> values_;
  size_t mask_ = 0;
};

struct OctreeModel {
  std::vector<Bit> tables[kOctreeInputs];
  Mixer<kOctreeInputs> mixer{8 * 4 * 9};
  std::vector<Bit> counts;
  Mixer<1> count_mixer{1};
  OctreeModel() : counts(64 * 32) {
    tables[0].resize(21 * 8 * 256);       // depth, child, siblings so far
    tables[1].resize(8 * 64 * 8);         // child, six face neighbours of the parent, coded siblings
    tables[2].resize(8 * 64 * 4);         // child, states of the three outer face cells, inner ones
    tables[3].resize(27 * 9 * 8);         // neighbours among 26, siblings so far, child
    tables[4].resize(64 * 27 * 8);        // outer states, occupied inner siblings
  }
};

// Codes the octree over `leaves` (sorted, may repeat). When decoding, `leaves` is filled with
// exactly `count` codes; a stream that would give another number is refused.
template <class Io>
void code_octree(Io& io, int depth, int64_t count, std::vector<uint64_t>& leaves) {
  OctreeModel model;
  std::vector<uint64_t> nodes;
  if (count > 0) nodes.push_back(0);
  std::vector<int32_t> occupied_children;
  for (int level = 0; level < depth && !nodes.empty(); ++level) {
    CellMap map(nodes.size());
    for (size_t n = 0; n < nodes.size(); ++n) map.insert(nodes[n], static_cast<uint32_t>(n));
    std::vector<uint8_t> occupancy(nodes.size(), 0);
    if (!Io::kDecodes) {
      size_t n = 0;
      const int shift = 3 * (depth - 1 - level);
      for (const uint64_t leaf : leaves) {
        const uint64_t child = leaf >> shift;
        while (nodes[n] != child >> 3) ++n;
        occupancy[n] |= static_cast<uint8_t>(1u << (child & 7));
      }
    }
    std::vector<uint64_t> next;
    next.reserve(nodes.size() * 2);
    const int64_t side = int64_t{1} << level;
    for (size_t n = 0; n < nodes.size(); ++n) {
      const int64_t x = static_cast<int64_t>(gather_bits(nodes[n]));
      const int64_t y = static_cast<int64_t>(gather_bits(nodes[n] >> 1));
      const int64_t z = static_cast<int64_t>(gather_bits(nodes[n] >> 2));
      int64_t near[27];
      int neighbors = 0;
      for (int k = 0; k < 27; ++k) {
        const int64_t a = x + k % 3 - 1, b = y + k / 3 % 3 - 1, c = z + k / 9 - 1;
        near[k] = -1;
        if (k == 13 || a < 0 || b < 0 || c < 0 || a >= side || b >= side || c >= side) continue;
        near[k] = map.find(morton(static_cast<uint64_t>(a), static_cast<uint64_t>(b), static_cast<uint64_t>(c)));
        neighbors += near[k] >= 0;
      }
      const int faces = (near[12] >= 0) | (near[14] >= 0) << 1 | (near[10] >= 0) << 2 |
                        (near[16] >= 0) << 3 | (near[4] >= 0) << 4 | (near[22] >= 0) << 5;
      const int target = occupancy[n];
      int got = 0;
      for (int child = 0; child < 8; ++child) {
        // The cells that touch this child from outside its parent: empty, not yet known (their
        // parent comes later), known empty, known occupied.
        int outer = 0, inner = 0, siblings = 0;
        for (int axis = 0; axis < 3; ++axis) {
          const int high = child >> axis & 1;
          const int64_t cell = near[13 + (high ? 1 : -1) * (axis == 0 ? 1 : axis == 1 ? 3 : 9)];
          int state = 0;
          if (cell >= 0) {
            state = cell > static_cast<int64_t>(n)
                        ? 1
                        : 2 + (occupancy[static_cast<size_t>(cell)] >> (child ^ (1 << axis)) & 1);
          }
          outer = outer * 4 + state;
          const int mate = child ^ (1 << axis);
          inner = inner * 3 + (mate > child ? 0 : 1 + (got >> mate & 1));
        }
        for (int k = 0; k < child; ++k) siblings += got >> k & 1;
        const int last = child == 7 && got == 0;
        const int known = siblings > 3 ? 3 : siblings;
        if (last) {  // A node has at least one child.
          got |= 128;
          continue;
        }
        Bit* bits[kOctreeInputs] = {
            &model.tables[0][(static_cast<size_t>(level) * 8 + child) * 256 + got],
            &model.tables[1][(static_cast<size_t>(child) * 64 + faces) * 8 + (siblings > 7 ? 7 : siblings)],
            &model.tables[2][(static_cast<size_t>(child) * 64 + outer) * 4 + known],
            &model.tables[3][(static_cast<size_t>(neighbors) * 9 + siblings) * 8 + child],
            &model.tables[4][(static_cast<size_t>(outer) * 27 + inner) * 8 + (level > 7 ? 7 : level)],
        };
        const size_t set = (static_cast<size_t>(child) * 4 + known) * 9 + neighbors / 3;
        got |= code_bit<Io, kOctreeInputs>(io, model.mixer, bits, set, target >> child & 1) << child;
      }
      occupancy[n] = static_cast<uint8_t>(got);
      for (int child = 0; child < 8; ++child) {
        if (got >> child & 1) next.push_back(nodes[n] << 3 | static_cast<uint64_t>(child));
      }
      if (static_cast<int64_t>(next.size()) > count) {
        throw std::invalid_argument("octree holds more leaves than it claims");
      }
    }
    nodes.swap(next);
  }
  // How many points share each leaf: unary, with the bit's position as context.
  std::vector<uint64_t> out;
  if (Io::kDecodes) out.reserve(static_cast<size_t>(count));
  size_t at = 0;
  int64_t left = count - static_cast<int64_t>(nodes.size());
  int previous = 0;
  for (const uint64_t node : nodes) {
    int64_t extra = 0;
    if (!Io::kDecodes) {
      size_t end = at;
      while (end < leaves.size() && leaves[end] == node) ++end;
      extra = static_cast<int64_t>(end - at) - 1;
      at = end;
    }
    int64_t coded = 0;
    while (left > 0) {
      const size_t slot = static_cast<size_t>(previous) * 32 + static_cast<size_t>(coded < 31 ? coded : 31);
      Bit* bits[1] = {&model.counts[slot]};
      if (!code_bit<Io, 1>(io, model.count_mixer, bits, 0, coded < extra)) break;
      ++coded;
      --left;
    }
    previous = coded > 3 ? 3 : static_cast<int>(coded);
    if (Io::kDecodes) out.insert(out.end(), static_cast<size_t>(coded) + 1, node);
  }
  if (left != 0) throw std::invalid_argument("octree holds fewer leaves than it claims");
  if (Io::kDecodes) leaves.swap(out);
}

}  // namespace fieldpress::quant

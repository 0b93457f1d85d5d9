// Octree occupancy of sorted Morton codes, breadth first, in the coder's adaptive models.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <vector>

#include "mixing.h"
#include "morton.h"
#include "tally.h"

namespace fieldpress::quant {

constexpr int kMaxOctreeDepth = 20;
constexpr int kOctreeInputs = 4;
constexpr int kMany = 8;  // token of a node with more than one child; 0..7 name the only one

// A node of the level at work; the nodes that touch it at x-, x+, y-, y+, z-, z+, or -1.
struct OctreeNode {
  uint64_t code = 0;
  int32_t face[6] = {-1, -1, -1, -1, -1, -1};
  int32_t first_child = 0;
  int32_t children = 0;  // mask
};
using OctreeLevel = std::vector<OctreeNode>;

// What is known around a node before its children are.
struct Surroundings {
  int faces = 0;         // mask: a node touches there
  int states[6] = {};    // 0 no node, 1 a later one, 2 an earlier one
  int touched[6] = {};   // children of an earlier one
  int beside = 0;        // mask of this node's children that touch an earlier one's
  int later = 0;         // mask of the upper faces' later nodes
  Surroundings(const OctreeLevel& nodes, int32_t n) {
    constexpr int low[3] = {0x55, 0x33, 0x0f};  // children on the lower side of each axis
    for (int f = 0; f < 6; ++f) {
      const int32_t other = nodes[static_cast<size_t>(n)].face[f];
      if (other < 0) continue;
      faces |= 1 << f;
      states[f] = other > n ? 1 : 2;
      if (other > n) {
        later |= 1 << (f >> 1);
        continue;
      }
      const int axis = f >> 1, mask = touched[f] = nodes[static_cast<size_t>(other)].children;
      beside |= f & 1 ? (mask & low[axis]) << (1 << axis) : mask >> (1 << axis) & low[axis];
    }
  }
};

class OctreeModel {
 public:
  OctreeModel() {
    Tally even = {};
    even.edge[0] = kTallyStart;
    for (int j = 1; j < kTokens; ++j) {
      even.edge[j] = static_cast<uint16_t>(j <= kMany ? 2600 * j : kTop - kTokens + j);
    }
    for (auto& row : by_level_) std::fill(std::begin(row), std::end(row), even);
    for (auto& row : by_beside_count_) std::fill(std::begin(row), std::end(row), even);
    std::fill(std::begin(by_faces_), std::end(by_faces_), even);
    std::fill(std::begin(by_beside_), std::end(by_beside_), even);
  }

  // Codes which children the node has, given those of the nodes before it.
  template <class Io>
  int code(Io& io, int level, const OctreeLevel& nodes, int32_t n, int target) {
    const Surroundings around(nodes, n);
    Tally& a = by_level_[level][ones(around.faces)];
    Tally& b = by_faces_[around.faces];
    Tally& c = by_beside_[around.beside];
    Tally& d = by_beside_count_[ones(around.beside)][around.later];
    int token = kMany;
    if (!Io::kDecodes && ones(target) == 1) token = lowest_bit(static_cast<uint32_t>(target));
    token = code_token(io, Edges(a, b, c, d), token);
    for (Tally* tally : {&a, &b, &c, &d}) update(*tally, token);
    // A damaged stream may hold the tokens that no writer uses.
    return token == kMany ? code_many(io, level, around, target) : 1 << (token & 7);
  }
  template <class Io>
  int repeats(Io& io, int previous, int64_t so_far, int y) {
    return code_bit(io, repeats_[previous][std::min<int64_t>(31, so_far)], y);
  }

 private:
  // Child by child, for a node that has at least two.
  template <class Io>
  int code_many(Io& io, int level, const Surroundings& around, int target) {
    int got = 0, siblings = 0;
    for (int child = 0; child < 8; ++child) {
      if (child - siblings == 6) {  // All others are there, or there would be one child at most.
        got |= 1 << child;
        ++siblings;
        continue;
      }
      int outer = 0, inner = 0;
      for (int axis = 0; axis < 3; ++axis) {
        const int f = 2 * axis + (child >> axis & 1), mate = child ^ (1 << axis);
        outer = outer * 4 + around.states[f] + (around.touched[f] >> mate & 1);
        inner = inner * 3 + (mate > child ? 0 : 1 + (got >> mate & 1));
      }
      const int known = std::min(3, siblings);
      Bit* bits[kOctreeInputs] = {
          &by_got_[level][child][got], &by_faces_known_[child][around.faces][siblings],
          &by_outer_[child][outer][known], &by_cells_[outer][inner][std::min(7, level)]};
      const int set = (child * 4 + known) * 7 + ones(around.faces);
      const int y = mixer_.code(io, bits, static_cast<size_t>(set), target >> child & 1);
      got |= y << child;
      siblings += y;
    }
    return got;
  }

  Tally by_level_[kMaxOctreeDepth][7], by_faces_[64], by_beside_[256], by_beside_count_[9][8];
  Bit by_got_[kMaxOctreeDepth][8][256], by_faces_known_[8][64][8], by_outer_[8][64][4];
  Bit by_cells_[64][27][8], repeats_[4][32];
  Mixer<kOctreeInputs> mixer_{8 * 4 * 7};
};

// The next level: children by rising code, each with the nodes at its faces.
inline OctreeLevel octree_children(OctreeLevel& nodes) {
  int32_t made = 0;
  for (OctreeNode& node : nodes) {
    node.first_child = made;
    made += ones(node.children);
  }
  OctreeLevel next(static_cast<size_t>(made));
  OctreeNode* child = next.data();
  for (const OctreeNode& node : nodes) {
    for (int c = 0; c < 8; ++c) {
      if (!(node.children >> c & 1)) continue;
      child->code = node.code << 3 | static_cast<uint64_t>(c);
      for (int f = 0; f < 6; ++f) {
        const int axis = f >> 1, mate = c ^ (1 << axis);
        const bool inside = (c >> axis & 1) != (f & 1);
        const int32_t other = node.face[f];
        if (!inside && other < 0) continue;
        const OctreeNode& parent = inside ? node : nodes[static_cast<size_t>(other)];
        if (parent.children >> mate & 1) {
          child->face[f] = parent.first_child + ones(parent.children & ((1 << mate) - 1));
        }
      }
      ++child;
    }
  }
  return next;
}

// Encoding: the nodes' children, from the leaves below.
inline void octree_targets(OctreeLevel& nodes, const std::vector<uint64_t>& leaves, int shift) {
  size_t n = 0;
  for (const uint64_t leaf : leaves) {
    const uint64_t child = leaf >> shift;
    while (nodes[n].code != child >> 3) ++n;
    nodes[n].children |= 1 << (child & 7);
  }
}

// How many points share each leaf: unary, with the bit's position as context.
template <class Io>
void code_repeats(
    Io& io, OctreeModel& model, const OctreeLevel& nodes, int64_t count,
    std::vector<uint64_t>& leaves) {
  std::vector<uint64_t> out;
  size_t at = 0;
  int64_t left = count - static_cast<int64_t>(nodes.size());
  int previous = 0;
  for (const OctreeNode& node : nodes) {
    int64_t extra = 0;
    if (!Io::kDecodes) {
      const size_t first = at;
      while (at < leaves.size() && leaves[at] == node.code) ++at;
      extra = static_cast<int64_t>(at - first) - 1;
    }
    int64_t coded = 0;
    while (left > 0 && model.repeats(io, previous, coded, coded < extra)) {
      ++coded;
      --left;
    }
    previous = static_cast<int>(std::min<int64_t>(3, coded));
    if (Io::kDecodes) out.insert(out.end(), static_cast<size_t>(coded) + 1, node.code);
  }
  if (left != 0) throw std::invalid_argument("octree holds fewer leaves than it claims");
  if (Io::kDecodes) leaves.swap(out);
}

// Codes the octree over `leaves` (sorted, may repeat). When decoding, `leaves` is filled with
// exactly `count` codes; a stream that would give another number is refused.
template <class Io>
void code_octree(Io& io, int depth, int64_t count, std::vector<uint64_t>& leaves) {
  const auto model = std::make_unique<OctreeModel>();
  OctreeLevel nodes(count > 0 ? 1 : 0);
  for (int level = 0; level < depth && !nodes.empty(); ++level) {
    if (!Io::kDecodes) octree_targets(nodes, leaves, 3 * (depth - 1 - level));
    int64_t total = 0;
    for (size_t n = 0; n < nodes.size(); ++n) {
      const int target = nodes[n].children;
      nodes[n].children = model->code(io, level, nodes, static_cast<int32_t>(n), target);
      total += ones(nodes[n].children);
      if (total > count) throw std::invalid_argument("octree holds more leaves than it claims");
    }
    nodes = octree_children(nodes);
  }
  code_repeats(io, *model, nodes, count, leaves);
}

}  // namespace fieldpress::quant

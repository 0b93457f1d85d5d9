// What the CUDA kernels of one camera's frame work on. module.cpp fills it for Python, which copies
// it to the device: a kernel takes its address and nothing else that is not a whole number.
#pragma once

#include "frame.h"

namespace fieldpress::render {

constexpr int BLOCK = 256;              // Threads in a block of every kernel.
constexpr int RADIX = 256;              // Digits of a sorting pass.
constexpr int RADIX_BITS = 8;
constexpr int SORT_ITEMS = 16;          // Keys per thread and pass.
constexpr int SORT_PART = BLOCK * SORT_ITEMS;
constexpr int SORT_PASSES = 4;          // At most: 32-bit keys.
constexpr int PACK_BLOCK = 256;         // Packed Gaussians that share an origin and steps.

// Why a frame is void.
enum Fault : uint32_t {
  FAULT_SINGULAR = 1,    // a view's rotation has no inverse
  FAULT_NOT_FINITE = 2,  // a NaN or an infinity in a camera
  FAULT_FOCAL = 4,       // a focal length that is not positive
  FAULT_SPLATS = 8,      // more survivors than there is room for
  FAULT_PAIRS = 16,      // more pairs of a splat and a tile than there is room for
};

enum Ticket { TICKET_PROJECT, TICKET_EMIT, TICKET_SORT };  // the last: one a pass and sort

// Cleared before each frame; the host reads the first three when all has been enqueued.
struct Progress {
  uint64_t pairs;        // of a splat and a tile, also beyond the room for them
  uint32_t survivors;    // also beyond the room for them
  uint32_t faults;
  uint32_t drawn;        // survivors, or 0 where there was no room
  uint32_t listed;       // pairs, or 0 where there was no room
  uint32_t tickets[TICKET_SORT + 2 * SORT_PASSES];
};

// Stable sort of 32-bit keys with 32-bit values, back and forth between two buffers.
struct Sort {
  uint32_t *keys[2] = {}, *values[2] = {};
  uint32_t* count = nullptr;
  uint32_t* tickets = nullptr;      // [passes]
  uint32_t* histogram = nullptr;    // [passes, RADIX], cleared
  uint32_t* states = nullptr;       // [passes, parts, RADIX], cleared
  int64_t parts = 0;
  int passes = 0;
};

// Gaussians as a compressed scene holds them. Blocks are of PACK_BLOCK consecutive ones.
struct Packed {
  const uint16_t* means = nullptr;      // [N, 3] steps from the block's origin
  const uint32_t* quats = nullptr;      // [N] the smallest three, 10 bits each, and which is absent
  const uint8_t* scales = nullptr;      // [N, 3] steps of the logarithm
  const uint8_t* opacities = nullptr;   // [N] / 255
  const uint16_t* sh0 = nullptr;        // [N, 3] half
  const void* shN = nullptr;            // [N, color_stride] int8 or half; palette: [P, ...] half
  const float* sh_steps = nullptr;      // [K - 1, 3], of int8
  const uint16_t* indices = nullptr;    // [N] into the palette
  const float* blocks = nullptr;        // [B, 8] origin, steps, least log scale and its step
};

// First and one past the last pair of a tile.
struct Range {
  uint32_t begin, end;
};

struct CudaFrame {
  Settings set;
  Scene scene;
  Packed packed;
  const float *viewmat = nullptr, *K = nullptr;
  Camera* camera = nullptr;
  Progress* progress = nullptr;
  uint64_t *project_chain = nullptr, *emit_chain = nullptr;  // one a chunk of BLOCK, cleared
  int64_t splat_room = 0, pair_room = 0;
  Splat* splats = nullptr;
  Sort by_depth, by_tile;
  const uint32_t* order = nullptr;      // splats front to back
  const uint32_t *tiles = nullptr, *lists = nullptr;  // sorted pairs
  Range* ranges = nullptr;              // [tiles], cleared
  Target target = {};
  Details details;
  Sums sums;
  Upstream upstream = {};
  float* splat_grads = nullptr;         // [splats, grad_stride], cleared
  SceneGrads grads;                     // added to
  double* background_grad = nullptr;    // [channels], cleared; null: not wanted
  PoseGrad* pose = nullptr;             // cleared; null: not wanted
  float* viewmat_grad = nullptr;        // [4, 4]
};

}  // namespace fieldpress::render

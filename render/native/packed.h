// Gaussians read from their compressed form. PACKED_SH names that of the higher coefficients.
#pragma once

#include "constants.h"
#include "cuda_frame.h"
#include "half.h"
#include "project_simd.h"

#define PACKED_INT8 1
#define PACKED_HALF 2
#define PACKED_PALETTE 3
#ifndef PACKED_SH
#define PACKED_SH PACKED_INT8
#endif

namespace fieldpress::render::gpu {

constexpr int QUAT_BITS = 10;
constexpr uint32_t QUAT_MASK = (1u << QUAT_BITS) - 1u;
constexpr float QUAT_STEP = 1.4142135623730951f / QUAT_MASK;  // None but the largest is > sqrt(1/2).

FP_INLINE void packed_quat(uint32_t code, float quat[4]) {
  const int absent = static_cast<int>(code >> 30);
  float rest = 1.0f;
  int at = 0;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (k == absent) continue;
    const float part = static_cast<float>(code >> (QUAT_BITS * at++) & QUAT_MASK) * QUAT_STEP -
                       0.5f * QUAT_STEP * QUAT_MASK;
    quat[k] = part;
    rest -= part * part;
  }
#pragma unroll
  for (int k = 0; k < 4; ++k)
    if (k == absent) quat[k] = sqrtf(most(rest, 0.0f));
}

FP_INLINE Group packed_group(const Packed& packed, int64_t i) {
  Group g;
  const float* block = packed.blocks + 8 * (i / PACK_BLOCK);
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    g.mean[k] = block[k] + block[3 + k] * static_cast<float>(packed.means[3 * i + k]);
    g.scale[k] = expf(block[6] + block[7] * static_cast<float>(packed.scales[3 * i + k]));
  }
  packed_quat(packed.quats[i], g.quat);
  g.opacity = static_cast<float>(packed.opacities[i]) * (1.0f / 255.0f);
  return g;
}

// The first COUNT numbers of a row of whole 16 bytes: the higher coefficients, channels innermost.
template <int COUNT>
FP_INLINE void packed_rest(const Packed& packed, int64_t stride, int64_t i, float* rest) {
#if PACKED_SH == PACKED_INT8
  constexpr int EACH = 16;
  const int64_t row = i;
#elif PACKED_SH == PACKED_HALF
  constexpr int EACH = 8;
  const int64_t row = i;
#else
  constexpr int EACH = 8;
  const int64_t row = packed.indices[i];
#endif
  const uint4* from = static_cast<const uint4*>(packed.shN) + row * (stride / EACH);
#pragma unroll
  for (int k = 0; k < (COUNT + EACH - 1) / EACH; ++k) {
    const uint4 bits = from[k];
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int j = 0; j < EACH; ++j) {
      const int at = k * EACH + j;
      if (at >= COUNT) continue;
#if PACKED_SH == PACKED_INT8
      const int code = static_cast<int8_t>(words[j / 4] >> (8 * (j % 4)) & 0xffu);
      rest[at] = static_cast<float>(code) * packed.sh_steps[at];
#else
      rest[at] = half_value(static_cast<uint16_t>(words[j / 2] >> (16 * (j % 2)) & 0xffffu));
#endif
    }
  }
}

// All COUNT coefficients of one Gaussian, channels innermost.
template <int COUNT>
FP_INLINE void load_coefficients(const CudaFrame& f, int64_t i, float* all) {
  for (int c = 0; c < 3; ++c) all[c] = half_value(f.packed.sh0[3 * i + c]);
  packed_rest<COUNT - 3>(f.packed, f.scene.color_stride, i, all + 3);
}

}  // namespace fieldpress::render::gpu

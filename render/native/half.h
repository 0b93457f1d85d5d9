// Half precision without cuda_fp16.h.
#pragma once

#include "scalar.h"

namespace fieldpress::render::gpu {

// IEEE half, exact; no infinity or NaN. The second form is the emulation's.
FP_INLINE float half_value(uint16_t bits) {
#ifdef __CUDA_ARCH__
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#else
  const uint32_t body = static_cast<uint32_t>(bits & 0x7fffu) << 13;
  const float subnormal = static_cast<float>(bits & 0x3ffu) * (1.0f / (1 << 24));
  const float value = bits & 0x7c00u ? __uint_as_float(body + (112u << 23)) : subnormal;
  return bits & 0x8000u ? -value : value;
#endif
}

}  // namespace fieldpress::render::gpu

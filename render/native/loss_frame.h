// What the CUDA kernels of the photometric loss work on; as cuda_frame.h.
#pragma once

#include "loss.h"

namespace fieldpress::render {

struct LossFrame {
  LossViews views;
  float *mean = nullptr, *variance = nullptr;  // [C, H, W, 3] of the target, to be filled
  float* maps[3] = {};         // [C, H, W, 3] each, between the value and the gradient
  double* sums = nullptr;      // weighted |x - y|, weighted SSIM: cleared; all weights
  float ssim_weight = 0;
  float* gradient = nullptr;   // [C, H, W, 3] or null
};

}  // namespace fieldpress::render

// The photometric loss of 3D Gaussian splatting (Kerbl et al. 2023, eq. 7) and its gradient:
//   (1 - w) * mean |x - y| + w * (1 - mean SSIM(x, y)),
// with SSIM after Wang et al. 2004. Beyond the border both images are black, as in INRIA's code.
#pragma once

#include <cstdint>

namespace fieldpress::render {

constexpr int SSIM_HALF = 5;  // The window is 11 pixels wide.
constexpr int SSIM_WINDOW = 2 * SSIM_HALF + 1;
constexpr double SSIM_SIGMA = 1.5;    // Pixels.
constexpr float SSIM_C1 = 0.0001f;    // (0.01 * range)^2, the range being 1.
constexpr float SSIM_C2 = 0.0009f;    // (0.03 * range)^2

// Moments are taken of (value - this): variances do not change, and their rounding is four times
// finer than around 0, which flat bright areas need (a variance is compared with C2).
constexpr float SSIM_SHIFT = 0.5f;

// Views as rows of 3 * width floats. The moments are those of the target, cached by the caller.
struct LossViews {
  int64_t count = 0;
  int height = 0, width = 0;
  const float* image = nullptr;     // [C, H, W, 3]
  const float* target = nullptr;    // [C, H, W, 3]
  const float* mean = nullptr;      // [C, H, W, 3] Gaussian mean of target - SSIM_SHIFT
  const float* variance = nullptr;  // [C, H, W, 3] its Gaussian variance
  const float* mask = nullptr;      // [C, H, W] weights, or null: all 1
};

// Rows [first, last) of one view: the unit of work. No result depends on how a view is cut.
struct LossBand {
  int64_t view;
  int first, last;
};

// d loss / d |x - y| and d loss / d SSIM of one value of weight 1.
struct LossSlopes {
  float l1, ssim;
};

// Weighted sums over one row.
struct LossSums {
  double l1 = 0, ssim = 0;
};

// One copy per instruction set.
struct LossKernels {
  // Fills `sums` (one per row of all views) and, unless it is null, `gradient` [C, H, W, 3].
  void (*photometric)(const LossViews&, const LossBand&, const LossSlopes&, LossSums* sums,
                      float* gradient);
  // Fills mean and variance [C, H, W, 3] of `target`.
  void (*moments)(const LossViews&, const LossBand&, float* mean, float* variance);
};

// Returns the loss; 0 with a gradient of 0 where all weights are 0. Throws std::invalid_argument
// where a weight is not in [0, 1].
double photometric_loss(const LossViews& views, double ssim_weight, int threads, float* gradient);
void photometric_moments(const LossViews& views, int threads, float* mean, float* variance);

}  // namespace fieldpress::render

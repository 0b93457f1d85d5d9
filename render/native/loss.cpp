#include "loss.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "dispatch.h"
#include "pool.h"

namespace fieldpress::render {
namespace {

constexpr int LEAST_ROWS = 16;  // Of a band: each recomputes 10 rows of its neighbours.

std::vector<LossBand> cut(const LossViews& views, int threads) {
  // One band a view is least work; more threads than views need two each, to end together.
  const int64_t wanted = threads <= 1 ? 1 : (2 * int64_t{threads} + views.count - 1) / views.count;
  const int64_t most = std::max(1, views.height / LEAST_ROWS);
  const int64_t bands = std::min(wanted, most);
  std::vector<LossBand> list;
  for (int64_t view = 0; view < views.count; ++view)
    for (int64_t i = 0; i < bands; ++i)
      list.push_back({view, static_cast<int>(views.height * i / bands),
                      static_cast<int>(views.height * (i + 1) / bands)});
  return list;
}

// The sum of all weights, of three channels each.
double total_weight(const LossViews& views) {
  const int64_t pixels = views.count * views.height * views.width;
  if (!views.mask) return 3.0 * static_cast<double>(pixels);
  constexpr int LANES = 8;  // Chains of additions that do not wait for each other.
  double sums[LANES] = {};
  bool good = true;
  for (int64_t i = 0; i < pixels; ++i) {
    const float weight = views.mask[i];
    good &= weight >= 0.0f && weight <= 1.0f;
    sums[i % LANES] += static_cast<double>(weight);
  }
  if (!good) throw std::invalid_argument("mask: expected weights in [0, 1], got one that is not");
  double total = 0;
  for (double sum : sums) total += sum;
  return 3.0 * total;
}

}  // namespace

double photometric_loss(const LossViews& views, double ssim_weight, int threads, float* gradient) {
  const int64_t rows = views.count * views.height;
  const double weight = total_weight(views);
  if (!(weight > 0)) {
    if (gradient) std::fill_n(gradient, 3 * rows * views.width, 0.0f);
    return 0;
  }
  const LossSlopes slopes = {static_cast<float>((1 - ssim_weight) / weight),
                             static_cast<float>(-ssim_weight / weight)};
  const std::vector<LossBand> bands = cut(views, threads);
  std::vector<LossSums> sums(static_cast<size_t>(rows));
  const LossKernels run = loss_kernels();
  parallel(threads, static_cast<int>(bands.size()), [&](int i) {
    run.photometric(views, bands[static_cast<size_t>(i)], slopes, sums.data(), gradient);
  });
  LossSums total;
  for (const LossSums& row : sums) {
    total.l1 += row.l1;
    total.ssim += row.ssim;
  }
  return (1 - ssim_weight) * total.l1 / weight + ssim_weight * (1 - total.ssim / weight);
}

void photometric_moments(const LossViews& views, int threads, float* mean, float* variance) {
  if (views.count == 0) return;
  const std::vector<LossBand> bands = cut(views, threads);
  const LossKernels run = loss_kernels();
  parallel(threads, static_cast<int>(bands.size()), [&](int i) {
    run.moments(views, bands[static_cast<size_t>(i)], mean, variance);
  });
}

}  // namespace fieldpress::render

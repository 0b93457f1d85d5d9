#include "loss_module.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "constants.h"
#include "loss.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace fieldpress::render {
namespace {

using In = nb::ndarray<const float, nb::device::cpu, nb::c_contig>;
using Out = nb::ndarray<float, nb::device::cpu, nb::c_contig>;

void expect(bool good, const char* what) {
  if (!good) throw std::invalid_argument(std::string(what) + ": unexpected shape");
}

// The views of `target`; what else there is must be of its size.
LossViews make_views(const In& target) {
  expect(target.ndim() == 4 && target.shape(3) == 3, "target");
  const size_t side = static_cast<size_t>(MAX_SIDE);
  expect(target.shape(1) > 0 && target.shape(1) <= side, "target");
  expect(target.shape(2) > 0 && target.shape(2) <= side, "target");
  LossViews views;
  views.count = static_cast<int64_t>(target.shape(0));
  views.height = static_cast<int>(target.shape(1));
  views.width = static_cast<int>(target.shape(2));
  views.target = target.data();
  return views;
}

double loss(const In& image, const In& target, const In& mean, const In& variance,
            std::optional<In> mask, double ssim_weight, std::optional<Out> gradient, int threads) {
  LossViews views = make_views(target);
  const size_t size = target.size();
  expect(image.size() == size, "image");
  expect(mean.size() == size && variance.size() == size, "mean, variance");
  views.image = image.data();
  views.mean = mean.data();
  views.variance = variance.data();
  if (mask) {
    expect(3 * mask->size() == size, "mask");
    views.mask = mask->data();
  }
  if (gradient) expect(gradient->size() == size, "gradient");
  float* const out = gradient ? gradient->data() : nullptr;
  nb::gil_scoped_release release;
  return photometric_loss(views, ssim_weight, threads, out);
}

void moments(const In& target, Out mean, Out variance, int threads) {
  const LossViews views = make_views(target);
  expect(mean.size() == target.size() && variance.size() == target.size(), "mean, variance");
  float *const to_mean = mean.data(), *const to_variance = variance.data();
  nb::gil_scoped_release release;
  photometric_moments(views, threads, to_mean, to_variance);
}

}  // namespace

void bind_loss(nb::module_& m) {
  m.def("photometric_loss", &loss, "image"_a.noconvert(), "target"_a.noconvert(),
        "mean"_a.noconvert(), "variance"_a.noconvert(), "mask"_a.noconvert().none(),
        "ssim_weight"_a, "gradient"_a.noconvert().none(), "threads"_a);
  m.def("photometric_moments", &moments, "target"_a.noconvert(), "mean"_a.noconvert(),
        "variance"_a.noconvert(), "threads"_a);
}

}  // namespace fieldpress::render

// The Python face: checks nothing that splat.py has checked, but trusts no shape.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "constants.h"
#include "cuda_module.h"
#include "dispatch.h"
#include "loss_module.h"
#include "render.h"
#include "workspace.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace fieldpress::render {
namespace {

template <typename T>
using In = nb::ndarray<const T, nb::device::cpu, nb::c_contig>;
template <typename T>
using Out = nb::ndarray<T, nb::device::cpu, nb::c_contig>;
using StageSeconds = std::tuple<double, double, double, double>;

void expect(bool good, const char* what) {
  if (!good) throw std::invalid_argument(std::string(what) + ": unexpected shape");
}

Scene make_scene(const In<float>& means, const In<float>& quats, const In<float>& scales,
                 const In<float>& opacities) {
  Scene scene;
  expect(means.ndim() == 2 && means.shape(1) == 3, "means");
  scene.count = static_cast<int64_t>(means.shape(0));
  expect(scene.count < (int64_t{1} << 31), "means");
  expect(quats.size() == 4 * means.shape(0), "quats");
  expect(scales.size() == 3 * means.shape(0), "scales");
  expect(opacities.size() == means.shape(0), "opacities");
  scene.means = means.data();
  scene.quats = quats.data();
  scene.scales = scales.data();
  scene.opacities = opacities.data();
  return scene;
}

Views make_views(const In<float>& viewmats, const In<float>& Ks) {
  Views views;
  expect(viewmats.ndim() == 3, "viewmats");
  views.count = static_cast<int64_t>(viewmats.shape(0));
  expect(viewmats.size() == 16 * viewmats.shape(0), "viewmats");
  expect(Ks.size() == 9 * viewmats.shape(0), "Ks");
  views.viewmats = viewmats.data();
  views.Ks = Ks.data();
  return views;
}

void check(const Settings& set) {
  expect(set.width > 0 && set.height > 0 && set.width <= MAX_SIDE && set.height <= MAX_SIDE,
         "width, height");
  expect(set.color_channels >= 0 && set.color_channels <= MAX_CHANNELS, "colors");
  expect(set.sh_degree <= MAX_SH_DEGREE, "sh_degree");
}

using DetailArrays = std::tuple<Out<int32_t>, Out<float>, Out<float>, Out<float>, Out<float>,
                                Out<int32_t>>;

Details make_details(DetailArrays& arrays, size_t rows) {
  auto& [radii, means2d, depths, conics, opacities, tiles] = arrays;
  expect(radii.size() == 2 * rows && means2d.size() == 2 * rows && depths.size() == rows &&
             conics.size() == 3 * rows && opacities.size() == rows && tiles.size() == rows,
         "details");
  Details d;
  d.radii = radii.data();
  d.means2d = means2d.data();
  d.depths = depths.data();
  d.conics = conics.data();
  d.opacities = opacities.data();
  d.tiles_per_gauss = tiles.data();
  return d;
}

StageSeconds pack(const Times& t) { return {t.project, t.sort, t.bin, t.blend}; }

// Returns the floats from one camera's colours to the next; 0 where all share them.
int64_t set_colors(Scene& scene, const In<float>& colors, const Settings& set, size_t cameras) {
  const size_t n = static_cast<size_t>(scene.count), dims = colors.ndim();
  expect(dims == 2 || dims == 3, "colors");
  scene.colors = colors.data();
  scene.sh_degree = set.sh_degree;
  if (set.sh_degree >= 0) {
    const size_t bases = static_cast<size_t>((set.sh_degree + 1) * (set.sh_degree + 1));
    expect(dims == 3 && colors.shape(0) == n && colors.shape(1) >= bases && colors.shape(2) == 3 &&
               set.color_channels == 3,
           "colors");
    scene.color_stride = static_cast<int64_t>(3 * colors.shape(1));
    return 0;
  }
  expect(colors.shape(dims - 1) == static_cast<size_t>(set.color_channels), "colors");
  expect(colors.shape(dims - 2) == n && (dims == 2 || colors.shape(0) == cameras), "colors");
  scene.color_stride = set.color_channels;
  return dims == 2 ? 0 : scene.count * scene.color_stride;
}

StageSeconds render(const In<float>& means, const In<float>& quats, const In<float>& scales,
                    const In<float>& opacities, std::optional<In<float>> colors,
                    const In<float>& viewmats, const In<float>& Ks, const Settings& set,
                    std::optional<In<float>> backgrounds, Out<float> image, Out<float> alpha,
                    std::optional<DetailArrays> details, Frames* frames) {
  check(set);
  Scene scene = make_scene(means, quats, scales, opacities);
  const Views views = make_views(viewmats, Ks);
  const size_t cameras = static_cast<size_t>(views.count), n = static_cast<size_t>(scene.count);
  const size_t channels = static_cast<size_t>(set.channels());
  const size_t pixels = static_cast<size_t>(set.width) * static_cast<size_t>(set.height);
  Images out;
  expect(channels > 0 && image.size() == cameras * pixels * channels, "image");
  expect(alpha.size() == cameras * pixels, "alpha");
  out.image = image.data();
  out.alpha = alpha.data();
  expect(colors.has_value() == (set.color_channels > 0), "colors");
  if (colors) out.colors_per_camera = set_colors(scene, *colors, set, cameras);
  if (backgrounds) {
    expect(backgrounds->size() == cameras * channels, "backgrounds");
    out.backgrounds = backgrounds->data();
  }
  if (details) out.details = make_details(*details, cameras * n);
  nb::gil_scoped_release release;
  return pack(render_images(scene, views, set, out, frames));
}

using Gradient = std::optional<Out<float>>;

float* data_of(Gradient& gradient, size_t size, const char* name) {
  if (!gradient) return nullptr;
  expect(gradient->size() == size, name);
  return gradient->data();
}

// Outputs as rendered, their gradients, and the inputs' gradients to be filled.
using Outputs = std::tuple<In<float>, In<float>, std::optional<In<float>>,
                           std::optional<In<float>>>;
using Gradients = std::tuple<Gradient, Gradient, Gradient, Gradient, Gradient, Gradient, Gradient>;

Backward make_backward(const Outputs& outputs, Gradients& gradients, const Scene& scene,
                       size_t colors, size_t cameras, const Settings& set) {
  const auto& [image, alpha, image_grad, alpha_grad] = outputs;
  auto& [means, quats, scales, opacities, color_grads, backgrounds, viewmats] = gradients;
  const size_t n = static_cast<size_t>(scene.count), channels = static_cast<size_t>(set.channels());
  const size_t pixels = static_cast<size_t>(set.width) * static_cast<size_t>(set.height);
  expect(image.size() == cameras * pixels * channels && alpha.size() == cameras * pixels, "image");
  expect(!image_grad || image_grad->size() == image.size(), "image gradient");
  expect(!alpha_grad || alpha_grad->size() == alpha.size(), "alpha gradient");
  Backward back;
  back.image = image.data();
  back.alpha = alpha.data();
  back.image_grad = image_grad ? image_grad->data() : nullptr;
  back.alpha_grad = alpha_grad ? alpha_grad->data() : nullptr;
  back.scene.means = data_of(means, 3 * n, "means");
  back.scene.quats = data_of(quats, 4 * n, "quats");
  back.scene.scales = data_of(scales, 3 * n, "scales");
  back.scene.opacities = data_of(opacities, n, "opacities");
  back.scene.colors = data_of(color_grads, colors, "colors");
  back.backgrounds = data_of(backgrounds, cameras * channels, "backgrounds");
  back.viewmats = data_of(viewmats, 16 * cameras, "viewmats");
  return back;
}

StageSeconds render_gradients(const In<float>& means, const In<float>& quats,
                              const In<float>& scales, const In<float>& opacities,
                              std::optional<In<float>> colors, const In<float>& viewmats,
                              const In<float>& Ks, const Settings& set, const Outputs& outputs,
                              Gradients gradients, Frames& frames) {
  check(set);
  Scene scene = make_scene(means, quats, scales, opacities);
  const Views views = make_views(viewmats, Ks);
  const size_t cameras = static_cast<size_t>(views.count);
  expect(colors.has_value() == (set.color_channels > 0) && set.channels() > 0, "colors");
  const int64_t per_camera = colors ? set_colors(scene, *colors, set, cameras) : 0;
  Backward back = make_backward(outputs, gradients, scene, colors ? colors->size() : 0, cameras,
                                set);
  back.colors_per_camera = per_camera;
  nb::gil_scoped_release release;
  const BackwardTimes t = render_backward(scene, views, set, back, frames);
  return {t.prepare, t.unblend, t.reduce, t.unproject};
}

StageSeconds statistics(const In<float>& means, const In<float>& quats, const In<float>& scales,
                        const In<float>& opacities, const In<float>& viewmats, const In<float>& Ks,
                        const Settings& set, Out<int64_t> hits, Out<double> opacity_hits,
                        Out<double> weight, Out<double> weight_sq, Out<float> max_weight) {
  check(set);
  const Scene scene = make_scene(means, quats, scales, opacities);
  const Views views = make_views(viewmats, Ks);
  const size_t n = static_cast<size_t>(scene.count);
  expect(hits.size() == n && opacity_hits.size() == n && weight.size() == n &&
             weight_sq.size() == n && max_weight.size() == n,
         "statistics");
  const Sums sums = {hits.data(), opacity_hits.data(), weight.data(), weight_sq.data(),
                     max_weight.data()};
  nb::gil_scoped_release release;
  return pack(render_sums(scene, views, set, sums));
}

template <size_t N>
nb::tuple tuple_of(const double (&values)[N]) {
  nb::list list;
  for (double v : values) list.append(v);
  return nb::tuple(list);
}

void export_constants(nb::module_& m) {
  m.attr("ALPHA_CUTOFF") = ALPHA_CUTOFF;
  m.attr("TRANSMITTANCE_STOP") = TRANSMITTANCE_STOP;
  m.attr("ALPHA_CLAMP") = ALPHA_CLAMP;
  m.attr("EPS2D") = EPS2D;
  m.attr("NEAR_PLANE") = NEAR_PLANE;
  m.attr("FAR_PLANE") = FAR_PLANE;
  m.attr("EXTENT_SIGMAS") = EXTENT_SIGMAS;
  m.attr("FRUSTUM_MARGIN") = FRUSTUM_MARGIN;
  m.attr("COMPENSATION_FLOOR") = COMPENSATION_FLOOR;
  m.attr("DEPTH_ALPHA_FLOOR") = DEPTH_ALPHA_FLOOR;
  m.attr("TILE") = TILE;
  m.attr("MAX_SIDE") = MAX_SIDE;
  m.attr("MAX_CHANNELS") = MAX_CHANNELS;
  m.attr("MAX_SH_DEGREE") = MAX_SH_DEGREE;
  m.attr("SH_C0") = SH_C0;
  m.attr("SH_C1") = SH_C1;
  m.attr("SH_C2") = tuple_of(SH_C2);
  m.attr("SH_C3") = tuple_of(SH_C3);
  m.attr("SH_C4") = tuple_of(SH_C4);
  m.attr("SH_OFFSET") = SH_OFFSET;
}

}  // namespace
}  // namespace fieldpress::render

NB_MODULE(_native, m) {
  using namespace fieldpress::render;
  nb::set_leak_warnings(false);  // A graph that lives until the end is no leak.
  nb::class_<Settings>(m, "Settings")
      .def(nb::init<>())
      .def_rw("width", &Settings::width)
      .def_rw("height", &Settings::height)
      .def_rw("near_plane", &Settings::near_plane)
      .def_rw("far_plane", &Settings::far_plane)
      .def_rw("eps2d", &Settings::eps2d)
      .def_rw("alpha_clamp", &Settings::alpha_clamp)
      .def_rw("compensation_floor", &Settings::compensation_floor)
      .def_rw("radius_clip", &Settings::radius_clip)
      .def_rw("sh_degree", &Settings::sh_degree)
      .def_rw("color_channels", &Settings::color_channels)
      .def_rw("depth", &Settings::depth)
      .def_rw("expected", &Settings::expected)
      .def_rw("antialiased", &Settings::antialiased)
      .def_rw("threads", &Settings::threads);
  nb::class_<Frames>(m, "Frames").def(nb::init<>());
  m.def("render", &render, "means"_a.noconvert(), "quats"_a.noconvert(), "scales"_a.noconvert(),
        "opacities"_a.noconvert(), "colors"_a.noconvert().none(), "viewmats"_a.noconvert(),
        "Ks"_a.noconvert(), "settings"_a, "backgrounds"_a.noconvert().none(),
        "image"_a.noconvert(), "alpha"_a.noconvert(), "details"_a.noconvert().none(),
        "frames"_a.none());
  m.def("render_backward", &render_gradients, "means"_a.noconvert(), "quats"_a.noconvert(),
        "scales"_a.noconvert(), "opacities"_a.noconvert(), "colors"_a.noconvert().none(),
        "viewmats"_a.noconvert(), "Ks"_a.noconvert(), "settings"_a, "outputs"_a.noconvert(),
        "gradients"_a.noconvert(), "frames"_a);
  m.def("statistics", &statistics, "means"_a.noconvert(), "quats"_a.noconvert(),
        "scales"_a.noconvert(), "opacities"_a.noconvert(), "viewmats"_a.noconvert(),
        "Ks"_a.noconvert(), "settings"_a, "hits"_a.noconvert(), "opacity_hits"_a.noconvert(),
        "weight"_a.noconvert(), "weight_sq"_a.noconvert(), "max_weight"_a.noconvert());
  m.def("forget_workspace", &forget_workspace);
  m.def("isa", &isa);
  m.def("set_isa", &set_isa, "name"_a);
  m.def("available_isas", &available_isas);
  bind_loss(m);
  bind_cuda(m);
  export_constants(m);
}

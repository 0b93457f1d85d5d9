// The Python face: checks nothing that encoding.py has checked, but trusts no shape.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>

#include "encoding.h"
#include "radiance.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace fieldpress::fields {
namespace {

template <typename T>
using In = nb::ndarray<const T, nb::device::cpu, nb::c_contig>;
template <typename T>
using Out = nb::ndarray<T, nb::device::cpu, nb::c_contig>;

void expect(bool good, const char* what) {
  if (!good) throw std::invalid_argument(std::string(what) + ": unexpected shape");
}

size_t size_of(const Grid& grid) {
  return static_cast<size_t>(grid.rows()) * static_cast<size_t>(grid.features);
}

int64_t count_of(const Grid& grid, const In<float>& points) {
  expect(points.ndim() == 2 && points.shape(1) == static_cast<size_t>(grid.dims), "points");
  return static_cast<int64_t>(points.shape(0));
}

const float* data_like(const In<float>& points, const std::optional<In<float>>& along) {
  if (!along) return nullptr;
  expect(along->size() == points.size(), "along");
  return along->data();
}

Table make_table(const Grid& grid, const nb::ndarray<nb::device::cpu, nb::c_contig>& rows,
                 const std::optional<In<float>>& steps) {
  Table table;
  table.rows = rows.data();
  const size_t size = size_of(grid);
  if (rows.dtype() == nb::dtype<float>()) {
    table.storage = Storage::f32;
  } else if (rows.dtype().code == static_cast<uint8_t>(nb::dlpack::dtype_code::Float) &&
             rows.dtype().bits == 16) {
    table.storage = Storage::f16;
  } else if (rows.dtype() == nb::dtype<int8_t>()) {
    table.storage = Storage::i8;
  } else if (rows.dtype() == nb::dtype<uint8_t>()) {
    table.storage = Storage::b1;
  } else {
    throw std::invalid_argument("table: expected float32, float16, int8 or packed uint8");
  }
  // Rows are a multiple of 8 a level, so that levels of bits begin at whole bytes.
  expect(rows.size() == (table.storage == Storage::b1 ? size / 8 : size), "table");
  const bool scaled = table.storage == Storage::i8 || table.storage == Storage::b1;
  expect(steps.has_value() == scaled, "steps");
  if (steps) {
    expect(steps->size() == static_cast<size_t>(grid.count), "steps");
    table.steps = steps->data();
  }
  return table;
}

void encode_points(const Grid& grid, const nb::ndarray<nb::device::cpu, nb::c_contig>& rows,
                   const std::optional<In<float>>& steps, const In<float>& points,
                   const std::optional<In<float>>& along, Out<float> out, int threads) {
  const Table table = make_table(grid, rows, steps);
  const int64_t count = count_of(grid, points);
  const float* const directions = data_like(points, along);
  expect(out.size() == points.shape(0) * static_cast<size_t>(grid.width()), "out");
  float* const to = out.data();
  const float* const from = points.data();
  nb::gil_scoped_release release;
  encode(grid, table, from, directions, count, threads, to);
}

using MomentArrays = std::tuple<Out<float>, Out<float>, Out<float>>;  // table, mean, square
using StepNumbers = std::tuple<float, float, float, float, float>;  // AdamStep, in its order

Moments make_moments(MomentArrays& arrays, const StepNumbers& numbers, size_t size) {
  auto& [table, mean, square] = arrays;
  expect(table.size() == size && mean.size() == size && square.size() == size, "moments");
  const auto& [rate, beta1, beta2, root, epsilon] = numbers;
  return {{rate, beta1, beta2, root, epsilon}, static_cast<int64_t>(size), table.data(),
          mean.data(), square.data()};
}

void scatter_points(const Grid& grid, const In<float>& points,
                    const std::optional<In<float>>& along, const In<float>& upstream,
                    Out<float> grad, Out<uint8_t> touched, std::optional<MomentArrays> arrays,
                    std::optional<StepNumbers> numbers, int threads) {
  const int64_t count = count_of(grid, points);
  const float* const directions = data_like(points, along);
  expect(upstream.size() == points.shape(0) * static_cast<size_t>(grid.width()), "upstream");
  expect(grad.size() == size_of(grid), "grad");
  expect(touched.size() == static_cast<size_t>(lines_of(grid)), "touched");
  expect(arrays.has_value() == numbers.has_value(), "moments");
  Moments moments{};
  if (arrays) moments = make_moments(*arrays, *numbers, size_of(grid));
  float* const sums = grad.data();
  uint8_t* const marks = touched.data();
  const float *const from = points.data(), *const g = upstream.data();
  nb::gil_scoped_release release;
  scatter(grid, from, directions, count, g, threads, sums, marks, arrays ? &moments : nullptr);
}

void slope_points(const Grid& grid, const In<float>& table, const In<float>& points,
                  const std::optional<In<float>>& along, const In<float>& upstream, Out<float> dx,
                  int threads) {
  const int64_t count = count_of(grid, points);
  const float* const directions = data_like(points, along);
  expect(table.size() == size_of(grid), "table");
  expect(upstream.size() == points.shape(0) * static_cast<size_t>(grid.width()), "upstream");
  expect(dx.size() == points.size(), "dx");
  float* const to = dx.data();
  const float *const rows = table.data(), *const from = points.data(), *const g = upstream.data();
  nb::gil_scoped_release release;
  slope(grid, rows, from, directions, count, g, threads, to);
}

void adam_step(MomentArrays arrays, const StepNumbers& numbers, Out<float> grad,
               Out<uint8_t> touched, int threads) {
  const size_t size = grad.size();
  const Moments moments = make_moments(arrays, numbers, size);
  expect(touched.size() == (size + LINE - 1) / LINE, "touched");
  float* const g = grad.data();
  uint8_t* const marks = touched.data();
  nb::gil_scoped_release release;
  adam(moments, threads, g, marks);
}

void perceptron_points(const std::vector<In<float>>& weights, const In<float>& inputs,
                       Out<float> outputs, int threads) {
  Perceptron net;
  expect(!weights.empty() && weights.size() <= MAX_LAYERS && inputs.ndim() == 2, "weights");
  net.layers = static_cast<int>(weights.size());
  size_t columns = inputs.shape(0);
  for (size_t l = 0; l < weights.size(); ++l) {
    expect(weights[l].ndim() == 2 && weights[l].shape(1) == columns, "weights");
    expect(columns <= MAX_NEURONS && weights[l].shape(0) <= MAX_NEURONS, "weights");
    net.widths[l] = static_cast<int>(columns);
    net.weights[l] = weights[l].data();
    columns = weights[l].shape(0);
  }
  net.widths[net.layers] = static_cast<int>(columns);
  expect(outputs.size() == columns * inputs.shape(1), "outputs");
  const auto count = static_cast<int64_t>(inputs.shape(1));
  const float* const from = inputs.data();
  float* const to = outputs.data();
  nb::gil_scoped_release release;
  perceptron(net, from, count, threads, to);
}

template <typename T>
nb::ndarray<nb::pytorch, T> handed_over(std::vector<T> values, std::vector<size_t> shape) {
  auto* kept = new std::vector<T>(std::move(values));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::ndarray<nb::pytorch, T>(kept->data(), shape.size(), shape.data(), owner);
}

nb::tuple march_rays(const In<float>& origins, const In<float>& directions, const In<bool>& cells,
                     const In<float>& jitter, int threads) {
  const size_t count = jitter.size();
  expect(origins.size() == 3 * count, "origins");
  expect(directions.size() == 3 * count, "rays_d");
  expect(cells.size() == size_t{CELL_SIDE} * CELL_SIDE * CELL_SIDE, "cells");
  const Rays rays = {origins.data(), directions.data(),
                     reinterpret_cast<const uint8_t*>(cells.data()), jitter.data()};
  Samples found;
  {
    nb::gil_scoped_release release;
    found = march(rays, static_cast<int64_t>(count), threads);
  }
  const size_t samples = found.rays.size();
  return nb::make_tuple(handed_over(std::move(found.points), {samples, 3}),
                        handed_over(std::move(found.rays), {samples}));
}

}  // namespace

void add_noise(nb::module_& m);  // noise_module.cpp

}  // namespace fieldpress::fields

void bind_latent(nb::module_& m);  // latent_module.cpp

NB_MODULE(_native, m) {
  using namespace fieldpress::fields;
  nb::set_leak_warnings(false);
  nb::class_<Grid>(m, "Grid")
      .def(nb::new_(&make_grid), "dims"_a, "features"_a, "lattice"_a, "scales"_a, "sides"_a,
           "rows"_a)
      .def_prop_ro("dims", [](const Grid& grid) { return grid.dims; })
      .def_prop_ro("features", [](const Grid& grid) { return grid.features; })
      .def_prop_ro("lattice", [](const Grid& grid) { return static_cast<int>(grid.lattice); })
      .def_prop_ro("levels", [](const Grid& grid) { return grid.count; })
      .def_prop_ro("data",  // What CUDA kernels read.
                   [](const Grid& grid) {
                     return nb::bytes(reinterpret_cast<const char*>(&grid), sizeof grid);
                   })
      .def_prop_ro("rows", [](const Grid& grid) { return grid.rows(); })
      .def_prop_ro("lines", [](const Grid& grid) { return lines_of(grid); });
  m.def("encode", &encode_points, "grid"_a, "table"_a.noconvert(), "steps"_a.noconvert().none(),
        "points"_a.noconvert(), "along"_a.noconvert().none(), "out"_a.noconvert(), "threads"_a);
  m.def("scatter", &scatter_points, "grid"_a, "points"_a.noconvert(),
        "along"_a.noconvert().none(), "upstream"_a.noconvert(), "grad"_a.noconvert(), "touched"_a.noconvert(), "moments"_a.noconvert().none(),
        "step"_a.none(), "threads"_a);
  m.def("slope", &slope_points, "grid"_a, "table"_a.noconvert(), "points"_a.noconvert(),
        "along"_a.noconvert().none(), "upstream"_a.noconvert(), "dx"_a.noconvert(), "threads"_a);
  m.def("adam", &adam_step, "moments"_a.noconvert(), "step"_a, "grad"_a.noconvert(),
        "touched"_a.noconvert(), "threads"_a);
  add_noise(m);
  bind_latent(m);
  m.def("perceptron", &perceptron_points, "weights"_a.noconvert(), "inputs"_a.noconvert(),
        "outputs"_a.noconvert(), "threads"_a);
  m.def("march", &march_rays, "origins"_a.noconvert(), "rays_d"_a.noconvert(),
        "cells"_a.noconvert(), "jitter"_a.noconvert(), "threads"_a);
  m.def("isa", &isa);
  m.def("set_isa", &set_isa, "name"_a);
  m.def("available_isas", &available_isas);
  m.attr("RADIANCE_SH_DEGREE") = RADIANCE_SH_DEGREE;
  m.attr("GEOMETRY") = GEOMETRY;
  m.attr("CELL_SIDE") = CELL_SIDE;
  m.attr("MARCH") = MARCH;
  m.attr("STEP") = STEP;
  m.attr("MIDDLE") = MIDDLE;
  m.attr("MAX_LOG_DENSITY") = MAX_LOG_DENSITY;
  m.attr("LEAST_DIRECTION") = LEAST_DIRECTION;
  m.attr("MAX_LEVELS") = MAX_LEVELS;
  m.attr("MAX_LAYERS") = MAX_LAYERS;
  m.attr("MAX_NEURONS") = MAX_NEURONS;
  m.attr("ROW_GROUP") = ROW_GROUP;
  m.attr("PRIMES") = nb::make_tuple(PRIMES[0], PRIMES[1], PRIMES[2], PRIMES[3]);
  m.attr("PERMUTO_FACTOR") = PERMUTO_FACTOR;
  m.attr("LEVEL_SHIFT") = LEVEL_SHIFT;
}

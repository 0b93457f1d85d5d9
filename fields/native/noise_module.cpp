#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>

#include "noise.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace fieldpress::fields {
namespace {

template <typename T>
using In = nb::ndarray<const T, nb::device::cpu, nb::c_contig>;
using Out = nb::ndarray<float, nb::device::cpu, nb::c_contig>;

void score_candidates(const In<int16_t>& table, const In<float>& coefficients, uint32_t level,
                      uint32_t block, uint32_t first, Out out) {
  if (table.size() != 1 << 16) throw std::invalid_argument("table: unexpected shape");
  if (coefficients.ndim() != 2 || coefficients.shape(1) % 2)
    throw std::invalid_argument("coefficients: unexpected shape");
  if (out.ndim() != 2 || out.shape(0) != coefficients.shape(0))
    throw std::invalid_argument("out: unexpected shape");
  const auto rows = static_cast<int64_t>(out.shape(0)), count = static_cast<int64_t>(out.shape(1));
  const auto dims = static_cast<int64_t>(coefficients.shape(1) / 2);
  const int16_t* const quantiles = table.data();
  const float* const c = coefficients.data();
  float* const to = out.data();
  nb::gil_scoped_release release;
  score(quantiles, c, rows, dims, {level, block}, first, count, to);
}

}  // namespace

void add_noise(nb::module_& m) {
  m.def("score_candidates", &score_candidates, "table"_a.noconvert(),
        "coefficients"_a.noconvert(), "level"_a, "block"_a, "first"_a, "out"_a.noconvert());
}

}  // namespace fieldpress::fields

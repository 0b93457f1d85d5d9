// The Python face of the photometric loss.
#pragma once

#include <nanobind/nanobind.h>

namespace fieldpress::render {

void bind_loss(nanobind::module_& m);

}  // namespace fieldpress::render

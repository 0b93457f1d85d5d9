// Binds what Python needs to launch the CUDA kernels.
#pragma once

#include <nanobind/nanobind.h>

namespace fieldpress::render {

void bind_cuda(nanobind::module_& m);

}  // namespace fieldpress::render

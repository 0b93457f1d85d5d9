// Which copy of the kernels runs: the best this machine has, unless a test asks for another.
#pragma once

#include <string>
#include <vector>

#include "frame.h"
#include "loss.h"

namespace fieldpress::render {

Kernels kernels();
LossKernels loss_kernels();
std::string isa();
void set_isa(const std::string& name);  // std::invalid_argument where the machine lacks it
std::vector<std::string> available_isas();

}  // namespace fieldpress::render

// The numbers that the mathematics of splats is written in: SIMD vectors on the CPU, single floats
// in a CUDA thread.
#pragma once

#ifdef FIELDPRESS_CUDA
#include "scalar.h"
#else
#include "simd.h"
#endif

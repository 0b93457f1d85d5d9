// Numbers of radiance fields, once; the module exports them to Python.
#pragma once

namespace fieldpress::fields {

constexpr int RADIANCE_SH_DEGREE = 3;
constexpr int RADIANCE_BASES = (RADIANCE_SH_DEGREE + 1) * (RADIANCE_SH_DEGREE + 1);
constexpr int GEOMETRY = 16;   // Outputs of the first network: ln density, and what colours are made of.
constexpr int CELL_SIDE = 64;  // Cells of the occupancy grid each way.
constexpr int MARCH = 192;     // Steps along the diagonal of the cube.
constexpr double STEP = 1.7320508075688772 / MARCH;  // Edges of the cube.
constexpr double MIDDLE = 0.5;  // Where in its step a picture's sample lies.
constexpr double MAX_LOG_DENSITY = 12.0;
constexpr double LEAST_DIRECTION = 1e-9;  // Components nearer to 0 count as this.

}  // namespace fieldpress::fields

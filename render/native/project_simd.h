// The pieces of EWA projection that the gradients walk through again.
#pragma once

#include "constants.h"
#include "frame.h"
#include "simd.h"

namespace fieldpress::render::FIELDPRESS_ISA {

// Jacobian of the pinhole at one point times the rotation of the view.
struct Tangent {
  Floats inverse_z, slope[2], scale[2];  // slopes clamped; scale: focal length / z
  Floats rows[2][3];
};

FP_INLINE Tangent tangent(const Camera& c, const Floats cam[3]) {
  Tangent t;
  t.inverse_z = 1.0f / cam[2];
  t.slope[0] = least(most(cam[0] * t.inverse_z, all<Floats>(c.limit_x_low)),
                     all<Floats>(c.limit_x_high));
  t.slope[1] = least(most(cam[1] * t.inverse_z, all<Floats>(c.limit_y_low)),
                     all<Floats>(c.limit_y_high));
  t.scale[0] = c.fx * t.inverse_z, t.scale[1] = c.fy * t.inverse_z;
  const float* r = c.rotation;
  for (int k = 0; k < 3; ++k) {
    t.rows[0][k] = t.scale[0] * (r[k] - t.slope[0] * r[6 + k]);
    t.rows[1][k] = t.scale[1] * (r[3 + k] - t.slope[1] * r[6 + k]);
  }
  return t;
}

struct Rotation {
  Floats at[3][3];
};

// From quaternions wxyz of any length.
FP_INLINE Rotation rotation(const Floats quat[4]) {
  const Floats w = quat[0], x = quat[1], y = quat[2], z = quat[3];
  const Floats two = 2.0f / (w * w + x * x + y * y + z * z);  // Normalises R = I + two * (...).
  return {{{1.0f - two * (y * y + z * z), two * (x * y - w * z), two * (x * z + w * y)},
           {two * (x * y + w * z), 1.0f - two * (x * x + z * z), two * (y * z - w * x)},
           {two * (x * z - w * y), two * (y * z + w * x), 1.0f - two * (x * x + y * y)}}};
}

// The symmetric covariance on the screen, before the blur, and its determinant.
struct Covariance {
  Floats xx, xy, yy, det;
};

// The cross product of the factor's rows: det(F F^T) is its square, no cancellation for needles.
FP_INLINE void cross(const Floats f[2][3], Floats normal[3]) {
  normal[0] = f[0][1] * f[1][2] - f[0][2] * f[1][1];
  normal[1] = f[0][2] * f[1][0] - f[0][0] * f[1][2];
  normal[2] = f[0][0] * f[1][1] - f[0][1] * f[1][0];
}

FP_INLINE Covariance square(const Floats f[2][3]) {
  Floats n[3];
  cross(f, n);
  return {f[0][0] * f[0][0] + f[0][1] * f[0][1] + f[0][2] * f[0][2],
          f[0][0] * f[1][0] + f[0][1] * f[1][1] + f[0][2] * f[1][2],
          f[1][0] * f[1][0] + f[1][1] * f[1][1] + f[1][2] * f[1][2],
          n[0] * n[0] + n[1] * n[1] + n[2] * n[2]};
}

// Position in camera axes of mean = offset + centre.
FP_INLINE void to_camera(const Camera& c, const Floats offset[3], Floats cam[3]) {
  for (int k = 0; k < 3; ++k)
    cam[k] = c.rotation[3 * k] * offset[0] + c.rotation[3 * k + 1] * offset[1] +
             c.rotation[3 * k + 2] * offset[2] + c.shift[k];
}

// 1 / length.
FP_INLINE Floats inverse_length(const Floats v[3]) {
  return 1.0f / root(most(v[0] * v[0] + v[1] * v[1] + v[2] * v[2], all<Floats>(1e-30f)));
}

}  // namespace fieldpress::render::FIELDPRESS_ISA

// EWA projection, lane by lane: the CPU takes LANES Gaussians side by side, a GPU thread one.
#pragma once

#include "constants.h"
#include "frame.h"
#include "lanes.h"

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

// LANES Gaussians side by side.
struct Group {
  Floats mean[3], quat[4], scale[3], opacity;
};

// 2x3 factor F with cov2d = F F^T: Jacobian * view rotation * Gaussian rotation * scales.
FP_INLINE void screen_factor(const Group& g, const Camera& c, const Floats cam[3], Floats f[2][3]) {
  const Tangent t = tangent(c, cam);
  const Rotation r = rotation(g.quat);
  for (int row = 0; row < 2; ++row)
    for (int k = 0; k < 3; ++k)
      f[row][k] = (t.rows[row][0] * r.at[0][k] + t.rows[row][1] * r.at[1][k] +
                   t.rows[row][2] * r.at[2][k]) * g.scale[k];
}

// Fields of LANES splats, to be transposed into records.
struct Projected {
  Floats x, y, ax, axy, ay, reach, ceiling, widest_y, inverse_ax, extent_y, depth;
  Ints alive;
};

FP_INLINE Ints finite(Floats v) { return (v - v) == 0.0f; }

// Culls what lies off the screen by gsplat's box. The ceiling of a radius, a pixel at most, never
// decides what is drawn.
FP_INLINE Ints on_screen(const Projected& p, const Settings& set, Floats rx, Floats ry) {
  Ints in = (p.x + rx > -1.0f) & (p.x - rx < static_cast<float>(set.width) + 1.0f) &
            (p.y + ry > -1.0f) & (p.y - ry < static_cast<float>(set.height) + 1.0f);
  if (set.radius_clip > 0.0f) {  // ceil(r) <= clip says r <= floor(clip).
    const float clip = std::floor(set.radius_clip);
    in &= (rx > clip) | (ry > clip);
  }
  return in;
}

// Ellipse, opacity and extent from the blurred covariance.
FP_INLINE void shape(Projected& p, const Covariance& raw, Floats opacity, const Settings& set) {
  const Floats xx = raw.xx + set.eps2d, yy = raw.yy + set.eps2d;
  const Floats det = raw.det + set.eps2d * (raw.xx + raw.yy + set.eps2d);
  if (set.antialiased)
    opacity *= root(most(raw.det / det,
                         all<Floats>(set.compensation_floor * set.compensation_floor)));
  p.alive &= (opacity >= single(ALPHA_CUTOFF)) & finite(opacity) & (det > 0.0f);
  p.reach = log2_of(most(opacity * 255.0f, all<Floats>(1.0f)));
  p.ceiling = least(opacity, all<Floats>(set.alpha_clamp));

  const float root_half = std::sqrt(single(HALF_LOG2_E));
  const Floats sigma_x = root(xx), sigma_y = root(yy);
  const Floats inverse = root_half / root(det);  // Roots first: products of variances overflow.
  p.ax = sigma_y * inverse;
  p.axy = -raw.xy / sigma_y * inverse;
  p.ay = root_half / sigma_y;
  p.inverse_ax = 1.0f / p.ax;
  const Floats sigmas = root(p.reach * single(1.0 / HALF_LOG2_E));
  p.extent_y = sigmas * sigma_y;
  p.widest_y = sigmas * raw.xy / sigma_x;
  const Floats bound = least(sigmas, all<Floats>(single(EXTENT_SIGMAS)));
  p.alive &= on_screen(p, set, bound * sigma_x, bound * sigma_y);
}

FP_INLINE Projected project_group(const Group& g, const Camera& c, const Settings& set,
                                  Floats offset[3]) {
  Projected p;
  Floats cam[3], factor[2][3];
  for (int k = 0; k < 3; ++k) offset[k] = g.mean[k] - c.center[k];
  to_camera(c, offset, cam);
  p.depth = cam[2];
  p.alive = (p.depth >= set.near_plane) & (p.depth <= set.far_plane) & (p.depth > 0.0f);
  p.x = c.fx * cam[0] / cam[2] + c.cx;
  p.y = c.fy * cam[1] / cam[2] + c.cy;
  screen_factor(g, c, cam, factor);
  shape(p, square(factor), g.opacity, set);
  p.alive &= finite(p.x + p.y) & finite(p.ax + p.axy + p.ay + p.inverse_ax) &
             finite(p.extent_y + p.widest_y);
  return p;
}

}  // namespace fieldpress::render::FIELDPRESS_ISA

// From the gradients of a splat's fields to those of its Gaussian and of the camera, lane by lane.
#pragma once

#include "constants.h"
#include "frame.h"
#include "lanes.h"
#include "project_simd.h"

namespace fieldpress::render::FIELDPRESS_ISA {

constexpr float INVERSE_LN2 = 1.4426950408889634f;

// Survivors with the gradients of their splats.
struct Pulled : Group {
  Floats grad[GRAD_COLOR], depth_grad;
};

struct Gradients {
  Floats mean[3], quat[4], scale[3], opacity;
  Floats offset[3];  // mean seen from the camera, world axes
  Floats cam[3];     // of the position in camera axes
  Floats frame[9];   // of the view's rotation, through the Jacobian
  Floats center[3];
};

// Of the covariance before the blur; `det` is that of the cross product, beside the others.
FP_INLINE Covariance covariance_grads(const Pulled& g, const Covariance& raw, const Settings& set,
                                      Floats& opacity_grad) {
  const Floats yy = raw.yy + set.eps2d;
  const Floats det = raw.det + set.eps2d * (raw.xx + raw.yy + set.eps2d);
  const float root_half = std::sqrt(single(HALF_LOG2_E));
  const Floats sigma_y = root(yy), inverse = root_half / root(det);
  const Floats ax = sigma_y * inverse, axy = -raw.xy / sigma_y * inverse;
  const Floats ay = root_half / sigma_y;
  const Floats along_ax = ax * g.grad[GRAD_AX], along_axy = axy * g.grad[GRAD_AXY];
  Floats det_grad = -0.5f * (along_ax + along_axy) / det;
  Covariance out;
  out.xy = -inverse / sigma_y * g.grad[GRAD_AXY];
  out.yy = 0.5f * (along_ax - along_axy - ay * g.grad[GRAD_AY]) / yy;
  // By the logarithm of the opacity drawn.
  const Floats log_grad = g.grad[GRAD_REACH] * INVERSE_LN2;
  opacity_grad = log_grad / g.opacity;
  out.det = Floats{};
  if (set.antialiased) {
    const Floats ratio = raw.det / det;
    const Ints active = ratio > set.compensation_floor * set.compensation_floor;
    out.det = where(active, 0.5f * log_grad / raw.det);
    det_grad -= where(active, 0.5f * log_grad / det);
  }
  // det = raw.det + eps2d * (xx + yy + eps2d)
  out.det += det_grad;
  out.xx = set.eps2d * det_grad;
  out.yy += set.eps2d * det_grad;
  return out;
}

// The rows of the factor, whose products are the covariance.
FP_INLINE void factor_grads(const Floats f[2][3], const Covariance& grad, Floats out[2][3]) {
  Floats n[3];
  cross(f, n);
  for (int k = 0; k < 3; ++k) {
    const int a = (k + 1) % 3, b = (k + 2) % 3;
    const Floats twice = 2.0f * grad.det;
    out[0][k] = 2.0f * grad.xx * f[0][k] + grad.xy * f[1][k] +
                twice * (f[1][a] * n[b] - f[1][b] * n[a]);
    out[1][k] = 2.0f * grad.yy * f[1][k] + grad.xy * f[0][k] +
                twice * (n[a] * f[0][b] - n[b] * f[0][a]);
  }
}

// From those of the rotation matrix to those of the quaternion of any length.
FP_INLINE void quat_grads(const Floats quat[4], const Floats g[3][3], Floats out[4]) {
  const Floats inverse = 1.0f / root(quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] +
                                     quat[3] * quat[3]);
  const Floats w = quat[0] * inverse, x = quat[1] * inverse, y = quat[2] * inverse,
               z = quat[3] * inverse;
  const Floats unit[4] = {w, x, y, z};
  const Floats u[4] = {
      2.0f * (x * (g[2][1] - g[1][2]) + y * (g[0][2] - g[2][0]) + z * (g[1][0] - g[0][1])),
      2.0f * (w * (g[2][1] - g[1][2]) + y * (g[0][1] + g[1][0]) + z * (g[0][2] + g[2][0]) -
              2.0f * x * (g[1][1] + g[2][2])),
      2.0f * (w * (g[0][2] - g[2][0]) + x * (g[0][1] + g[1][0]) + z * (g[1][2] + g[2][1]) -
              2.0f * y * (g[0][0] + g[2][2])),
      2.0f * (w * (g[1][0] - g[0][1]) + x * (g[0][2] + g[2][0]) + y * (g[1][2] + g[2][1]) -
              2.0f * z * (g[0][0] + g[1][1]))};
  const Floats along = unit[0] * u[0] + unit[1] * u[1] + unit[2] * u[2] + unit[3] * u[3];
  for (int k = 0; k < 4; ++k) out[k] = (u[k] - unit[k] * along) * inverse;
}

// Back through the pinhole: position on the screen, Jacobian, depth.
FP_INLINE void camera_grads(const Pulled& g, const Camera& c, const Tangent& t, const Floats cam[3],
                            const Floats rows[2][3], Gradients& out) {
  const float focal[2] = {c.fx, c.fy};
  const float low[2] = {c.limit_x_low, c.limit_y_low}, high[2] = {c.limit_x_high, c.limit_y_high};
  const float* r = c.rotation;
  Floats inverse_grad{};
  for (int k = 0; k < 9; ++k) out.frame[k] = Floats{};
  for (int row = 0; row < 2; ++row) {
    Floats scale_grad{}, slope_grad{};
    for (int k = 0; k < 3; ++k) {
      scale_grad += rows[row][k] * (r[3 * row + k] - t.slope[row] * r[6 + k]);
      slope_grad -= rows[row][k] * r[6 + k];
      const Floats scaled = t.scale[row] * rows[row][k];
      out.frame[3 * row + k] += scaled;
      out.frame[6 + k] -= t.slope[row] * scaled;
    }
    const Floats slope = cam[row] * t.inverse_z;
    slope_grad = where((slope >= low[row]) & (slope <= high[row]), slope_grad * t.scale[row]);
    slope_grad += focal[row] * g.grad[GRAD_X + row];
    out.cam[row] = slope_grad * t.inverse_z;
    inverse_grad += scale_grad * focal[row] + slope_grad * cam[row];
  }
  out.cam[2] = g.depth_grad - inverse_grad * t.inverse_z * t.inverse_z;
}

FP_INLINE void group_grads(const Pulled& g, const Camera& c, const Settings& set, Gradients& out) {
  Floats cam[3], f[2][3], m[2][3], f_grad[2][3], rows[2][3], rot_grad[3][3];
  for (int k = 0; k < 3; ++k) out.offset[k] = g.mean[k] - c.center[k];
  to_camera(c, out.offset, cam);
  const Tangent t = tangent(c, cam);
  const Rotation r = rotation(g.quat);
  for (int row = 0; row < 2; ++row)
    for (int k = 0; k < 3; ++k) {
      m[row][k] = t.rows[row][0] * r.at[0][k] + t.rows[row][1] * r.at[1][k] +
                  t.rows[row][2] * r.at[2][k];
      f[row][k] = m[row][k] * g.scale[k];
    }
  factor_grads(f, covariance_grads(g, square(f), set, out.opacity), f_grad);
  for (int k = 0; k < 3; ++k) {
    out.scale[k] = f_grad[0][k] * m[0][k] + f_grad[1][k] * m[1][k];
    for (int row = 0; row < 2; ++row) m[row][k] = f_grad[row][k] * g.scale[k];  // Of m, from here.
  }
  for (int j = 0; j < 3; ++j)
    for (int k = 0; k < 3; ++k)
      rot_grad[j][k] = t.rows[0][j] * m[0][k] + t.rows[1][j] * m[1][k];
  for (int row = 0; row < 2; ++row)
    for (int j = 0; j < 3; ++j)
      rows[row][j] = m[row][0] * r.at[j][0] + m[row][1] * r.at[j][1] + m[row][2] * r.at[j][2];
  quat_grads(g.quat, rot_grad, out.quat);
  camera_grads(g, c, t, cam, rows, out);
  for (int k = 0; k < 3; ++k)
    out.mean[k] = c.rotation[k] * out.cam[0] + c.rotation[3 + k] * out.cam[1] +
                  c.rotation[6 + k] * out.cam[2];
}

}  // namespace fieldpress::render::FIELDPRESS_ISA

// A camera from its matrices, and back from the gradients of its pose; in double, on both devices.
#pragma once

#include "constants.h"
#include "frame.h"

namespace fieldpress::render {

// False where the rotation has no inverse. The camera's centre is subtracted from the means before
// they are rotated, which keeps scenes far from the origin steady.
inline bool fill_camera(const float* view, const float* K, const Settings& set, Camera& c) {
  double r[9], t[3];
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) r[3 * i + j] = view[4 * i + j];
    t[i] = view[4 * i + 3];
  }
  const double cof[9] = {r[4] * r[8] - r[5] * r[7], r[2] * r[7] - r[1] * r[8],
                         r[1] * r[5] - r[2] * r[4], r[5] * r[6] - r[3] * r[8],
                         r[0] * r[8] - r[2] * r[6], r[2] * r[3] - r[0] * r[5],
                         r[3] * r[7] - r[4] * r[6], r[1] * r[6] - r[0] * r[7],
                         r[0] * r[4] - r[1] * r[3]};
  const double det = r[0] * cof[0] + r[1] * cof[3] + r[2] * cof[6];
  if (!(det != 0) || !(det - det == 0)) return false;
  for (int i = 0; i < 3; ++i)
    c.center[i] = static_cast<float>(
        -(cof[3 * i] * t[0] + cof[3 * i + 1] * t[1] + cof[3 * i + 2] * t[2]) / det);
  for (int i = 0; i < 3; ++i) {
    double shift = t[i];
    for (int j = 0; j < 3; ++j) shift += r[3 * i + j] * static_cast<double>(c.center[j]);
    c.shift[i] = static_cast<float>(shift);
  }
  for (int i = 0; i < 9; ++i) c.rotation[i] = static_cast<float>(r[i]);
  c.fx = K[0], c.fy = K[4], c.cx = K[2], c.cy = K[5];
  const float margin_x = single(FRUSTUM_MARGIN) * 0.5f * static_cast<float>(set.width) / c.fx;
  const float margin_y = single(FRUSTUM_MARGIN) * 0.5f * static_cast<float>(set.height) / c.fy;
  c.limit_x_low = -(c.cx / c.fx + margin_x);
  c.limit_x_high = (static_cast<float>(set.width) - c.cx) / c.fx + margin_x;
  c.limit_y_low = -(c.cy / c.fy + margin_y);
  c.limit_y_high = (static_cast<float>(set.height) - c.cy) / c.fy + margin_y;
  return true;
}

// camera = R world + t; its centre is -R^-1 t, which the direction of view starts from.
inline void pose_to_view(const PoseGrad& sum, const float* view, const Camera& camera,
                         float* out) {
  double r[3][3], turned[3], center[3];
  for (int i = 0; i < 3; ++i) {
    center[i] = static_cast<double>(camera.center[i]);
    for (int j = 0; j < 3; ++j) r[i][j] = static_cast<double>(view[4 * i + j]);
  }
  // Row i of R^-T is a cross product of the other rows, over the determinant.
  double det = 0;
  for (int i = 0; i < 3; ++i) {
    const double *a = r[(i + 1) % 3], *b = r[(i + 2) % 3];
    const double row[3] = {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2],
                           a[0] * b[1] - a[1] * b[0]};
    if (i == 0) det = r[0][0] * row[0] + r[0][1] * row[1] + r[0][2] * row[2];
    turned[i] = (row[0] * sum.center[0] + row[1] * sum.center[1] + row[2] * sum.center[2]) / det;
  }
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j)
      out[4 * i + j] = static_cast<float>(sum.outer[3 * i + j] +
                                          (sum.shift[i] - turned[i]) * center[j]);
    out[4 * i + 3] = static_cast<float>(sum.shift[i] - turned[i]);
  }
  for (int j = 0; j < 4; ++j) out[12 + j] = 0.0f;
}

}  // namespace fieldpress::render

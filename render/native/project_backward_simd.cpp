// From the gradients of screen-space splats to those of the Gaussians and of the camera.
#include "constants.h"
#include "frame.h"
#include "project_simd.h"
#include "sh_simd.h"
#include "simd.h"

namespace fieldpress::render::FIELDPRESS_ISA {
namespace {

constexpr float INVERSE_LN2 = 1.4426950408889634f;

// LANES survivors side by side, with the gradients of their splats. Unused lanes repeat the first
// survivor with gradients of zero.
struct Group {
  Floats mean[3], quat[4], scale[3], opacity;
  Floats grad[GRAD_COLOR], depth_grad;
};

struct Gradients {
  Floats mean[3], quat[4], scale[3], opacity;
  Floats offset[3];  // mean seen from the camera, world axes
  Floats cam[3];     // of the position in camera axes
  Floats frame[9];   // of the view's rotation, through the Jacobian
  Floats center[3];
};

FP_INLINE void gather(const Scene& scene, const Settings& set, const Splat* splats,
                      const float* records, int valid, Group& g) {
  const int64_t stride = grad_stride(set.channels());
  float rows[11][LANES], grads[GRAD_COLOR + 1][LANES] = {};
  for (int lane = 0; lane < LANES; ++lane) {
    const int64_t id = splats[lane < valid ? lane : 0].id;
    for (int k = 0; k < 3; ++k) rows[k][lane] = scene.means[3 * id + k];
    for (int k = 0; k < 4; ++k) rows[3 + k][lane] = scene.quats[4 * id + k];
    for (int k = 0; k < 3; ++k) rows[7 + k][lane] = scene.scales[3 * id + k];
    rows[10][lane] = scene.opacities[id];
    if (lane >= valid) continue;
    const float* record = records + lane * stride;
    for (int k = 0; k < GRAD_COLOR; ++k) grads[k][lane] = record[k];
    if (set.depth) grads[GRAD_COLOR][lane] = record[GRAD_COLOR + set.color_channels];
  }
  for (int k = 0; k < 3; ++k) g.mean[k] = load<Floats>(rows[k]);
  for (int k = 0; k < 4; ++k) g.quat[k] = load<Floats>(rows[3 + k]);
  for (int k = 0; k < 3; ++k) g.scale[k] = load<Floats>(rows[7 + k]);
  g.opacity = load<Floats>(rows[10]);
  for (int k = 0; k < GRAD_COLOR; ++k) g.grad[k] = load<Floats>(grads[k]);
  g.depth_grad = load<Floats>(grads[GRAD_COLOR]);
}

// Of the covariance before the blur; `det` is that of the cross product, beside the others.
FP_INLINE Covariance covariance_grads(const Group& g, const Covariance& raw, const Settings& set,
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
  Floats compensation = all<Floats>(1.0f);
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
FP_INLINE void camera_grads(const Group& g, const Camera& c, const Tangent& t, const Floats cam[3],
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

FP_INLINE void group_grads(const Group& g, const Camera& c, const Settings& set, Gradients& out) {
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

FP_INLINE Quad quad_of(const float* three) { return Quad{three[0], three[1], three[2], 0.0f}; }

// One splat's colour: its coefficients' gradients, and that of the direction. Three floats are
// stored as two and one: a quad would overlap what is loaded next, and wait for it.
template <bool ADD>
FP_INLINE void sh_grads(const float* coefficients, const float* basis, const float* slopes,
                        int bases, Quad grad, float* out, float* direction) {
  Quad sum[3] = {};
  for (int k = 0; k < bases; ++k) {
    // The last coefficient is read alone: a quad would reach past the end of the tensor.
    const bool last = k == bases - 1;
    const Quad c = last ? quad_of(coefficients + 3 * k) : load<Quad>(coefficients + 3 * k);
    for (int axis = 0; axis < 3; ++axis) sum[axis] += slopes[(axis * MAX_BASES + k) * LANES] * c;
    if (!out) continue;
    Quad more = basis[k * LANES] * grad;
    if (ADD) more += last ? quad_of(out + 3 * k) : load<Quad>(out + 3 * k);
    __builtin_memcpy(out + 3 * k, &more, 8);
    out[3 * k + 2] = more[2];
  }
  for (int axis = 0; axis < 3; ++axis) {
    const Quad product = sum[axis] * grad;
    direction[axis * LANES] = product[0] + product[1] + product[2];
  }
}

// Colours of SH: adds the part that comes through the direction of view.
FP_INLINE void paint_grads(const Scene& scene, const Settings& set, const Splat* splats,
                           const float* records, int valid, const SceneGrads& grads,
                           Gradients& out) {
  const int bases = (scene.sh_degree + 1) * (scene.sh_degree + 1);
  const int64_t stride = grad_stride(set.channels());
  Floats basis[MAX_BASES], slopes[3][MAX_BASES], unit[3];
  const Floats inverse = inverse_length(out.offset);
  for (int k = 0; k < 3; ++k) unit[k] = out.offset[k] * inverse;
  sh_bases(scene.sh_degree, unit[0], unit[1], unit[2], basis);
  sh_slopes(scene.sh_degree, unit[0], unit[1], unit[2], slopes);
  float direction[3][LANES] = {};
  for (int lane = 0; lane < valid; ++lane) {
    const Splat& s = splats[lane];
    const float* g = records + lane * stride + GRAD_COLOR;
    Quad grad{};
    for (int k = 0; k < 3; ++k) grad[k] = s.color[k] > 0.0f ? g[k] : 0.0f;
    const int64_t at = s.id * scene.color_stride;
    const float* base = reinterpret_cast<const float*>(basis) + lane;
    const float* slope = reinterpret_cast<const float*>(slopes) + lane;
    float* out_row = grads.colors ? grads.colors + at : nullptr;
    if (grads.fresh_colors)
      sh_grads<false>(scene.colors + at, base, slope, bases, grad, out_row, direction[0] + lane);
    else
      sh_grads<true>(scene.colors + at, base, slope, bases, grad, out_row, direction[0] + lane);
  }
  Floats d[3], along{};
  for (int k = 0; k < 3; ++k) d[k] = load<Floats>(direction[k]), along += d[k] * unit[k];
  for (int k = 0; k < 3; ++k) {
    const Floats through = (d[k] - unit[k] * along) * inverse;
    out.mean[k] += through;
    out.center[k] = -through;
  }
}

template <int WIDTH>
FP_INLINE void add_rows(const Floats* columns, const Splat* splats, int valid, bool fresh,
                        float* out) {
  if (!out) return;
  float rows[WIDTH][LANES];
  for (int k = 0; k < WIDTH; ++k) store(rows[k], columns[k]);
  for (int lane = 0; lane < valid; ++lane) {
    float* row = out + static_cast<int64_t>(splats[lane].id) * WIDTH;
    for (int k = 0; k < WIDTH; ++k) row[k] = rows[k][lane] + (fresh ? 0.0f : row[k]);
  }
}

FP_INLINE void clear_rows(float* rows, int64_t begin, int64_t end, int64_t width) {
  if (rows && end > begin)
    __builtin_memset(rows + begin * width, 0, static_cast<size_t>((end - begin) * width) * 4);
}

// Rows of a chunk that nothing else will write.
void clear_gaps(const Scene& scene, const Splat* splats, int64_t begin, int64_t end, int64_t count,
                const SceneGrads& grads) {
  const int64_t bases = scene.sh_degree + 1;
  const int64_t used = scene.sh_degree < 0 ? scene.color_stride : 3 * bases * bases;
  for (int64_t i = 0, next = begin; i <= count; ++i) {
    const int64_t id = i < count ? splats[i].id : end;
    if (grads.fresh) {
      clear_rows(grads.means, next, id, 3);
      clear_rows(grads.quats, next, id, 4);
      clear_rows(grads.scales, next, id, 3);
      clear_rows(grads.opacities, next, id, 1);
    }
    if (grads.fresh_colors && grads.colors) {
      clear_rows(grads.colors, next, id, scene.color_stride);
      if (i < count && used < scene.color_stride)  // Coefficients of degrees that are not used.
        clear_rows(grads.colors + id * scene.color_stride, used, scene.color_stride, 1);
    }
    next = id + 1;
  }
}

FP_INLINE double total(Floats v) {
  double sum = 0;
  for (int lane = 0; lane < LANES; ++lane) sum += static_cast<double>(v[lane]);
  return sum;
}

// Lanes beyond the last survivor have gradients of zero.
FP_INLINE void add_pose(const Gradients& g, PoseGrad& pose) {
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j)
      pose.outer[3 * i + j] += total(g.cam[i] * g.offset[j] + g.frame[3 * i + j]);
    pose.shift[i] += total(g.cam[i]);
    pose.center[i] += total(g.center[i]);
  }
}

}  // namespace

void unproject(const Scene& scene, const Camera& camera, const Settings& set, const Chunk& chunk,
               const SceneGrads& grads, PoseGrad* pose) {
  const int64_t stride = grad_stride(set.channels());
  clear_gaps(scene, chunk.splats, chunk.begin, chunk.end, chunk.count, grads);
  for (int64_t i = 0; i < chunk.count; i += LANES) {
    const int valid = chunk.count - i < LANES ? static_cast<int>(chunk.count - i) : LANES;
    const Splat* mine = chunk.splats + i;
    const float* record = chunk.records + i * stride;
    Group group;
    Gradients out = {};
    gather(scene, set, mine, record, valid, group);
    group_grads(group, camera, set, out);
    if (scene.colors && scene.sh_degree >= 0) {
      paint_grads(scene, set, mine, record, valid, grads, out);
    } else if (grads.colors) {
      for (int lane = 0; lane < valid; ++lane) {
        float* row = grads.colors + mine[lane].id * scene.color_stride;
        const float* more = record + lane * stride + GRAD_COLOR;
        for (int k = 0; k < set.color_channels; ++k)
          row[k] = more[k] + (grads.fresh_colors ? 0.0f : row[k]);
      }
    }
    add_rows<3>(out.mean, mine, valid, grads.fresh, grads.means);
    add_rows<4>(out.quat, mine, valid, grads.fresh, grads.quats);
    add_rows<3>(out.scale, mine, valid, grads.fresh, grads.scales);
    add_rows<1>(&out.opacity, mine, valid, grads.fresh, grads.opacities);
    if (pose) add_pose(out, *pose);
  }
}

}  // namespace fieldpress::render::FIELDPRESS_ISA

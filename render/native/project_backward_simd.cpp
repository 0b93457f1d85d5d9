// From the gradients of screen-space splats to those of the Gaussians and of the camera.
#include "constants.h"
#include "frame.h"
#include "project_simd.h"
#include "sh_simd.h"
#include "simd.h"
#include "unproject_simd.h"

namespace fieldpress::render::FIELDPRESS_ISA {
namespace {

// Unused lanes repeat the first survivor with gradients of zero.
FP_INLINE void gather(const Scene& scene, const Settings& set, const Splat* splats,
                      const float* records, int valid, Pulled& g) {
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
    Pulled group;
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

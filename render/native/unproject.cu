// From the gradients of the splats to those of the Gaussians and of the camera.
#include "camera.h"
#include "constants.h"
#include "cuda_frame.h"
#include "rows.h"
#include "sh_simd.h"
#include "unproject_simd.h"
#include "warp.h"

namespace fieldpress::render::gpu {

FP_INLINE Pulled load_pulled(const CudaFrame& f, const Splat& s, const float* record) {
  Pulled g;
  const int64_t id = s.id;
  for (int k = 0; k < 3; ++k) g.mean[k] = f.scene.means[3 * id + k];
  for (int k = 0; k < 4; ++k) g.quat[k] = f.scene.quats[4 * id + k];
  for (int k = 0; k < 3; ++k) g.scale[k] = f.scene.scales[3 * id + k];
  g.opacity = f.scene.opacities[id];
  for (int k = 0; k < GRAD_COLOR; ++k) g.grad[k] = record[k];
  g.depth_grad = f.set.depth ? record[GRAD_COLOR + f.set.color_channels] : 0.0f;
  return g;
}

// Gradients of one splat's coefficients, and of the direction of view; the degree is a constant, so
// that bases and slopes stay in registers.
template <int DEGREE>
FP_INLINE void sh_row(const CudaFrame& f, int64_t at, const float unit[3], const float grad[3],
                      float direction[3]) {
  constexpr int BASES = (DEGREE + 1) * (DEGREE + 1), GROUP = BASES % 4 == 0 ? 4 : 1;
  float basis[MAX_BASES], slopes[3][MAX_BASES];
  sh_bases(DEGREE, unit[0], unit[1], unit[2], basis);
  sh_slopes(DEGREE, unit[0], unit[1], unit[2], slopes);
  const float* colors = f.scene.colors + at;
  float* grads = f.grads.colors ? f.grads.colors + at : nullptr;
#pragma unroll
  for (int first = 0; first < BASES; first += GROUP) {
    float color[3 * GROUP], more[3 * GROUP];
    load_row<3 * GROUP>(colors + 3 * first, color);
#pragma unroll
    for (int j = 0; j < GROUP; ++j) {
      const int k = first + j;
      float product = 0.0f;
      for (int c = 0; c < 3; ++c) {
        more[3 * j + c] = basis[k] * grad[c];
        product += color[3 * j + c] * grad[c];
      }
      for (int axis = 0; axis < 3; ++axis) direction[axis] += slopes[axis][k] * product;
    }
    if (grads) add_to_row<3 * GROUP>(grads + 3 * first, more);
  }
}

// Colours of SH: adds the part that comes through the direction of view.
FP_INLINE void sh_grads(const CudaFrame& f, const Splat& s, const float* record, Gradients& out) {
  float unit[3], grad[3], direction[3] = {};
  const float inverse = inverse_length(out.offset);
  for (int k = 0; k < 3; ++k) {
    unit[k] = out.offset[k] * inverse;
    grad[k] = s.color[k] > 0.0f ? record[GRAD_COLOR + k] : 0.0f;
  }
  const int64_t at = s.id * f.scene.color_stride;
  switch (f.scene.sh_degree) {
    case 0: sh_row<0>(f, at, unit, grad, direction); break;
    case 1: sh_row<1>(f, at, unit, grad, direction); break;
    case 2: sh_row<2>(f, at, unit, grad, direction); break;
    case 3: sh_row<3>(f, at, unit, grad, direction); break;
    default: sh_row<4>(f, at, unit, grad, direction);
  }
  const float along = direction[0] * unit[0] + direction[1] * unit[1] + direction[2] * unit[2];
  for (int k = 0; k < 3; ++k) {
    const float through = (direction[k] - unit[k] * along) * inverse;
    out.mean[k] += through;
    out.center[k] = -through;
  }
}

template <int WIDTH>
FP_INLINE void add_row(float* rows, int64_t id, const float* values) {
  if (!rows) return;
  for (int k = 0; k < WIDTH; ++k) rows[id * WIDTH + k] += values[k];
}

#ifdef FIELDPRESS_ORDERED
// f.pose: one a warp, which alone adds to it.
FP_INLINE PoseGrad* own_pose(PoseGrad* poses) { return poses + blockIdx.x * WARPS + warp(); }
FP_INLINE void add_to(double* sum, double value) { *sum += value; }
#else
FP_INLINE PoseGrad* own_pose(PoseGrad* pose) { return pose; }
FP_INLINE void add_to(double* sum, double value) { atomicAdd(sum, value); }
#endif

// A warp's sums to the pose; gradients are zero in lanes without a splat.
FP_INLINE void add_pose(const Gradients& g, PoseGrad* pose) {
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) {
      const double sum = warp_sum(static_cast<double>(g.cam[i] * g.offset[j] + g.frame[3 * i + j]));
      if (lane() == 0) add_to(&pose->outer[3 * i + j], sum);
    }
    const double shift = warp_sum(static_cast<double>(g.cam[i]));
    const double center = warp_sum(static_cast<double>(g.center[i]));
    if (lane() == 0) {
      add_to(&pose->shift[i], shift);
      add_to(&pose->center[i], center);
    }
  }
}

}  // namespace fieldpress::render::gpu

using namespace fieldpress::render;
using namespace fieldpress::render::gpu;

// A Gaussian has one splat a camera at most, and cameras come one after another: rows need no
// atomics.
extern "C" __global__ void __launch_bounds__(BLOCK) unproject(const CudaFrame* frame) {
  const CudaFrame& f = *frame;
  const int64_t count = f.progress->drawn, stride = grad_stride(f.set.channels());
  for (int64_t base = first_item() - threadIdx.x; base < count; base += item_stride()) {
    const int64_t i = base + threadIdx.x;
    Gradients out = {};
    if (i < count) {
      const Splat& s = f.splats[i];
      const float* record = f.splat_grads + i * stride;
      group_grads(load_pulled(f, s, record), *f.camera, f.set, out);
      if (f.set.color_channels > 0 && f.scene.sh_degree >= 0) {
        sh_grads(f, s, record, out);
      } else if (f.grads.colors) {
        for (int k = 0; k < f.set.color_channels; ++k)
          f.grads.colors[s.id * f.scene.color_stride + k] += record[GRAD_COLOR + k];
      }
      add_row<3>(f.grads.means, s.id, out.mean);
      add_row<4>(f.grads.quats, s.id, out.quat);
      add_row<3>(f.grads.scales, s.id, out.scale);
      add_row<1>(f.grads.opacities, s.id, &out.opacity);
    }
    if (f.pose) add_pose(out, own_pose(f.pose));
  }
}

// One thread.
extern "C" __global__ void finish_pose(const CudaFrame* frame) {
  if (frame->progress->faults) return;
  pose_to_view(*frame->pose, frame->viewmat, *frame->camera, frame->viewmat_grad);
}

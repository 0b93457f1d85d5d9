// Cameras, and from Gaussians to the splats of those that can be seen, in their own order.
#include "camera.h"
#include "constants.h"
#include "cuda_frame.h"
#include "project_simd.h"
#include "rows.h"
#include "sh_simd.h"
#include "warp.h"
#ifdef PACKED_SH
#include "packed.h"
#endif

namespace fieldpress::render::gpu {

FP_INLINE bool finite_all(const float* values, int count) {
  bool good = true;
  for (int k = 0; k < count; ++k) good &= finite(values[k]) != 0;
  return good;
}

#ifdef PACKED_SH
FP_INLINE Group load_group(const CudaFrame& f, int64_t i) { return packed_group(f.packed, i); }
#else
FP_INLINE Group load_group(const CudaFrame& f, int64_t i) {
  Group g;
  for (int k = 0; k < 3; ++k) g.mean[k] = f.scene.means[3 * i + k];
  load_row<4>(f.scene.quats + 4 * i, g.quat);
  for (int k = 0; k < 3; ++k) g.scale[k] = f.scene.scales[3 * i + k];
  g.opacity = f.scene.opacities[i];
  return g;
}

// All COUNT coefficients of one Gaussian, channels innermost.
template <int COUNT>
FP_INLINE void load_coefficients(const CudaFrame& f, int64_t i, float* all) {
  load_row<COUNT>(f.scene.colors + i * f.scene.color_stride, all);
}
#endif

// The degree is a constant, so that the bases stay in registers.
template <int DEGREE>
FP_INLINE void sh_sum(const CudaFrame& f, int64_t i, const float unit[3], float* sum) {
  constexpr int BASES = (DEGREE + 1) * (DEGREE + 1);
  float basis[MAX_BASES], coefficients[3 * BASES];
  load_coefficients<3 * BASES>(f, i, coefficients);
  sh_bases(DEGREE, unit[0], unit[1], unit[2], basis);
#pragma unroll
  for (int k = 0; k < BASES; ++k)
    for (int c = 0; c < 3; ++c) sum[c] += basis[k] * coefficients[3 * k + c];
}

FP_INLINE bool sh_color(const CudaFrame& f, int64_t i, const float offset[3], float* color) {
  const float inverse = inverse_length(offset);
  const float unit[3] = {offset[0] * inverse, offset[1] * inverse, offset[2] * inverse};
  float sum[3] = {0.0f, 0.0f, 0.0f};
  switch (f.scene.sh_degree) {
    case 0: sh_sum<0>(f, i, unit, sum); break;
    case 1: sh_sum<1>(f, i, unit, sum); break;
    case 2: sh_sum<2>(f, i, unit, sum); break;
    case 3: sh_sum<3>(f, i, unit, sum); break;
    default: sh_sum<4>(f, i, unit, sum);
  }
  for (int c = 0; c < 3; ++c) color[c] = most(sum[c] + single(SH_OFFSET), 0.0f);
  return finite_all(sum, 3);
}

// Colour channels of one splat; false where they are no numbers.
FP_INLINE bool paint(const CudaFrame& f, int64_t i, const float offset[3], float* color) {
  const int channels = f.set.color_channels;
  if (channels == 0) return true;
  if (f.scene.sh_degree >= 0) return sh_color(f, i, offset, color);
  const float* source = f.scene.colors + i * f.scene.color_stride;
  for (int k = 0; k < least(channels, 4); ++k) color[k] = source[k];
  return finite_all(source, channels);
}

FP_INLINE bool make_splat(const CudaFrame& f, int64_t i, Splat& s) {
  float offset[3];
  const Projected p = project_group(load_group(f, i), *f.camera, f.set, offset);
  for (float& c : s.color) c = 0.0f;
  if (!p.alive || !paint(f, i, offset, s.color)) return false;
  s.x = p.x, s.y = p.y, s.ax = p.ax, s.axy = p.axy, s.ay = p.ay, s.reach = p.reach;
  s.ceiling = p.ceiling, s.widest_y = p.widest_y, s.inverse_ax = p.inverse_ax;
  s.extent_y = p.extent_y, s.depth = p.depth, s.id = static_cast<uint32_t>(i);
  if (f.set.depth && f.set.color_channels < 4) s.color[f.set.color_channels] = s.depth;
  return true;
}

FP_INLINE uint32_t camera_faults(const CudaFrame& f) {
  uint32_t faults = 0;
  for (int k = 0; k < 16; ++k) faults |= finite(f.viewmat[k]) ? 0u : FAULT_NOT_FINITE;
  for (int k = 0; k < 9; ++k) faults |= finite(f.K[k]) ? 0u : FAULT_NOT_FINITE;
  if (!(f.K[0] > 0.0f) || !(f.K[4] > 0.0f)) faults |= FAULT_FOCAL;
  return faults;
}

}  // namespace fieldpress::render::gpu

using namespace fieldpress::render;
using namespace fieldpress::render::gpu;

// One thread.
extern "C" __global__ void prepare_camera(const CudaFrame* frame) {
  uint32_t faults = camera_faults(*frame);
  if (faults == 0 && !fill_camera(frame->viewmat, frame->K, frame->set, *frame->camera))
    faults = FAULT_SINGULAR;
  frame->progress->faults = faults;
}

extern "C" __global__ void __launch_bounds__(BLOCK, 4) project(const CudaFrame* frame) {
  const CudaFrame& f = *frame;
  Progress& progress = *f.progress;
  if (progress.faults) return;
  const int64_t count = f.scene.count, chunks = (count + BLOCK - 1) / BLOCK;
  for (;;) {
    const int64_t chunk = take_ticket(&progress.tickets[TICKET_PROJECT]);
    if (chunk >= chunks) return;
    const int64_t i = chunk * BLOCK + threadIdx.x;
    Splat s;
    const bool seen = i < count && make_splat(f, i, s);
    uint64_t end;
    const int64_t place =
        static_cast<int64_t>(grid_sum_before(seen ? 1u : 0u, f.project_chain, chunk, end));
    if (seen && place < f.splat_room) {
      f.splats[place] = s;
      f.by_depth.keys[0][place] = __float_as_uint(s.depth);  // Positive: ordered as its bits.
      f.by_depth.values[0][place] = static_cast<uint32_t>(place);
    }
    if (threadIdx.x == 0 && chunk == chunks - 1) {
      progress.survivors = static_cast<uint32_t>(end);
      const bool fits = static_cast<int64_t>(end) <= f.splat_room;
      progress.drawn = fits ? static_cast<uint32_t>(end) : 0u;
      if (!fits) progress.faults = FAULT_SPLATS;
    }
  }
}

// gsplat's quantities from the completed squares.
extern "C" __global__ void __launch_bounds__(BLOCK) write_details(const CudaFrame* frame) {
  const Details& all = frame->details;
  for (int64_t i = first_item(); i < frame->progress->drawn; i += item_stride()) {
    const Splat& s = frame->splats[i];
    const double a = s.ax, b = s.axy, d = s.ay, h = HALF_LOG2_E;
    const double limit = sqrt(s.reach / h), sigma_y = sqrt(h) / d;
    const double sigmas = limit < EXTENT_SIGMAS ? limit : EXTENT_SIGMAS;
    const double sigma_x = sqrt((b * b + d * d) * h) / (a * d);
    all.radii[2 * s.id] = static_cast<int32_t>(fmin(ceil(sigmas * sigma_x), 2e9));
    all.radii[2 * s.id + 1] = static_cast<int32_t>(fmin(ceil(sigmas * sigma_y), 2e9));
    all.means2d[2 * s.id] = s.x;
    all.means2d[2 * s.id + 1] = s.y;
    all.depths[s.id] = s.depth;
    all.conics[3 * s.id] = single(a * a / h);
    all.conics[3 * s.id + 1] = single(a * b / h);
    all.conics[3 * s.id + 2] = single((b * b + d * d) / h);
    all.opacities[s.id] = single(exp2(static_cast<double>(s.reach)) * ALPHA_CUTOFF);
  }
}

// What the stages of one frame hand to each other. Plain data: read by every instruction-set copy.
#pragma once

#include <cstdint>

namespace fieldpress::render {

// Gaussians as the caller holds them; nothing is copied.
struct Scene {
  int64_t count = 0;
  const float* means = nullptr;      // [N, 3]
  const float* quats = nullptr;      // [N, 4] wxyz, any length
  const float* scales = nullptr;     // [N, 3] linear
  const float* opacities = nullptr;  // [N]
  const float* colors = nullptr;     // [N, color_stride]: SH [K, 3] or channels; null: no colour
  int64_t color_stride = 0;
  int sh_degree = -1;                // -1: colors are channels
};

struct Settings {
  int width = 0, height = 0;
  float near_plane = 0, far_plane = 0, eps2d = 0, alpha_clamp = 0, compensation_floor = 0;
  float radius_clip = 0;
  int sh_degree = -1;
  int color_channels = 0;  // 3 with SH
  bool depth = false;      // one more channel, the last: camera z
  bool expected = false;   // that channel divided by alpha
  bool antialiased = false;
  int threads = 1;

  int channels() const { return color_channels + (depth ? 1 : 0); }
};

struct Camera {
  float rotation[9];  // world to camera, row-major
  float shift[3];     // camera = rotation * (world - center) + shift; shift is about 0
  float center[3];
  float fx, fy, cx, cy;
  float limit_x_low, limit_x_high, limit_y_low, limit_y_high;  // clamp of x/z, y/z in the Jacobian
};

// A projected survivor. At pixel offset (dx, dy) from its mean, with q the Mahalanobis form,
//   log2(255 * opacity * exp(-q / 2)) = reach - (ax*dx + axy*dy)^2 - (ay*dy)^2,
// the conic completed to two squares: no cancellation, and q is never negative.
struct alignas(64) Splat {
  float x, y;         // means2d
  float ax, axy, ay;
  float reach;        // log2(255 * opacity): drawn where the form above is >= 0
  float ceiling;      // min(opacity, alpha_clamp)
  float widest_y;     // dy at which the drawn ellipse reaches furthest right
  float inverse_ax;
  float extent_y;     // half height of the drawn ellipse
  float color[4];     // up to 4 channels, depth among them; more are read from the scene
  float depth;
  uint32_t id;
};

// What one splat left in one tile.
struct TileShare {
  float weight, weight_sq, max_weight;
  uint32_t hits;
};

// Optional per-camera, per-Gaussian outputs, gsplat's names; zero where a Gaussian is culled.
struct Details {
  int32_t* radii = nullptr;  // [C, N, 2]; null: none of these is wanted
  float* means2d = nullptr;  // [C, N, 2]
  float* depths = nullptr;   // [C, N]
  float* conics = nullptr;   // [C, N, 3]
  float* opacities = nullptr;         // [C, N]
  int32_t* tiles_per_gauss = nullptr;  // [C, N]
};

struct Sums {
  int64_t* hits = nullptr;
  double *opacity_hits = nullptr, *weight = nullptr, *weight_sq = nullptr;
  float* max_weight = nullptr;
};

struct Tile {
  int x, y;                  // its top left pixel
  const uint32_t* list;      // indices into splats, front to back
  int64_t count;
};

struct Target {
  float* image;              // [H, W, channels]
  float* alpha;              // [H, W]
  const float* background;   // [channels] or null
};

// What the loss says about one image, and the image itself.
struct Upstream {
  const float* image;        // [H, W, channels]
  const float* alpha;        // [H, W]
  const float* image_grad;   // [H, W, channels] or null
  const float* alpha_grad;   // [H, W] or null
};

// Gradients of one splat's fields, from one tile or from all: these, then one a channel.
enum SplatGrad { GRAD_X, GRAD_Y, GRAD_AX, GRAD_AXY, GRAD_AY, GRAD_REACH, GRAD_COLOR };

// Floats from one such record to the next.
constexpr int64_t grad_stride(int channels) { return (GRAD_COLOR + channels + 3) / 4 * 4; }

// Gradients of the scene. Null where not wanted.
struct SceneGrads {
  bool fresh = true, fresh_colors = true;  // overwritten rather than added to
  float* means = nullptr;      // [N, 3]
  float* quats = nullptr;      // [N, 4]
  float* scales = nullptr;     // [N, 3]
  float* opacities = nullptr;  // [N]
  float* colors = nullptr;     // [N, color_stride]
};

// Gaussians [begin, end): their survivors, and the gradients of these.
struct Chunk {
  int64_t begin, end;
  const Splat* splats;
  const float* records;
  int64_t count;
};

// Sums over a chunk of Gaussians, offset being mean - camera centre.
struct PoseGrad {
  double outer[9];   // gradient of the camera-space position times offset
  double shift[3];   // gradient of the camera-space position
  double center[3];  // gradient of the camera's centre, through the direction of view
};

// One copy per instruction set.
struct Kernels {
  // Survivors among [begin, end) to out, in order; returns their number.
  int64_t (*project)(const Scene&, const Camera&, const Settings&, int64_t begin, int64_t end,
                     Splat* out);
  // Tiles that the drawn ellipse touches, as one run per tile row: writes [first, last) tile
  // numbers to runs (2 per run, room for 2 * tile rows), returns the number of runs.
  int (*cover)(const Splat&, int tiles_x, int tiles_y, uint32_t* runs);
  void (*blend)(const Scene&, const Settings&, const Splat* splats, const Tile&, const Target&);
  void (*measure)(const Settings&, const Splat* splats, const Tile&, TileShare* shares);
  // One record for each entry of the list that a ray lived to see; returns their number. The
  // gradients of the background [channels] are added to `behind`, where it is not null.
  int64_t (*unblend)(const Scene&, const Settings&, const Splat* splats, const Tile&,
                     const Upstream&, float* records, float* behind);
  // From the splats' gradients to the Gaussians'.
  void (*unproject)(const Scene&, const Camera&, const Settings&, const Chunk&,
                    const SceneGrads&, PoseGrad*);
};

}  // namespace fieldpress::render

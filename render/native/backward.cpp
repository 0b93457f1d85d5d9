// Gradients of whole frames: tiles, then splats, then Gaussians and cameras.
//
// The same bits whatever the number of threads: what several tiles or chunks add to is summed in
// the order of their numbers.
#include <algorithm>
#include <cstring>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "camera.h"
#include "constants.h"
#include "dispatch.h"
#include "render.h"
#include "workspace.h"

namespace fieldpress::render {
namespace {

constexpr int AHEAD = 12;                   // Sums fetched before they are needed.
constexpr int64_t BAND_FLOATS = 12 << 20;   // Of records held at once: 50 MB.
constexpr size_t FRAMES_BYTES = 256 << 20;  // Kept at most between forward and backward.

size_t width_of(const Settings& set) { return static_cast<size_t>(grad_stride(set.channels())); }

// [tiles, channels] sums for the background, if it is wanted.
using Behind = std::vector<float>;

struct Band {
  int64_t first, end;  // tiles
};

void unblend_band(const Kernels& k, const Scene& scene, const Settings& set, const Upstream& up,
                  Band band, Workspace& work, Behind& behind) {
  const size_t width = width_of(set), channels = static_cast<size_t>(set.channels());
  const int64_t base = work.lists.starts[static_cast<size_t>(band.first)];
  const int64_t pairs = work.lists.starts[static_cast<size_t>(band.end)] - base;
  float* records = work.pair_grads.fit(static_cast<size_t>(pairs) * width);
  for_each_tile(set, work, band.first, band.end, [&](const Tile& tile, int64_t start, int t) {
    float* sums = behind.empty() ? nullptr : behind.data() + static_cast<size_t>(t) * channels;
    work.reached[static_cast<size_t>(t)] =
        k.unblend(scene, set, work.splats.get(), tile, up,
                  records + static_cast<size_t>(start - base) * width, sums);
  });
}

// Adds the band's pairs of the splats of ranks [first, last), whose entries lie together in each
// list.
void reduce_ranks(const Workspace& work, Band band, int64_t first, int64_t last, size_t width) {
  const TileLists& lists = work.lists;
  const uint32_t* ranks = work.ranks.get();
  const uint32_t* all = lists.splats.get();
  const uint32_t* base = all + lists.starts[static_cast<size_t>(band.first)];
  float* sums = work.splat_grads.get();
  const auto place = [&](const uint32_t* begin, const uint32_t* end, int64_t rank) {
    if (rank == 0) return begin;
    if (rank == work.visible) return end;
    return std::lower_bound(begin, end, rank,
                            [&](uint32_t splat, int64_t r) { return ranks[splat] < r; });
  };
  for (size_t t = static_cast<size_t>(band.first); t < static_cast<size_t>(band.end); ++t) {
    const uint32_t* begin = all + lists.starts[t];
    const uint32_t* end = begin + work.reached[t];
    const uint32_t* stop = place(begin, end, last);
    for (const uint32_t* at = place(begin, end, first); at < stop; ++at) {
      const float* pair = work.pair_grads.get() + static_cast<size_t>(at - base) * width;
      float* sum = sums + *at * width;
      if (at + AHEAD < stop) __builtin_prefetch(sums + at[AHEAD] * width);
      for (size_t k = 0; k < width; k += 4)
        for (size_t lane = k; lane < k + 4; ++lane) sum[lane] += pair[lane];
    }
  }
}

// Notes each splat's rank and clears its sums.
void clear_sums(const Settings& set, Workspace& work) {
  const size_t width = width_of(set);
  const size_t room = (work.survivors.size() - 1) * static_cast<size_t>(CHUNK);
  float* sums = work.splat_grads.fit(room * width);
  uint32_t* ranks = work.ranks.fit(room);
  const int chunks = static_cast<int>(work.survivors.size()) - 1;
  for (int64_t i = 0; i < work.visible; ++i)
    ranks[static_cast<uint32_t>(work.sorted[i])] = static_cast<uint32_t>(i);
  parallel(set.threads, chunks, [&](int c) {
    const size_t at = static_cast<size_t>(c);
    float* sum = sums + at * CHUNK * width;
    // One by one: a large memset goes past the cache, where the sums are wanted.
    for (int64_t i = work.survivors[at]; i < work.survivors[at + 1]; ++i, sum += width)
      std::memset(sum, 0, width * sizeof(float));
  });
}

// The gradients of all splats of one frame. A band of tiles at a time, so that no record is held
// for every pair of a splat and a tile; sums run in tile order whatever the bands.
void splat_gradients(const Kernels& k, const Scene& scene, const Settings& set, const Upstream& up,
                     Workspace& work, Behind& behind, BackwardTimes& times) {
  const size_t width = width_of(set);
  const int64_t tiles = static_cast<int64_t>(work.lists.starts.size()) - 1;
  const int parts = set.threads > 1 ? 2 * set.threads : 1;
  work.reached.assign(static_cast<size_t>(tiles), 0);
  Stopwatch watch;
  for (Band band = {0, 0}; band.end < tiles;) {
    band = {band.end,
            band_end(work.lists, band.end, BAND_FLOATS / static_cast<int64_t>(width))};
    unblend_band(k, scene, set, up, band, work, behind);
    times.unblend += watch.lap();
    if (band.first == 0) clear_sums(set, work);  // Not before: the cache would have lost them.
    parallel(set.threads, parts, [&](int part) {
      reduce_ranks(work, band, work.visible * part / parts, work.visible * (part + 1) / parts,
                   width);
    });
    times.reduce += watch.lap();
  }
}

// Leaves sums of the pose per chunk.
void unproject_all(const Kernels& k, const Scene& scene, const Camera& camera, const Settings& set,
                   const SceneGrads& grads, const Workspace& work, std::vector<PoseGrad>& poses) {
  const size_t width = width_of(set);
  const int chunks = static_cast<int>(work.survivors.size()) - 1;
  if (!poses.empty()) poses.assign(static_cast<size_t>(chunks), PoseGrad{});
  parallel(set.threads, chunks, [&](int c) {
    const size_t at = static_cast<size_t>(c);
    const int64_t begin = c * CHUNK;
    const Chunk chunk = {begin, std::min(begin + CHUNK, scene.count), work.splats.get() + begin,
                         work.splat_grads.get() + static_cast<size_t>(begin) * width,
                         work.survivors[at + 1] - work.survivors[at]};
    k.unproject(scene, camera, set, chunk, grads, poses.empty() ? nullptr : &poses[at]);
  });
}

PoseGrad total_pose(const std::vector<PoseGrad>& poses) {
  PoseGrad sum = {};
  for (const PoseGrad& pose : poses) {
    for (int i = 0; i < 9; ++i) sum.outer[i] += pose.outer[i];
    for (int i = 0; i < 3; ++i) sum.shift[i] += pose.shift[i], sum.center[i] += pose.center[i];
  }
  return sum;
}

// Fresh gradients of a large scene would be faulted in page by page, at the price of all the rest;
// every byte of them is about to be written. A hint, so its failure does not matter.
void prefer_huge_pages(float* rows, int64_t floats) {
#ifdef __linux__
  constexpr uintptr_t HUGE = 2 << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(rows) + HUGE - 1) / HUGE * HUGE;
  const uintptr_t end = reinterpret_cast<uintptr_t>(rows + floats) / HUGE * HUGE;
  if (rows && begin < end)
    (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)rows, (void)floats;
#endif
}

void add_behind(const Behind& behind, size_t channels, float* out) {
  std::vector<double> sums(channels, 0.0);
  for (size_t i = 0; i < behind.size(); ++i) sums[i % channels] += static_cast<double>(behind[i]);
  for (size_t k = 0; k < channels; ++k) out[k] = static_cast<float>(sums[k]);
}

void clear_rows(float* rows, int64_t begin, int64_t end, int64_t width) {
  if (rows) std::memset(rows + begin * width, 0, static_cast<size_t>((end - begin) * width) * 4);
}

// Where no camera looks.
void clear_all(const Scene& scene, const SceneGrads& grads, bool own_colors) {
  if (!own_colors) clear_rows(grads.colors, 0, scene.count, scene.color_stride);
  clear_rows(grads.means, 0, scene.count, 3);
  clear_rows(grads.quats, 0, scene.count, 4);
  clear_rows(grads.scales, 0, scene.count, 3);
  clear_rows(grads.opacities, 0, scene.count, 1);
}

}  // namespace

Frames::Frames() = default;

Frames::~Frames() {
  for (auto& work : kept_)
    if (work) put_back(std::move(work));
}

void Frames::keep(std::unique_ptr<Workspace> work) {
  const size_t bytes = work->bytes();
  if (bytes_ + bytes > FRAMES_BYTES) {
    put_back(std::move(work));
  } else {
    bytes_ += bytes;
  }
  kept_.push_back(std::move(work));
}

std::unique_ptr<Workspace> Frames::take(int64_t camera) {
  if (camera >= static_cast<int64_t>(kept_.size())) return nullptr;
  return std::move(kept_[static_cast<size_t>(camera)]);
}

BackwardTimes render_backward(const Scene& scene, const Views& views, const Settings& set,
                              const Backward& back, Frames& frames) {
  const Kernels k = kernels();
  const int64_t pixels = static_cast<int64_t>(set.width) * set.height;
  const size_t channels = static_cast<size_t>(set.channels());
  BackwardTimes total;
  prefer_huge_pages(back.scene.colors, scene.count * scene.color_stride);
  if (views.count == 0) clear_all(scene, back.scene, back.colors_per_camera != 0);
  for (int64_t c = 0; c < views.count; ++c) {
    Stopwatch watch;
    Scene seen = scene;
    SceneGrads grads = back.scene;
    if (seen.colors) seen.colors += c * back.colors_per_camera;
    if (grads.colors) grads.colors += c * back.colors_per_camera;
    const Camera camera = make_camera(views.viewmats + 16 * c, views.Ks + 9 * c, set);
    std::unique_ptr<Workspace> work = frames.take(c);
    if (!work) {
      work = take_workspace();
      prepare(k, seen, camera, set, *work);
    }
    total.prepare += watch.lap();
    const int64_t image = c * pixels * static_cast<int64_t>(channels), alpha = c * pixels;
    const Upstream up = {back.image + image, back.alpha + alpha,
                         back.image_grad ? back.image_grad + image : nullptr,
                         back.alpha_grad ? back.alpha_grad + alpha : nullptr};
    Behind behind(back.backgrounds ? (work->lists.starts.size() - 1) * channels : 0, 0.0f);
    splat_gradients(k, seen, set, up, *work, behind, total);
    watch.lap();
    if (back.backgrounds) add_behind(behind, channels, back.backgrounds + c * set.channels());
    std::vector<PoseGrad> poses(back.viewmats ? 1 : 0);
    grads.fresh = c == 0;
    grads.fresh_colors = c == 0 || back.colors_per_camera != 0;
    unproject_all(k, seen, camera, set, grads, *work, poses);
    if (back.viewmats)
      pose_to_view(total_pose(poses), views.viewmats + 16 * c, camera, back.viewmats + 16 * c);
    put_back(std::move(work));
    total.unproject += watch.lap();
  }
  return total;
}

}  // namespace fieldpress::render

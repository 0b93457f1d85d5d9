#include "render.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <mutex>
#include <stdexcept>

#include "constants.h"
#include "dispatch.h"
#include "order.h"
#include "pool.h"

namespace fieldpress::render {
namespace {

constexpr int64_t CHUNK = 1024;              // Gaussians per projection task.
constexpr int64_t KEEP_BYTES = 64 << 20;    // Larger workspaces are given back after the call.
constexpr int64_t SUM_CHUNK = 2048;          // Sorted splats per reduction task.

struct Workspace {
  Buffer<Splat> splats;          // chunk c starts at c * CHUNK; untouched pages cost nothing
  Buffer<Key> keys, spare;
  Buffer<uint32_t> counters;
  Buffer<TileShare> shares;
  std::vector<int64_t> survivors;
  TileLists lists;
  BinScratch bins;
  int64_t visible = 0;
  const Key* sorted = nullptr;

  size_t bytes() const {
    return splats.bytes() + keys.bytes() + spare.bytes() + shares.bytes() + lists.splats.bytes();
  }
};

// Workspaces between calls, so that frames do not fault in fresh pages.
class Shelf {
 public:
  std::unique_ptr<Workspace> take() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!kept_) return std::make_unique<Workspace>();
    return std::move(kept_);
  }
  void put_back(std::unique_ptr<Workspace> work) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (work->bytes() <= KEEP_BYTES) kept_ = std::move(work);
  }

 private:
  std::mutex mutex_;
  std::unique_ptr<Workspace> kept_;
};

Shelf& shelf() {
  static Shelf* one = new Shelf;  // Outlives static destruction.
  return *one;
}

class Stopwatch {
 public:
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    const double seconds = std::chrono::duration<double>(now - last_).count();
    last_ = now;
    return seconds;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// In double: the camera's centre is subtracted from the means before they are rotated, which
// keeps scenes far from the origin steady.
Camera make_camera(const float* view, const float* K, const Settings& set) {
  Camera c;
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
  if (!(det != 0) || !std::isfinite(det))
    throw std::invalid_argument("viewmats: expected invertible rotations, got determinant 0");
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
  return c;
}

uint32_t depth_bits(float depth) {
  uint32_t bits;
  std::memcpy(&bits, &depth, sizeof bits);
  return bits;
}

void project_all(const Kernels& k, const Scene& scene, const Camera& camera, const Settings& set,
                 Workspace& work) {
  const int chunks = static_cast<int>((scene.count + CHUNK - 1) / CHUNK);
  Splat* splats = work.splats.fit(static_cast<size_t>(chunks) * CHUNK);
  work.survivors.assign(static_cast<size_t>(chunks) + 1, 0);
  parallel(set.threads, chunks, [&](int c) {
    const int64_t begin = c * CHUNK, end = std::min(begin + CHUNK, scene.count);
    work.survivors[static_cast<size_t>(c) + 1] =
        k.project(scene, camera, set, begin, end, splats + begin);
  });
  for (int c = 0; c < chunks; ++c)
    work.survivors[static_cast<size_t>(c) + 1] += work.survivors[static_cast<size_t>(c)];
  work.visible = work.survivors.back();
}

void sort_all(const Settings& set, Workspace& work) {
  Key* keys = work.keys.fit(static_cast<size_t>(work.visible));
  Key* spare = work.spare.fit(static_cast<size_t>(work.visible));
  const Splat* splats = work.splats.get();
  const int chunks = static_cast<int>(work.survivors.size()) - 1;
  parallel(set.threads, chunks, [&](int c) {
    const int64_t first = work.survivors[static_cast<size_t>(c)];
    const int64_t count = work.survivors[static_cast<size_t>(c) + 1] - first;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = c * CHUNK + i;
      keys[first + i] = static_cast<Key>(depth_bits(splats[at].depth)) << 32 | static_cast<Key>(at);
    }
  });
  work.sorted = sort_by_depth(keys, spare, work.visible, set.threads, work.counters);
}

Times prepare(const Kernels& k, const Scene& scene, const Camera& camera, const Settings& set,
              Workspace& work) {
  Times times;
  Stopwatch watch;
  project_all(k, scene, camera, set, work);
  times.project = watch.lap();
  sort_all(set, work);
  times.sort = watch.lap();
  fill_tiles(k, work.splats.get(), work.sorted, work.visible, set, work.bins, work.lists);
  times.bin = watch.lap();
  return times;
}

template <typename Body>
void for_each_tile(const Settings& set, const Workspace& work, Body body) {
  const TileLists& lists = work.lists;
  parallel(set.threads, lists.tiles_x * lists.tiles_y, [&](int t) {
    const int64_t start = lists.starts[static_cast<size_t>(t)];
    const Tile tile = {t % lists.tiles_x * TILE, t / lists.tiles_x * TILE,
                       lists.splats.get() + start,
                       lists.starts[static_cast<size_t>(t) + 1] - start};
    body(tile, start);
  });
}

// Recovers gsplat's quantities from the completed squares.
void write_details(const Workspace& work, const Details& all, int64_t base) {
  for (int64_t i = 0; i < work.visible; ++i) {
    const Splat& s = work.splats.get()[static_cast<uint32_t>(work.sorted[i])];
    const int64_t at = base + s.id;
    const double a = s.ax, b = s.axy, d = s.ay;
    const double sigmas = std::min(EXTENT_SIGMAS, std::sqrt(s.reach / HALF_LOG2_E));
    const double sigma_y = std::sqrt(HALF_LOG2_E) / d;
    const double sigma_x = std::sqrt((b * b + d * d) * HALF_LOG2_E) / (a * d);
    all.radii[2 * at] = static_cast<int32_t>(std::min(std::ceil(sigmas * sigma_x), 2e9));
    all.radii[2 * at + 1] = static_cast<int32_t>(std::min(std::ceil(sigmas * sigma_y), 2e9));
    all.means2d[2 * at] = s.x;
    all.means2d[2 * at + 1] = s.y;
    all.depths[at] = s.depth;
    all.conics[3 * at] = single(a * a / HALF_LOG2_E);
    all.conics[3 * at + 1] = single(a * b / HALF_LOG2_E);
    all.conics[3 * at + 2] = single((b * b + d * d) / HALF_LOG2_E);
    all.opacities[at] = single(std::exp2(static_cast<double>(s.reach)) * ALPHA_CUTOFF);
  }
  const int64_t total = work.lists.starts.back();
  for (int64_t i = 0; i < total; ++i)
    ++all.tiles_per_gauss[base + work.splats.get()[work.lists.splats.get()[i]].id];
}

// Each splat's shares are added in tile order, whoever adds them: lists are in sorted order, so a
// range of ranks is a range of every list.
void add_shares(const Workspace& work, const Settings& set, const uint32_t* rank_of,
                const Sums& sums) {
  const TileLists& lists = work.lists;
  const int64_t tiles = static_cast<int64_t>(lists.tiles_x) * lists.tiles_y;
  const int parts = static_cast<int>((work.visible + SUM_CHUNK - 1) / SUM_CHUNK);
  const Splat* splats = work.splats.get();
  parallel(set.threads, parts, [&](int part) {
    const int64_t first = part * SUM_CHUNK, last = std::min(first + SUM_CHUNK, work.visible);
    for (int64_t t = 0; t < tiles; ++t) {
      const uint32_t* begin = lists.splats.get() + lists.starts[static_cast<size_t>(t)];
      const uint32_t* end = lists.splats.get() + lists.starts[static_cast<size_t>(t) + 1];
      const uint32_t* at = std::lower_bound(begin, end, first, [&](uint32_t splat, int64_t rank) {
        return rank_of[splat] < rank;
      });
      for (; at < end && rank_of[*at] < last; ++at) {
        const TileShare& share = work.shares.get()[at - lists.splats.get()];
        const uint32_t id = splats[*at].id;
        sums.hits[id] += share.hits;
        sums.opacity_hits[id] +=
            share.hits * std::exp2(static_cast<double>(splats[*at].reach)) * ALPHA_CUTOFF;
        sums.weight[id] += share.weight;
        sums.weight_sq[id] += share.weight_sq;
        sums.max_weight[id] = std::max(sums.max_weight[id], share.max_weight);
      }
    }
  });
}

void add_times(Times& sum, const Times& more) {
  sum.project += more.project;
  sum.sort += more.sort;
  sum.bin += more.bin;
  sum.blend += more.blend;
}

}  // namespace

Times render_images(const Scene& scene, const Views& views, const Settings& set,
                    const Images& images) {
  const Kernels k = kernels();
  std::unique_ptr<Workspace> work = shelf().take();
  const int64_t pixels = static_cast<int64_t>(set.width) * set.height;
  Times total;
  for (int64_t c = 0; c < views.count; ++c) {
    Scene seen = scene;
    if (seen.colors) seen.colors += c * images.colors_per_camera;
    const Camera camera = make_camera(views.viewmats + 16 * c, views.Ks + 9 * c, set);
    Times times = prepare(k, seen, camera, set, *work);
    const Target target = {
        images.image + c * pixels * set.channels(), images.alpha + c * pixels,
        images.backgrounds ? images.backgrounds + c * set.channels() : nullptr};
    Stopwatch watch;
    for_each_tile(set, *work, [&](const Tile& tile, int64_t) {
      k.blend(seen, set, work->splats.get(), tile, target);
    });
    times.blend = watch.lap();
    add_times(total, times);
    if (images.details.radii) write_details(*work, images.details, c * scene.count);
  }
  shelf().put_back(std::move(work));
  return total;
}

Times render_sums(const Scene& scene, const Views& views, const Settings& set, const Sums& sums) {
  const Kernels k = kernels();
  std::unique_ptr<Workspace> work = shelf().take();
  Buffer<uint32_t> ranks;
  Times total;
  for (int64_t c = 0; c < views.count; ++c) {
    const Camera camera = make_camera(views.viewmats + 16 * c, views.Ks + 9 * c, set);
    Times times = prepare(k, scene, camera, set, *work);
    Stopwatch watch;
    work->shares.fit(static_cast<size_t>(work->lists.starts.back()));
    for_each_tile(set, *work, [&](const Tile& tile, int64_t start) {
      k.measure(set, work->splats.get(), tile, work->shares.get() + start);
    });
    uint32_t* rank_of = ranks.fit(static_cast<size_t>(scene.count + CHUNK));
    for (int64_t i = 0; i < work->visible; ++i)
      rank_of[static_cast<uint32_t>(work->sorted[i])] = static_cast<uint32_t>(i);
    add_shares(*work, set, rank_of, sums);
    times.blend = watch.lap();
    add_times(total, times);
  }
  shelf().put_back(std::move(work));
  return total;
}

}  // namespace fieldpress::render

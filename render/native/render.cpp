#include "render.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "constants.h"
#include "dispatch.h"
#include "workspace.h"

namespace fieldpress::render {
namespace {

constexpr int64_t SUM_CHUNK = 2048;          // Sorted splats per reduction task.
constexpr int64_t BAND_PAIRS = 1 << 20;      // Shares held at once, 16 MB of them.

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

// Each splat's shares are added in tile order, whoever adds them and whatever the bands: lists are
// in sorted order, so a range of ranks is a range of every list.
void add_shares(const Workspace& work, const Settings& set, int64_t first_tile, int64_t end_tile,
                const uint32_t* rank_of, const Sums& sums) {
  const TileLists& lists = work.lists;
  const int64_t base = lists.starts[static_cast<size_t>(first_tile)];
  const int parts = static_cast<int>((work.visible + SUM_CHUNK - 1) / SUM_CHUNK);
  const Splat* splats = work.splats.get();
  parallel(set.threads, parts, [&](int part) {
    const int64_t first = part * SUM_CHUNK, last = std::min(first + SUM_CHUNK, work.visible);
    for (int64_t t = first_tile; t < end_tile; ++t) {
      const uint32_t* begin = lists.splats.get() + lists.starts[static_cast<size_t>(t)];
      const uint32_t* end = lists.splats.get() + lists.starts[static_cast<size_t>(t) + 1];
      const uint32_t* at = std::lower_bound(begin, end, first, [&](uint32_t splat, int64_t rank) {
        return rank_of[splat] < rank;
      });
      for (; at < end && rank_of[*at] < last; ++at) {
        const TileShare& share = work.shares.get()[at - lists.splats.get() - base];
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

// A band at a time, so that a share is not held for every pair of a splat and a tile at once.
void measure_bands(const Kernels& k, Workspace& work, const Settings& set, const uint32_t* rank_of,
                   const Sums& sums) {
  const TileLists& lists = work.lists;
  const int64_t tiles = static_cast<int64_t>(lists.tiles_x) * lists.tiles_y;
  for (int64_t first = 0, end = 0; first < tiles; first = end) {
    end = band_end(lists, first, BAND_PAIRS);
    const int64_t base = lists.starts[static_cast<size_t>(first)];
    TileShare* shares =
        work.shares.fit(static_cast<size_t>(lists.starts[static_cast<size_t>(end)] - base));
    for_each_tile(set, work, first, end, [&](const Tile& tile, int64_t start, int) {
      k.measure(set, work.splats.get(), tile, shares + (start - base));
    });
    add_shares(work, set, first, end, rank_of, sums);
  }
}

void add_times(Times& sum, const Times& more) {
  sum.project += more.project;
  sum.sort += more.sort;
  sum.bin += more.bin;
  sum.blend += more.blend;
}

}  // namespace

Times render_images(const Scene& scene, const Views& views, const Settings& set,
                    const Images& images, Frames* frames) {
  const Kernels k = kernels();
  std::unique_ptr<Workspace> work = take_workspace();
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
    for_each_tile(set, *work, [&](const Tile& tile, int64_t, int) {
      k.blend(seen, set, work->splats.get(), tile, target);
    });
    times.blend = watch.lap();
    add_times(total, times);
    if (images.details.radii) write_details(*work, images.details, c * scene.count);
    if (frames) {
      frames->keep(std::move(work));
      work = take_workspace();
    }
  }
  put_back(std::move(work));
  return total;
}

Times render_sums(const Scene& scene, const Views& views, const Settings& set, const Sums& sums) {
  const Kernels k = kernels();
  std::unique_ptr<Workspace> work = take_workspace();
  Buffer<uint32_t> ranks;
  Times total;
  for (int64_t c = 0; c < views.count; ++c) {
    const Camera camera = make_camera(views.viewmats + 16 * c, views.Ks + 9 * c, set);
    Times times = prepare(k, scene, camera, set, *work);
    Stopwatch watch;
    uint32_t* rank_of = ranks.fit(static_cast<size_t>(scene.count + CHUNK));
    for (int64_t i = 0; i < work->visible; ++i)
      rank_of[static_cast<uint32_t>(work->sorted[i])] = static_cast<uint32_t>(i);
    measure_bands(k, *work, set, rank_of, sums);
    times.blend = watch.lap();
    add_times(total, times);
  }
  put_back(std::move(work));
  return total;
}

}  // namespace fieldpress::render

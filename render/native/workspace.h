// What one camera's frame keeps between its stages, and the stages up to the tile lists.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "constants.h"
#include "frame.h"
#include "order.h"
#include "pool.h"
#include "render.h"

namespace fieldpress::render {

constexpr int64_t CHUNK = 1024;  // Gaussians per projection task.

struct Workspace {
  Buffer<Splat> splats;          // chunk c starts at c * CHUNK; untouched pages cost nothing
  Buffer<Key> keys, spare;
  Buffer<uint32_t> counters;
  Buffer<TileShare> shares;
  Buffer<float> pair_grads;      // per entry of the tile lists
  Buffer<float> splat_grads;     // beside splats
  Buffer<uint32_t> ranks;        // beside splats: place in depth order
  std::vector<int64_t> survivors;
  std::vector<int64_t> reached;  // per tile: entries of its list that a ray lived to see
  TileLists lists;
  BinScratch bins;
  int64_t visible = 0;
  const Key* sorted = nullptr;

  size_t bytes() const;
};

// A workspace from an earlier call, so that frames do not fault in fresh pages; and back.
std::unique_ptr<Workspace> take_workspace();
void put_back(std::unique_ptr<Workspace> work);
void forget_workspace();  // Frees the one that waits, if any.

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

Camera make_camera(const float* view, const float* K, const Settings& set);

// Projects, sorts and bins.
Times prepare(const Kernels& k, const Scene& scene, const Camera& camera, const Settings& set,
              Workspace& work);

// One past the last tile of the band that begins at `first`: whole tile rows, as many as keep the
// band's entries at most `pairs`, at least one row. Depends on the lists alone.
int64_t band_end(const TileLists& lists, int64_t first, int64_t pairs);

// body(tile, start of its list, number of the tile) for the tiles [first, end)
template <typename Body>
void for_each_tile(const Settings& set, const Workspace& work, int64_t first, int64_t end,
                   Body body) {
  const TileLists& lists = work.lists;
  parallel(set.threads, static_cast<int>(end - first), [&](int i) {
    const int t = static_cast<int>(first) + i;
    const int64_t start = lists.starts[static_cast<size_t>(t)];
    const Tile tile = {t % lists.tiles_x * TILE, t / lists.tiles_x * TILE,
                       lists.splats.get() + start,
                       lists.starts[static_cast<size_t>(t) + 1] - start};
    body(tile, start, t);
  });
}

template <typename Body>
void for_each_tile(const Settings& set, const Workspace& work, Body body) {
  for_each_tile(set, work, 0, static_cast<int64_t>(work.lists.tiles_x) * work.lists.tiles_y, body);
}

}  // namespace fieldpress::render

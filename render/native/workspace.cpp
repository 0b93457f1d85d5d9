#include "workspace.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <stdexcept>

#include "camera.h"
#include "constants.h"

namespace fieldpress::render {
namespace {

// Larger workspaces are given back after the call; one that a backward pass has used will be wanted
// again by the next step.
constexpr size_t KEEP_BYTES = 64 << 20, KEEP_BYTES_OF_TRAINING = 256 << 20;

class Shelf {
 public:
  std::unique_ptr<Workspace> take() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!kept_) return std::make_unique<Workspace>();
    return std::move(kept_);
  }
  void put_back(std::unique_ptr<Workspace> work) {
    std::lock_guard<std::mutex> lock(mutex_);
    const size_t most = work->pair_grads.bytes() ? KEEP_BYTES_OF_TRAINING : KEEP_BYTES;
    if (work->bytes() <= most) kept_ = std::move(work);
  }
  void forget() {
    std::lock_guard<std::mutex> lock(mutex_);
    kept_.reset();
  }

 private:
  std::mutex mutex_;
  std::unique_ptr<Workspace> kept_;
};

Shelf& shelf() {
  static Shelf* one = new Shelf;  // Outlives static destruction.
  return *one;
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

}  // namespace

size_t Workspace::bytes() const {
  return splats.bytes() + keys.bytes() + spare.bytes() + shares.bytes() + lists.splats.bytes() +
         pair_grads.bytes() + splat_grads.bytes();
}

std::unique_ptr<Workspace> take_workspace() { return shelf().take(); }
void put_back(std::unique_ptr<Workspace> work) { shelf().put_back(std::move(work)); }
void forget_workspace() { shelf().forget(); }

Camera make_camera(const float* view, const float* K, const Settings& set) {
  Camera c;
  if (!fill_camera(view, K, set, c))
    throw std::invalid_argument("viewmats: expected invertible rotations, got determinant 0");
  return c;
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

int64_t band_end(const TileLists& lists, int64_t first, int64_t pairs) {
  const int64_t tiles = static_cast<int64_t>(lists.tiles_x) * lists.tiles_y;
  const int64_t most = lists.starts[static_cast<size_t>(first)] + pairs;
  int64_t end = first + lists.tiles_x;
  while (end < tiles && lists.starts[static_cast<size_t>(end + lists.tiles_x)] <= most)
    end += lists.tiles_x;
  return end;
}

}  // namespace fieldpress::render

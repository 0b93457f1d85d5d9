// Whole frames: project, sort, bin, then blend or measure.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "frame.h"

namespace fieldpress::render {

struct Views {
  int64_t count = 0;
  const float* viewmats = nullptr;  // [C, 4, 4]
  const float* Ks = nullptr;        // [C, 3, 3]
};

// Seconds per stage, summed over the cameras.
struct Times {
  double project = 0, sort = 0, bin = 0, blend = 0;
};

struct Images {
  float* image = nullptr;             // [C, H, W, channels]
  float* alpha = nullptr;             // [C, H, W, 1]
  const float* backgrounds = nullptr;  // [C, channels] or null
  int64_t colors_per_camera = 0;      // floats from one camera's colours to the next; 0: shared
  Details details;
};

struct Workspace;

// What a forward pass leaves to its backward pass: the frames, until they have been used once or
// would hold more than a few hundred MB; those that are missing are made again.
class Frames {
 public:
  Frames();
  ~Frames();
  Frames(const Frames&) = delete;
  Frames& operator=(const Frames&) = delete;
  void keep(std::unique_ptr<Workspace> work);      // of the next camera
  std::unique_ptr<Workspace> take(int64_t camera);  // null: to be made again

 private:
  std::vector<std::unique_ptr<Workspace>> kept_;
  size_t bytes_ = 0;
};

// frames: null where no backward pass will follow.
Times render_images(const Scene& scene, const Views& views, const Settings& set,
                    const Images& images, Frames* frames);

// The gradients of render_images' results, and where to put the inputs'. Overwrites.
struct Backward {
  const float* image = nullptr;        // as rendered
  const float* alpha = nullptr;
  const float* image_grad = nullptr;   // null: zero
  const float* alpha_grad = nullptr;   // null: zero
  int64_t colors_per_camera = 0;
  SceneGrads scene;                    // colours of all cameras where they have their own
  float* backgrounds = nullptr;        // [C, channels]
  float* viewmats = nullptr;           // [C, 4, 4]
};

// Seconds per stage, summed over the cameras.
struct BackwardTimes {
  double prepare = 0, unblend = 0, reduce = 0, unproject = 0;
};

BackwardTimes render_backward(const Scene& scene, const Views& views, const Settings& set,
                              const Backward& back, Frames& frames);

// Adds to sums, which the caller has cleared.
Times render_sums(const Scene& scene, const Views& views, const Settings& set, const Sums& sums);

}  // namespace fieldpress::render

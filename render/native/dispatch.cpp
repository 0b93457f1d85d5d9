#include "dispatch.h"

#include "copies.h"

namespace fieldpress::render {

#define FIELDPRESS_DECLARE(copy)                                                               \
  namespace copy {                                                                             \
  int64_t project(const Scene&, const Camera&, const Settings&, int64_t, int64_t, Splat*);     \
  int cover(const Splat&, int, int, uint32_t*);                                                \
  void blend(const Scene&, const Settings&, const Splat*, const Tile&, const Target&);         \
  void measure(const Settings&, const Splat*, const Tile&, TileShare*);                        \
  void photometric(const LossViews&, const LossBand&, const LossSlopes&, LossSums*, float*);   \
  void moments(const LossViews&, const LossBand&, float*, float*);                             \
  int64_t unblend(const Scene&, const Settings&, const Splat*, const Tile&, const Upstream&,   \
                  float*, float*);                                                             \
  void unproject(const Scene&, const Camera&, const Settings&, const Chunk&,                   \
                 const SceneGrads&, PoseGrad*);                                                \
  }

FIELDPRESS_DECLARE(baseline)
#ifdef FIELDPRESS_X86
FIELDPRESS_DECLARE(avx2)
FIELDPRESS_DECLARE(avx512)
#endif

#define FIELDPRESS_KERNELS(copy) \
  {copy::project, copy::cover, copy::blend, copy::measure, copy::unblend, copy::unproject}, \
  {copy::photometric, copy::moments}

namespace {

struct Both {
  Kernels kernels;
  LossKernels loss;
};

const Copy<Both> COPIES[] = {
    {"baseline", has_baseline, {FIELDPRESS_KERNELS(baseline)}},
#ifdef FIELDPRESS_X86
    {"avx2", has_avx2, {FIELDPRESS_KERNELS(avx2)}},
    {"avx512", has_avx512, {FIELDPRESS_KERNELS(avx512)}},
#endif
};

Copies<Both>& copies() {
  static Copies<Both> all(COPIES);
  return all;
}

}  // namespace

Kernels kernels() { return copies().chosen().kernels.kernels; }
LossKernels loss_kernels() { return copies().chosen().kernels.loss; }
std::string isa() { return copies().chosen().name; }
void set_isa(const std::string& name) { copies().choose(name); }
std::vector<std::string> available_isas() { return copies().names(); }

}  // namespace fieldpress::render

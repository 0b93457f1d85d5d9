#include "dispatch.h"

#include <atomic>
#include <stdexcept>

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

struct Copy {
  const char* name;
  bool (*usable)();
  Kernels kernels;
  LossKernels loss;
};

// Worst first.
const Copy COPIES[] = {
    {"baseline", [] { return true; },
     FIELDPRESS_KERNELS(baseline)},
#ifdef FIELDPRESS_X86
    {"avx2",
     [] {
       return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
              __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
     },
     FIELDPRESS_KERNELS(avx2)},
    {"avx512",
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
              __builtin_cpu_supports("bmi2");
     },
     FIELDPRESS_KERNELS(avx512)},
#endif
};

const Copy* best() {
  const Copy* found = COPIES;
  for (const Copy& copy : COPIES)
    if (copy.usable()) found = &copy;
  return found;
}

std::atomic<const Copy*>& chosen() {
  static std::atomic<const Copy*> copy{best()};
  return copy;
}

}  // namespace

Kernels kernels() { return chosen().load()->kernels; }

LossKernels loss_kernels() { return chosen().load()->loss; }

std::string isa() { return chosen().load()->name; }

void set_isa(const std::string& name) {
  for (const Copy& copy : COPIES)
    if (name == copy.name && copy.usable()) {
      chosen().store(&copy);
      return;
    }
  throw std::invalid_argument("isa: expected one that this machine has, got '" + name + "'");
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Copy& copy : COPIES)
    if (copy.usable()) names.emplace_back(copy.name);
  return names;
}

}  // namespace fieldpress::render

#include <atomic>
#include <stdexcept>

#include "encoding.h"

namespace fieldpress::fields {

#define FIELDPRESS_DECLARE(copy)                                                               \
  namespace copy {                                                                             \
  void encode(const Grid&, const Table&, const float*, int64_t, float*, int64_t);              \
  void scatter(const Grid&, int, int, const float*, int64_t, const float*, float*, uint8_t*,    \
               const Moments*);                                                                \
  void slope(const Grid&, const float*, const float*, int64_t, const float*, int64_t, float*); \
  void adam(const Moments&, int64_t, int64_t, float*, uint8_t*);                               \
  }

#define FIELDPRESS_KERNELS(copy) {copy::encode, copy::scatter, copy::slope, copy::adam}

FIELDPRESS_DECLARE(baseline)
#ifdef FIELDPRESS_X86
FIELDPRESS_DECLARE(avx2)
FIELDPRESS_DECLARE(avx512)
#endif

namespace {

struct Copy {
  const char* name;
  bool (*usable)();
  Kernels kernels;
};

// Worst first.
const Copy COPIES[] = {
    {"baseline", [] { return true; }, FIELDPRESS_KERNELS(baseline)},
#ifdef FIELDPRESS_X86
    {"avx2",
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); },
     FIELDPRESS_KERNELS(avx2)},
    {"avx512",
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("fma");
     },
     FIELDPRESS_KERNELS(avx512)},
#endif
};

std::atomic<const Copy*>& chosen() {
  static std::atomic<const Copy*> copy{[] {
    const Copy* best = COPIES;
    for (const Copy& other : COPIES)
      if (other.usable()) best = &other;
    return best;
  }()};
  return copy;
}

}  // namespace

Kernels kernels() { return chosen().load()->kernels; }

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

}  // namespace fieldpress::fields

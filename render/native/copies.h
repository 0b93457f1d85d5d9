// Kernels that were compiled once per instruction set, and which copy of them is in use. Kept out of
// the files that are compiled so: an inline function of theirs could run on a machine without it.
#pragma once

#include <atomic>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

namespace fieldpress::render {

inline bool has_baseline() { return true; }

#ifdef FIELDPRESS_X86
inline bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

inline bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
}
#endif

template <class Kernels>
struct Copy {
  const char* name;
  bool (*usable)();
  Kernels kernels;
};

// `copies` must outlive this, worst first; the first is usable everywhere.
template <class Kernels>
class Copies {
 public:
  template <std::size_t N>
  explicit Copies(const Copy<Kernels> (&copies)[N]) : begin_(copies), end_(copies + N) {
    for (const Copy<Kernels>* copy = begin_; copy != end_; ++copy)
      if (copy->usable()) chosen_.store(copy);
  }

  const Copy<Kernels>& chosen() const { return *chosen_.load(); }

  void choose(const std::string& name) {
    for (const Copy<Kernels>* copy = begin_; copy != end_; ++copy)
      if (name == copy->name && copy->usable()) return chosen_.store(copy);
    throw std::invalid_argument("isa: expected one that this machine has, got '" + name + "'");
  }

  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const Copy<Kernels>* copy = begin_; copy != end_; ++copy)
      if (copy->usable()) found.emplace_back(copy->name);
    return found;
  }

 private:
  const Copy<Kernels>*begin_, *end_;
  std::atomic<const Copy<Kernels>*> chosen_{nullptr};
};

}  // namespace fieldpress::render

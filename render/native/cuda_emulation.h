// Runs CUDA kernels on the CPU, for tests: g++ compiles a .cu file with this included first. Each
// thread of a block is a fibre; one that waits for others gives way to the next. Blocks run one
// after another. It proves logic, not memory order; but the fibres may be run in several orders, and
// what then differs is a race.
//
// The subset: one dimension, warps of 32, whole warps, collectives that every lane of the warp takes
// part in (masks are all ones), static shared memory, up to eight arguments of eight bytes.
#pragma once

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

// Declared one by one: the whole of <math.h> takes longer to compile than a kernel.
extern "C" {
float sqrtf(float) noexcept;
float floorf(float) noexcept;
float exp2f(float) noexcept;
float log2f(float) noexcept;
float expf(float) noexcept;
double sqrt(double) noexcept;
float fabsf(float) noexcept;
double exp(double) noexcept;
double ceil(double) noexcept;
double exp2(double) noexcept;
double fmin(double, double) noexcept;
}

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)

struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

namespace emulation {

constexpr unsigned WARP = 32, MOST_THREADS = 1024;
constexpr size_t STACK_BYTES = 128 << 10;
constexpr int MOST_IDLE_ROUNDS = 1000;  // Every fibre waits, again and again: for nobody.

// More arguments than a kernel takes do it no harm.
constexpr size_t MOST_ARGUMENTS = 8;
typedef void Kernel(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);

struct Dim {
  unsigned x = 1, y = 1, z = 1;
};

// Those who wait for each other: a warp or a block.
struct Meeting {
  unsigned size = 0, arrived = 0, gone = 0;
  unsigned long long epoch = 0;
};

struct Fibre {
  ucontext_t context;
  jmp_buf resume;
  char* stack = nullptr;  // Kept for the next kernel, to the end.
  bool started = false, done = true;
  Dim thread;
  unsigned collectives = 0;
};

struct Warp {
  Meeting meeting;
  uint64_t slots[2][WARP];
};

struct Machine {
  Fibre fibres[MOST_THREADS];
  Warp warps[MOST_THREADS / WARP];
  Meeting block;
  Fibre* current = nullptr;
  jmp_buf scheduler;
  Dim block_index, block_size, grid_size;
  unsigned long long events = 0;  // Anything that somebody may have waited for.
  unsigned counted = 0, result = 0;
  Kernel* kernel = nullptr;
  uint64_t arguments[MOST_ARGUMENTS] = {};
};

inline Machine& machine() {
  static Machine* one = new Machine;
  return *one;
}

inline void give_way() {
  if (!_setjmp(machine().current->resume)) _longjmp(machine().scheduler, 1);
}

inline void open_if_complete(Meeting& m) {
  if (m.arrived == 0 || m.arrived + m.gone < m.size) return;
  m.arrived = 0;
  ++m.epoch;
  ++machine().events;
}

inline void meet(Meeting& m) {
  const unsigned long long epoch = m.epoch;
  ++m.arrived;
  open_if_complete(m);
  while (m.epoch == epoch) give_way();
}

inline unsigned lane() { return machine().current->thread.x % WARP; }
inline Warp& warp() { return machine().warps[machine().current->thread.x / WARP]; }

inline void demand_all(unsigned mask) {
  if (mask == 0xffffffffu) return;
  fprintf(stderr, "emulation: expected a mask of all lanes, got %x\n", mask);
  abort();
}

// Every lane's value, until the collective after the next one.
template <typename T>
const uint64_t* exchange(unsigned mask, T value) {
  static_assert(sizeof(T) <= 8, "a register or two");
  demand_all(mask);
  uint64_t* slots = warp().slots[machine().current->collectives++ & 1];
  memcpy(&slots[lane()], &value, sizeof value);
  meet(warp().meeting);
  return slots;
}

template <typename T>
T take(const uint64_t* slots, unsigned from) {
  T value;
  memcpy(&value, &slots[from % WARP], sizeof value);
  return value;
}

// The body of every fibre; it serves one kernel's thread after another.
inline void serve() {
  Machine& m = machine();
  for (;;) {
    const uint64_t* a = m.arguments;
    m.kernel(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
    m.current->done = true;
    ++m.events;
    ++warp().meeting.gone;
    ++m.block.gone;
    open_if_complete(warp().meeting);
    open_if_complete(m.block);
    give_way();
  }
}

inline void resume(Fibre& fibre) {
  Machine& m = machine();
  m.current = &fibre;
  if (_setjmp(m.scheduler)) return;
  if (fibre.started) _longjmp(fibre.resume, 1);
  fibre.started = true;
  fibre.stack = static_cast<char*>(malloc(STACK_BYTES));
  getcontext(&fibre.context);
  fibre.context.uc_stack.ss_sp = fibre.stack;
  fibre.context.uc_stack.ss_size = STACK_BYTES;
  fibre.context.uc_link = nullptr;
  makecontext(&fibre.context, serve, 0);
  setcontext(&fibre.context);
}

// Order 0 runs the threads forwards, 1 backwards, others from some thread on. False: deadlock.
inline bool run_block(unsigned threads, unsigned order) {
  Machine& m = machine();
  m.block = Meeting{threads};
  for (unsigned w = 0; w < threads / WARP; ++w) m.warps[w].meeting = Meeting{WARP};
  for (unsigned t = 0; t < threads; ++t) {
    m.fibres[t].done = false;
    m.fibres[t].thread = Dim{t, 0, 0};
    m.fibres[t].collectives = 0;
  }
  for (int idle = 0; m.block.gone < threads;) {
    const unsigned long long before = m.events;
    for (unsigned k = 0; k < threads; ++k) {
      const unsigned t = order == 1 ? threads - 1 - k : (k + 37 * order) % threads;
      if (!m.fibres[t].done) resume(m.fibres[t]);
    }
    idle = m.events == before ? idle + 1 : 0;
    if (idle > MOST_IDLE_ROUNDS) return false;
  }
  return true;
}

}  // namespace emulation

#define threadIdx (emulation::machine().current->thread)
#define blockIdx (emulation::machine().block_index)
#define blockDim (emulation::machine().block_size)
#define gridDim (emulation::machine().grid_size)

// 0, or 1 where the threads of a block wait for each other for ever: then nothing may be run again.
extern "C" __attribute__((used)) inline int emulate(emulation::Kernel* kernel,
                              unsigned blocks, unsigned threads, const uint64_t* arguments,
                              unsigned order) {
  emulation::Machine& m = emulation::machine();
  m.kernel = kernel;
  memcpy(m.arguments, arguments, sizeof m.arguments);
  m.grid_size.x = blocks;
  m.block_size.x = threads;
  for (unsigned b = 0; b < blocks; ++b) {
    m.block_index = emulation::Dim{b, 0, 0};
    if (!emulation::run_block(threads, order)) return 1;
  }
  return 0;
}

inline void __syncthreads() { emulation::meet(emulation::machine().block); }

inline int __syncthreads_count(int predicate) {
  emulation::Machine& m = emulation::machine();
  m.counted += predicate != 0;
  __syncthreads();
  m.result = m.counted;
  __syncthreads();
  m.counted = 0;
  __syncthreads();
  return static_cast<int>(m.result);
}

inline void __syncwarp(unsigned mask = 0xffffffffu) {
  emulation::demand_all(mask);
  emulation::meet(emulation::warp().meeting);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int from) {
  return emulation::take<T>(emulation::exchange(mask, value), static_cast<unsigned>(from));
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  const unsigned from = emulation::lane() ^ static_cast<unsigned>(bits);
  return emulation::take<T>(emulation::exchange(mask, value), from);
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta) {
  const unsigned lane = emulation::lane();
  return emulation::take<T>(emulation::exchange(mask, value), lane < delta ? lane : lane - delta);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* slots = emulation::exchange(mask, predicate != 0 ? 1u : 0u);
  unsigned bits = 0;
  for (unsigned k = 0; k < emulation::WARP; ++k) bits |= emulation::take<unsigned>(slots, k) << k;
  return bits;
}

inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

inline unsigned __match_any_sync(unsigned mask, unsigned value) {
  const uint64_t* slots = emulation::exchange(mask, value);
  unsigned bits = 0;
  for (unsigned k = 0; k < emulation::WARP; ++k)
    bits |= (emulation::take<unsigned>(slots, k) == value ? 1u : 0u) << k;
  return bits;
}

inline void __nanosleep(unsigned) { emulation::give_way(); }

template <typename T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at = before + value;
  return before;
}

inline int atomicMax(int* at, int value) {
  const int before = *at;
  if (value > before) *at = value;
  return before;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

template <typename To, typename From>
To emulated_bits(From from) {
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

inline unsigned __float_as_uint(float x) { return emulated_bits<unsigned>(x); }
inline int __float_as_int(float x) { return emulated_bits<int>(x); }
inline float __uint_as_float(unsigned x) { return emulated_bits<float>(x); }

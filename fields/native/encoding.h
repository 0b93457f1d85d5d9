// Interpolated feature tables at several resolutions: the multiresolution hash encoding (Mueller et
// al. 2022) on four lattices. One kernel family: a lattice says which corners a point lies between
// and with which weights, a level how a corner becomes a row.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "grid.h"
#include "latent_coder.h"

namespace fieldpress::fields {

constexpr int BLOCK = 64;     // Points that go through the levels together.
constexpr int MAX_NEURONS = 256, MAX_LAYERS = 8;
constexpr int LINE = 16;      // Parameters of which a step of the optimiser is told at once: 64 bytes.

inline int64_t lines_of(const Grid& grid) {
  return (grid.rows() * grid.features + LINE - 1) / LINE;
}

// Throws std::invalid_argument for what no kernel could run.
Grid make_grid(int dims, int features, const std::string& lattice,
               const std::vector<float>& scales, const std::vector<uint32_t>& sides,
               const std::vector<uint32_t>& rows);

struct Table {
  Storage storage = Storage::f32;
  const void* rows = nullptr;
  const float* steps = nullptr;  // [levels] or null: f32, f16
};

// The table that an optimiser moves, [size] parameters, and its moments.
struct Moments {
  AdamStep step;
  int64_t size;
  float *table, *mean, *square;
};

// Matrices [widths[l + 1], widths[l]] with rectifiers between them.
struct Perceptron {
  int layers = 0;
  int widths[MAX_LAYERS + 1] = {};
  const float* weights[MAX_LAYERS] = {};
};

struct Rays {
  const float *origins, *directions;  // [count, 3]
  const uint8_t* cells;
  const float* jitter;  // [count]
};

struct Samples {
  std::vector<float> points;  // [M, 3]
  std::vector<int64_t> rays;
};

// One copy per instruction set. Points lie in [0, 1]^n; others count as the nearest that do.
// Features, and gradients of them, are rows of a matrix [levels * F, all points]: `stride` is from
// one to the next. `along` is null, or directions [count, n]: then weights are replaced by how they
// change along them, which makes second derivatives of the same three.
struct Kernels {
  void (*encode)(const Grid&, const Table&, const float* points, const float* along, int64_t count,
                 float* out, int64_t stride);
  // Adds to grad [rows, F] of levels [first, last) and marks lines, all that it touches at least.
  // With moments, each level that is done is stepped at once, while its gradient is still near: all
  // lines that lie wholly in it.
  void (*scatter)(const Grid&, int first, int last, const float* points, const float* along,
                  int64_t count, const float* upstream, float* grad, uint8_t* touched, const Moments*);
  // Fills dx [count, n].
  void (*slope)(const Grid&, const float* table, const float* points, const float* along,
                int64_t count, const float* upstream, int64_t stride, float* dx);
  // outputs [widths[layers], stride] from inputs [widths[0], stride].
  void (*perceptron)(const Perceptron&, const float* inputs, int64_t count, int64_t stride,
                     float* outputs);
  // Appends the samples of rays [first, last).
  void (*march)(const Rays&, int64_t first, int64_t last, Samples&);
  // Steps parameters of lines [first, last) that are marked and have a gradient, which `grad` has
  // from line `first` on; clears both.
  void (*adam)(const Moments&, int64_t first, int64_t last, float* grad, uint8_t* touched);
  LatentKernels latent;
};

Kernels kernels();
std::string isa();
void set_isa(const std::string& name);  // std::invalid_argument where the machine lacks it
std::vector<std::string> available_isas();

void encode(const Grid&, const Table&, const float* points, const float* along, int64_t count,
            int threads, float* out);
void scatter(const Grid&, const float* points, const float* along, int64_t count,
             const float* upstream, int threads, float* grad, uint8_t* touched, const Moments*);
void slope(const Grid&, const float* table, const float* points, const float* along, int64_t count,
           const float* upstream, int threads, float* dx);
void perceptron(const Perceptron&, const float* inputs, int64_t count, int threads, float* outputs);
Samples march(const Rays&, int64_t count, int threads);
void adam(const Moments&, int threads, float* grad, uint8_t* touched);

}  // namespace fieldpress::fields

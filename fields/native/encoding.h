// Interpolated feature tables at several resolutions: the multiresolution hash encoding (Mueller et
// al. 2022) on four lattices. One kernel family: a lattice says which corners a point lies between
// and with which weights, a level how a corner becomes a row.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "latent_coder.h"

namespace fieldpress::fields {

constexpr int MIN_DIMS = 2, MAX_DIMS = 4;
constexpr int MAX_CORNERS = 1 << MAX_DIMS;
constexpr int MAX_LEVELS = 32;
constexpr int MAX_FEATURES = 8;
constexpr int BLOCK = 64;     // Points that go through the levels together.
constexpr int LINE = 16;      // Parameters of which a step of the optimiser is told at once: 64 bytes.
constexpr int ROW_GROUP = 8;  // Rows of a level are a multiple of this, as in tiny-cuda-nn.

// tiny-cuda-nn's coherent prime hash; the first is 1, so that neighbours in x share a cache line.
constexpr uint32_t PRIMES[MAX_DIMS] = {1u, 2654435761u, 805459861u, 3674653429u};
constexpr uint32_t PERMUTO_FACTOR = 2531011u;  // Of PermutoSDF's hash (Rosu and Behnke 2023).
constexpr float LEVEL_SHIFT = 0.5f;            // tiny-cuda-nn: lattice position = scale x + this.

// F of the skew I + F 11^T that turns the simplices of A*_n into those of a cut cube (Perlin 2001):
// (sqrt(n + 1) - 1) / n, by n.
constexpr float SKEW[MAX_DIMS + 1] = {0, 0, 0.366025404f, 0.333333333f, 0.309016994f};

enum class Lattice { grid, kuhn, simplex, permuto };

// How a corner's integer coordinates c become a row: the sum of c_i step_i, which is below twice
// the rows (dense); the exclusive or of c_i prime_i, modulo a power of two; or the sum, modulo it.
enum class Index { dense, prime, sum };

struct Level {
  float scale = 0;             // Cells per unit length.
  Index index = Index::prime;
  uint32_t rows = 0;
  uint32_t factors[MAX_DIMS] = {};  // step_i or prime_i
  int64_t first = 0;                // Rows of the levels before.
};

struct Grid {
  int dims = 0, features = 0;
  Lattice lattice = Lattice::grid;
  std::vector<Level> levels;
  float lift[MAX_DIMS][MAX_DIMS] = {};  // permuto: coordinates in the basis of A*_n.

  int width() const { return features * static_cast<int>(levels.size()); }
  int64_t rows() const { return levels.empty() ? 0 : levels.back().first + levels.back().rows; }
  int64_t lines() const { return (rows() * features + LINE - 1) / LINE; }
};

// Throws std::invalid_argument for what no kernel could run.
Grid make_grid(int dims, int features, const std::string& lattice,
               const std::vector<float>& scales, const std::vector<uint32_t>& sides,
               const std::vector<uint32_t>& rows);

// Rows of a table [rows, F] as they lie in memory, for inference. Whole numbers are units of
// `step`, one a level; a bit stands for +step or -step.
enum class Storage { f32, f16, i8, b1 };

struct Table {
  Storage storage = Storage::f32;
  const void* rows = nullptr;
  const float* steps = nullptr;  // [levels] or null: f32, f16
};

struct AdamStep {
  float rate;            // Learning rate over the bias correction of the mean.
  float beta1, beta2;
  float root;            // sqrt of the bias correction of the square, by which roots are divided.
  float epsilon;
};

// The table that an optimiser moves, [size] parameters, and its moments.
struct Moments {
  AdamStep step;
  int64_t size;
  float *table, *mean, *square;
};

// One copy per instruction set. Points lie in [0, 1]^n; others count as the nearest that do.
// Features, and gradients of them, are rows of a matrix [levels * F, all points]: `stride` is from
// one to the next.
struct Kernels {
  void (*encode)(const Grid&, const Table&, const float* points, int64_t count, float* out,
                 int64_t stride);
  // Adds to grad [rows, F] of levels [first, last) and marks lines, all that it touches at least.
  // With moments, each level that is done is stepped at once, while its gradient is still near: all
  // lines that lie wholly in it.
  void (*scatter)(const Grid&, int first, int last, const float* points, int64_t count,
                  const float* upstream, float* grad, uint8_t* touched, const Moments*);
  // Fills dx [count, n].
  void (*slope)(const Grid&, const float* table, const float* points, int64_t count,
                const float* upstream, int64_t stride, float* dx);
  // Steps parameters of lines [first, last) that are marked and have a gradient; clears both.
  void (*adam)(const Moments&, int64_t first, int64_t last, float* grad, uint8_t* touched);
  LatentKernels latent;
};

Kernels kernels();
std::string isa();
void set_isa(const std::string& name);  // std::invalid_argument where the machine lacks it
std::vector<std::string> available_isas();

void encode(const Grid&, const Table&, const float* points, int64_t count, int threads,
            float* out);
void scatter(const Grid&, const float* points, int64_t count, const float* upstream, int threads,
             float* grad, uint8_t* touched, const Moments*);
void slope(const Grid&, const float* table, const float* points, int64_t count,
           const float* upstream, int threads, float* dx);
void adam(const Moments&, int threads, float* grad, uint8_t* touched);

}  // namespace fieldpress::fields

// What an encoding is: plain data, read by the CPU's compiler and by CUDA's.
#pragma once

#include <cstdint>

namespace fieldpress::fields {

constexpr int MIN_DIMS = 2, MAX_DIMS = 4;
constexpr int MAX_CORNERS = 1 << MAX_DIMS;
constexpr int MAX_LEVELS = 32;
constexpr int MAX_FEATURES = 8;
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

// Rows of a table [rows, F] as they lie in memory, for inference. Whole numbers are units of
// `step`, one a level; a bit stands for +step or -step.
enum class Storage { f32, f16, i8, b1 };

// Bits of a value.
constexpr int bits_of(Storage storage) {
  return storage == Storage::f32 ? 32 : storage == Storage::f16 ? 16 : storage == Storage::i8 ? 8 : 1;
}

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
  int count = 0;                        // Levels.
  Level levels[MAX_LEVELS];
  float lift[MAX_DIMS][MAX_DIMS] = {};  // permuto: coordinates in the basis of A*_n.

  int width() const { return features * count; }
  int64_t rows() const { return count ? levels[count - 1].first + levels[count - 1].rows : 0; }
};

struct AdamStep {
  float rate;            // Learning rate over the bias correction of the mean.
  float beta1, beta2;
  float root;            // sqrt of the bias correction of the square, by which roots are divided.
  float epsilon;
};

}  // namespace fieldpress::fields

// Work for threads, cut so that no bit depends on their number.
#include "encoding.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "../../render/native/pool.h"

namespace fieldpress::fields {
namespace {

constexpr int64_t PIECE = 2048 * BLOCK;  // Points at most: what goes through a level together.
constexpr int64_t RAY_PIECE = 1 << 10;
constexpr int64_t LINE_PIECE = 1 << 14;  // Lines of the optimiser.

void run_pieces(int threads, int64_t count, int64_t piece,
                const std::function<void(int64_t, int64_t)>& task) {
  const int64_t pieces = (count + piece - 1) / piece;
  render::parallel(threads, static_cast<int>(pieces), [&](int i) {
    task(i * piece, std::min(count, (i + 1) * piece));
  });
}

const float* from(const float* numbers, int64_t first) {
  return numbers ? numbers + first : nullptr;
}

// Whole blocks for each thread.
int64_t share(int threads, int64_t count) {
  const int64_t blocks = (count + BLOCK - 1) / BLOCK;
  return std::clamp<int64_t>((blocks + threads - 1) / std::max(threads, 1) * BLOCK, BLOCK, PIECE);
}

// Elevation of Adams et al. 2010 (eq. 4.1: columns orthonormal) followed by differences with the
// last coordinate: y = lift x has integers exactly at the points of the permutohedral lattice.
void fill_lift(int n, float (&lift)[MAX_DIMS][MAX_DIMS]) {
  for (int j = 0; j < n; ++j) {
    const double unit = 1 / std::sqrt((j + 1.0) * (j + 2.0));
    const auto elevated = [&](int i) { return i <= j ? unit : i == j + 1 ? -(j + 1) * unit : 0.0; };
    for (int i = 0; i < n; ++i) lift[i][j] = static_cast<float>(elevated(i) - elevated(n));
  }
}

// PermutoSDF hashes the first n of n + 1 coordinates, k = (k + key_i) * A in turn, where
// key_i = (n + 1) y_i - sum of y: linear in y, hence a factor for each axis.
void fill_permuto_factors(int n, uint32_t (&factors)[MAX_DIMS]) {
  uint32_t power = 1, sum = 0;
  for (int i = n - 1; i >= 0; --i) {
    power *= PERMUTO_FACTOR;
    sum += power;
    factors[i] = static_cast<uint32_t>(n + 1) * power;
  }
  for (int i = 0; i < n; ++i) factors[i] -= sum;
}

bool is_power_of_two(uint32_t x) { return x && !(x & (x - 1)); }

Level make_level(int dims, Lattice lattice, float scale, uint32_t side, uint32_t rows) {
  Level level;
  level.scale = scale;
  level.rows = rows;
  if (!(scale >= 0 && scale < (1 << 24)) || rows == 0 || rows % ROW_GROUP || side == 0)
    throw std::invalid_argument("level: impossible scale, side or rows");
  uint64_t cells = 1;
  for (int i = 0; i < dims; ++i) {
    level.factors[i] = static_cast<uint32_t>(cells);
    cells = std::min<uint64_t>(cells * side, uint64_t{1} << 31);
  }
  if (lattice != Lattice::permuto && cells <= rows) {
    level.index = Index::dense;
    return level;
  }
  if (!is_power_of_two(rows))
    throw std::invalid_argument("level: expected a power of two of hashed rows");
  level.index = lattice == Lattice::permuto ? Index::sum : Index::prime;
  if (lattice == Lattice::permuto)
    fill_permuto_factors(dims, level.factors);
  else
    std::copy_n(PRIMES, dims, level.factors);
  return level;
}

Lattice lattice_of(const std::string& name) {
  if (name == "grid") return Lattice::grid;
  if (name == "kuhn") return Lattice::kuhn;
  if (name == "simplex") return Lattice::simplex;
  if (name == "permuto") return Lattice::permuto;
  throw std::invalid_argument("lattice: expected grid, kuhn, simplex or permuto, got " + name);
}

}  // namespace

Grid make_grid(int dims, int features, const std::string& lattice,
               const std::vector<float>& scales, const std::vector<uint32_t>& sides,
               const std::vector<uint32_t>& rows) {
  Grid grid;
  grid.dims = dims;
  grid.features = features;
  grid.lattice = lattice_of(lattice);
  if (dims < MIN_DIMS || dims > MAX_DIMS) throw std::invalid_argument("dims: expected 2 to 4");
  if (features != 1 && features != 2 && features != 4 && features != MAX_FEATURES)
    throw std::invalid_argument("features: expected 1, 2, 4 or 8");
  if (scales.empty() || scales.size() > MAX_LEVELS || sides.size() != scales.size() ||
      rows.size() != scales.size())
    throw std::invalid_argument("levels: expected 1 to 32 of scales, sides and rows alike");
  fill_lift(dims, grid.lift);
  grid.count = static_cast<int>(scales.size());
  int64_t first = 0;
  for (size_t l = 0; l < scales.size(); ++l) {
    Level level = make_level(dims, grid.lattice, scales[l], sides[l], rows[l]);
    level.first = first;
    first += level.rows;
    grid.levels[l] = level;
  }
  return grid;
}

void encode(const Grid& grid, const Table& table, const float* points, const float* along,
            int64_t count, int threads, float* out) {
  const Kernels run = kernels();
  run_pieces(threads, count, share(threads, count), [&](int64_t first, int64_t last) {
    run.encode(grid, table, points + first * grid.dims, from(along, first * grid.dims),
               last - first, out + first, count);
  });
}

void scatter(const Grid& grid, const float* points, const float* along, int64_t count,
             const float* upstream, int threads, float* grad, uint8_t* touched,
             const Moments* moments) {
  const Kernels run = kernels();
    const int groups = std::clamp(threads, 1, grid.count);  // Of levels: no row has two writers.
  render::parallel(threads, groups, [&](int i) {
    run.scatter(grid, grid.count * i / groups, grid.count * (i + 1) / groups, points, along, count,
                upstream, grad, touched, moments);
  });
  if (moments) adam(*moments, threads, grad, touched);  // Lines that two levels share.
}

void slope(const Grid& grid, const float* table, const float* points, const float* along,
           int64_t count, const float* upstream, int threads, float* dx) {
  const Kernels run = kernels();
  run_pieces(threads, count, share(threads, count), [&](int64_t first, int64_t last) {
    run.slope(grid, table, points + first * grid.dims, from(along, first * grid.dims),
              last - first, upstream + first, count, dx + first * grid.dims);
  });
}

void perceptron(const Perceptron& net, const float* inputs, int64_t count, int threads,
                float* outputs) {
  const Kernels run = kernels();
  run_pieces(threads, count, share(threads, count), [&](int64_t first, int64_t last) {
    run.perceptron(net, inputs + first, last - first, count, outputs + first);
  });
}

Samples march(const Rays& rays, int64_t count, int threads) {
  const Kernels run = kernels();
  std::vector<Samples> parts(static_cast<size_t>((count + RAY_PIECE - 1) / RAY_PIECE));
  run_pieces(threads, count, RAY_PIECE, [&](int64_t first, int64_t last) {
    run.march(rays, first, last, parts[static_cast<size_t>(first / RAY_PIECE)]);
  });
  Samples all;
  for (const Samples& part : parts) {
    all.points.insert(all.points.end(), part.points.begin(), part.points.end());
    all.rays.insert(all.rays.end(), part.rays.begin(), part.rays.end());
  }
  return all;
}

void adam(const Moments& moments, int threads, float* grad, uint8_t* touched) {
  const Kernels run = kernels();
  const int64_t lines = (moments.size + LINE - 1) / LINE;
  run_pieces(threads, lines, LINE_PIECE, [&](int64_t first, int64_t last) {
    run.adam(moments, first, last, grad + first * LINE, touched);
  });
}

}  // namespace fieldpress::fields

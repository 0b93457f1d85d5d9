// What crosses the border to Python: arrays in and out, and the checks of every argument.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "ints.h"
#include "neighbors.h"
#include "octree.h"
#include "predict.h"

namespace fieldpress::quant {

namespace nb = nanobind;

template <class T, int D>
using In = nb::ndarray<const T, nb::ndim<D>, nb::c_contig, nb::device::cpu>;
template <class T, int D>
using Out = nb::ndarray<nb::numpy, T, nb::ndim<D>>;

constexpr int64_t kMaxRows = int64_t{1} << kRankBits;
constexpr int64_t kMaxChannels = 256;
constexpr int32_t kMaxScale = 1 << 24;
constexpr int32_t kMaxWeight = 1 << 20;

[[noreturn]] inline void fail(const char* argument, const std::string& expected, int64_t got) {
  throw std::invalid_argument(
      std::string(argument) + ": expected " + expected + ", got " + std::to_string(got));
}
inline void check(bool ok, const char* argument, const char* expected, int64_t got) {
  if (!ok) fail(argument, expected, got);
}
template <class Array>
int64_t length(const Array& array, size_t axis = 0) {
  return static_cast<int64_t>(array.shape(axis));
}

template <class T>
Out<T, 2> own(std::unique_ptr<T[]> data, size_t rows, size_t columns) {
  T* bare = data.release();
  nb::capsule owner(bare, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return Out<T, 2>(bare, {rows, columns}, owner);
}
template <class T>
Out<T, 1> own(std::unique_ptr<T[]> data, size_t rows) {
  T* bare = data.release();
  nb::capsule owner(bare, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return Out<T, 1>(bare, {rows}, owner);
}
inline nb::bytes to_bytes(const std::vector<uint8_t>& v) {
  return nb::bytes(reinterpret_cast<const char*>(v.data()), v.size());
}
inline DecodeIo decoder(const nb::bytes& data) {
  return {Decoder(reinterpret_cast<const uint8_t*>(data.c_str()), data.size())};
}

inline void check_rows(int64_t rows, int64_t channels) {
  check(rows >= 0 && rows <= kMaxRows, "rows", "0..2^22", rows);
  check(channels >= 1 && channels <= kMaxChannels, "channels", "1..256", channels);
}
inline void check_neighbors(const In<int32_t, 2>& neighbors, int64_t rows) {
  if (length(neighbors) != rows) {
    fail("neighbors", std::to_string(rows) + " rows", length(neighbors));
  }
  const int64_t k = length(neighbors, 1);
  check(k <= kMaxNeighbors, "neighbors", "at most 8 columns", k);
  for (int64_t i = 0; i < rows; ++i) {
    const int32_t* row = neighbors.data() + i * k;
    for (int64_t j = 0; j < k; ++j) {
      if (row[j] >= -1 && row[j] < i) continue;
      fail("neighbors", "an earlier row or -1 in row " + std::to_string(i), row[j]);
    }
  }
}
inline void check_scale(const In<int32_t, 1>& scale, int64_t rows) {
  if (length(scale) != rows) fail("scale", std::to_string(rows) + " rows", length(scale));
  for (int64_t i = 0; i < rows; ++i) {
    const int32_t s = scale.data()[i];
    check(s >= 1 && s <= kMaxScale, "scale", "1..2^24", s);
  }
}

inline IntMatrix int_matrix(
    int64_t rows, int64_t channels, const In<int32_t, 1>& scale, const In<uint8_t, 2>& context,
    const In<int32_t, 2>& neighbors, const In<int32_t, 1>& limits) {
  check_rows(rows, channels);
  check_scale(scale, rows);
  check_neighbors(neighbors, rows);
  const bool two = length(context) == rows && length(context, 1) == 2;
  check(two, "context", "[rows, 2]", length(context));
  for (int64_t i = 0; i < 2 * rows; ++i) {
    check(context.data()[i] < kContexts, "context", "below 32", context.data()[i]);
  }
  const int64_t given = length(limits);
  check(given == 0 || given == rows, "limits", "none or one a row", given);
  for (int64_t i = 0; i < given; ++i) {
    const int32_t limit = limits.data()[i];
    check(limit >= 0 && limit <= channels, "limits", "0..channels", limit);
  }
  return {rows,           channels, scale.data(), context.data(), neighbors.data(),
          length(neighbors, 1), given ? limits.data() : nullptr};
}
inline void check_symbols(const IntMatrix& m, const int32_t* symbols) {
  for (int64_t i = 0; i < m.rows; ++i) {
    const int32_t* row = symbols + i * m.channels;
    for (int64_t c = 0; c < m.channels; ++c) {
      const bool fits = row[c] > -(1 << 24) && row[c] < (1 << 24);
      check(fits, "symbols", "magnitudes below 2^24", row[c]);
      if (!m.limits) continue;
      const int32_t limit = m.limits[i];
      check(c < limit || row[c] == 0, "symbols", "zero from the limit on", row[c]);
      check(c != limit - 1 || row[c], "symbols", "not zero just before the limit", row[c]);
    }
  }
}

inline bool is_value(int32_t x) { return x <= kValueLimit && x >= -kValueLimit; }
inline void check_weights(const In<int32_t, 2>& weights) {
  const int64_t columns = length(weights, 1);
  for (int64_t i = 0; i < static_cast<int64_t>(weights.size()); ++i) {
    const int64_t most = i % columns == columns - 1 ? kValueLimit : kMaxWeight;
    const int32_t w = weights.data()[i];
    check(w <= most && w >= -most, "weights", "magnitudes up to 2^20", w);
  }
}
inline Prediction prediction(
    int64_t rows, int64_t channels, const In<int32_t, 1>& scale, const In<int32_t, 2>& neighbors,
    const In<int32_t, 2>& side, const In<int32_t, 2>& weights, const In<int32_t, 1>& fill,
    int64_t bias) {
  check_rows(rows, channels);
  check_scale(scale, rows);
  check_neighbors(neighbors, rows);
  const int64_t sides = length(side, 1), k = length(neighbors, 1), columns = length(weights, 1);
  check(length(side) == rows, "side", "one row a symbol row", length(side));
  check(length(weights) == channels, "weights", "one row a channel", length(weights));
  const int64_t previous = columns - k - sides - 1;
  const bool fits = previous >= 0 && previous <= 16;
  check(fits, "weights", "k + previous (0..16) + sides + 1 columns", columns);
  check(sides <= 32, "side", "at most 32 columns", sides);
  for (size_t i = 0; i < side.size(); ++i) {
    check(is_value(side.data()[i]), "side", "magnitudes up to 2^28", side.data()[i]);
  }
  check_weights(weights);
  check(length(fill) == channels, "fill", "one value a channel", length(fill));
  for (int64_t c = 0; c < channels; ++c) {
    check(is_value(fill.data()[c]), "fill", "magnitudes up to 2^28", fill.data()[c]);
  }
  check(bias >= 0 && bias < 32, "bias", "0..31", bias);
  return {rows,        channels,    k,      previous, sides, scale.data(), neighbors.data(),
          side.data(), weights.data(), fill.data(), bias};
}

inline void check_codes(const In<uint64_t, 1>& codes, int depth) {
  check(depth >= 0 && depth <= kMaxOctreeDepth, "depth", "0..20", depth);
  const int64_t count = length(codes);
  check(count <= kMaxRows, "codes", "at most 2^22", count);
  const uint64_t* code = codes.data();
  for (int64_t i = 0; i < count; ++i) {
    check((code[i] >> (3 * depth)) == 0, "codes", "within the depth, at", i);
    check(i == 0 || code[i] >= code[i - 1], "codes", "sorted, at", i);
  }
}

}  // namespace fieldpress::quant

// Python face of the coder: checks every argument, releases the GIL, owns what it returns.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <array>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "coder.h"
#include "ints.h"
#include "neighbors.h"
#include "octree.h"
#include "predict.h"

namespace nb = nanobind;
using namespace fieldpress::quant;

namespace {

template <class T, int D>
using In = nb::ndarray<const T, nb::ndim<D>, nb::c_contig, nb::device::cpu>;
template <class T, int D>
using Out = nb::ndarray<nb::numpy, T, nb::ndim<D>>;

constexpr int64_t kMaxRows = int64_t{1} << 22;
constexpr int64_t kMaxChannels = 256;
constexpr int32_t kMaxScale = 1 << 24;
constexpr int32_t kMaxWeight = 1 << 20;

[[noreturn]] void fail(const char* argument, const std::string& expected, int64_t got) {
  throw std::invalid_argument(std::string(argument) + ": expected " + expected + ", got " + std::to_string(got));
}
void check(bool ok, const char* argument, const std::string& expected, int64_t got) {
  if (!ok) fail(argument, expected, got);
}

template <class T>
Out<T, 2> own(T* data, size_t rows, size_t columns) {
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return Out<T, 2>(data, {rows, columns}, owner);
}
template <class T>
Out<T, 1> own(T* data, size_t rows) {
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return Out<T, 1>(data, {rows}, owner);
}
nb::bytes to_bytes(const std::vector<uint8_t>& v) { return nb::bytes(reinterpret_cast<const char*>(v.data()), v.size()); }

void check_neighbors(const In<int32_t, 2>& neighbors, int64_t rows) {
  check(static_cast<int64_t>(neighbors.shape(0)) == rows, "neighbors", std::to_string(rows) + " rows", static_cast<int64_t>(neighbors.shape(0)));
  const int64_t k = static_cast<int64_t>(neighbors.shape(1));
  check(k <= kMaxNeighbors, "neighbors", "at most 8 columns", k);
  const int32_t* data = neighbors.data();
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      const int32_t n = data[i * k + j];
      check(n >= -1 && n < i, "neighbors", "an earlier row or -1 in row " + std::to_string(i), n);
    }
  }
}
void check_scale(const In<int32_t, 1>& scale, int64_t rows) {
  check(static_cast<int64_t>(scale.shape(0)) == rows, "scale", std::to_string(rows) + " rows", static_cast<int64_t>(scale.shape(0)));
  for (int64_t i = 0; i < rows; ++i) {
    check(scale.data()[i] >= 1 && scale.data()[i] <= kMaxScale, "scale", "1..2^24", scale.data()[i]);
  }
}
void check_rows(int64_t rows, int64_t channels) {
  check(rows >= 0 && rows <= kMaxRows, "rows", "0..2^22", rows);
  check(channels >= 1 && channels <= kMaxChannels, "channels", "1..256", channels);
}

IntMatrix int_matrix(int64_t rows, int64_t channels, const In<int32_t, 1>& scale, const In<uint8_t, 2>& context,
                     const In<int32_t, 2>& neighbors, const In<int32_t, 1>& limits) {
  check_rows(rows, channels);
  check_scale(scale, rows);
  check_neighbors(neighbors, rows);
  check(static_cast<int64_t>(context.shape(0)) == rows && context.shape(1) == 2, "context", "[rows, 2]", static_cast<int64_t>(context.shape(0)));
  for (int64_t i = 0; i < 2 * rows; ++i) check(context.data()[i] < 32, "context", "below 32", context.data()[i]);
  const int64_t given = static_cast<int64_t>(limits.shape(0));
  check(given == 0 || given == rows, "limits", "none or one a row", given);
  for (int64_t i = 0; i < given; ++i) {
    check(limits.data()[i] >= 0 && limits.data()[i] <= channels, "limits", "0..channels", limits.data()[i]);
  }
  return {rows, channels, scale.data(), context.data(), neighbors.data(), static_cast<int64_t>(neighbors.shape(1)),
          given ? limits.data() : nullptr};
}

nb::bytes encode_ints(In<int32_t, 2> symbols, In<int32_t, 1> scale, In<uint8_t, 2> context, In<int32_t, 2> neighbors,
                      In<int32_t, 1> limits) {
  const IntMatrix m = int_matrix(static_cast<int64_t>(symbols.shape(0)), static_cast<int64_t>(symbols.shape(1)), scale, context, neighbors, limits);
  for (int64_t i = 0; i < m.rows; ++i) {
    const int32_t* row = symbols.data() + i * m.channels;
    for (int64_t c = 0; c < m.channels; ++c) {
      check(row[c] > -(1 << 24) && row[c] < (1 << 24), "symbols", "magnitudes below 2^24", row[c]);
      if (m.limits && c >= m.limits[i]) check(row[c] == 0, "symbols", "zero from the limit on", row[c]);
      if (m.limits && c == m.limits[i] - 1) check(row[c] != 0, "symbols", "not zero just before the limit", row[c]);
    }
  }
  std::vector<uint8_t> bytes;
  {
    nb::gil_scoped_release release;
    EncodeIo io;
    code_ints(io, m, const_cast<int32_t*>(symbols.data()));  // Encoding only reads.
    bytes = io.coder.finish();
  }
  return to_bytes(bytes);
}

Out<int32_t, 2> decode_ints(nb::bytes data, int64_t channels, In<int32_t, 1> scale, In<uint8_t, 2> context,
                            In<int32_t, 2> neighbors, In<int32_t, 1> limits) {
  const int64_t rows = static_cast<int64_t>(scale.shape(0));
  const IntMatrix m = int_matrix(rows, channels, scale, context, neighbors, limits);
  std::unique_ptr<int32_t[]> symbols(new int32_t[static_cast<size_t>(rows * channels)]());
  {
    nb::gil_scoped_release release;
    DecodeIo io{Decoder(reinterpret_cast<const uint8_t*>(data.c_str()), data.size())};
    code_ints(io, m, symbols.get());
    if (!io.coder.consumed()) throw std::invalid_argument("coded integers: bytes left over after the last symbol");
  }
  return own(symbols.release(), static_cast<size_t>(rows), static_cast<size_t>(channels));
}

Prediction prediction(int64_t rows, int64_t channels, const In<int32_t, 1>& scale, const In<int32_t, 2>& neighbors,
                      const In<int32_t, 2>& side, const In<int32_t, 2>& weights, const In<int32_t, 1>& fill, int64_t bias) {
  check_rows(rows, channels);
  check_scale(scale, rows);
  check_neighbors(neighbors, rows);
  const int64_t sides = static_cast<int64_t>(side.shape(1)), k = static_cast<int64_t>(neighbors.shape(1));
  check(static_cast<int64_t>(side.shape(0)) == rows, "side", "one row a symbol row", static_cast<int64_t>(side.shape(0)));
  check(static_cast<int64_t>(weights.shape(0)) == channels, "weights", "one row a channel", static_cast<int64_t>(weights.shape(0)));
  const int64_t previous = static_cast<int64_t>(weights.shape(1)) - k - sides - 1;
  check(previous >= 0 && previous <= 16, "weights", "k + previous (0..16) + sides + 1 columns", static_cast<int64_t>(weights.shape(1)));
  check(sides <= 32, "side", "at most 32 columns", sides);
  for (int64_t i = 0; i < rows * sides; ++i) {
    check(side.data()[i] <= kValueLimit && side.data()[i] >= -kValueLimit, "side", "magnitudes up to 2^28", side.data()[i]);
  }
  for (size_t i = 0; i < weights.size(); ++i) {
    const bool constant = static_cast<int64_t>(i) % static_cast<int64_t>(weights.shape(1)) == static_cast<int64_t>(weights.shape(1)) - 1;
    const int64_t most = constant ? kValueLimit : kMaxWeight;
    check(weights.data()[i] <= most && weights.data()[i] >= -most, "weights", "magnitudes up to 2^20", weights.data()[i]);
  }
  check(static_cast<int64_t>(fill.shape(0)) == channels, "fill", "one value a channel", static_cast<int64_t>(fill.shape(0)));
  for (int64_t c = 0; c < channels; ++c) {
    check(fill.data()[c] <= kValueLimit && fill.data()[c] >= -kValueLimit, "fill", "magnitudes up to 2^28", fill.data()[c]);
  }
  check(bias >= 0 && bias < 32, "bias", "0..31", bias);
  return {rows, channels, k, previous, sides, scale.data(), neighbors.data(), side.data(), weights.data(), fill.data(), bias};
}

nb::tuple quantise_predicted(In<int32_t, 2> wanted, In<int32_t, 1> scale, In<int32_t, 2> neighbors, In<int32_t, 2> side,
                             In<int32_t, 2> weights, In<int32_t, 1> fill, int64_t round, int64_t bias) {
  const int64_t rows = static_cast<int64_t>(wanted.shape(0)), channels = static_cast<int64_t>(wanted.shape(1));
  const Prediction p = prediction(rows, channels, scale, neighbors, side, weights, fill, bias);
  check(round > 0 && round <= 64, "round", "1..64", round);
  std::unique_ptr<int32_t[]> symbols(new int32_t[static_cast<size_t>(rows * channels)]());
  std::unique_ptr<int32_t[]> values(new int32_t[static_cast<size_t>(rows * channels)]());
  {
    nb::gil_scoped_release release;
    quantise(p, wanted.data(), round, symbols.get(), values.get());
  }
  return nb::make_tuple(own(symbols.release(), static_cast<size_t>(rows), static_cast<size_t>(channels)),
                        own(values.release(), static_cast<size_t>(rows), static_cast<size_t>(channels)));
}

Out<int32_t, 2> reconstruct_predicted(In<int32_t, 2> symbols, In<int32_t, 1> scale, In<int32_t, 2> neighbors, In<int32_t, 2> side,
                                      In<int32_t, 2> weights, In<int32_t, 1> fill, int64_t bias) {
  const int64_t rows = static_cast<int64_t>(symbols.shape(0)), channels = static_cast<int64_t>(symbols.shape(1));
  const Prediction p = prediction(rows, channels, scale, neighbors, side, weights, fill, bias);
  std::unique_ptr<int32_t[]> values(new int32_t[static_cast<size_t>(rows * channels)]());
  {
    nb::gil_scoped_release release;
    reconstruct(p, symbols.data(), values.get());
  }
  return own(values.release(), static_cast<size_t>(rows), static_cast<size_t>(channels));
}

void check_codes(const In<uint64_t, 1>& codes, int depth) {
  check(depth >= 0 && depth <= kMaxOctreeDepth, "depth", "0..20", depth);
  const int64_t count = static_cast<int64_t>(codes.shape(0));
  check(count <= kMaxRows, "codes", "at most 2^22", count);
  for (int64_t i = 0; i < count; ++i) {
    check((codes.data()[i] >> (3 * depth)) == 0, "codes", "within the depth, at", i);
    check(i == 0 || codes.data()[i] >= codes.data()[i - 1], "codes", "sorted, at", i);
  }
}

nb::bytes encode_octree(In<uint64_t, 1> codes, int depth) {
  check_codes(codes, depth);
  std::vector<uint8_t> bytes;
  {
    nb::gil_scoped_release release;
    std::vector<uint64_t> leaves(codes.data(), codes.data() + codes.shape(0));
    EncodeIo io;
    code_octree(io, depth, static_cast<int64_t>(leaves.size()), leaves);
    bytes = io.coder.finish();
  }
  return to_bytes(bytes);
}

Out<uint64_t, 1> decode_octree(nb::bytes data, int depth, int64_t count) {
  check(depth >= 0 && depth <= kMaxOctreeDepth, "depth", "0..20", depth);
  check(count >= 0 && count <= kMaxRows, "count", "0..2^22", count);
  std::vector<uint64_t> leaves;
  {
    nb::gil_scoped_release release;
    DecodeIo io{Decoder(reinterpret_cast<const uint8_t*>(data.c_str()), data.size())};
    code_octree(io, depth, count, leaves);
    if (!io.coder.consumed()) throw std::invalid_argument("octree: bytes left over after the last leaf");
  }
  std::unique_ptr<uint64_t[]> out(new uint64_t[leaves.size()]);
  std::copy(leaves.begin(), leaves.end(), out.get());
  return own(out.release(), leaves.size());
}

Out<int32_t, 2> neighbors(In<uint64_t, 1> codes, int depth, int k) {
  check_codes(codes, depth);
  check(k >= 0 && k <= kMaxNeighbors, "k", "0..8", k);
  const size_t rows = codes.shape(0);
  std::unique_ptr<int32_t[]> out(new int32_t[rows * static_cast<size_t>(k)]);
  {
    nb::gil_scoped_release release;
    causal_neighbors(codes.data(), static_cast<int64_t>(rows), depth, k, out.get());
  }
  return own(out.release(), rows, static_cast<size_t>(k));
}

nb::bytes pack_bits(In<uint32_t, 1> values, In<uint8_t, 1> widths) {
  check(values.shape(0) == widths.shape(0), "widths", "one a value", static_cast<int64_t>(widths.shape(0)));
  std::vector<uint8_t> bytes;
  uint64_t pending = 0;
  int held = 0;
  for (size_t i = 0; i < values.shape(0); ++i) {
    const int width = widths.data()[i];
    check(width <= 32, "widths", "0..32", width);
    check(width == 32 || (values.data()[i] >> width) == 0, "values", "within their width, at", static_cast<int64_t>(i));
    if (width == 0) continue;
    pending = pending << width | values.data()[i];
    held += width;
    while (held >= 8) {
      held -= 8;
      bytes.push_back(static_cast<uint8_t>(pending >> held));
    }
  }
  if (held) bytes.push_back(static_cast<uint8_t>(pending << (8 - held)));
  return to_bytes(bytes);
}

Out<uint32_t, 1> unpack_bits(nb::bytes data, In<uint8_t, 1> widths) {
  uint64_t total = 0;
  for (size_t i = 0; i < widths.shape(0); ++i) {
    check(widths.data()[i] <= 32, "widths", "0..32", widths.data()[i]);
    total += widths.data()[i];
  }
  check((total + 7) / 8 == data.size(), "bits", std::to_string((total + 7) / 8) + " bytes", static_cast<int64_t>(data.size()));
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(data.c_str());
  std::unique_ptr<uint32_t[]> out(new uint32_t[widths.shape(0)]);
  uint64_t pending = 0;
  int held = 0;
  for (size_t i = 0; i < widths.shape(0); ++i) {
    const int width = widths.data()[i];
    while (held < width) {
      pending = pending << 8 | *bytes++;
      held += 8;
    }
    held -= width;
    out[i] = static_cast<uint32_t>((pending >> held) & ((uint64_t{1} << width) - 1));
  }
  return own(out.release(), widths.shape(0));
}

Out<uint64_t, 1> morton_codes(In<uint32_t, 2> cells) {
  check(cells.shape(1) == 3, "cells", "[N, 3]", static_cast<int64_t>(cells.shape(1)));
  std::unique_ptr<uint64_t[]> out(new uint64_t[cells.shape(0)]);
  for (size_t i = 0; i < cells.shape(0); ++i) {
    const uint32_t* c = cells.data() + 3 * i;
    for (int a = 0; a < 3; ++a) check(c[a] < (1u << 21), "cells", "below 2^21", c[a]);
    out[i] = morton(c[0], c[1], c[2]);
  }
  return own(out.release(), cells.shape(0));
}

Out<uint32_t, 2> morton_cells(In<uint64_t, 1> codes) {
  std::unique_ptr<uint32_t[]> out(new uint32_t[codes.shape(0) * 3]);
  for (size_t i = 0; i < codes.shape(0); ++i) {
    for (int a = 0; a < 3; ++a) out[3 * i + static_cast<size_t>(a)] = static_cast<uint32_t>(gather_bits(codes.data()[i] >> a));
  }
  return own(out.release(), codes.shape(0), 3);
}

// values [N, D] times a basis [D, E], each row summed in the order of D in doubles: with
// contraction off this is the same on every machine, which a BLAS product is not.
Out<float, 2> apply_basis(In<int32_t, 2> values, In<double, 2> basis, In<double, 1> offset) {
  const size_t rows = values.shape(0), d = values.shape(1), e = basis.shape(1);
  check(basis.shape(0) == d, "basis", std::to_string(d) + " rows", static_cast<int64_t>(basis.shape(0)));
  check(offset.shape(0) == e, "offset", std::to_string(e) + " values", static_cast<int64_t>(offset.shape(0)));
  std::unique_ptr<float[]> out(new float[rows * e]);
  {
    nb::gil_scoped_release release;
    std::vector<double> sum(e);
    for (size_t i = 0; i < rows; ++i) {
      for (size_t j = 0; j < e; ++j) sum[j] = offset.data()[j];
      for (size_t k = 0; k < d; ++k) {
        const int32_t value = values.data()[i * d + k];
        if (value == 0) continue;
        const double factor = value;
        const double* row = basis.data() + k * e;
        for (size_t j = 0; j < e; ++j) sum[j] += factor * row[j];
      }
      for (size_t j = 0; j < e; ++j) out[i * e + j] = static_cast<float>(sum[j]);
    }
  }
  return own(out.release(), rows, e);
}

uint32_t crc32c(nb::bytes data) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t n = 0; n < 256; ++n) {
      uint32_t c = n;
      for (int k = 0; k < 8; ++k) c = c & 1 ? 0x82f63b78u ^ (c >> 1) : c >> 1;
      t[n] = c;
    }
    return t;
  }();
  uint32_t crc = 0xffffffffu;
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(data.c_str());
  for (size_t i = 0; i < data.size(); ++i) crc = table[(crc ^ bytes[i]) & 255] ^ (crc >> 8);
  return crc ^ 0xffffffffu;
}

}  // namespace

NB_MODULE(_native, m) {
  m.def("encode_ints", &encode_ints, nb::arg("symbols").noconvert(), nb::arg("scale").noconvert(), nb::arg("context").noconvert(),
        nb::arg("neighbors").noconvert(), nb::arg("limits").noconvert());
  m.def("decode_ints", &decode_ints, nb::arg("data"), nb::arg("channels"), nb::arg("scale").noconvert(), nb::arg("context").noconvert(),
        nb::arg("neighbors").noconvert(), nb::arg("limits").noconvert());
  m.def("quantise_predicted", &quantise_predicted, nb::arg("wanted").noconvert(), nb::arg("scale").noconvert(), nb::arg("neighbors").noconvert(),
        nb::arg("side").noconvert(), nb::arg("weights").noconvert(), nb::arg("fill").noconvert(), nb::arg("round"), nb::arg("bias"));
  m.def("reconstruct_predicted", &reconstruct_predicted, nb::arg("symbols").noconvert(), nb::arg("scale").noconvert(), nb::arg("neighbors").noconvert(),
        nb::arg("side").noconvert(), nb::arg("weights").noconvert(), nb::arg("fill").noconvert(), nb::arg("bias"));
  m.def("encode_octree", &encode_octree, nb::arg("codes").noconvert(), nb::arg("depth"));
  m.def("decode_octree", &decode_octree, nb::arg("data"), nb::arg("depth"), nb::arg("count"));
  m.def("neighbors", &neighbors, nb::arg("codes").noconvert(), nb::arg("depth"), nb::arg("k"));
  m.def("pack_bits", &pack_bits, nb::arg("values").noconvert(), nb::arg("widths").noconvert());
  m.def("unpack_bits", &unpack_bits, nb::arg("data"), nb::arg("widths").noconvert());
  m.def("morton_codes", &morton_codes, nb::arg("cells").noconvert());
  m.def("morton_cells", &morton_cells, nb::arg("codes").noconvert());
  m.def("apply_basis", &apply_basis, nb::arg("values").noconvert(), nb::arg("basis").noconvert(), nb::arg("offset").noconvert());
  m.def("crc32c", &crc32c, nb::arg("data"));
}

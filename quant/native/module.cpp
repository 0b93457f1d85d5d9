// Python face of the coder: releases the GIL, owns what it returns.
#include "arguments.h"
#include "basis.h"
#include "bits.h"
#include "exact.h"

namespace {

using namespace fieldpress::quant;

std::unique_ptr<int32_t[]> zeros(int64_t rows, int64_t columns) {
  return std::unique_ptr<int32_t[]>(new int32_t[static_cast<size_t>(rows * columns)]());
}

nb::bytes encode_ints(
    In<int32_t, 2> symbols, In<int32_t, 1> scale, In<uint8_t, 2> context, In<int32_t, 2> neighbors,
    In<int32_t, 1> limits) {
  const IntMatrix m =
      int_matrix(length(symbols), length(symbols, 1), scale, context, neighbors, limits);
  check_symbols(m, symbols.data());
  std::vector<uint8_t> bytes;
  {
    nb::gil_scoped_release release;
    EncodeIo io;
    code_ints(io, m, const_cast<int32_t*>(symbols.data()));  // Encoding only reads.
    bytes = io.coder.finish();
  }
  return to_bytes(bytes);
}

Out<int32_t, 2> decode_ints(
    nb::bytes data, int64_t channels, In<int32_t, 1> scale, In<uint8_t, 2> context,
    In<int32_t, 2> neighbors, In<int32_t, 1> limits) {
  const int64_t rows = length(scale);
  const IntMatrix m = int_matrix(rows, channels, scale, context, neighbors, limits);
  auto symbols = zeros(rows, channels);
  {
    nb::gil_scoped_release release;
    DecodeIo io = decoder(data);
    code_ints(io, m, symbols.get());
    if (!io.coder.finished()) {
      throw std::invalid_argument("coded integers: the stream does not end with the last symbol");
    }
  }
  return own(std::move(symbols), static_cast<size_t>(rows), static_cast<size_t>(channels));
}

nb::tuple quantise_predicted(
    In<int32_t, 2> wanted, In<int32_t, 1> scale, In<int32_t, 2> neighbors, In<int32_t, 2> side,
    In<int32_t, 2> weights, In<int32_t, 1> fill, int64_t round, int64_t bias) {
  const int64_t rows = length(wanted), channels = length(wanted, 1);
  const Prediction p =
      prediction(rows, channels, scale, neighbors, side, weights, fill, bias);
  check(round > 0 && round <= 64, "round", "1..64", round);
  auto symbols = zeros(rows, channels), values = zeros(rows, channels);
  {
    nb::gil_scoped_release release;
    quantise(p, wanted.data(), round, symbols.get(), values.get());
  }
  const size_t n = static_cast<size_t>(rows), c = static_cast<size_t>(channels);
  return nb::make_tuple(own(std::move(symbols), n, c), own(std::move(values), n, c));
}

Out<int32_t, 2> reconstruct_predicted(
    In<int32_t, 2> symbols, In<int32_t, 1> scale, In<int32_t, 2> neighbors, In<int32_t, 2> side,
    In<int32_t, 2> weights, In<int32_t, 1> fill, int64_t bias) {
  const int64_t rows = length(symbols), channels = length(symbols, 1);
  const Prediction p =
      prediction(rows, channels, scale, neighbors, side, weights, fill, bias);
  std::unique_ptr<int32_t[]> values(new int32_t[static_cast<size_t>(rows * channels)]);
  {
    nb::gil_scoped_release release;
    reconstruct(p, symbols.data(), values.get());
  }
  return own(std::move(values), static_cast<size_t>(rows), static_cast<size_t>(channels));
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
    DecodeIo io = decoder(data);
    code_octree(io, depth, count, leaves);
    if (!io.coder.finished()) {
      throw std::invalid_argument("octree: the stream does not end with the last leaf");
    }
  }
  std::unique_ptr<uint64_t[]> out(new uint64_t[leaves.size()]);
  std::copy(leaves.begin(), leaves.end(), out.get());
  return own(std::move(out), leaves.size());
}

template <int k>
void neighbors_of(const In<uint64_t, 1>& codes, int depth, int wanted, int32_t* out) {
  if constexpr (k > 0) {
    if (wanted < k) return neighbors_of<k - 1>(codes, depth, wanted, out);
    causal_neighbors<k>(codes.data(), length(codes), depth, out);
  }
}
Out<int32_t, 2> neighbors(In<uint64_t, 1> codes, int depth, int k) {
  check_codes(codes, depth);
  check(k >= 0 && k <= kMaxNeighbors, "k", "0..8", k);
  const size_t rows = codes.shape(0);
  std::unique_ptr<int32_t[]> out(new int32_t[rows * static_cast<size_t>(k)]);
  {
    nb::gil_scoped_release release;
    neighbors_of<kMaxNeighbors>(codes, depth, k, out.get());
  }
  return own(std::move(out), rows, static_cast<size_t>(k));
}

nb::bytes pack_bits(In<uint32_t, 1> values, In<uint8_t, 1> widths) {
  check(length(values) == length(widths), "widths", "one a value", length(widths));
  BitWriter writer;
  for (size_t i = 0; i < values.shape(0); ++i) {
    const int width = widths.data()[i];
    const uint32_t value = values.data()[i];
    check(width <= 32, "widths", "0..32", width);
    const bool fits = width == 32 || (value >> width) == 0;
    check(fits, "values", "within their width, at", static_cast<int64_t>(i));
    if (width) writer.put(value, width);
  }
  return to_bytes(writer.finish());
}

Out<uint32_t, 1> unpack_bits(nb::bytes data, In<uint8_t, 1> widths) {
  uint64_t total = 0;
  for (size_t i = 0; i < widths.shape(0); ++i) {
    check(widths.data()[i] <= 32, "widths", "0..32", widths.data()[i]);
    total += widths.data()[i];
  }
  const uint64_t size = (total + 7) / 8;
  if (size != data.size()) {
    fail("bits", std::to_string(size) + " bytes", static_cast<int64_t>(data.size()));
  }
  BitReader reader(reinterpret_cast<const uint8_t*>(data.c_str()));
  std::unique_ptr<uint32_t[]> out(new uint32_t[widths.shape(0)]);
  for (size_t i = 0; i < widths.shape(0); ++i) out[i] = reader.get(widths.data()[i]);
  return own(std::move(out), widths.shape(0));
}

Out<uint64_t, 1> morton_codes(In<uint32_t, 2> cells) {
  check(cells.shape(1) == 3, "cells", "[N, 3]", length(cells, 1));
  std::unique_ptr<uint64_t[]> out(new uint64_t[cells.shape(0)]);
  for (size_t i = 0; i < cells.shape(0); ++i) {
    const uint32_t* c = cells.data() + 3 * i;
    for (int a = 0; a < 3; ++a) check(c[a] < (1u << 21), "cells", "below 2^21", c[a]);
    out[i] = morton(c[0], c[1], c[2]);
  }
  return own(std::move(out), cells.shape(0));
}

Out<uint32_t, 2> morton_cells(In<uint64_t, 1> codes) {
  std::unique_ptr<uint32_t[]> out(new uint32_t[codes.shape(0) * 3]);
  for (size_t i = 0; i < codes.shape(0); ++i) {
    for (size_t a = 0; a < 3; ++a) {
      out[3 * i + a] = static_cast<uint32_t>(gather_bits(codes.data()[i] >> a));
    }
  }
  return own(std::move(out), codes.shape(0), 3);
}

// values [N, D] times a basis [D, E], each row summed in the order of D in doubles: with
// contraction off this is the same on every machine, which a BLAS product is not.
Out<float, 2> apply_basis(In<int32_t, 2> values, In<double, 2> basis, In<double, 1> offset) {
  const size_t rows = values.shape(0), d = values.shape(1), e = basis.shape(1);
  if (basis.shape(0) != d) fail("basis", std::to_string(d) + " rows", length(basis));
  if (offset.shape(0) != e) fail("offset", std::to_string(e) + " values", length(offset));
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
  return own(std::move(out), rows, e);
}

using Writable = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
void apply_bytes(
    In<int32_t, 2> values, In<int8_t, 2> basis, double factor, Writable out, int64_t first) {
  const size_t rows = values.shape(0), d = values.shape(1), width = out.shape(1);
  if (basis.shape(0) != d) fail("basis", std::to_string(d) + " rows", length(basis));
  if (out.shape(0) != rows) fail("out", std::to_string(rows) + " rows", length(out));
  const bool fits = first >= 0 && first + length(basis, 1) <= length(out, 1);
  check(fits, "out", "columns for the basis", length(out, 1));
  nb::gil_scoped_release release;
  ByteBasis product(basis.data(), d, basis.shape(1));
  for (size_t i = 0; i < rows; ++i) {
    product.apply(values.data() + i * d, factor, out.data() + i * width + first);
  }
}

template <class Function>
Out<double, 1> each(const In<double, 1>& x, const Function& function) {
  const size_t count = x.shape(0);
  const double* in = x.data();
  std::unique_ptr<double[]> out(new double[count]);
  {
    nb::gil_scoped_release release;
    for (size_t i = 0; i < count; ++i) out[i] = function(in[i]);
  }
  return own(std::move(out), count);
}
Out<double, 2> sine_and_cosine(In<double, 1> x) {
  const size_t count = x.shape(0);
  const double* in = x.data();
  std::unique_ptr<double[]> out(new double[2 * count]);
  {
    nb::gil_scoped_release release;
    for (size_t i = 0; i < count; ++i) exact_sincos(in[i], out[i], out[count + i]);
  }
  return own(std::move(out), 2, count);
}
Out<double, 2> quaternions(In<double, 2> square, In<double, 1> roll) {
  const size_t count = roll.shape(0);
  const bool two = square.shape(0) == count && square.shape(1) == 2;
  check(two, "square", "two numbers a roll", length(square));
  std::unique_ptr<double[]> out(new double[4 * count]);
  {
    nb::gil_scoped_release release;
    const double* s = square.data();
    for (size_t i = 0; i < count; ++i) turned(s[2 * i], s[2 * i + 1], roll.data()[i], &out[4 * i]);
  }
  return own(std::move(out), count, 4);
}

uint32_t checksum(nb::bytes data) {
  return crc32c(reinterpret_cast<const uint8_t*>(data.c_str()), data.size());
}

}  // namespace

NB_MODULE(_native, m) {
  const auto arg = [](const char* name) { return nb::arg(name).noconvert(); };
  m.def("encode_ints", &encode_ints, arg("symbols"), arg("scale"), arg("context"),
        arg("neighbors"), arg("limits"));
  m.def("decode_ints", &decode_ints, nb::arg("data"), nb::arg("channels"), arg("scale"),
        arg("context"), arg("neighbors"), arg("limits"));
  m.def("quantise_predicted", &quantise_predicted, arg("wanted"), arg("scale"), arg("neighbors"),
        arg("side"), arg("weights"), arg("fill"), nb::arg("round"), nb::arg("bias"));
  m.def("reconstruct_predicted", &reconstruct_predicted, arg("symbols"), arg("scale"),
        arg("neighbors"), arg("side"), arg("weights"), arg("fill"), nb::arg("bias"));
  m.def("encode_octree", &encode_octree, arg("codes"), nb::arg("depth"));
  m.def("decode_octree", &decode_octree, nb::arg("data"), nb::arg("depth"), nb::arg("count"));
  m.def("neighbors", &neighbors, arg("codes"), nb::arg("depth"), nb::arg("k"));
  m.def("pack_bits", &pack_bits, arg("values"), arg("widths"));
  m.def("unpack_bits", &unpack_bits, nb::arg("data"), arg("widths"));
  m.def("morton_codes", &morton_codes, arg("cells"));
  m.def("morton_cells", &morton_cells, arg("codes"));
  m.def("apply_basis", &apply_basis, arg("values"), arg("basis"), arg("offset"));
  m.def("apply_bytes", &apply_bytes, arg("values"), arg("basis"), nb::arg("factor"), arg("out"),
        nb::arg("first"));
  m.def("exp", [](In<double, 1> x) { return each(x, exact_exp); }, arg("x"));
  m.def("log", [](In<double, 1> x) { return each(x, exact_log); }, arg("x"));
  m.def("sincos", &sine_and_cosine, arg("x"));
  m.def("quaternions", &quaternions, arg("square"), arg("roll"));
  m.def("crc32c", &checksum, nb::arg("data"));
}

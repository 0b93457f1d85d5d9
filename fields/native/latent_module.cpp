// The Python face of latent grids: shapes are checked here, meaning in latent_ops.py.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "../../render/native/pool.h"
#include "encoding.h"
#include "latent_parts.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using namespace fieldpress::fields;

template <typename T>
using In = nb::ndarray<const T, nb::device::cpu, nb::c_contig>;
template <typename T>
using Out = nb::ndarray<T, nb::device::cpu, nb::c_contig>;

void expect(bool good, const char* what) {
  if (!good) throw std::invalid_argument(std::string(what) + ": unexpected shape or value");
}

using PlaneNumbers = std::tuple<int64_t, int, int, int>;  // first, height, width, shift
using TapNumbers = std::tuple<int, int, int>;             // plane, dy, dx

SlidingNet make_net(int layers, int hidden, int outputs, const std::vector<PlaneNumbers>& planes,
                    const std::vector<TapNumbers>& taps, bool replicate) {
  expect(0 <= layers && layers <= 2, "layers");
  expect(1 <= hidden && hidden <= MAX_HIDDEN, "hidden");
  expect(1 <= outputs && outputs <= MAX_OUTPUTS, "outputs");
  expect(!planes.empty(), "planes");
  SlidingNet net{layers, hidden, outputs, {}, {}, replicate, 0, 0};
  for (const auto& [first, height, width, shift] : planes) {
    expect(first >= 0 && height > 0 && width > 0 && height < 1 << 16 && width < 1 << 16, "planes");
    expect(0 <= shift && shift <= 3, "planes");
    net.planes.push_back({first, height, width, shift});
  }
  net.height = net.planes[0].height, net.width = net.planes[0].width;
  for (const LatentPlane& plane : net.planes)
    expect((net.height - 1) >> plane.shift < plane.height &&
               (net.width - 1) >> plane.shift < plane.width, "planes");
  expect(!taps.empty() && taps.size() <= MAX_TAPS, "taps");
  for (const auto& [plane, dy, dx] : taps) {
    expect(0 <= plane && plane < static_cast<int>(planes.size()), "taps");
    const int most = MAX_REACH >> net.planes[static_cast<size_t>(plane)].shift;
    expect(-most <= dx && dx <= most && -MAX_REACH <= dy && dy <= MAX_REACH, "taps");
    net.taps.push_back({plane, dy, dx});
  }
  return net;
}

void check_buffer(const SlidingNet& net, size_t size, const char* what) {
  for (const LatentPlane& plane : net.planes)
    expect(static_cast<uint64_t>(plane.first) + uint64_t(plane.height) * uint64_t(plane.width) <= size,
           what);
}

constexpr int BANDS = 4;  // Of rows, a thread: some have less to do than others.

// Calls run(first, last) for rows of an output that no two of them write.
template <typename F>
void in_bands(int threads, int rows, const F& run) {
  const int bands = threads > 1 ? std::min(rows, BANDS * std::min(threads, 256)) : 1;
  fieldpress::render::parallel(threads, bands, [&](int k) {
    run(static_cast<int>(int64_t{rows} * k / bands),
        static_cast<int>(int64_t{rows} * (k + 1) / bands));
  });
}

size_t places(const SlidingNet& net) {
  return static_cast<size_t>(net.outputs) * static_cast<size_t>(net.height) *
         static_cast<size_t>(net.width);
}

void slide(const SlidingNet& net, In<float> buffer, In<float> parameters, Out<float> out,
           int threads) {
  check_buffer(net, buffer.size(), "buffer");
  expect(parameters.size() == static_cast<size_t>(net.parameters()), "parameters");
  expect(out.size() == places(net), "out");
  const float *const from = buffer.data(), *const p = parameters.data();
  float* const to = out.data();
  nb::gil_scoped_release release;
  const auto run = kernels().latent.slide;
  in_bands(threads, net.height,
           [&](int first, int last) { run(net, from, p, first, last, to); });
}

void slide_back(const SlidingNet& net, In<float> buffer, In<float> parameters, In<float> upstream,
                Out<float> grad, Out<float> parameter_grad) {
  check_buffer(net, buffer.size(), "buffer");
  expect(parameters.size() == static_cast<size_t>(net.parameters()), "parameters");
  expect(upstream.size() == places(net), "upstream");
  expect(grad.size() == buffer.size() || grad.size() == 0, "grad");
  expect(parameter_grad.size() == parameters.size(), "parameter_grad");
  const float *const from = buffer.data(), *const p = parameters.data(), *const g = upstream.data();
  float *const to = grad.size() ? grad.data() : nullptr, *const pg = parameter_grad.data();
  nb::gil_scoped_release release;
  kernels().latent.slide_back(net, from, p, g, to, pg);
}

double rate(const SlidingNet& net, In<float> buffer, In<float> parameters, Out<float> grad,
            Out<float> parameter_grad, std::optional<Out<float>> each) {
  check_buffer(net, buffer.size(), "buffer");
  expect(net.outputs == 2 && net.planes[0].shift == 0, "net");
  expect(parameters.size() == static_cast<size_t>(net.parameters()), "parameters");
  expect(grad.size() == buffer.size() || grad.size() == 0, "grad");
  expect(parameter_grad.size() == (grad.size() ? parameters.size() : 0), "parameter_grad");
  const float *const from = buffer.data(), *const p = parameters.data();
  expect(!each || each->size() == buffer.size(), "each");
  float *const to = grad.size() ? grad.data() : nullptr, *const pg = parameter_grad.data();
  float* const places = each ? each->data() : nullptr;
  nb::gil_scoped_release release;
  return kernels().latent.rate(net, from, p, to, pg, places);
}

void soften(In<float> x, In<float> noise, float cold, float over, float spread, Out<float> out,
            Out<float> slope) {
  expect(noise.size() == x.size(), "noise");
  expect(out.size() == x.size() && slope.size() == x.size(), "out");
  const auto run = kernels().latent.soften;
  const float *const from = x.data(), *const by = noise.data();
  float *const to = out.data(), *const slopes = slope.data();
  const auto count = static_cast<int64_t>(x.size());
  nb::gil_scoped_release release;
  run(from, by, count, cold, over, spread, to, slopes);
}

struct Stretch {  // Planes [C, h, w] to [C, H, W].
  int count, height, width, out_height, out_width;
  template <typename A, typename B>
  Stretch(const A& x, const B& out) {
    expect(x.ndim() == 3 && out.ndim() == 3 && x.shape(0) == out.shape(0), "x");
    for (size_t axis = 1; axis < 3; ++axis) {
      expect(x.shape(axis) > 0 && x.shape(axis) < 1 << 16, "x");
      expect((out.shape(axis) + 1) / 2 == x.shape(axis), "out");
    }
    count = static_cast<int>(x.shape(0));
    height = static_cast<int>(x.shape(1)), width = static_cast<int>(x.shape(2));
    out_height = static_cast<int>(out.shape(1)), out_width = static_cast<int>(out.shape(2));
  }
  int64_t from(int k) const { return int64_t{k} * height * width; }
  int64_t to(int k) const { return int64_t{k} * out_height * out_width; }
};

void upsample(In<float> x, In<float> kernel, Out<float> out, int threads) {
  expect(kernel.size() == 4, "kernel");
  const Stretch s(x, out);
  const auto run = kernels().latent.upsample;
  const float *const from = x.data(), *const weights = kernel.data();
  float* const to = out.data();
  nb::gil_scoped_release release;
  fieldpress::render::parallel(threads, s.count, [&](int k) {
    run(from + s.from(k), s.height, s.width, weights, s.out_height, s.out_width, to + s.to(k));
  });
}

// Planes [3, H, W] about 0..1 to a picture [H, W, 3].
void to_bytes(In<float> planes, Out<uint8_t> out, int threads) {
  expect(planes.ndim() == 3 && planes.shape(0) == 3, "planes");
  expect(planes.shape(1) < 1 << 16 && planes.shape(2) < 1 << 16, "planes");
  expect(out.size() == planes.size(), "out");
  const int height = static_cast<int>(planes.shape(1)), width = static_cast<int>(planes.shape(2));
  const auto run = kernels().latent.to_bytes;
  const float* const from = planes.data();
  uint8_t* const to = out.data();
  nb::gil_scoped_release release;
  in_bands(threads, height,
           [&](int first, int last) { run(from, height, width, first, last, to); });
}

void upsample_back(In<float> x, In<float> kernel, In<float> upstream, Out<float> grad,
                   Out<float> kernel_grad) {
  expect(kernel.size() == 4 && kernel_grad.size() == 4, "kernel");
  expect(grad.size() == x.size(), "grad");
  const Stretch s(x, upstream);
  const auto run = kernels().latent.upsample_back;
  const float *const from = x.data(), *const weights = kernel.data(), *const g = upstream.data();
  float *const to = grad.data(), *const kg = kernel_grad.data();
  nb::gil_scoped_release release;
  for (int k = 0; k < s.count; ++k)
    run(from + s.from(k), s.height, s.width, weights, g + s.to(k), s.out_height, s.out_width,
        to + s.from(k), kg);
}

using Tables = std::tuple<In<uint16_t>, In<int32_t>, In<int32_t>>;  // tails, first, reach

TailTables tables_of(const Tables& tables) {
  const auto& [tails, first, reach] = tables;
  expect(first.size() == reach.size() && first.size() > 0 && first.size() < 1 << 16, "tables");
  for (size_t k = 0; k < first.size(); ++k) {
    const int64_t start = first.data()[k], far = reach.data()[k];
    expect(start >= 0 && far > 0 && far < 1 << 12, "tables");
    expect(start + 16 * far + 1 <= static_cast<int64_t>(tails.size()), "tables");
    const uint16_t* const tail = tails.data() + start;
    expect(tail[0] <= 16383 - far, "tables");
    for (int64_t j = 0; j < 16 * far; ++j) expect(tail[j + 1] <= tail[j], "tables");
  }
  return {tails.data(), first.data(), reach.data(), static_cast<int>(first.size())};
}

void check_coder(const std::vector<SlidingNet>& nets, In<int32_t> parameters, size_t size) {
  int64_t total = 0;
  for (const SlidingNet& net : nets) {
    check_buffer(net, size, "symbols");
    expect(net.outputs == 2 && net.layers == 2 && !net.replicate, "nets");
    for (const Tap& tap : net.taps)
      expect(tap.plane > 0 || tap.dy < 0 || (tap.dy == 0 && tap.dx < 0), "taps");
    total += net.parameters();
  }
  expect(parameters.size() == static_cast<size_t>(total), "parameters");
}

nb::bytes bytes_of(const std::vector<uint8_t>& found) {
  return nb::bytes(reinterpret_cast<const char*>(found.data()), found.size());
}

nb::bytes encode_planes(const std::vector<SlidingNet>& nets, In<int32_t> parameters,
                        const Tables& tables, In<int32_t> symbols) {
  check_coder(nets, parameters, symbols.size());
  const TailTables tails = tables_of(tables);
  std::vector<uint8_t> found;
  {
    nb::gil_scoped_release release;
    found = encode_latents(nets, parameters.data(), tails, symbols.data(),
                           static_cast<int64_t>(symbols.size()));
  }
  return bytes_of(found);
}

void decode_planes(const std::vector<SlidingNet>& nets, In<int32_t> parameters,
                   const Tables& tables, const nb::bytes& data, Out<int32_t> symbols) {
  check_coder(nets, parameters, symbols.size());
  const TailTables tails = tables_of(tables);
  const auto* const from = reinterpret_cast<const uint8_t*>(data.c_str());
  nb::gil_scoped_release release;
  decode_latents(nets, parameters.data(), tails, from, data.size(), symbols.data(),
                 static_cast<int64_t>(symbols.size()));
}

void check_centered(const TailTables& tails, In<int32_t> centers, In<int32_t> scales) {
  expect(centers.size() == scales.size(), "scales");
  for (size_t i = 0; i < scales.size(); ++i) {
    expect(scales.data()[i] >= 0 && scales.data()[i] < tails.scales, "scales");
    expect(centers.data()[i] > -(1 << 20) && centers.data()[i] < 1 << 20, "centers");
  }
}

nb::bytes encode_numbers(In<int32_t> symbols, In<int32_t> centers, In<int32_t> scales,
                         const Tables& tables) {
  const TailTables tails = tables_of(tables);
  check_centered(tails, centers, scales);
  expect(symbols.size() == centers.size(), "symbols");
  return bytes_of(encode_centered(symbols.data(), centers.data(), scales.data(),
                                  static_cast<int64_t>(symbols.size()), tails));
}

void decode_numbers(const nb::bytes& data, In<int32_t> centers, In<int32_t> scales,
                    const Tables& tables, Out<int32_t> symbols) {
  const TailTables tails = tables_of(tables);
  check_centered(tails, centers, scales);
  expect(symbols.size() == centers.size(), "symbols");
  decode_centered(reinterpret_cast<const uint8_t*>(data.c_str()), data.size(), centers.data(),
                  scales.data(), static_cast<int64_t>(symbols.size()), tails, symbols.data());
}

Picture picture_of(const In<uint8_t>& x, const char* what) {
  expect(x.ndim() == 3 && x.shape(0) > 0 && x.shape(1) > 0 && x.shape(2) > 0, what);
  expect(x.shape(0) < 1 << 16 && x.shape(1) < 1 << 16 && x.shape(2) <= 4, what);
  return {x.data(), static_cast<int>(x.shape(0)), static_cast<int>(x.shape(1)),
          static_cast<int>(x.shape(2))};
}

template <typename T>
void check_motion(const Picture& of, const T& motion, int block) {
  expect(4 <= block && block <= MAX_BLOCK, "block");
  expect(motion.ndim() == 3 && motion.shape(2) == 2, "motion");
  expect(motion.shape(0) == static_cast<size_t>((of.height + block - 1) / block) &&
             motion.shape(1) == static_cast<size_t>((of.width + block - 1) / block), "motion");
}

void find_motion(In<uint8_t> now, In<uint8_t> before, int block, int reach, int price,
                 Out<int32_t> motion) {
  const Picture to = picture_of(now, "now"), from = picture_of(before, "before");
  expect(to.channels == 1 && from.channels == 1 && to.height == from.height &&
             to.width == from.width, "before");
  expect(0 <= reach && reach <= 64 && 0 <= price && price < 1 << 12, "reach");
  check_motion(to, motion, block);
  int32_t* const found = motion.data();
  nb::gil_scoped_release release;
  search_motion(to, from, block, reach, price, found);
}

void move(In<uint8_t> picture, In<int32_t> motion, int block, Out<float> out, int threads) {
  const Picture from = picture_of(picture, "picture");
  check_motion(from, motion, block);
  for (size_t i = 0; i < motion.size(); ++i)
    expect(-MAX_MOTION <= motion.data()[i] && motion.data()[i] <= MAX_MOTION, "motion");
  expect(out.size() == picture.size(), "out");
  const int32_t* const by = motion.data();
  float* const to = out.data();
  nb::gil_scoped_release release;
  in_bands(threads, static_cast<int>(motion.shape(0)),
           [&](int first, int last) { move_picture(from, by, block, first, last, to); });
}

// Vectors of their differences to guesses.
void restore_motion(Out<int32_t> motion, In<int32_t> rest) {
  expect(motion.ndim() == 3 && motion.shape(2) == 2 && rest.size() == motion.size(), "motion");
  const int down = static_cast<int>(motion.shape(0)), across = static_cast<int>(motion.shape(1));
  int32_t* const m = motion.data();
  for (int row = 0; row < down; ++row)
    for (int column = 0; column < across; ++column) {
      int guess[2];
      guess_motion(m, across, row, column, guess);
      for (int axis = 0; axis < 2; ++axis) {
        const int at = 2 * (row * across + column) + axis, away = rest.data()[at];
        expect(-2 * MAX_MOTION <= away && away <= 2 * MAX_MOTION, "rest");
        m[at] = away + guess[axis];
        expect(-MAX_MOTION <= m[at] && m[at] <= MAX_MOTION, "rest");
      }
    }
}

// Cells [rows, columns, 2 + 2 references]: level, mode, dy and dx of each reference.
template <typename T>
int references_of(const T& parts) {
  expect(parts.ndim() == 3 && (parts.shape(2) == 4 || parts.shape(2) == 6), "parts");
  return static_cast<int>(parts.shape(2)) / 2 - 1;
}

template <typename T>
Field empty_of(const T& parts, const std::vector<int>& away) {
  expect(static_cast<int>(away.size()) == references_of(parts), "away");
  for (const int frames : away) expect(frames && std::abs(frames) < 1 << 12, "away");
  expect(0 < parts.shape(0) && parts.shape(0) < 1 << 13 && 0 < parts.shape(1) &&
             parts.shape(1) < 1 << 13, "parts");
  return Field(static_cast<int>(parts.shape(0)) * CELL, static_cast<int>(parts.shape(1)) * CELL,
               away);
}

template <typename T>
Field field_of(const T& parts, const std::vector<int>& away) {
  Field field = empty_of(parts, away);
  const int references = field.references();
  const int32_t* from = parts.data();
  for (int row = 0; row < field.rows(); ++row)
    for (int column = 0; column < field.columns(); ++column) {
      Cell& cell = field.at(row, column);
      cell.level = *from++, cell.mode = *from++;
      expect(0 <= cell.level && cell.level < fieldpress::fields::LEVELS, "parts");
      expect(references == 1 ? cell.mode == 1 : 0 <= cell.mode && cell.mode <= 2, "parts");
      for (int k = 0; k < references; ++k) {
        cell.v[k] = {from[0], from[1]}, from += 2;
        for (const int32_t x : {cell.v[k].dy, cell.v[k].dx})
          expect(-MAX_MOTION <= x && x <= MAX_MOTION, "parts");
      }
    }
  return field;
}

void store(const Field& field, int32_t* to) {
  for (int row = 0; row < field.rows(); ++row)
    for (int column = 0; column < field.columns(); ++column) {
      const Cell& cell = field.at(row, column);
      *to++ = cell.level, *to++ = cell.mode;
      for (int k = 0; k < field.references(); ++k) *to++ = cell.v[k].dy, *to++ = cell.v[k].dx;
    }
}

nb::bytes encode_parts_of(In<int32_t> parts, const std::vector<int>& away) {
  return bytes_of(encode_parts(field_of(parts, away)));
}

void decode_parts_of(const nb::bytes& data, const std::vector<int>& away, Out<int32_t> parts) {
  Field field = empty_of(parts, away);
  decode_parts(reinterpret_cast<const uint8_t*>(data.c_str()), data.size(), field);
  store(field, parts.data());
}

void count_parts_of(In<int32_t> parts, const std::vector<int>& away, Out<float> counts) {
  expect(counts.ndim() == 2 && counts.shape(0) == PART_CONTEXTS && counts.shape(1) == 2, "counts");
  count_parts(field_of(parts, away), reinterpret_cast<float(*)[2]>(counts.data()));
}

std::vector<Picture> pictures_of(const Field& field,
                                 const std::vector<In<uint8_t>>& references) {
  std::vector<Picture> found;
  for (const auto& reference : references) found.push_back(picture_of(reference, "references"));
  expect(static_cast<int>(found.size()) == field.references(), "references");
  for (const Picture& p : found)
    expect(p.height == found[0].height && p.width == found[0].width && p.channels == 3 &&
               (p.height + CELL - 1) / CELL == field.rows() &&
               (p.width + CELL - 1) / CELL == field.columns(), "references");
  return found;
}

void compose_of(const std::vector<In<uint8_t>>& references, In<int32_t> parts, Out<float> out,
                int threads) {
  const Field field = field_of(parts, std::vector<int>(static_cast<size_t>(references_of(parts)), -1));
  const std::vector<Picture> from = pictures_of(field, references);
  expect(out.size() == references[0].size(), "out");
  float* const to = out.data();
  nb::gil_scoped_release release;
  in_bands(threads, field.rows(),
           [&](int first, int last) { compose(field, from, first, last, to); });
}

void search_parts_of(In<uint8_t> now, const std::vector<In<uint8_t>>& references, float price,
                     int passes, const std::vector<int>& away,
                     const std::vector<In<int32_t>>& seeds, Out<int32_t> parts) {
  Field field = empty_of(parts, away);
  const std::vector<Picture> from = pictures_of(field, references);
  const Picture to = picture_of(now, "now");
  expect(to.height == from[0].height && to.width == from[0].width && to.channels == 3, "now");
  expect(price >= 0 && passes >= 1, "passes");
  std::vector<const int32_t*> starts;
  for (const auto& seed : seeds) {
    expect(seed.size() == parts.shape(0) * parts.shape(1) * 2 * from.size(), "seeds");
    starts.push_back(seed.data());
  }
  int32_t* const found = parts.data();
  nb::gil_scoped_release release;
  search_parts(to, from, price, passes, starts, field);
  store(field, found);
}

}  // namespace

void bind_latent(nb::module_& m) {
  nb::class_<SlidingNet>(m, "SlidingNet")
      .def(nb::new_(&make_net), "layers"_a, "hidden"_a, "outputs"_a, "planes"_a, "taps"_a,
           "replicate"_a)
      .def_prop_ro("parameters", [](const SlidingNet& net) { return net.parameters(); });
  m.def("slide", &slide, "net"_a, "buffer"_a.noconvert(), "parameters"_a.noconvert(),
        "out"_a.noconvert(), "threads"_a = 1);
  m.def("slide_back", &slide_back, "net"_a, "buffer"_a.noconvert(), "parameters"_a.noconvert(),
        "upstream"_a.noconvert(), "grad"_a.noconvert(), "parameter_grad"_a.noconvert());
  m.def("rate", &rate, "net"_a, "buffer"_a.noconvert(), "parameters"_a.noconvert(),
        "grad"_a.noconvert(), "parameter_grad"_a.noconvert(), "each"_a.noconvert() = nb::none());
  m.def("soften", &soften, "x"_a.noconvert(), "noise"_a.noconvert(), "cold"_a, "over"_a,
        "spread"_a, "out"_a.noconvert(), "slope"_a.noconvert());
  m.def("upsample", &upsample, "x"_a.noconvert(), "kernel"_a.noconvert(), "out"_a.noconvert(),
        "threads"_a = 1);
  m.def("to_bytes", &to_bytes, "planes"_a.noconvert(), "out"_a.noconvert(), "threads"_a = 1);
  m.def("upsample_back", &upsample_back, "x"_a.noconvert(), "kernel"_a.noconvert(),
        "upstream"_a.noconvert(), "grad"_a.noconvert(), "kernel_grad"_a.noconvert());
  m.def("find_motion", &find_motion, "now"_a.noconvert(), "before"_a.noconvert(), "block"_a,
        "reach"_a, "price"_a, "motion"_a.noconvert());
  m.def("move", &move, "picture"_a.noconvert(), "motion"_a.noconvert(), "block"_a,
        "out"_a.noconvert(), "threads"_a = 1);
  m.def("restore_motion", &restore_motion, "motion"_a.noconvert(), "rest"_a.noconvert());
  m.def("encode_parts", &encode_parts_of, "parts"_a.noconvert(), "away"_a);
  m.def("decode_parts", &decode_parts_of, "data"_a, "away"_a, "parts"_a.noconvert());
  m.def("count_parts", &count_parts_of, "parts"_a.noconvert(), "away"_a, "counts"_a.noconvert());
  m.def("compose", &compose_of, "references"_a, "parts"_a.noconvert(), "out"_a.noconvert(),
        "threads"_a = 1);
  m.def("search_parts", &search_parts_of, "now"_a.noconvert(), "references"_a, "price"_a,
        "passes"_a, "away"_a, "seeds"_a, "parts"_a.noconvert());
  m.def("encode_planes", &encode_planes, "nets"_a, "parameters"_a.noconvert(), "tables"_a,
        "symbols"_a.noconvert());
  m.def("decode_planes", &decode_planes, "nets"_a, "parameters"_a.noconvert(), "tables"_a,
        "data"_a, "symbols"_a.noconvert());
  m.def("encode_numbers", &encode_numbers, "symbols"_a.noconvert(), "centers"_a.noconvert(),
        "scales"_a.noconvert(), "tables"_a);
  m.def("decode_numbers", &decode_numbers, "data"_a, "centers"_a.noconvert(),
        "scales"_a.noconvert(), "tables"_a, "symbols"_a.noconvert());
}

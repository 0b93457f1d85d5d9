// Decoders of coded streams with any bytes: `LLVMFuzzerTestOneInput` as libFuzzer calls it, and
// without clang (unless FIELDPRESS_LIBFUZZER) a main() that replays files and mutates good streams.
//
//   decoders FILE...        replays inputs
//   decoders SECONDS SEED   mutates, for so long; an input that crashes lies in ./crash-input
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>

#include "../../fields/native/encoding.h"
#include "../../quant/native/ints.h"
#include "../../quant/native/octree.h"

namespace fieldpress::fields {
namespace baseline {
void predict(const IntegerNet&, const int32_t*, int32_t*);
}
Kernels kernels() {  // All that the coder of latents asks for.
  Kernels found{};
  found.latent.predict = baseline::predict;
  return found;
}
}  // namespace fieldpress::fields

namespace {

namespace quant = fieldpress::quant;
namespace fields = fieldpress::fields;
using Bytes = std::vector<uint8_t>;
constexpr int KINDS = 4;  // Octree, integers, latents, numbers.
constexpr size_t HEAD = 6;

// What the first bytes of an input say: the decoder, its sizes and a seed of its side information.
struct Head {
  int kind, a, b, c;
  std::mt19937 side;
  explicit Head(const uint8_t* p)
      : kind(p[0] % KINDS), a(p[1]), b(p[2]), c(p[3]), side(p[4] | unsigned{p[5]} << 8) {}
  int below(int most) { return static_cast<int>(side() % static_cast<unsigned>(most)); }
};

// Side information of a matrix, within what the bindings let through (quant/native/arguments.h).
struct Matrix {
  std::vector<int32_t> scale, neighbors, limits;
  Bytes context;
  quant::IntMatrix of(Head& head) {
    quant::IntMatrix m;
    m.rows = head.a, m.channels = 1 + head.b % 20, m.k = head.c % 4;
    for (int i = 0; i < m.rows; ++i) {
      scale.push_back(1 + head.below(1 << head.below(12)));
      for (int k = 0; k < 2; ++k) context.push_back(static_cast<uint8_t>(head.below(32)));
      for (int k = 0; k < m.k; ++k) neighbors.push_back(i ? head.below(i + 1) - 1 : -1);
      limits.push_back(head.below(static_cast<int>(m.channels) + 1));
    }
    m.scale = scale.data(), m.context = context.data(), m.neighbors = neighbors.data();
    if (head.c & 4) m.limits = limits.data();
    return m;
  }
};

// Tails that fall in a line to nothing: as sharp a test of the bounds as the true ones.
struct Tables {
  std::vector<uint16_t> tails;
  std::vector<int32_t> first, reach;
  Tables() {
    for (int far : {1, 2, 7, 40, 255}) {
      first.push_back(static_cast<int32_t>(tails.size())), reach.push_back(far);
      const int top = (32768 - (2 * far + 1)) / 2;
      for (int j = 0; j <= 16 * far; ++j)
        tails.push_back(static_cast<uint16_t>(top - int64_t{top} * j / (16 * far)));
    }
  }
  fields::TailTables view() const {
    return {tails.data(), first.data(), reach.data(), static_cast<int>(first.size())};
  }
};

// Two planes, the second of twice the size, each seen by a network of two hidden layers.
struct Latents {
  std::vector<fields::SlidingNet> nets;
  std::vector<int32_t> parameters;
  int64_t size = 0;
  explicit Latents(Head& head) {
    const int height = 1 + head.a % 40, width = 1 + head.b % 40, hidden = 1 + head.c % 40;
    const int h = (height + 1) / 2, w = (width + 1) / 2;
    const fields::LatentPlane top{0, h, w, 0}, above{0, h, w, 1};
    const fields::LatentPlane own{int64_t{h} * w, height, width, 0};
    size = own.first + int64_t{height} * width;
    const std::vector<fields::Tap> near{{0, 0, -1}, {0, -1, 2}, {0, -3, -8}};
    std::vector<fields::Tap> both = near;
    both.push_back({1, 1, -1}), both.push_back({1, -1, 4});
    nets.push_back({2, hidden, 2, {top}, near, false, h, w});
    nets.push_back({2, hidden, 2, {own, above}, both, false, height, width});
    const int spread = 1 << head.below(27);  // Up to what weights and biases may be.
    for (const auto& net : nets)
      for (int64_t i = 0; i < net.parameters(); ++i)
        parameters.push_back(head.below(2 * spread) - spread);
  }
};

// Codes what is in `symbols` where `stream` is empty and `encode`, else decodes the stream.
template <bool ENCODE>
Bytes run(const uint8_t* head_bytes, const uint8_t* data, size_t size) {
  Head head(head_bytes);
  static const Tables tables;
  if (head.kind == 0) {
    const int depth = head.b % 21, count = head.a;
    std::vector<uint64_t> leaves;
    if (ENCODE) {
      for (int i = 0; i < count; ++i) leaves.push_back(head.side() & ((uint64_t{1} << (3 * depth)) - 1));
      std::sort(leaves.begin(), leaves.end());
      quant::EncodeIo io;
      quant::code_octree(io, depth, count, leaves);
      return io.coder.finish();
    }
    quant::DecodeIo io{{data, size}};
    quant::code_octree(io, depth, count, leaves);
  } else if (head.kind == 1) {
    Matrix side;
    const quant::IntMatrix m = side.of(head);
    std::vector<int32_t> symbols(static_cast<size_t>(m.rows * m.channels));
    if (ENCODE) {
      for (int64_t i = 0; i < m.rows; ++i) {
        const int64_t limit = m.limits ? m.limits[i] : m.channels;
        for (int64_t c = 0; c < limit; ++c)
          symbols[static_cast<size_t>(i * m.channels + c)] = head.below(9) - (c + 1 < limit ? 4 : 10);
      }
      quant::EncodeIo io;
      quant::code_ints(io, m, symbols.data());
      return io.coder.finish();
    }
    quant::DecodeIo io{{data, size}};
    quant::code_ints(io, m, symbols.data());
  } else if (head.kind == 2) {
    const Latents l(head);
    std::vector<int32_t> symbols(static_cast<size_t>(l.size));
    if (ENCODE) {
      for (auto& s : symbols) s = head.below(7) - 3;
      return fields::encode_latents(l.nets, l.parameters.data(), tables.view(), symbols.data(),
                                    l.size);
    }
    fields::decode_latents(l.nets, l.parameters.data(), tables.view(), data, size, symbols.data(),
                           l.size);
  } else {
    const size_t count = static_cast<size_t>(head.a);
    std::vector<int32_t> centers(count), scales(count), symbols(count);
    for (auto& x : centers) x = head.below(1 << 21) - (1 << 20) + 1;
    for (auto& x : scales) x = head.below(static_cast<int>(tables.first.size()));
    if (ENCODE) {
      for (size_t i = 0; i < count; ++i) symbols[i] = (centers[i] >> 4) + head.below(99) - 49;
      return fields::encode_centered(symbols.data(), centers.data(), scales.data(),
                                     static_cast<int64_t>(count), tables.view());
    }
    fields::decode_centered(data, size, centers.data(), scales.data(),
                            static_cast<int64_t>(count), tables.view(), symbols.data());
  }
  return {};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < HEAD) return 0;
  try {
    run<false>(data, data + HEAD, size - HEAD);
  } catch (const std::invalid_argument&) {  // What the bindings make a ValueError.
    return 0;
  }
  return 0;
}

#ifndef FIELDPRESS_LIBFUZZER
namespace {

Bytes seed(std::mt19937& rng) {
  Bytes made(HEAD);
  for (auto& x : made) x = static_cast<uint8_t>(rng());
  const Bytes stream = run<true>(made.data(), nullptr, 0);
  // Of a copy that ends where the stream does, so that a sanitiser sees one byte too far.
  Bytes whole(made.begin(), made.end());
  whole.insert(whole.end(), stream.begin(), stream.end());
  run<false>(whole.data(), whole.data() + HEAD, stream.size());  // A good one is never refused.
  return whole;
}

void mutate(Bytes& data, std::mt19937& rng) {
  for (unsigned n = 1 + rng() % 4; n > 0 && !data.empty(); --n) {
    const size_t at = rng() % data.size();
    switch (rng() % 5) {
      case 0: data[at] ^= static_cast<uint8_t>(1u << rng() % 8); break;
      case 1: data[at] = static_cast<uint8_t>(rng()); break;
      case 2: data.resize(at); break;
      case 3: data.insert(data.begin() + static_cast<int64_t>(at), static_cast<uint8_t>(rng())); break;
      default: data[at] = rng() & 1 ? 0 : 255;
    }
  }
}

void once(const Bytes& data) {
  const std::unique_ptr<uint8_t[]> exact(new uint8_t[data.size()]);
  std::copy(data.begin(), data.end(), exact.get());
  LLVMFuzzerTestOneInput(exact.get(), data.size());
}

}  // namespace

int main(int count, char** words) {
  const bool mutates = count == 3 && std::string(words[1]).find_first_not_of("0123456789") == std::string::npos;
  if (!mutates) {
    for (int i = 1; i < count; ++i) {
      std::ifstream file(words[i], std::ios::binary);
      once(Bytes(std::istreambuf_iterator<char>(file), {}));
    }
    std::printf("%d inputs replayed\n", count - 1);
    return 0;
  }
  std::mt19937 rng(static_cast<unsigned>(std::atoi(words[2])));
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(words[1]));
  long inputs = 0, seeds = 0;
  for (; std::chrono::steady_clock::now() < end; ++seeds) {
    const Bytes good = seed(rng);
    for (int n = 0; n < 50; ++n, ++inputs) {
      Bytes data = good;
      mutate(data, rng);
      if (std::FILE* file = std::fopen("crash-input", "wb")) {
        std::fwrite(data.data(), 1, data.size(), file);
        std::fclose(file);
      }
      once(data);
    }
  }
  std::remove("crash-input");
  std::printf("%ld mutations of %ld streams: none crashed\n", inputs, seeds);
}
#endif

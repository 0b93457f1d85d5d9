#include "latent_coder.h"

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>

#include "../../quant/native/coder.h"
#include "encoding.h"

namespace fieldpress::fields {
namespace {

using quant::DecodeIo;
using quant::EncodeIo;
constexpr int PAD = MAX_REACH;
constexpr int MOST_ESCAPE = 17;  // Bits of what lies beyond a distribution's reach.

[[noreturn]] void damaged() { throw std::invalid_argument("latents: damaged stream"); }

// Intervals of whole numbers around a center, of one scale.
struct Distribution {
  const uint16_t* tails;
  int reach, part;  // How far the center lies above the symbol 0, in 1/16, -8..7.

  int total() const { return static_cast<int>(quant::kScale) - (2 * reach + 1); }
  int start(int offset) const {  // Of the symbol, -reach..reach + 1.
    if (offset <= -reach) return 0;
    if (offset > reach) return static_cast<int>(quant::kScale);
    const int t = 16 * offset - 8 - part;
    return (t < 0 ? tails[-t] : total() - tails[t]) + offset + reach;
  }
};

int code_escape(EncodeIo& io, int excess) {
  const uint32_t value = static_cast<uint32_t>(excess) + 1;
  const int bits = quant::top_bit(value);
  if (bits > MOST_ESCAPE) throw std::invalid_argument("latents: a symbol is too large");
  io.raw(static_cast<uint32_t>(bits), 5);
  for (int k = bits; k-- > 0;) io.raw(value >> k & 1, 1);
  return excess;
}
int code_escape(DecodeIo& io, int) {
  const int bits = static_cast<int>(io.raw(0, 5));
  if (bits > MOST_ESCAPE) damaged();
  uint32_t value = 1;
  for (int k = 0; k < bits; ++k) value = value << 1 | io.raw(0, 1);
  return static_cast<int>(value) - 1;
}

int find_offset(EncodeIo&, const Distribution& d, int offset) {
  return std::min(d.reach, std::max(-d.reach, offset));
}
int find_offset(DecodeIo& io, const Distribution& d, int) {
  const int slot = static_cast<int>(io.coder.slot());
  int offset = 0;
  while (slot < d.start(offset)) --offset;
  while (slot >= d.start(offset + 1)) ++offset;
  return offset;
}

// center: in 1/16.
template <class Io>
FIELDPRESS_INLINE int code_symbol(Io& io, const TailTables& tables, int center, int scale,
                                  int symbol) {
  const int middle = (center + 8) >> CENTER_BITS;
  const Distribution d{tables.tails + tables.first[scale], tables.reach[scale],
                       center - middle * 16};
  const int wanted = symbol - middle, offset = find_offset(io, d, wanted);
  const int start = d.start(offset);
  io.interval(static_cast<uint32_t>(start), static_cast<uint32_t>(d.start(offset + 1) - start));
  int found = offset;
  if (offset == d.reach) found += code_escape(io, wanted - d.reach);
  if (offset == -d.reach) found -= code_escape(io, -d.reach - wanted);
  return middle + found;
}

void prepare(const SlidingNet& net, const int32_t* p, IntegerNet& to) {
  const int t = net.inputs(), h = net.hidden;
  to.inputs = t;
  to.blocks = h <= 16 ? 1 : h <= 32 ? 2 : 4;
  const int padded = to.blocks * WORDS;
  for (int o = 0; o < h; ++o)
    for (int i = 0; i < t; ++i) to.a[i * padded + o] = *p++;
  for (int o = 0; o < h; ++o) to.a0[o] = *p++;
  for (int o = 0; o < h; ++o)
    for (int i = 0; i < h; ++i) to.b[i * padded + o] = *p++;
  for (int o = 0; o < h; ++o) to.b0[o] = *p++;
  for (int o = 0; o < 2; ++o)
    for (int i = 0; i < h; ++i) to.c[o * padded + i] = *p++;
  for (int o = 0; o < 2; ++o)
    for (int i = 0; i < t; ++i) to.d[o * MAX_TAPS + i] = *p++;
  for (int o = 0; o < 2; ++o) to.c0[o] = *p++;
}

// A plane with a border of zeros, as units of activations.
struct Bordered {
  int stride = 0;
  std::vector<int32_t> data;

  Bordered(const LatentPlane& plane, const int32_t* symbols) : stride(plane.width + 2 * PAD) {
    data.resize(static_cast<size_t>(stride) * static_cast<size_t>(plane.height + 2 * PAD));
    for (int y = 0; y < plane.height; ++y)
      for (int x = 0; x < plane.width; ++x)
        *at(y, x) = units(symbols[plane.first + int64_t{y} * plane.width + x]);
  }
  int32_t* at(int y, int x) {
    return data.data() + static_cast<int64_t>(y + PAD) * stride + x + PAD;
  }
  static int32_t units(int32_t symbol) {
    return std::min(MOST_INPUT, std::max(-MOST_INPUT, symbol)) * (1 << UNIT_BITS);
  }
};

template <class Io>
void code_plane(Io& io, const SlidingNet& net, const int32_t* parameters, const TailTables& tables,
                int32_t* symbols) {
  const auto weights = std::make_unique<IntegerNet>();
  prepare(net, parameters, *weights);
  const auto predict = kernels().latent.predict;
  std::vector<Bordered> planes;
  const LatentPlane& own = net.planes[0];
  for (const LatentPlane& plane : net.planes) planes.emplace_back(plane, symbols);
  // A plane that is coded now is not known as another one: zeros there, for coder and decoder.
  for (size_t k = 1; k < planes.size(); ++k)
    if (net.planes[k].first == own.first) std::fill(planes[k].data.begin(), planes[k].data.end(), 0);
  const int32_t* row[MAX_TAPS];
  int shift[MAX_TAPS];
  int32_t taps[MAX_TAPS], out[2], still[2];
  std::fill(taps, taps + net.inputs(), 0);
  predict(*weights, taps, still);
  for (int y = 0; y < own.height; ++y) {
    for (int i = 0; i < net.inputs(); ++i) {
      const Tap& tap = net.taps[static_cast<size_t>(i)];
      shift[i] = net.planes[static_cast<size_t>(tap.plane)].shift;
      row[i] = planes[static_cast<size_t>(tap.plane)].at((y >> shift[i]) + tap.dy, tap.dx);
    }
    int32_t* const here = symbols + own.first + int64_t{y} * own.width;
    int32_t* const kept = planes[0].at(y, 0);
    for (int x = 0; x < own.width; ++x) {
      int32_t any = 0;
      for (int i = 0; i < net.inputs(); ++i) any |= taps[i] = row[i][x >> shift[i]];
      if (any) predict(*weights, taps, out);
      const int32_t* const found = any ? out : still;
      const int center = (found[0] + 8) >> (UNIT_BITS - CENTER_BITS);
      const int octave = found[1] - static_cast<int>(LEAST_OCTAVE) * (1 << UNIT_BITS);
      const int scale = (octave + (1 << UNIT_BITS) / OCTAVE_STEPS / 2) * OCTAVE_STEPS >> UNIT_BITS;
      const int near = std::min(tables.scales - 1, std::max(0, scale));
      here[x] = code_symbol(io, tables, center, near, here[x]);
      kept[x] = Bordered::units(here[x]);
    }
  }
}

}  // namespace

std::vector<uint8_t> encode_latents(const std::vector<SlidingNet>& nets, const int32_t* parameters,
                                    const TailTables& tables, const int32_t* symbols,
                                    int64_t size) {
  std::vector<int32_t> copy(symbols, symbols + size);
  EncodeIo io;
  for (const SlidingNet& net : nets) {
    code_plane(io, net, parameters, tables, copy.data());
    parameters += net.parameters();
  }
  return io.coder.finish();
}

void decode_latents(const std::vector<SlidingNet>& nets, const int32_t* parameters,
                    const TailTables& tables, const uint8_t* data, size_t length, int32_t* symbols,
                    int64_t size) {
  (void)size;
  DecodeIo io{{data, length}};
  for (const SlidingNet& net : nets) {
    code_plane(io, net, parameters, tables, symbols);
    parameters += net.parameters();
  }
  if (!io.coder.finished()) damaged();
}

std::vector<uint8_t> encode_centered(const int32_t* symbols, const int32_t* centers,
                                     const int32_t* scales, int64_t count,
                                     const TailTables& tables) {
  EncodeIo io;
  for (int64_t i = 0; i < count; ++i)
    code_symbol(io, tables, centers[i], scales[i], symbols[i]);
  return io.coder.finish();
}

void decode_centered(const uint8_t* data, size_t length, const int32_t* centers,
                     const int32_t* scales, int64_t count, const TailTables& tables,
                     int32_t* symbols) {
  DecodeIo io{{data, length}};
  for (int64_t i = 0; i < count; ++i)
    symbols[i] = code_symbol(io, tables, centers[i], scales[i], 0);
  if (!io.coder.finished()) damaged();
}

}  // namespace fieldpress::fields

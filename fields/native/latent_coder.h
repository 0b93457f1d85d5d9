// Latents to bytes and back: a context network in integers, and an entropy coder behind it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "latent.h"

namespace fieldpress::fields {

constexpr int WORDS = 16;           // Of a vector of the integer network.
constexpr int MOST_UNITS = 32767;   // Of an activation.
constexpr int MOST_INPUT = 127;     // What a tap counts as at most.
constexpr int MOST_SYMBOL = 1 << 15;
constexpr int OCTAVE_STEPS = 8;     // Scales of an octave.
constexpr int CENTER_BITS = 4;      // Centers of distributions are in 1/16.

// Two hidden layers; widths are padded to whole vectors with zeros. Columns of a and b lie together.
struct IntegerNet {
  int inputs, blocks;
  alignas(64) int32_t a[MAX_TAPS * MAX_HIDDEN], a0[MAX_HIDDEN], b[MAX_HIDDEN * MAX_HIDDEN],
      b0[MAX_HIDDEN], c[2 * MAX_HIDDEN], d[2 * MAX_TAPS], c0[2];
};

// One copy per instruction set. out: [outputs, height, width]; gradients are added to.
struct LatentKernels {
  // Rows [first, last) of what a network gives.
  void (*slide)(const SlidingNet&, const float* buffer, const float* parameters, int first,
                int last, float* out);
  // The gradient with respect to the buffer (or null for none) and the parameters.
  void (*slide_back)(const SlidingNet&, const float* buffer, const float* parameters,
                     const float* upstream, float* grad, float* parameter_grad);
  // Bits of the first plane under Laplace distributions with center out[0] and half-life 2^out[1];
  // and gradients, and the bits of each place, where there is a place for them.
  double (*rate)(const SlidingNet&, const float* buffer, const float* parameters, float* grad,
                 float* parameter_grad, float* each);
  void (*upsample)(const float* x, int height, int width, const float* kernel, int out_height,
                   int out_width, float* out);
  void (*upsample_back)(const float* x, int height, int width, const float* kernel,
                        const float* upstream, int out_height, int out_width, float* grad,
                        float* kernel_grad);
  void (*soften)(const float* x, const float* noise, int64_t count, float cold, float over,
                 float spread, float* out, float* slope);
  // Rows [first, last) of planes [3, height, width] about 0..1 as bytes [height, width, 3].
  void (*to_bytes)(const float* planes, int height, int width, int first, int last, uint8_t* out);
  // Blocks [3, size, size] of planes, by dy and dx quarters (their last two bits; `from` is what the
  // filter's first tap reads); and their squared error, or that of the mean of two, to a target of
  // which there are some rows and columns. size: 8, 16, 32.
  void (*move_block)(const float* from, int64_t stride, int64_t plane, int size, int dy, int dx,
                     float* to);
  float (*block_error)(const float* a, const float* b, const float* target, int size, int rows,
                       int columns);
  // out: center and octave in 1/256.
  void (*predict)(const IntegerNet&, const int32_t* taps, int32_t* out);
};

// Codes the first plane of each network in turn; the other planes must be known by then.
// parameters: [networks, parameters()] of the networks.
std::vector<uint8_t> encode_latents(const std::vector<SlidingNet>& nets, const int32_t* parameters,
                                    const TailTables& tables, const int32_t* symbols, int64_t size);
void decode_latents(const std::vector<SlidingNet>& nets, const int32_t* parameters,
                    const TailTables& tables, const uint8_t* data, size_t length, int32_t* symbols,
                    int64_t size);

// Symbols [count] with a center in 1/16 and a scale each.
std::vector<uint8_t> encode_centered(const int32_t* symbols, const int32_t* centers,
                                     const int32_t* scales, int64_t count, const TailTables&);
void decode_centered(const uint8_t* data, size_t length, const int32_t* centers,
                     const int32_t* scales, int64_t count, const TailTables&, int32_t* symbols);

}  // namespace fieldpress::fields

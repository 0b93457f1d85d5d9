#include "../../render/native/copies.h"
#include "encoding.h"

namespace fieldpress::fields {

#define FIELDPRESS_DECLARE(copy)                                                               \
  namespace copy {                                                                             \
  void encode(const Grid&, const Table&, const float*, const float*, int64_t, float*, int64_t); \
  void scatter(const Grid&, int, int, const float*, const float*, int64_t, const float*, float*, \
               uint8_t*, const Moments*);                                                      \
  void slope(const Grid&, const float*, const float*, const float*, int64_t, const float*,      \
             int64_t, float*);                                                                 \
  void perceptron(const Perceptron&, const float*, int64_t, int64_t, float*);                   \
  void march(const Rays&, int64_t, int64_t, Samples&);                                         \
  void adam(const Moments&, int64_t, int64_t, float*, uint8_t*);                               \
  void slide(const SlidingNet&, const float*, const float*, int, int, float*);                 \
  void slide_back(const SlidingNet&, const float*, const float*, const float*, float*, float*); \
  double rate(const SlidingNet&, const float*, const float*, float*, float*, float*);          \
  void upsample(const float*, int, int, const float*, int, int, float*);                       \
  void upsample_back(const float*, int, int, const float*, const float*, int, int, float*,     \
                     float*);                                                                  \
  void soften(const float*, const float*, int64_t, float, float, float, float*, float*);       \
  void to_bytes(const float*, int, int, int, int, uint8_t*);                                   \
  void move_block(const float*, int64_t, int64_t, int, int, int, float*);                      \
  float block_error(const float*, const float*, const float*, int, int, int);                  \
  void predict(const IntegerNet&, const int32_t*, int32_t*);                                   \
  }

#define FIELDPRESS_KERNELS(copy)                                                                 \
  {copy::encode, copy::scatter, copy::slope, copy::perceptron, copy::march, copy::adam,          \
   {copy::slide, copy::slide_back, copy::rate, copy::upsample, copy::upsample_back, copy::soften, \
    copy::to_bytes, copy::move_block, copy::block_error, copy::predict}}

FIELDPRESS_DECLARE(baseline)
#ifdef FIELDPRESS_X86
FIELDPRESS_DECLARE(avx2)
FIELDPRESS_DECLARE(avx512)
#endif

namespace {

const render::Copy<Kernels> COPIES[] = {
    {"baseline", render::has_baseline, FIELDPRESS_KERNELS(baseline)},
#ifdef FIELDPRESS_X86
    {"avx2", render::has_avx2, FIELDPRESS_KERNELS(avx2)},
    {"avx512", render::has_avx512, FIELDPRESS_KERNELS(avx512)},
#endif
};

render::Copies<Kernels>& copies() {
  static render::Copies<Kernels> all(COPIES);
  return all;
}

}  // namespace

Kernels kernels() { return copies().chosen().kernels; }
std::string isa() { return copies().chosen().name; }
void set_isa(const std::string& name) { copies().choose(name); }
std::vector<std::string> available_isas() { return copies().names(); }

}  // namespace fieldpress::fields

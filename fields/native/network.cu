// Encoding and perceptron of a point in one thread: features never leave its registers.
#include "kind.h"

namespace fieldpress::fields::gpu {

using Net = Perceptron<FIELDPRESS_LEVELS * F, FIELDPRESS_NEURONS, FIELDPRESS_HIDDEN,
                       FIELDPRESS_OUTPUTS>;

}  // namespace fieldpress::fields::gpu

using namespace fieldpress::fields;
using namespace fieldpress::fields::gpu;

extern "C" __global__ void __launch_bounds__(THREADS)
    network(const Grid* grid, const void* table, const float* points, int64_t count,
            const float* packed, float* out) {
  alignas(16) __shared__ float weights[Net::FLOATS];
  copy_floats(packed, Net::FLOATS, weights);
  __syncthreads();
  for (int64_t p = first_item(); p < count; p += item_stride()) {
    forget_loads();
    float first[Net::NEURONS], outputs[Net::WIDE];
    first_layer<Net>(*grid, table, point_at(points, p), weights, first);
    finish<Net>(weights, first, outputs);
    for (int o = 0; o < Net::OUTPUTS; ++o) out[o * count + p] = outputs[o];
  }
}

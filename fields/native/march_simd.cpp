// Samples along rays, on the CPU: one copy per instruction set.
#include "encoding.h"
#include "ray.h"

namespace fieldpress::fields::FIELDPRESS_ISA {

// Appends the samples of rays [first, last).
void march(const Rays& rays, int64_t first, int64_t last, Samples& found) {
  Floats lanes{};
  for (int k = 0; k < LANES; ++k) lanes[k] = static_cast<float>(k);
  for (int64_t r = first; r < last; ++r) {
    const CubeRay ray = cube_ray(rays.origins + 3 * r, rays.directions + 3 * r);
    const float jitter = rays.jitter[r];
    for (int step = 0; step < MARCH; step += LANES) {
      const Floats t = step_place(ray, lanes + static_cast<float>(step), jitter);
      if (!(t[0] < ray.far)) break;
      const Ints cell = cell_at(ray, t);
      for (int k = 0; k < LANES && step + k < MARCH; ++k) {
        if (!(t[k] < ray.far && rays.cells[cell[k]])) continue;
        float point[3];
        place_on(ray, t[k], point);
        found.points.insert(found.points.end(), point, point + 3);
        found.rays.push_back(r);
      }
    }
  }
}

}  // namespace fieldpress::fields::FIELDPRESS_ISA

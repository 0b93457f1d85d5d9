// Real spherical harmonics up to degree 4, in the order and signs of Kerbl et al. 2023.
#pragma once

#include "constants.h"
#include "simd.h"

namespace fieldpress::render::FIELDPRESS_ISA {

// Values of the (degree + 1)^2 bases at unit directions, to basis[].
FP_INLINE void sh_bases(int degree, Floats x, Floats y, Floats z, Floats* basis) {
  basis[0] = all<Floats>(single(SH_C0));
  if (degree < 1) return;
  basis[1] = y * single(-SH_C1);
  basis[2] = z * single(SH_C1);
  basis[3] = x * single(-SH_C1);
  if (degree < 2) return;
  const Floats xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
  basis[4] = xy * single(SH_C2[0]);
  basis[5] = yz * single(SH_C2[1]);
  basis[6] = (2.0f * zz - xx - yy) * single(SH_C2[2]);
  basis[7] = xz * single(SH_C2[3]);
  basis[8] = (xx - yy) * single(SH_C2[4]);
  if (degree < 3) return;
  basis[9] = y * (3.0f * xx - yy) * single(SH_C3[0]);
  basis[10] = xy * z * single(SH_C3[1]);
  basis[11] = y * (4.0f * zz - xx - yy) * single(SH_C3[2]);
  basis[12] = z * (2.0f * zz - 3.0f * xx - 3.0f * yy) * single(SH_C3[3]);
  basis[13] = x * (4.0f * zz - xx - yy) * single(SH_C3[4]);
  basis[14] = z * (xx - yy) * single(SH_C3[5]);
  basis[15] = x * (xx - 3.0f * yy) * single(SH_C3[6]);
  if (degree < 4) return;
  basis[16] = xy * (xx - yy) * single(SH_C4[0]);
  basis[17] = yz * (3.0f * xx - yy) * single(SH_C4[1]);
  basis[18] = xy * (7.0f * zz - 1.0f) * single(SH_C4[2]);
  basis[19] = yz * (7.0f * zz - 3.0f) * single(SH_C4[3]);
  basis[20] = (zz * (35.0f * zz - 30.0f) + 3.0f) * single(SH_C4[4]);
  basis[21] = xz * (7.0f * zz - 3.0f) * single(SH_C4[5]);
  basis[22] = (xx - yy) * (7.0f * zz - 1.0f) * single(SH_C4[6]);
  basis[23] = xz * (xx - 3.0f * yy) * single(SH_C4[7]);
  basis[24] = (xx * (xx - 3.0f * yy) - yy * (3.0f * xx - yy)) * single(SH_C4[8]);
}

}  // namespace fieldpress::render::FIELDPRESS_ISA

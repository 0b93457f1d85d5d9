// Real spherical harmonics up to degree 4, in the order and signs of Kerbl et al. 2023.
#pragma once

#include "constants.h"
#include "lanes.h"

namespace fieldpress::render::FIELDPRESS_ISA {

constexpr int MAX_BASES = (MAX_SH_DEGREE + 1) * (MAX_SH_DEGREE + 1);

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

// Their derivatives by x, y and z, to slope[axis][].
FP_INLINE void sh_slopes(int degree, Floats x, Floats y, Floats z, Floats slope[3][MAX_BASES]) {
  const auto set = [&](int k, double c, Floats dx, Floats dy, Floats dz) {
    slope[0][k] = dx * single(c);
    slope[1][k] = dy * single(c);
    slope[2][k] = dz * single(c);
  };
  const Floats zero{}, one = all<Floats>(1.0f);
  set(0, 0.0, zero, zero, zero);
  if (degree < 1) return;
  set(1, -SH_C1, zero, one, zero);
  set(2, SH_C1, zero, zero, one);
  set(3, -SH_C1, one, zero, zero);
  if (degree < 2) return;
  const Floats xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
  set(4, SH_C2[0], y, x, zero);
  set(5, SH_C2[1], zero, z, y);
  set(6, SH_C2[2], -2.0f * x, -2.0f * y, 4.0f * z);
  set(7, SH_C2[3], z, zero, x);
  set(8, SH_C2[4], 2.0f * x, -2.0f * y, zero);
  if (degree < 3) return;
  set(9, SH_C3[0], 6.0f * xy, 3.0f * (xx - yy), zero);
  set(10, SH_C3[1], yz, xz, xy);
  set(11, SH_C3[2], -2.0f * xy, 4.0f * zz - xx - 3.0f * yy, 8.0f * yz);
  set(12, SH_C3[3], -6.0f * xz, -6.0f * yz, 6.0f * zz - 3.0f * (xx + yy));
  set(13, SH_C3[4], 4.0f * zz - 3.0f * xx - yy, -2.0f * xy, 8.0f * xz);
  set(14, SH_C3[5], 2.0f * xz, -2.0f * yz, xx - yy);
  set(15, SH_C3[6], 3.0f * (xx - yy), -6.0f * xy, zero);
  if (degree < 4) return;
  set(16, SH_C4[0], y * (3.0f * xx - yy), x * (xx - 3.0f * yy), zero);
  set(17, SH_C4[1], 6.0f * xy * z, 3.0f * z * (xx - yy), y * (3.0f * xx - yy));
  set(18, SH_C4[2], y * (7.0f * zz - 1.0f), x * (7.0f * zz - 1.0f), 14.0f * xy * z);
  set(19, SH_C4[3], zero, z * (7.0f * zz - 3.0f), y * (21.0f * zz - 3.0f));
  set(20, SH_C4[4], zero, zero, z * (140.0f * zz - 60.0f));
  set(21, SH_C4[5], z * (7.0f * zz - 3.0f), zero, x * (21.0f * zz - 3.0f));
  set(22, SH_C4[6], 2.0f * x * (7.0f * zz - 1.0f), -2.0f * y * (7.0f * zz - 1.0f),
      14.0f * z * (xx - yy));
  set(23, SH_C4[7], 3.0f * z * (xx - yy), -6.0f * xy * z, x * (xx - 3.0f * yy));
  set(24, SH_C4[8], 4.0f * x * (xx - 3.0f * yy), 4.0f * y * (yy - 3.0f * xx), zero);
}

}  // namespace fieldpress::render::FIELDPRESS_ISA

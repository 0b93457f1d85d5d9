// exp, log, sine and cosine that give the same bits on every machine: +, -, *, /, sqrt and scaling
// by powers of two, one rounding each, in a fixed order. Compiled without contraction.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace fieldpress::quant {

constexpr double kPerLn2 = 0x1.71547652b82fep+0;
constexpr double kLn2High = 0x1.62e42feep-1;  // ln 2 in two parts, so that k * high is exact
constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
constexpr double kRootHalf = 0x1.6a09e667f3bcdp-1;
constexpr double kExpLimit = 700.0;

constexpr double factorial(int n) { return n < 2 ? 1.0 : n * factorial(n - 1); }
// Coefficients of Taylor's series, the highest power first.
struct SeriesTables {
  double exp[14] = {}, sine[11] = {}, cosine[11] = {}, artanh[12] = {};
  constexpr SeriesTables() {
    for (int k = 0; k < 14; ++k) exp[13 - k] = 1.0 / factorial(k);
    for (int k = 0; k < 11; ++k) {
      sine[10 - k] = (k % 2 ? -1.0 : 1.0) / factorial(2 * k + 1);
      cosine[10 - k] = (k % 2 ? -1.0 : 1.0) / factorial(2 * k);
    }
    for (int k = 0; k < 12; ++k) artanh[11 - k] = 1.0 / (2 * k + 1);
  }
};
inline constexpr SeriesTables kSeries;

template <int n>
double horner(double x, const double (&terms)[n]) {
  double total = terms[0];
  for (int k = 1; k < n; ++k) {
    total *= x;
    total += terms[k];
  }
  return total;
}
inline double power_of_two(int k) {  // -1022..1023
  const uint64_t bits = static_cast<uint64_t>(k + 1023) << 52;
  double out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

inline double exact_exp(double x) {  // |x| is clipped to 700; NaN gives NaN
  if (x != x) return x;
  x = x > kExpLimit ? kExpLimit : x < -kExpLimit ? -kExpLimit : x;
  const double scaled = x * kPerLn2 + 0.5;
  int k = static_cast<int>(scaled);
  k -= k > scaled;  // floor
  return horner((x - k * kLn2High) - k * kLn2Low, kSeries.exp) * power_of_two(k);
}

inline double exact_log(double x) {  // NaN unless x > 0 and finite
  if (!(x > 0) || x > std::numeric_limits<double>::max()) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  int exponent = 0;
  if (x < 0x1p-1022) {  // subnormal
    x *= 0x1p54;
    exponent = -54;
  }
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  exponent += static_cast<int>(bits >> 52) - 1022;
  bits = (bits & 0xfffffffffffffull) | uint64_t{1022} << 52;
  double mantissa;  // in [1/2, 1)
  std::memcpy(&mantissa, &bits, sizeof mantissa);
  if (mantissa < kRootHalf) {
    mantissa *= 2.0;
    --exponent;
  }
  const double ratio = (mantissa - 1.0) / (mantissa + 1.0);
  const double rest = 2.0 * ratio * horner(ratio * ratio, kSeries.artanh);
  return exponent * kLn2High + (exponent * kLn2Low + rest);
}

inline void exact_sincos(double x, double& sine, double& cosine) {  // |x| <= pi
  const double quarter = x * 0.25, square = quarter * quarter;
  sine = quarter * horner(square, kSeries.sine);
  cosine = horner(square, kSeries.cosine);
  for (int twice = 0; twice < 2; ++twice) {
    const double s = sine;
    sine = 2.0 * s * cosine;
    cosine = 1.0 - 2.0 * s * s;
  }
}

// Unit quaternion w, x, y, z whose z axis is the direction (u, v) on the hemi-octahedral square and
// which is rolled about it.
inline void turned(double u, double v, double roll, double* out) {
  const auto clipped = [](double t) { return t > 1.0 ? 1.0 : t < -1.0 ? -1.0 : t; };
  u = clipped(u);
  v = clipped(v);
  const double x = (u + v) * 0.5, y = (u - v) * 0.5;
  const double rest = 1.0 - std::fabs(x) - std::fabs(y), z = rest < 0.0 ? 0.0 : rest;
  const double length = std::sqrt(x * x + y * y + z * z);
  double w = 1.0 + z / length, a = -y / length, b = x / length;  // Shortest turn from z.
  const double norm = std::sqrt(w * w + a * a + b * b);
  w = w / norm;
  a = a / norm;
  b = b / norm;
  double sine, cosine;
  exact_sincos(roll * 0.5, sine, cosine);
  out[0] = w * cosine;
  out[1] = a * cosine + b * sine;
  out[2] = b * cosine - a * sine;
  out[3] = w * sine;
}

}  // namespace fieldpress::quant

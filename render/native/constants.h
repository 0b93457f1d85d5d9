// Every number that decides what a pixel looks like, once; the module exports them to Python.
// Parity with gsplat main (1.6) unless said otherwise. Double, so that the twin sees all digits;
// kernels round with single().
#pragma once

namespace fieldpress::render {

constexpr float single(double x) { return static_cast<float>(x); }

constexpr double ALPHA_CUTOFF = 1.0 / 255.0;         // A splat fainter than this is not drawn.
constexpr double TRANSMITTANCE_STOP = 1e-4;          // A ray ends before T would reach this.
constexpr double ALPHA_CLAMP = 0.99;                 // Default; 0.999 in gsplat 1.5.3.
constexpr double EPS2D = 0.3;                        // Pixel^2 added to the covariance's diagonal.
constexpr double NEAR_PLANE = 0.01;
constexpr double FAR_PLANE = 1e10;
constexpr double EXTENT_SIGMAS = 3.33;               // Bound of the extent; 3.33^2 > 2 ln 255.
constexpr double FRUSTUM_MARGIN = 0.3;               // Jacobian clamp: tan(fov / 2) per side.
constexpr double COMPENSATION_FLOOR = 0.005;         // Antialiasing; 0 in gsplat 1.5.3.
constexpr double DEPTH_ALPHA_FLOOR = 1e-10;          // Expected depth divides by max(alpha, this).
constexpr int TILE = 16;                             // Pixels per tile side.
constexpr int MAX_SIDE = 1 << 15;                    // Pixels per image side.
constexpr int MAX_CHANNELS = 32;
constexpr int MAX_SH_DEGREE = 4;

// Real spherical harmonics, normalisation times the Condon-Shortley sign, order m = -l .. l.
constexpr double SH_C0 = 0.28209479177387814;
constexpr double SH_C1 = 0.4886025119029199;
constexpr double SH_C2[5] = {1.0925484305920792, -1.0925484305920792, 0.31539156525252005,
                            -1.0925484305920792, 0.5462742152960396};
constexpr double SH_C3[7] = {-0.5900435899266435, 2.890611442640554, -0.4570457994644658,
                            0.3731763325901154,  -0.4570457994644658, 1.445305721320277,
                            -0.5900435899266435};
constexpr double SH_C4[9] = {2.5033429417967046,  -1.7701307697799304, 0.9461746957575601,
                            -0.6690465435572892, 0.10578554691520431, -0.6690465435572892,
                            0.47308734787878004, -1.7701307697799304, 0.6258357354491761};
constexpr double SH_OFFSET = 0.5;                    // colour = max(0, SH + this)

constexpr double HALF_LOG2_E = 0.7213475204444817;   // exp(-q / 2) = 2^(-q * this)

// What tests of extent err by towards keeping, in pixels and in log2 of alpha: rounding must not
// drop a pixel.
constexpr float SLACK_PIXELS = 0.02f;
constexpr float SLACK_REACH = 1e-3f;

}  // namespace fieldpress::render

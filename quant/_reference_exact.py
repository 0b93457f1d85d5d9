"""Plain twins of exact.h: NumPy rounds each operation apart, which makes a fixed sequence exact."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Double = NDArray[np.floating]

# Literals: a library's log is no more to be trusted than its exp.
_PER_LN2 = float.fromhex("0x1.71547652b82fep+0")
_LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")  # ln 2 in two parts, so that k * high is exact
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
_EXP_TERMS = tuple(1.0 / math.factorial(k) for k in range(13, -1, -1))
_ROOT_HALF = float.fromhex("0x1.6a09e667f3bcdp-1")
_ARTANH_TERMS = tuple(1.0 / (2 * k + 1) for k in range(11, -1, -1))
_SIN_TERMS = tuple((-1.0) ** k / math.factorial(2 * k + 1) for k in range(10, -1, -1))
_COS_TERMS = tuple((-1.0) ** k / math.factorial(2 * k) for k in range(10, -1, -1))


def _horner(x: Double, terms: tuple[float, ...]) -> Double:
    total = np.full_like(x, terms[0])
    for term in terms[1:]:
        total *= x
        total += term
    return total


def exact_exp(x: Double) -> Double:
    """e^x for float64 of any shape, clipped to |x| <= 700; relative error below 1e-15.

    NaN gives NaN.
    """
    x = np.clip(np.asarray(x, np.float64), -700.0, 700.0)
    k = np.floor(x * _PER_LN2 + 0.5)
    rest = (x - k * _LN2_HIGH) - k * _LN2_LOW
    k = np.where(np.isnan(k), 0.0, k).astype(np.int32)
    return np.ldexp(_horner(rest, _EXP_TERMS), k)


def exact_log(x: Double) -> Double:
    """Natural logarithm of positive float64 of any shape; absolute error below 1e-15 max(1, ln x).

    Zero, negative and NaN give NaN.
    """
    x = np.asarray(x, np.float64)
    good = x > 0
    mantissa, exponent = np.frexp(np.where(good, x, 1.0))  # in [1/2, 1)
    low = mantissa < _ROOT_HALF
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    k = (exponent - low).astype(np.float64)
    ratio = (mantissa - 1.0) / (mantissa + 1.0)  # ln m = 2 artanh of it; |ratio| < 0.172
    square = ratio * ratio
    rest = 2.0 * ratio * _horner(square, _ARTANH_TERMS)
    return np.where(good, k * _LN2_HIGH + (k * _LN2_LOW + rest), np.nan)


def exact_sincos(x: Double) -> tuple[Double, Double]:
    """Sine and cosine of float64 angles with |x| <= pi, in radians; absolute error below 2e-15.

    Of any shape; beyond pi the error grows, and NaN gives NaN.
    """
    x = np.asarray(x, np.float64)
    quarter = x * 0.25  # Taylor is short on |x| <= pi / 4; double the angle twice.
    square = quarter * quarter
    sine, cosine = quarter * _horner(square, _SIN_TERMS), _horner(square, _COS_TERMS)
    for _ in range(2):
        sine, cosine = 2.0 * sine * cosine, 1.0 - 2.0 * sine * sine
    return sine, cosine


def quaternions(square: Double, roll: Double) -> Double:
    """Twin of `exact.quaternions`."""
    u, v = np.clip(square, -1.0, 1.0).T
    x, y = (u + v) * 0.5, (u - v) * 0.5
    z = np.maximum(1.0 - np.abs(x) - np.abs(y), 0.0)
    length = np.sqrt(x * x + y * y + z * z)
    w, a, b = 1.0 + z / length, -y / length, x / length  # Shortest turn from z to the direction.
    norm = np.sqrt(w * w + a * a + b * b)
    w, a, b = w / norm, a / norm, b / norm
    sine, cosine = exact_sincos(roll * 0.5)
    return np.stack([w * cosine, a * cosine + b * sine, b * cosine - a * sine, w * sine], axis=1)

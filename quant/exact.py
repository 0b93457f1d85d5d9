"""exp, log, sine and cosine that give the same bits on every machine.

Libraries round transcendental functions differently, and even one library does so between
instruction sets. A decoder that promises the same tensors everywhere may use only IEEE
operations whose result is defined: +, -, *, /, sqrt, floor and scaling by powers of two, each
rounded once, in a fixed order: quant/native/exact.h, and its twin in `_reference_exact`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import _native

Double = NDArray[np.floating]


def _flat(x: Double) -> NDArray[np.float64]:
    return np.ascontiguousarray(x, np.float64).reshape(-1)


def exact_exp(x: Double) -> Double:
    """e^x for float64 of any shape, clipped to |x| <= 700; relative error below 1e-15.

    NaN gives NaN.
    """
    return _native.exp(_flat(x)).reshape(np.shape(x))


def exact_log(x: Double) -> Double:
    """Natural logarithm of positive float64 of any shape; absolute error below 1e-15 max(1, ln x).

    Zero, negative, infinite and NaN give NaN.
    """
    return _native.log(_flat(x)).reshape(np.shape(x))


def exact_sincos(x: Double) -> tuple[Double, Double]:
    """Sine and cosine of float64 angles with |x| <= pi, in radians; absolute error below 2e-15.

    Of any shape; beyond pi the error grows, and NaN gives NaN.
    """
    sine, cosine = _native.sincos(_flat(x))
    return sine.reshape(np.shape(x)), cosine.reshape(np.shape(x))


def quaternions(square: Double, roll: Double) -> Double:
    """[N, 4] unit quaternions wxyz from directions [N, 2] and rolls [N] about them in radians.

    The z axis is turned the shortest way to the direction, a place on the hemi-octahedral square
    (Cigolle et al. 2014; clipped to +-1), after a roll about itself.
    """
    return _native.quaternions(
        np.ascontiguousarray(square, np.float64), np.ascontiguousarray(roll, np.float64)
    )

"""Decorrelating and companding transforms of float64 arrays.

The decoder's half (`ycocg_to_rgb`, `unpack_basis`, `expand`) uses single correctly rounded
IEEE 754 operations in a fixed order, so that it gives the same bits everywhere: no matrix product,
no library exp, no fused multiply-add. `entropy.apply_basis` undoes `to_coefficients`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .exact import exact_exp

Double = NDArray[np.floating]
_EXP_LIMIT = 700.0  # what `exact_exp` takes


def rgb_to_ycocg(rgb: ArrayLike) -> Double:
    """Y, Co, Cg of red, green, blue in the last dimension [..., 3] (Malvar and Sullivan 2003).

    The rows are orthogonal. An error in Y, Co or Cg comes back as 3, 2 or 3 times its square,
    summed over red, green and blue.
    """
    red, green, blue = _colors(rgb, "rgb")
    mean = (red + blue) * 0.5
    return np.stack([(green + mean) * 0.5, (red - blue) * 0.5, (green - mean) * 0.5], -1)


def ycocg_to_rgb(ycocg: ArrayLike) -> Double:
    """Inverse of `rgb_to_ycocg`, [..., 3]: four additions in a fixed order."""
    y, co, cg = _colors(ycocg, "ycocg")
    rest = y - cg
    return np.stack([rest + co, y + cg, rest - co], -1)


def fit_klt(x: Double, weights: Double) -> Double:
    """The Karhunen-Loeve basis [D, D] of x [N, D] under weights [N] >= 0, rows components.

    Rows are orthonormal, in falling order of energy, each with its largest entry positive. Energy
    is taken about zero; who has a mean to spare takes it off first. Encoder only. Raises
    ValueError for shapes that do not match and for values that are not finite.
    """
    x, weights = np.asarray(x, np.float64), np.asarray(weights, np.float64)
    if x.ndim != 2 or weights.shape != x.shape[:1]:
        raise ValueError(
            f"x, weights: expected [N, D] and [N], got {list(x.shape)} and {list(weights.shape)}"
        )
    if not np.isfinite(x).all() or not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("x, weights: expected finite values and weights >= 0, got others")
    if not x.shape[1]:
        return np.zeros((0, 0))
    total = max(float(weights.sum()), np.finfo(np.float64).tiny)
    moment = (x * (weights / total)[:, None]).T @ x
    energy, vectors = np.linalg.eigh((moment + moment.T) * 0.5)
    basis = vectors.T[np.argsort(-energy, kind="stable")]
    largest = basis[np.arange(len(basis)), np.abs(basis).argmax(1)]
    return np.where(largest < 0, -1.0, 1.0)[:, None] * basis


def pack_basis(basis: Double, bits: int = 16) -> bytes:
    """A basis [D, D] with entries in [-1, 1] as D*D little-endian signed integers of 8 or 16 bits.

    Row by row, entry times 127 or 32767, rounded.
    """
    if basis.ndim != 2 or basis.shape[0] != basis.shape[1]:
        raise ValueError(f"basis: expected [D, D], got {list(basis.shape)}")
    if not (np.abs(basis) <= 1 + 1e-6).all():
        raise ValueError("basis: expected entries in [-1, 1], got others")
    kind, top = _basis_format(bits)
    return np.rint(basis * top).clip(-top, top).astype(kind).tobytes()


def unpack_basis(data: bytes, dim: int, bits: int = 16) -> Double:
    """[dim, dim] from what `pack_basis` wrote; exact.

    Raises ValueError when the length is not that of `dim` x `dim` entries.
    """
    kind, top = _basis_format(bits)
    expected = dim * dim * bits // 8
    if len(data) != expected:
        raise ValueError(f"basis: expected {expected} bytes, got {len(data)}")
    return np.frombuffer(data, kind).astype(np.float64).reshape(dim, dim) / top


def to_coefficients(x: Double, basis: Double) -> Double:
    """Coefficients [N, D] from which `coefficients @ basis` gives x [N, D] back. Encoder only.

    By the inverse of `basis` instead of its transpose: a packed basis is not quite orthonormal,
    and this way its rounding costs nothing.
    """
    dim = x.shape[-1] if x.ndim == 2 else -1
    if basis.shape != (dim, dim):
        raise ValueError(
            f"x, basis: expected [N, D] and [D, D], got {list(x.shape)} and {list(basis.shape)}"
        )
    return np.ascontiguousarray(x @ np.linalg.inv(basis), np.float64)


def contract(x: Double, scale: float = 1.0) -> Double:
    """Signed logarithm sign(x) log(1 + |x| / scale). Encoder only; undone by `expand`."""
    return np.copysign(np.log1p(np.abs(x) / scale), x)


def expand(y: Double, scale: float = 1.0) -> Double:
    """Inverse of `contract`, sign(y) (exp|y| - 1) scale, the same bits everywhere.

    Absolute error near zero is about 1e-16 scale. Raises ValueError where |y| > 700.
    """
    y = np.asarray(y, np.float64)
    if not (np.abs(y) <= _EXP_LIMIT).all():
        raise ValueError(f"y: expected |y| <= {_EXP_LIMIT:g}, got values beyond")
    return np.copysign((exact_exp(np.abs(y)) - 1.0) * scale, y)


def _basis_format(bits: int) -> tuple[str, int]:
    if bits not in (8, 16):
        raise ValueError(f"bits: expected 8 or 16, got {bits}")
    return ("<i1", 127) if bits == 8 else ("<i2", 32767)


def _colors(x: ArrayLike, name: str) -> tuple[Double, Double, Double]:
    x = np.asarray(x, np.float64)
    if x.ndim < 1 or x.shape[-1] != 3:
        raise ValueError(f"{name}: expected [..., 3], got {list(x.shape)}")
    return x[..., 0], x[..., 1], x[..., 2]

"""Decorrelating and companding transforms; what the decoder runs is bit-exact everywhere.

The decoder's half (`ycocg_to_rgb`, `ycocg_to_rgb_lossless`, `unpack_basis`, `apply_inverse`,
`expand`) uses integers or single correctly rounded IEEE 754 operations in a fixed order: no matrix
product, no library exp, no fused multiply-add.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .exact import exact_exp

_EXP_LIMIT = 700.0  # what `exact_exp` takes
_ROWS = 4096  # Rows at a time in `apply_inverse`: a few tables of [D, rows] float64 fit the cache.


def rgb_to_ycocg(rgb: Tensor) -> Tensor:
    """Y, Co, Cg of red, green, blue in the last dimension [..., 3] (Malvar and Sullivan 2003).

    The rows are orthogonal. An error in Y, Co or Cg comes back as 3, 2 or 3 times its square,
    summed over red, green and blue.
    """
    _check_last(rgb, "rgb")
    red, green, blue = rgb.unbind(-1)
    mean = (red + blue) * 0.5
    return torch.stack([(green + mean) * 0.5, (red - blue) * 0.5, (green - mean) * 0.5], -1)


def ycocg_to_rgb(ycocg: Tensor) -> Tensor:
    """Inverse of `rgb_to_ycocg`, [..., 3]: four additions in a fixed order."""
    _check_last(ycocg, "ycocg")
    y, co, cg = ycocg.unbind(-1)
    rest = y - cg
    return torch.stack([rest + co, y + cg, rest - co], -1)


def rgb_to_ycocg_lossless(rgb: Tensor) -> Tensor:
    """YCoCg-R by lifting, integers [..., 3] (Malvar and Sullivan 2003); Co and Cg take a bit more.

    Inverted exactly while |rgb| <= 2^29 in int32.
    """
    _check_integers(rgb, "rgb")
    red, green, blue = rgb.unbind(-1)
    co = red - blue
    rest = blue + (co >> 1)
    cg = green - rest
    return torch.stack([rest + (cg >> 1), co, cg], -1)


def ycocg_to_rgb_lossless(ycocg: Tensor) -> Tensor:
    """Inverse of `rgb_to_ycocg_lossless`, integers [..., 3]."""
    _check_integers(ycocg, "ycocg")
    y, co, cg = ycocg.unbind(-1)
    rest = y - (cg >> 1)
    blue = rest - (co >> 1)
    return torch.stack([blue + co, cg + rest, blue], -1)


def fit_klt(x: Tensor, weights: Tensor) -> Tensor:
    """The Karhunen-Loeve basis of x [N, D] under weights [N] >= 0: float64 [D, D], rows components.

    Rows are orthonormal, in falling order of energy, each with its largest entry positive. Energy
    is taken about zero, not about the mean, so that no mean has to be stored. Encoder only.
    Raises ValueError for shapes that do not match and for values that are not finite.
    """
    if x.ndim != 2 or weights.shape != x.shape[:1]:
        raise ValueError(
            f"x, weights: expected [N, D] and [N], got {list(x.shape)} and {list(weights.shape)}"
        )
    x, weights = x.double(), weights.double()
    if not bool(x.isfinite().all()) or not bool((weights.isfinite() & (weights >= 0)).all()):
        raise ValueError("x, weights: expected finite values and weights >= 0, got others")
    total = weights.sum().clamp_min(torch.finfo(torch.float64).tiny)
    moment = (x * (weights / total)[:, None]).T @ x
    _, vectors = torch.linalg.eigh((moment + moment.T) * 0.5)
    basis = vectors.T.flip(0)
    largest = basis.abs().argmax(1, keepdim=True)
    return basis * torch.where(basis.gather(1, largest) < 0, -1.0, 1.0)


def pack_basis(basis: Tensor, bits: int = 16) -> bytes:
    """A basis [D, D] with entries in [-1, 1] as D*D little-endian signed integers of 8 or 16 bits.

    Row by row, entry times 127 or 32767, rounded.
    """
    if basis.ndim != 2 or basis.shape[0] != basis.shape[1]:
        raise ValueError(f"basis: expected [D, D], got {list(basis.shape)}")
    if not bool((basis.abs() <= 1 + 1e-6).all()):
        raise ValueError("basis: expected entries in [-1, 1], got others")
    kind, top = _basis_format(bits)
    return (basis.double() * top).round().clamp(-top, top).numpy().astype(kind).tobytes()


def unpack_basis(data: bytes, dim: int, bits: int = 16) -> Tensor:
    """Float64 [dim, dim] from what `pack_basis` wrote; exact.

    Raises ValueError when the length is not that of `dim` x `dim` entries.
    """
    kind, top = _basis_format(bits)
    expected = dim * dim * bits // 8
    if len(data) != expected:
        raise ValueError(f"basis: expected {expected} bytes, got {len(data)}")
    values = np.frombuffer(data, dtype=kind).astype(np.float64)
    return torch.from_numpy(values).reshape(dim, dim) / top


def apply_forward(x: Tensor, basis: Tensor) -> Tensor:
    """Coefficients float64 [N, D] from which `apply_inverse` gives x [N, D] back. Encoder only.

    Solves with `basis` instead of multiplying by its transpose: a packed basis is not quite
    orthonormal, and this way its rounding costs nothing.
    """
    _check_basis(x, basis, "x")
    return torch.linalg.solve(basis.double().T, x.double().T).T.contiguous()


def apply_inverse(coefs: Tensor, basis: Tensor) -> Tensor:
    """Float32 [N, D] coefs @ basis of int32 or float coefs [N, D], the same bits everywhere.

    Each entry is the float64 sum of coefs[:, k] * basis[k] for k = 0, 1, ..., D - 1 in this order,
    product and sum rounded apart, then rounded to float32.
    """
    _check_basis(coefs, basis, "coefs")
    basis = basis.double()
    out = torch.empty(coefs.shape, dtype=torch.float32)
    for start in range(0, len(coefs), _ROWS):
        columns = coefs[start : start + _ROWS].double().T.contiguous()
        total = torch.zeros_like(columns)
        for k in range(len(basis)):
            total += basis[k][:, None] * columns[k]
        out[start : start + _ROWS] = total.T
    return out


def contract(x: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """Signed logarithm sign(x) log(1 + |x| / scale), float64. Encoder only; undone by `expand`."""
    x = x.double()
    return (x.abs() / scale).log1p().copysign(x)


def expand(y: Tensor, scale: float | Tensor = 1.0) -> Tensor:
    """Inverse of `contract`, sign(y) (exp|y| - 1) scale, float64, the same bits everywhere.

    Absolute error near zero is about 1e-16 scale. Raises ValueError where |y| > 700.
    """
    y = y.double()
    if not bool((y.abs() <= _EXP_LIMIT).all()):
        raise ValueError(f"y: expected |y| <= {_EXP_LIMIT:g}, got values beyond")
    grown = torch.from_numpy(np.asarray(exact_exp(y.abs().numpy()))) - 1.0
    return (grown * scale).copysign(y)


def _basis_format(bits: int) -> tuple[str, int]:
    if bits not in (8, 16):
        raise ValueError(f"bits: expected 8 or 16, got {bits}")
    return ("<i1", 127) if bits == 8 else ("<i2", 32767)


def _check_basis(x: Tensor, basis: Tensor, name: str) -> None:
    dim = x.shape[-1] if x.ndim == 2 else -1
    if basis.shape != (dim, dim):
        raise ValueError(
            f"{name}, basis: expected [N, D] and [D, D], got {list(x.shape)} and "
            f"{list(basis.shape)}"
        )


def _check_last(x: Tensor, name: str) -> None:
    if x.ndim < 1 or x.shape[-1] != 3:
        raise ValueError(f"{name}: expected [..., 3], got {list(x.shape)}")


def _check_integers(x: Tensor, name: str) -> None:
    _check_last(x, name)
    if x.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{name}: expected int32 or int64, got {x.dtype}")

"""Real spherical harmonics up to degree 4, in the order and signs of Kerbl et al. 2023."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _native


def basis_count(degree: int) -> int:
    """Bases of all degrees up to this one: (degree + 1)^2; ValueError outside 0..4."""
    if not 0 <= degree <= _native.MAX_SH_DEGREE:
        raise ValueError(f"sh_degree: expected 0 to {_native.MAX_SH_DEGREE}, got {degree}")
    return (degree + 1) ** 2


def sh_bases(degree: int, directions: Tensor) -> Tensor:
    """[..., K] values of the K = (degree + 1)^2 bases at unit directions [..., 3]."""
    count = basis_count(degree)
    x, y, z = directions.unbind(-1)
    xx, yy, zz, xy, yz, xz = x * x, y * y, z * z, x * y, y * z, x * z
    c1, c2, c3, c4 = _native.SH_C1, _native.SH_C2, _native.SH_C3, _native.SH_C4
    bases = [torch.full_like(x, _native.SH_C0)]
    if degree >= 1:
        bases += [-c1 * y, c1 * z, -c1 * x]
    if degree >= 2:
        shapes = [xy, yz, 2 * zz - xx - yy, xz, xx - yy]
        bases += [c * shape for c, shape in zip(c2, shapes, strict=True)]
    if degree >= 3:
        shapes = [
            y * (3 * xx - yy), xy * z, y * (4 * zz - xx - yy), z * (2 * zz - 3 * xx - 3 * yy),
            x * (4 * zz - xx - yy), z * (xx - yy), x * (xx - 3 * yy),
        ]  # fmt: skip
        bases += [c * shape for c, shape in zip(c3, shapes, strict=True)]
    if degree >= 4:
        shapes = [
            xy * (xx - yy), yz * (3 * xx - yy), xy * (7 * zz - 1), yz * (7 * zz - 3),
            zz * (35 * zz - 30) + 3, xz * (7 * zz - 3), (xx - yy) * (7 * zz - 1),
            xz * (xx - 3 * yy), xx * (xx - 3 * yy) - yy * (3 * xx - yy),
        ]  # fmt: skip
        bases += [c * shape for c, shape in zip(c4, shapes, strict=True)]
    assert len(bases) == count
    return torch.stack(bases, dim=-1)


def sh_colors(degree: int, directions: Tensor, coefficients: Tensor) -> Tensor:
    """[..., 3] colours max(0, SH + 0.5) from coefficients [..., K or more, 3] at unit directions.

    Raises ValueError where coefficients hold fewer than (degree + 1)^2 bases.
    """
    count = basis_count(degree)
    if coefficients.shape[-2] < count:
        raise ValueError(
            f"coefficients: expected {count} or more bases, got {coefficients.shape[-2]}"
        )
    bases = sh_bases(degree, directions)
    color = (bases[..., None] * coefficients[..., :count, :]).sum(-2)
    return (color + _native.SH_OFFSET).clamp_min(0.0)

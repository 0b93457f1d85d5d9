"""Scalar quantisers whose reconstruction is the same bits on every machine.

Reconstruction uses single IEEE 754 operations on float64 (add, multiply, square root, each rounded
correctly everywhere) and one rounding to float32: no exp, no pow, no matrix product, no fused
multiply-add. Quantising is the encoder's business and may use more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_MAX_INDEX = 2**31 - 1


@dataclass(frozen=True)
class UniformQuantiser:
    """Indices q = sign(x) floor(|x| / step + rounding), values (q - shift sign(q)) step.

    Attributes:
        step: positive width of a cell, a number or a tensor that broadcasts against the values.
        rounding: 0.5 rounds to the nearest; less widens the dead zone around zero (1/3 and 1/6 are
            the usual choices in video coding), which costs error and saves more bits.
        shift: how far values are pulled towards zero, in steps (0 to 0.5): where a cell's samples
            are Laplacian their mean lies nearer to zero than its middle.
    """

    step: float | Tensor
    rounding: float = 0.5
    shift: float = 0.0

    def __post_init__(self) -> None:
        _check_step(self.step)
        _check_range("rounding", self.rounding, 0.0, 0.5)
        _check_range("shift", self.shift, 0.0, 0.5)

    def quantise(self, x: Tensor) -> Tensor:
        """Int32 indices of the shape of `x`, any float dtype.

        Raises ValueError where a value is not finite or its index does not fit 32 bits.
        """
        _check_finite(x)
        return _round(x.double(), self.step, self.rounding)

    def dequantise(self, q: Tensor) -> Tensor:
        """Float32 values of int32 indices `q`: two float64 operations, then one rounding."""
        return _scale(q, self.step, self.shift).float()


@dataclass(frozen=True)
class PowerQuantiser:
    """Uniform in y = sign(x) |x|^p: fine steps near zero, coarse ones far out.

    The exponent is p = 4 / quarters, so that the decoder's inverse |y|^(quarters / 4) needs only
    products and square roots; p of PowerQuant (Yvinec et al. 2023) is rounded to that grid.

    Attributes:
        step: positive width of a cell of y, a number or a tensor that broadcasts.
        quarters: 1 to 16; 4 is uniform, 8 the square-root law, 16 the fourth root.
        rounding, shift: as for UniformQuantiser, in steps of y.
    """

    step: float | Tensor
    quarters: int = 8
    rounding: float = 0.5
    shift: float = 0.0

    def __post_init__(self) -> None:
        _check_step(self.step)
        _check_range("quarters", self.quarters, 1, 16)
        _check_range("rounding", self.rounding, 0.0, 0.5)
        _check_range("shift", self.shift, 0.0, 0.5)

    def quantise(self, x: Tensor) -> Tensor:
        """Int32 indices of the shape of `x`, any float dtype.

        Raises ValueError where a value is not finite or its index does not fit 32 bits.
        """
        _check_finite(x)
        x = x.double()
        return _round(x.abs().pow(4 / self.quarters).copysign(x), self.step, self.rounding)

    def dequantise(self, q: Tensor) -> Tensor:
        """Float32 values of int32 indices `q`: float64 products and roots, then one rounding."""
        y = _scale(q, self.step, self.shift)
        return _power_quarters(y.abs(), self.quarters).copysign(y).float()


def _check_step(step: float | Tensor) -> None:
    values = torch.as_tensor(step, dtype=torch.float64)
    if not bool(((values > 0) & values.isfinite()).all()):
        raise ValueError(f"step: expected positive finite numbers, got {values.min():g}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name}: expected {low} to {high}, got {value}")


def _check_finite(x: Tensor) -> None:
    bad = x.numel() - int(x.isfinite().sum())
    if bad:
        raise ValueError(f"x: expected finite values, got {bad} that are not")


def _double(step: float | Tensor) -> float | Tensor:
    return float(step) if isinstance(step, (int, float)) else step.double()


def _round(x: Tensor, step: float | Tensor, rounding: float) -> Tensor:
    index = (x.abs() / _double(step) + rounding).floor()
    if index.numel() and float(index.max()) > _MAX_INDEX:
        raise ValueError(f"x: expected indices of 32 bits, got {float(index.max()):g}")
    return index.copysign(x).int()


def _scale(q: Tensor, step: float | Tensor, shift: float) -> Tensor:
    index = q.double()
    if shift:
        index = index - index.sign() * shift
    return index * _double(step)


def _power_quarters(y: Tensor, quarters: int) -> Tensor:
    """y^(quarters / 4) for y >= 0: roots first, then products from left to right."""
    out = torch.ones_like(y)
    for _ in range(quarters // 4):
        out = out * y
    if quarters & 2:
        out = out * y.sqrt()
    if quarters & 1:
        out = out * y.sqrt().sqrt()
    return out

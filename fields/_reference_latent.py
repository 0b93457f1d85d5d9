"""The plain twins of the native latent operations: torch with autograd, and integers in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .latent_ops import OCTAVES, UNIT_BITS, WEIGHT_BITS, Ints, Plane, Shape, tail_tables

MOST_UNITS, MOST_INPUT = 32767, 127
LOG2_E = 1.4426950408889634


def taps(shape: Shape, planes: Sequence[Plane], buffer: Tensor) -> Tensor:
    """[T, H, W] what the taps read."""
    ys, xs = torch.meshgrid(
        torch.arange(planes[0].height), torch.arange(planes[0].width), indexing="ij"
    )
    rows = []
    for plane, dy, dx in shape.taps:
        p = planes[plane]
        y, x = (ys >> p.shift) + dy, (xs >> p.shift) + dx
        inside = (y >= 0) & (y < p.height) & (x >= 0) & (x < p.width)
        at = p.first + y.clamp(0, p.height - 1) * p.width + x.clamp(0, p.width - 1)
        value = buffer[at]
        rows.append(value if shape.replicate else torch.where(inside, value, 0 * value))
    return torch.stack(rows)


def slide(shape: Shape, planes: Sequence[Plane], buffer: Tensor, parameters: Tensor) -> Tensor:
    """[O, H, W] outputs; differentiable, in the precision of its arguments."""
    t = taps(shape, planes, buffer).flatten(1)
    parts = shape.views(parameters)
    out = parts[-2] @ t + parts[-1]
    if shape.layers:
        h = (parts[0] @ t + parts[1]).relu()
        if shape.layers > 1:
            h = (parts[2] @ h + parts[3] + h).relu()
        out = out + parts[-3] @ h
    return out.view(shape.outputs, planes[0].height, planes[0].width)


def to_bytes(planes: Tensor) -> Tensor:
    """[H, W, 3] uint8 of planes [3, H, W] about 0..1; what is not a number is black."""
    scaled = planes.mul(255).add(0.5).floor().nan_to_num(0).clamp(0, 255).to(torch.uint8)
    return scaled.permute(1, 2, 0).contiguous()


class _Limited(torch.autograd.Function):
    """Clipped to OCTAVES; beyond them only gradients that lead back pass."""

    @staticmethod
    def forward(ctx, octave):
        ctx.save_for_backward(octave)
        return octave.clamp(*OCTAVES)

    @staticmethod
    def backward(ctx, upstream):  # type: ignore[override]
        (octave,) = ctx.saved_tensors
        away = (octave < OCTAVES[0]) & (upstream > 0) | (octave > OCTAVES[1]) & (upstream < 0)
        return torch.where(away, 0 * upstream, upstream)


def laplace_bits(y: Tensor, mu: Tensor, octave: Tensor) -> Tensor:
    """Bits of the unit interval around y, when tails halve every 2^octave."""
    limited: Tensor = _Limited.apply(octave)  # type: ignore[assignment]
    scale = torch.exp2(limited) / torch.log(torch.tensor(2.0, dtype=y.dtype))
    size = (y - mu).abs()
    small = torch.where(size < 0.5, size, 0 * size)  # No branch may be infinite where unused.
    near = (1 - ((small - 0.5) / scale).exp() / 2 - (-(0.5 + small) / scale).exp() / 2).log2()
    outside = torch.log2(-torch.expm1(-1 / scale) / 2) - (size - 0.5) / scale * LOG2_E
    return -torch.where(size < 0.5, near, outside)


def rate(shape: Shape, planes: Sequence[Plane], buffer: Tensor, parameters: Tensor) -> Tensor:
    """Bits of the first plane."""
    mu, octave = slide(shape, planes, buffer, parameters)
    y = buffer[planes[0].first : planes[0].first + planes[0].size].view_as(mu)
    return laplace_bits(y, mu, octave).sum()


def soften(x: Tensor, noise: Tensor, temperature: float, spread: float) -> Tensor:
    """Softly rounded, disturbed, and softly rounded again."""

    def once(x: Tensor) -> Tensor:
        over = 0.5 / torch.tanh(torch.tensor(0.5 / temperature, dtype=x.dtype))
        return x.floor() + 0.5 + ((x - x.detach().floor() - 0.5) / temperature).tanh() * over

    return once(once(x) + noise * spread)


def upsample(x: Tensor, kernel: Tensor, height: int, width: int) -> Tensor:
    """[height, width], rows first and then columns."""
    return _stretch(_stretch(x.T, kernel, height).T, kernel, width)


def _stretch(x: Tensor, kernel: Tensor, size: int) -> Tensor:
    """The last axis twice as long."""
    n = x.shape[-1]
    at = [torch.arange(n).add(k).clamp(0, n - 1) for k in range(-2, 3)]
    even = sum(kernel[k] * x[..., at[k]] for k in range(4))
    odd = sum(kernel[k] * x[..., at[4 - k]] for k in range(4))
    return torch.stack([even, odd], -1).flatten(-2)[..., :size]  # type: ignore[arg-type]


def predictions(
    shape: Shape, planes: Sequence[Plane], symbols: Ints, parameters: Ints
) -> tuple[Ints, Ints]:
    """Centers in 1/16 and scales [H W] that the integer network gives the first plane."""
    x = taps(shape, planes, torch.from_numpy(symbols.astype(np.int64)))
    x = x.flatten(1).clamp(-MOST_INPUT, MOST_INPUT) << UNIT_BITS
    a, a0, b, b0, c, d, c0 = (
        part.numpy().astype(np.int64) for part in shape.views(torch.from_numpy(parameters))
    )
    h = _activated(a @ x.numpy() + a0)
    h = _activated(b @ h + b0 + (h << WEIGHT_BITS))
    mu, octave = _wrapped(c @ h + d @ x.numpy() + c0) >> WEIGHT_BITS
    scale = ((octave - (OCTAVES[0] << UNIT_BITS) + 16) * 8) >> UNIT_BITS
    return ((mu + 8) >> 4).astype(np.int32), scale.clip(0, len(tail_tables()[1]) - 1).astype(
        np.int32
    )


def _wrapped(x: np.ndarray) -> np.ndarray:
    return ((x + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)


def _activated(x: np.ndarray) -> np.ndarray:
    return (_wrapped(x) >> WEIGHT_BITS).clip(0, MOST_UNITS)


FILTER = (
    (0, 0, 0, 64, 0, 0, 0, 0),
    (-1, 4, -10, 58, 17, -5, 1, 0),
    (-1, 4, -11, 40, 40, -11, 4, -1),
    (0, 1, -5, 17, 58, -10, 4, -1),
)
OVERLAP, WHOLE = (5, 4, 2, 2), 32


def shifted(picture: Tensor, dy: int, dx: int) -> Tensor:
    """[H, W, 3] in 1/4096 of a picture [H, W, 3], moved by quarters of a pixel."""
    for axis, by in ((0, dy), (1, dx)):
        size = picture.shape[axis]
        places = torch.arange(size) + (by >> 2) - 3
        taps = [picture.index_select(axis, (places + k).clamp(0, size - 1)) for k in range(8)]
        picture = sum(weight * tap for weight, tap in zip(FILTER[by & 3], taps, strict=True))  # type: ignore
    return picture


def compose(references: Sequence[Tensor], parts: Tensor) -> Tensor:
    """[3, H, W] in 0..1: twin of `latent_parts.guide`, for parts [rows, columns, 2 + 2 R]."""
    height, width, _ = references[0].shape
    rows, columns, _ = parts.shape
    known: dict[tuple[int, ...], Tensor] = {}

    def made(row: int, column: int) -> Tensor:
        """The whole picture as a cell would have it, in 1/8192."""
        key = tuple(int(x) for x in parts[row, column, 1:])
        if key not in known:
            used = [k for k in range(len(references)) if key[0] in (0, 1 + k)]
            moved = [shifted(references[k].long(), *key[1 + 2 * k : 3 + 2 * k]) for k in used]
            known[key] = moved[0] + moved[-1]
        return known[key]

    out = torch.zeros(height, width, 3, dtype=torch.int64)
    for row in range(rows):
        for column in range(columns):
            for y in range(8 * row, min(8 * row + 8, height)):
                for x in range(8 * column, min(8 * column + 8, width)):
                    own = made(row, column)[y, x]
                    total = WHOLE * own
                    sides = (
                        (row - 1, column, y % 8),
                        (row + 1, column, 7 - y % 8),
                        (row, column - 1, x % 8),
                        (row, column + 1, 7 - x % 8),
                    )
                    for r, c, away in sides:
                        if 0 <= r < rows and 0 <= c < columns and away < len(OVERLAP):
                            total = total + OVERLAP[away] * (made(r, c)[y, x] - own)
                    out[y, x] = total
    return (out.permute(2, 0, 1).float() * (1 / (8192 * WHOLE * 255))).contiguous()

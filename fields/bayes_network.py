"""Bayesian fields in floating point, for fitting; `bayes_exact.py` is what a decoder computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .bayes_noise import TURN
from .bayes_shape import MIX_SHIFT, Shape

LEAK = 0.125
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class Shared:
    """What all signals have in common beside the prior.

    Attributes:
        mixing: of each layer [n, n], w = h A; or [n], multiples, in plain mode.
        kernels: [out, in, 3, ...] of each convolution.
    """

    mixing: tuple[Tensor, ...]
    kernels: tuple[Tensor, ...]

    @staticmethod
    def new(shape: Shape, generator: torch.Generator) -> Shared:
        """Weights that are multiples of their latents, and random convolutions."""
        mixing = []
        for number, (out, into) in enumerate(shape.layers):
            scale = torch.full((out * into,), shape.spread(number) / (1 << MIX_SHIFT))
            mixing.append(torch.diag(scale) if shape.mixing else scale)
        kernels = []
        for out, into in shape.kernels:
            size = (out, into, *[3] * shape.dims)
            bound = math.sqrt(2 / (into * 3**shape.dims))
            kernels.append(bound * torch.randn(size, generator=generator))
        return Shared(tuple(mixing), tuple(kernels))


def weights_of(shape: Shape, shared: Shared, h: Tensor) -> list[Tensor]:
    """Matrices [patches, out, in] of each layer from the latents [patches, weights]."""
    found, at = [], 0
    for (out, into), mix in zip(shape.layers, shared.mixing, strict=True):
        part = h[:, at : at + out * into]
        found.append((part @ mix if shape.mixing else part * mix).reshape(-1, out, into))
        at += out * into
    return found


def stitch(z: Tensor, grid: Sequence[int], cell: Sequence[int]) -> Tensor:
    """[S, C, grid * cell along each axis] of patches' parts [S, patches, C, *cell]."""
    signals, _, channels = z.shape[:3]
    n = len(grid)
    z = z.reshape(signals, *grid, channels, *cell)
    order = [0, n + 1]
    for axis in range(n):
        order += [1 + axis, n + 2 + axis]
    sizes = [a * b for a, b in zip(grid, cell, strict=True)]
    return z.permute(order).reshape(signals, channels, *sizes)


def cut(x: Tensor, grid: Sequence[int], cell: Sequence[int]) -> Tensor:
    """[S, patches, C, *cell]: what `stitch` puts together."""
    signals, channels = x.shape[:2]
    n = len(grid)
    sizes = [v for pair in zip(grid, cell, strict=True) for v in pair]
    x = x.reshape(signals, channels, *sizes)
    order = [0, *(2 + 2 * a for a in range(n)), 1, *(3 + 2 * a for a in range(n))]
    return x.permute(order).reshape(signals, math.prod(grid), channels, *cell)


def doubled(x: Tensor, axes: int) -> Tensor:
    """Every sample twice along each of the last axes."""
    for axis in range(x.dim() - axes, x.dim()):
        x = x.repeat_interleave(2, axis)
    return x


def features_of(shape: Shape, shared: Shared, z: Tensor, grid: Sequence[int]) -> Tensor:
    """Positional features [S * patches, features, samples] of latents [S, patches, positional]."""
    x = stitch(z.reshape(*z.shape[:2], shape.latents, *shape.coarse), grid, shape.coarse)
    for number, kernel in enumerate(shared.kernels):
        x = CONVOLUTIONS[shape.dims](doubled(x, shape.dims), kernel, padding=1)
        if number + 1 < len(shared.kernels):
            x = F.leaky_relu(x, LEAK)
    return cut(x, grid, shape.patch).reshape(-1, shape.features, shape.samples)


def places(shape: Shape) -> Tensor:
    """[Fourier features and a one, samples] of a patch."""
    rows = torch.from_numpy(shape.fourier()).float() / TURN
    return torch.cat([rows, torch.ones(1, rows.shape[1])])


def evaluate(
    shape: Shape, shared: Shared, h: Tensor, z: Tensor | None, fixed: Tensor, grid: Sequence[int]
) -> Tensor:
    """Signals [S, patches, channels, samples].

    Args:
        shape: of the prior.
        shared: of the prior.
        h: [S, patches, weights] latents of the weights.
        z: [S, patches, positional] or None.
        fixed: of `places`.
        grid: patches along each axis.
    """
    matrices = weights_of(shape, shared, h.reshape(-1, shape.weights))
    sines = [math.tau * matrix for matrix in matrices[:-1]]  # Weights count in turns.
    count = len(fixed) - 1
    first = sines[0]
    x = torch.cat([first[:, :, :count], first[:, :, -1:]], 2) @ fixed
    if z is not None:
        x = x + first[:, :, count:-1] @ features_of(shape, shared, z, grid)
    for matrix in [*sines[1:], matrices[-1]]:
        x = torch.baddbmm(matrix[:, :, -1:], matrix[:, :, :-1], x.sin())
    return x.reshape(*h.shape[:2], shape.channels, shape.samples)

"""What a decoder computes of a Bayesian field: whole numbers, the same on every machine.

Sums are matrix products in double precision of whole numbers whose partial sums stay below 2^53:
exact in any order, with or without fused multiplication, whatever library multiplies them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .bayes_blocks import Index, samples
from .bayes_noise import NORMAL_SHIFT, TURN, sine_table
from .bayes_prior import Prior
from .bayes_shape import MIX_SHIFT, VALUE_SHIFT, WEIGHT_SHIFT, Shape

HALF_SHIFT = 24  # Half-precision numbers are whole multiples of 2^-24.
MAX_VALUE = 1 << 19  # Of latents and what convolutions give, in units of 2^-12.
MAX_NETWORK = 1 << 20  # Of weights, in units of 2^-16.
MAX_FEATURE = 1 << 17  # Of the inputs of a layer, in units of 2^-14.
LEAK_SHIFT = 3
OUTPUT_SHIFT = 16  # Outputs are whole multiples of 2^-16.
STRIP = 256  # Patches that are evaluated at once.

Ints = NDArray[np.int64]


def latents(prior: Prior, index: Mapping[str, Index]) -> dict[str, Ints]:
    """[rows, n] by level, in units of 2^-12, of the indices [rows, blocks]."""
    found = {}
    for level, blocks in prior.blocks.items():
        rows = len(index[level])
        out = np.empty(rows * len(blocks.columns), np.int64)
        mean, std = scaled(prior, level)
        values = mean[blocks.columns] + std[blocks.columns] * samples(blocks, index[level])
        out[blocks.sources(rows)] = np.clip(shifted(values, HALF_SHIFT), -MAX_VALUE, MAX_VALUE)
        found[level] = out.reshape(rows, -1)
    return found


def scaled(prior: Prior, level: str) -> tuple[Ints, Ints]:
    """Means in units of 2^-36 and deviations of 2^-24, [n]: both exactly the half floats."""
    mean, std = (np.ldexp(x[level].astype(np.float64), HALF_SHIFT) for x in (prior.mean, prior.std))
    return mean.astype(np.int64) << NORMAL_SHIFT, std.astype(np.int64)


def shifted(values: Ints, bits: int) -> Ints:
    """Divided by 2^bits, halves up."""
    return (values + (1 << (bits - 1))) >> bits


def product(a: NDArray[np.generic], b: NDArray[np.generic]) -> Ints:
    """The exact matrix product of whole numbers, every partial sum below 2^53."""
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)


def decode_signal(
    prior: Prior, index: Mapping[str, Index], size: Sequence[int]
) -> NDArray[np.int64]:
    """The signal [*size, channels] in units of 2^-16, of the indices [rows, blocks] by level."""
    shape, values = prior.shape, latents(prior, index)
    grid = shape.grid(size)
    h, z = values["patch"][:, : shape.weights], values["patch"][:, shape.weights :]
    if shape.group:
        h = h + values["group"][shape.groups(grid)] + values["global"]
    features = positional_features(prior, z, grid) if shape.positional else None
    parts = []
    for first in range(0, len(h), STRIP):
        part = slice(first, first + STRIP)
        parts.append(network(prior, h[part], None if features is None else features[part]))
    whole = joined(np.concatenate(parts).reshape(len(h), -1, *shape.patch), grid)
    return np.moveaxis(whole, 0, -1)[tuple(slice(n) for n in size)]


def network(prior: Prior, h: Ints, features: Ints | None) -> Ints:
    """[patches, channels, samples] in units of 2^-16 of latents [patches, weights]."""
    shape, sines, at = prior.shape, sine_table(), 0
    x = np.broadcast_to(shape.fourier().astype(np.int64), (len(h), *shape.fourier().shape))
    if features is not None:
        x = np.concatenate([x, features], 1)
    total = x
    for number, (out, into) in enumerate(shape.layers):
        if number:
            phase = shifted(total, WEIGHT_SHIFT) & (TURN - 1)
            x = sines[phase]
        part = h[:, at : at + out * into]
        at += out * into
        matrix = weights(prior, part, number).reshape(-1, out, into)
        total = product(matrix[:, :, :-1], x) + (matrix[:, :, -1:] << MIX_SHIFT)
    return shifted(total, WEIGHT_SHIFT + MIX_SHIFT - OUTPUT_SHIFT)


def weights(prior: Prior, h: Ints, layer: int) -> Ints:
    """[patches, out * in] in units of 2^-16 of a layer's latents."""
    mixed = product(h, prior.mixing[layer]) if prior.mixing else h * prior.shape.spread(layer)
    rounded = shifted(mixed, VALUE_SHIFT + MIX_SHIFT - WEIGHT_SHIFT)
    return np.clip(rounded, -MAX_NETWORK, MAX_NETWORK)


def positional_features(prior: Prior, z: Ints, grid: Sequence[int]) -> Ints:
    """[patches, features, samples] in units of 2^-14 of latents [patches, positional]."""
    shape = prior.shape
    x = joined(z.reshape(len(z), shape.latents, *shape.coarse), grid)
    for number, kernel in enumerate(prior.kernels):
        x = shifted(convolved(doubled(x), kernel), MIX_SHIFT)
        if number + 1 < len(prior.kernels):
            x = np.where(x < 0, shifted(x, LEAK_SHIFT), x)
        x = np.clip(x, -MAX_VALUE, MAX_VALUE)
    x = np.clip(x << (MIX_SHIFT - VALUE_SHIFT), -MAX_FEATURE, MAX_FEATURE)
    return separated(x, shape, grid)


def convolved(x: Ints, kernel: NDArray[np.int16]) -> Ints:
    """Cross-correlation [out, *size] of [in, *size] with [out, in, 3, ...], zeros around."""
    size = x.shape[1:]
    around = np.pad(x, [(0, 0), *[(1, 1)] * len(size)])
    total = np.zeros((len(kernel), math.prod(size)), np.int64)
    for offset in np.ndindex(*kernel.shape[2:]):
        window = tuple(slice(o, o + n) for o, n in zip(offset, size, strict=True))
        part = around[(slice(None), *window)].reshape(len(x), -1)
        total += product(kernel[(slice(None), slice(None), *offset)], part)
    return total.reshape(len(kernel), *size)


def doubled(x: Ints) -> Ints:
    """Every sample twice along each axis but the first."""
    for axis in range(1, x.ndim):
        x = x.repeat(2, axis)
    return x


def joined(parts: Ints, grid: Sequence[int]) -> Ints:
    """[C, grid * cell along each axis] of patches' parts [patches, C, *cell]."""
    n = len(grid)
    x = parts.reshape(*grid, *parts.shape[1:])
    order = [
        n,
        *(axis for pair in zip(range(n), range(n + 1, 2 * n + 1), strict=True) for axis in pair),
    ]
    sizes = [a * b for a, b in zip(grid, parts.shape[2:], strict=True)]
    return x.transpose(order).reshape(parts.shape[1], *sizes)


def separated(x: Ints, shape: Shape, grid: Sequence[int]) -> Ints:
    """[patches, C, samples]: what `joined` puts together."""
    n = len(grid)
    sizes = [v for pair in zip(grid, shape.patch, strict=True) for v in pair]
    order = [*range(1, 2 * n, 2), 0, *range(2, 2 * n + 1, 2)]
    return x.reshape(len(x), *sizes).transpose(order).reshape(-1, len(x), shape.samples)

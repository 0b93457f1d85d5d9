"""Sliding networks over planes of latents, upsampling, and the coder: the native face for torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..quant.exact import exact_exp
from . import _native

Ints = NDArray[np.int32]
TOTAL = 1 << 15  # Of probabilities.
OCTAVES = (-5, 6)  # Of half-lives: 2^-5 to 2^6 symbols.
OCTAVE_STEPS = 8
MOST_REACH = 255
MOST_SYMBOL = 1 << 15
WEIGHT_BITS, UNIT_BITS = 10, 8  # Fractions of the integer network's weights and activations.


@dataclass(frozen=True)
class Plane:
    """One plane of a flat buffer, read at (y >> shift, x >> shift).

    Attributes:
        first: index of its first element. height, width: its size. shift: 0 to 3.
    """

    first: int
    height: int
    width: int
    shift: int = 0

    @property
    def size(self) -> int:
        return self.height * self.width


@dataclass(frozen=True)
class Shape:
    """A perceptron on taps t: h1 = relu(A t + a), h2 = relu(B h1 + b + h1), out = C h + D t + c.

    Attributes:
        taps: (plane, dy, dx) each.
        layers: 0 to 2 hidden ones. hidden, outputs: their widths.
        replicate: outside of a plane is its border, else zero.
    """

    taps: tuple[tuple[int, int, int], ...]
    layers: int
    hidden: int
    outputs: int
    replicate: bool = False

    @cached_property
    def parts(self) -> list[tuple[int, int]]:
        """Rows and columns of A, a, B, b, C, D, c, those that there are, as they lie in memory."""
        t, h, o = len(self.taps), self.hidden, self.outputs
        first = [(h, t), (h, 1)] if self.layers > 0 else []
        second = [(h, h), (h, 1)] if self.layers > 1 else []
        return first + second + ([(o, h)] if self.layers else []) + [(o, t), (o, 1)]

    @cached_property
    def parameters(self) -> int:
        return sum(a * b for a, b in self.parts)

    def views(self, flat: Tensor) -> list[Tensor]:
        """The matrices of flat parameters, as views of them."""
        parts = flat.split([a * b for a, b in self.parts])
        return [part.view(shape) for part, shape in zip(parts, self.parts, strict=True)]

    def on(self, *planes: Plane) -> _native.SlidingNet:
        """The native network over some planes; the first one gives the places."""
        numbers = [(p.first, p.height, p.width, p.shift) for p in planes]
        return _native.SlidingNet(
            self.layers, self.hidden, self.outputs, numbers, list(self.taps), self.replicate
        )


@lru_cache(maxsize=1)
def tail_tables() -> tuple[NDArray[np.uint16], Ints, Ints]:
    """Tails in 1/32768 of the coder's distributions, where each scale's begin, how far it reaches.

    Of scale k the half-life is 2^(OCTAVES[0] + k/8); entry j is what lies beyond j/16. Beyond the
    reach, in whole symbols, a symbol is escaped. The same integers on every machine.
    """
    low, high = OCTAVES
    tails, first, reach, at = [], [], [], 0
    ln2 = 0.6931471805599453
    for k in range((high - low) * OCTAVE_STEPS + 1):
        rate_ = float(exact_exp(np.array([-ln2 * (low + k / OCTAVE_STEPS)]))[0])  # Halvings each.
        far = int(min(MOST_REACH, max(1, np.ceil(14 / rate_ + 0.5))))
        j = np.arange(16 * far + 1)
        half = (TOTAL - (2 * far + 1)) // 2
        tail = np.floor(half * exact_exp(-ln2 * rate_ / 16 * j) + 0.5)
        tails.append(tail.astype(np.uint16))
        first.append(at)
        reach.append(far)
        at += len(tail)
    return np.concatenate(tails), np.array(first, np.int32), np.array(reach, np.int32)


def encode_planes(nets: Sequence[_native.SlidingNet], parameters: Ints, symbols: Ints) -> bytes:
    """Code the first plane of each network, in that order, of a flat buffer of symbols.

    Args:
        nets: of two hidden layers and two outputs, with causal taps in their first plane.
        parameters: [nets, P] in 1/2^WEIGHT_BITS, biases in 1/2^(WEIGHT_BITS + UNIT_BITS).
        symbols: [N], magnitudes below MOST_SYMBOL.
    """
    if len(symbols) and np.abs(symbols).max() >= MOST_SYMBOL:
        raise ValueError(f"symbols: expected magnitudes below {MOST_SYMBOL}")
    return _native.encode_planes(list(nets), parameters.reshape(-1), tail_tables(), symbols)


def decode_planes(
    nets: Sequence[_native.SlidingNet], parameters: Ints, data: bytes, symbols: Ints
) -> None:
    """Fill in the first plane of each network, zeros before; the inverse of `encode_planes`."""
    _native.decode_planes(list(nets), parameters.reshape(-1), tail_tables(), data, symbols)


def encode_numbers(symbols: Ints, centers: Ints, scales: Ints) -> bytes:
    """Code numbers [N] around centers [N] in 1/16, under scales [N] of `tail_tables`."""
    return _native.encode_numbers(symbols, centers, scales, tail_tables())


def decode_numbers(data: bytes, centers: Ints, scales: Ints) -> Ints:
    """[N] numbers: the inverse of `encode_numbers`."""
    symbols = np.zeros(len(centers), np.int32)
    _native.decode_numbers(data, centers, scales, tail_tables(), symbols)
    return symbols

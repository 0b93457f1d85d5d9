"""Blocks of latents that one index stands for, and which sample of the prior an index is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from . import _native
from .bayes_noise import normal_table, normals, orders

COST_UNITS = 256  # Of a bit: average costs of dimensions are whole multiples of 1 / 256.
MAX_BLOCK = 512  # Dimensions.
SLAB = 1 << 13  # Candidates that are scored at once.

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Blocks:
    """How one level of the hierarchy is cut.

    Attributes:
        columns: [n] dimensions of a vector in coded order.
        ends: where each block ends in that order.
        level: number of the level, which random numbers depend on.
        shuffled: of `Shape`.
    """

    columns: Index
    ends: tuple[int, ...]
    level: int
    shuffled: bool

    @staticmethod
    def of(cost: NDArray[np.uint16], budget: int, level: int, shuffled: bool) -> Blocks:
        """Dimensions in a random order, packed greedily up to `budget` units of average cost."""
        columns = orders(len(cost), [level])[0]
        ends, spent, first = [], 0, 0
        for place, column in enumerate(columns):
            more = int(cost[column])
            if place > first and (spent + more > budget or place - first == MAX_BLOCK):
                ends.append(place)
                spent, first = 0, place
            spent += more
        return Blocks(columns, (*ends, len(columns)), level, shuffled)

    @property
    def parts(self) -> list[slice]:
        """The places of each block in coded order."""
        return [slice(a, b) for a, b in zip((0, *self.ends[:-1]), self.ends, strict=True)]

    @cached_property
    def number(self) -> Index:
        """[n] the block of each place."""
        sizes = [part.stop - part.start for part in self.parts]
        return np.repeat(np.arange(len(sizes)), sizes)

    def sources(self, rows: int) -> Index:
        """[rows, n] which of the rows * n values of a level stands at each place in coded order.

        With `shuffled`, each column goes through the rows in an order of its own, so that a block
        has dimensions of many patches and all rows have about the same content.
        """
        places = np.arange(rows)[:, None]
        if self.shuffled and rows > 1:
            places = orders(rows, [(self.level + 1) * (1 << 20) + int(c) for c in self.columns]).T
        return places * len(self.columns) + self.columns


def samples(blocks: Blocks, index: Index) -> NDArray[np.int64]:
    """Standard normals in units of 2^-12, [rows, n] in coded order, of indices [rows, blocks]."""
    out = np.empty((len(index), len(blocks.columns)), np.int64)
    for number, part in enumerate(blocks.parts):
        found = normals(index[:, number], blocks.level, number, part.stop - part.start)
        out[:, part] = found.T
    return out


def choose(
    mean: NDArray[np.float32],
    std: NDArray[np.float32],
    place: tuple[int, int],
    bits: int,
    generator: np.random.Generator,
) -> Index:
    """The candidates [rows] of 2^bits that stand for posteriors (Flamich et al. 2022, A* coding).

    The largest of log q(z) / p(z) plus Gumbel noise that falls with the number is a sample of q, as
    nearly as so many candidates allow. The log-ratio of all is one product of the coefficients of
    z^2 and z with both, taken while candidates are made.

    Args:
        mean: [rows, d] of the posteriors where the prior is standard normal.
        std: [rows, d] likewise, positive.
        place: (level, block), which candidates depend on.
        bits: of an index.
        generator: of the Gumbel noise, which decoders need not know.
    """
    inverse = 1 / np.square(std)
    coefficients = np.concatenate([0.5 * (1 - inverse), mean * inverse], 1).astype(np.float32)
    rows = len(mean)
    best, found = np.full(rows, -np.inf), np.zeros(rows, np.int64)
    arrived = np.zeros((rows, 1))
    for first in range(0, 1 << bits, SLAB):
        scores = np.empty((rows, min(SLAB, (1 << bits) - first)), np.float32)
        _native.score_candidates(normal_table(), coefficients, *place, first, scores)
        times = arrived + generator.standard_exponential(scores.shape).cumsum(1)
        scores -= np.log(times)
        arrived = times[:, -1:]
        top = scores.argmax(1)
        value = scores[np.arange(rows), top]
        found = np.where(value > best, first + top, found)
        best = np.maximum(value, best)
    return found


def packed(index: Sequence[Index], bits: int) -> bytes:
    """Indices one after the other, `bits` each, low bits first."""
    flat = np.concatenate([np.zeros(0, np.int64), *(part.reshape(-1) for part in index)])
    flags = (flat[:, None] >> np.arange(bits)) & 1
    return np.packbits(flags.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def unpacked(data: bytes, sizes: Sequence[tuple[int, int]], bits: int) -> list[Index]:
    """Arrays of the given sizes of what `packed` wrote. Raises ValueError for another length."""
    count = sum(rows * columns for rows, columns in sizes)
    if len(data) != -(-count * bits // 8):
        raise ValueError(f"expected {-(-count * bits // 8)} bytes of indices, got {len(data)}")
    flags = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if flags[count * bits :].any():
        raise ValueError("expected zeros behind the last index")
    flat = flags[: count * bits].reshape(count, bits).astype(np.int64) @ (1 << np.arange(bits))
    found, at = [], 0
    for rows, columns in sizes:
        found.append(flat[at : at + rows * columns].reshape(rows, columns))
        at += rows * columns
    return found

"""What a radiance field's cells say about the rows of its table, in integers: a prior for coding.

A row is worth something if vertices near cells that are not empty share it (Chen et al. 2024, CNC,
section 3.4, weigh them by how much of their surroundings is occupied; so do we). Encoder and
decoder count alike on every machine: all that is not an integer here is one quotient, rounded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._native import PRIMES
from .levels import Encoding

SIDE = 64  # Of the cells.
CLASSES = 31
FRACTION = 20  # Bits behind the point of a place, in cells.
SHARE = 8  # Classes of how much of a vertex's surroundings may hold something.
VERTICES_PER_ROW = 12  # A level with more of them meets all of its rows.
MAX_VERTICES = 1 << 22

Ints = NDArray[np.int64]


def row_contexts(encoding: Encoding, number: int, cells: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """[rows, 2] classes below 32 of the rows of a level, 0 where nothing is known.

    How many vertices near something share the row, and how much there is around them.

    Args:
        encoding: of three dimensions.
        number: of the level.
        cells: [64^3] bool, x fastest.
    """
    level = encoding.level[number]
    contexts = np.zeros((level.rows, 2), np.uint8)
    across = int(level.scale) + 2
    volume = across**3 * (2 if encoding.lattice == "simplex" else 1)
    most = min(VERTICES_PER_ROW * level.rows, MAX_VERTICES)
    if encoding.lattice == "permuto" or level.scale < 1 or volume > most:
        return contexts
    sums = np.zeros((SIDE + 1,) * 3, np.int64)
    sums[1:, 1:, 1:] = cells.reshape((SIDE,) * 3).cumsum(0).cumsum(1).cumsum(2)
    many, much = np.zeros(level.rows, np.int64), np.zeros(level.rows, np.int64)
    for z in range(level.side):
        corner = _slab(level.side, z)
        share = _share(encoding, level.scale, corner, sums)
        met = share > 0
        row = _rows(corner[met], level.side, level.rows)
        many += np.bincount(row, minlength=level.rows)
        much += np.bincount(row, share[met], level.rows).astype(np.int64)
    contexts[:, 0] = np.minimum(many, CLASSES)
    contexts[:, 1] = np.minimum(much, CLASSES)
    return contexts


def _slab(side: int, z: int) -> Ints:
    """[side^2, 3] corners of one z, x fastest."""
    index = np.arange(side * side)
    return np.stack([index % side, index // side, np.full_like(index, z)], 1)


def _share(encoding: Encoding, scale: float, corner: Ints, sums: Ints) -> Ints:
    """[N] 0 to 8: how much of the box of two edges around corners [N, 3] may hold something."""
    place = 6 * corner  # Sixths of a lattice unit; the skew of three dimensions takes whole ones.
    if encoding.lattice == "simplex":
        place = place - corner.sum(1, keepdims=True)
    unit = round(SIDE / (6 * scale) * (1 << FRACTION))
    middle, reach = (place - 3) * unit, 6 * unit
    low = np.clip((middle - reach) >> FRACTION, 0, SIDE)
    high = np.clip(((middle + reach) >> FRACTION) + 1, 0, SIDE)
    count = np.zeros(len(corner), np.int64)
    for which in range(8):
        bits = [which >> axis & 1 for axis in range(3)]
        x, y, z = (np.where(bit, high[:, a], low[:, a]) for a, bit in enumerate(bits))
        count += sums[z, y, x] * (-1) ** (3 - sum(bits))
    volume = np.maximum((high - low).clip(0).prod(1), 1)
    return np.where(count > 0, 1 + count * (SHARE - 1) // volume, 0)


def _rows(corner: Ints, side: int, rows: int) -> Ints:
    """[N] rows of corners [N, 3], as docs/format.md 4.1 has it."""
    if side**3 <= rows:
        return corner[:, 0] + side * (corner[:, 1] + side * corner[:, 2])
    hashed = np.zeros(len(corner), np.uint32)
    for axis in range(3):
        hashed ^= corner[:, axis].astype(np.uint32) * np.uint32(PRIMES[axis])
    return hashed.astype(np.int64) % rows

"""Motion of blocks as groups of versions 1 to 3 have it: read, and applied, in integers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..quant.entropy import decode_ints
from . import _native
from .latent_ops import Ints

Pixels = NDArray[np.uint8]
BLOCK = 16


def grid(height: int, width: int) -> tuple[int, int, int]:
    """Shape of the vectors of a frame."""
    return -(-height // BLOCK), -(-width // BLOCK), 2


def move(frame: Pixels, motion: Ints, threads: int = 1) -> Tensor:
    """[3, H, W] in 0..1: each block of a frame [H, W, 3] from where its vector points.

    Bit-exact everywhere. Raises ValueError for vectors that are too long.
    """
    out = torch.empty(3, *frame.shape[:2])
    _native.move(np.ascontiguousarray(frame), motion, BLOCK, out, threads)
    return out


def read(data: bytes, height: int, width: int) -> Ints:
    """Vectors of groups of version 1. Raises ValueError for damage."""
    shape = grid(height, width)
    scale, context, neighbors = _contexts(*shape[:2])
    try:
        return _vectors(decode_ints(data, 2, scale, context, neighbors).reshape(shape))
    except ValueError:
        raise ValueError("motion: damaged stream") from None


@dataclass(frozen=True)
class Motion:
    """Of a frame made of one or two others.

    Attributes:
        vectors: [references, rows, columns, 2] dy and dx in quarters of a pixel.
        modes: [rows, columns] 0: the mean of both references, 1: the first, 2: the second.
    """

    vectors: Ints
    modes: Ints


def guide(references: Sequence[Pixels], motion: Motion, threads: int = 1) -> Tensor:
    """[3, H, W] in 0..1: each block from where its vectors point. Bit-exact everywhere."""
    moved = [move(r, v, threads) for r, v in zip(references, motion.vectors, strict=True)]
    if len(moved) == 1:
        return moved[0]
    height, width = references[0].shape[:2]
    modes = torch.from_numpy(motion.modes).repeat_interleave(BLOCK, 0)[:height]
    modes = modes.repeat_interleave(BLOCK, 1)[:, :width]
    first, second = moved
    return torch.where(modes == 0, (first + second) * 0.5, torch.where(modes == 1, first, second))


def read_modes(data: bytes, height: int, width: int, references: int) -> Motion:
    """Vectors and modes of groups of versions 2 and 3. Raises ValueError for damage."""
    rows, columns, _ = grid(height, width)
    channels = 2 * references + (references > 1)
    symbols = np.zeros((rows * columns, channels), np.int32)
    try:
        if data:
            symbols = decode_ints(data, channels, *_contexts(rows, columns))
        rest = symbols[:, -2 * references :].reshape(rows, columns, references, 2)
        vectors = np.stack([_vectors(part) for part in rest.transpose(2, 0, 1, 3)])
    except ValueError:
        raise ValueError("motion: damaged stream") from None
    if references == 1:
        return Motion(vectors, np.ones((rows, columns), np.int32))
    modes = symbols[:, 0].reshape(rows, columns)
    if modes.min() < 0 or modes.max() > 2:
        raise ValueError("motion: expected modes 0 to 2")
    return Motion(vectors, modes)


def _vectors(rest: Ints) -> Ints:
    """[rows, columns, 2] of their differences to medians. Raises ValueError for long ones."""
    motion = np.zeros(rest.shape, np.int32)
    _native.restore_motion(motion, np.ascontiguousarray(rest))
    return motion


def _contexts(rows: int, columns: int) -> tuple[Ints, NDArray[np.uint8], Ints]:
    index = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    neighbors = np.full((rows, columns, 3), -1, np.int32)
    neighbors[:, 1:, 0] = index[:, :-1]
    neighbors[1:, :, 1] = index[:-1]
    neighbors[1:, :-1, 2] = index[:-1, 1:]
    count = rows * columns
    return np.ones(count, np.int32), np.zeros((count, 2), np.uint8), neighbors.reshape(count, 3)

"""Motion of blocks between frames: found, coded, and applied, in integers only."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..quant.entropy import decode_ints, encode_ints
from . import _native
from .latent_ops import Ints

Pixels = NDArray[np.uint8]
BLOCK = 16
REACH = 16  # Whole pixels around no motion that are all tried.


def find(now: Pixels, before: Pixels, price: int) -> Ints:
    """[rows, columns, 2] vectors of blocks, dy and dx in quarters of a pixel.

    Args:
        now: frame [H, W, 3].
        before: the frame [H, W, 3] that it is to be made of.
        price: of a bit, in absolute differences of one grey level.
    """
    motion = np.zeros(grid(*now.shape[:2]), np.int32)
    _native.find_motion(_grey(now), _grey(before), BLOCK, REACH, price, motion)
    return motion


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


def write(motion: Ints) -> bytes:
    """Vectors as differences to the median of three neighbours, coded with adaptive contexts."""
    rest = np.empty_like(motion)
    _native.predict_motion(motion, rest, True)
    return encode_ints(rest.reshape(-1, 2), *_contexts(*motion.shape[:2]))


def read(data: bytes, height: int, width: int) -> Ints:
    """The inverse of `write`. Raises ValueError for damage."""
    shape = grid(height, width)
    scale, context, neighbors = _contexts(*shape[:2])
    try:
        rest = decode_ints(data, 2, scale, context, neighbors).reshape(shape)
        motion = np.zeros(shape, np.int32)
        _native.predict_motion(motion, np.ascontiguousarray(rest), False)
    except ValueError:
        raise ValueError("motion: damaged stream") from None
    return motion


def _contexts(rows: int, columns: int) -> tuple[Ints, NDArray[np.uint8], Ints]:
    index = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    neighbors = np.full((rows, columns, 3), -1, np.int32)
    neighbors[:, 1:, 0] = index[:, :-1]
    neighbors[1:, :, 1] = index[:-1]
    neighbors[1:, :-1, 2] = index[:-1, 1:]
    count = rows * columns
    return np.ones(count, np.int32), np.zeros((count, 2), np.uint8), neighbors.reshape(count, 3)


def _grey(frame: Pixels) -> Pixels:
    x = frame.astype(np.uint16)
    return ((x[..., :1] + 2 * x[..., 1:2] + x[..., 2:] + 2) >> 2).astype(np.uint8)

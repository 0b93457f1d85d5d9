"""Motion by parts of a picture: found, coded, and applied (docs/format.md, 7.6)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import _native
from .latent_ops import Ints

Pixels = NDArray[np.uint8]
CELL = 8  # The smallest part; the largest is four times that.
SEEDS = (16, 8)  # Blocks that are first looked for one by one.
REACH = 16  # Whole pixels around no motion that are all tried.
SQUARE = 255**2 * 3  # A mean squared error of 0..1 in squared grey levels of a pixel's channels.
MOST_PRICE = 4095  # Of a seed's bit, in absolute differences.


def grid(height: int, width: int, references: int) -> tuple[int, int, int]:
    """Shape of the parts of a frame: cells, and level, mode, dy and dx of each reference."""
    return -(-height // CELL), -(-width // CELL), 2 + 2 * references


def find(
    now: Pixels, references: Sequence[Pixels], lmbda: float, passes: int, away: Sequence[int]
) -> Ints:
    """[rows, columns, 2 + 2 R] parts of least squared error plus bits: int32, as `grid` says.

    A quadtree (Sullivan and Baker 1994), greedy, the smallest parts first.

    Args:
        now: frame [H, W, 3].
        references: one or two of [H, W, 3].
        lmbda: what a bit a pixel may cost in mean squared error of 0..1.
        passes: 1 and up; each goes by the last one's bits.
        away: how many frames on each reference lies.
    """
    height, width, _ = now.shape
    parts = np.zeros(grid(height, width, len(references)), np.int32)
    rows, columns, _ = grid(height, width, len(references))
    price = min(MOST_PRICE, max(1, round((lmbda * SQUARE) ** 0.5)))
    grey, seeds = _grey(now), []
    before = [_grey(reference) for reference in references]
    for block in SEEDS:
        found = [_blocks(grey, reference, block, price) for reference in before]
        wide = np.stack(found).repeat(block // CELL, 1).repeat(block // CELL, 2)
        seeds.append(np.ascontiguousarray(wide[:, :rows, :columns]))
    _native.search_parts(now, list(references), lmbda * SQUARE, passes, list(away), seeds, parts)
    return parts


def _blocks(now: Pixels, before: Pixels, block: int, price: int) -> Ints:
    """[rows, columns, 2] vectors of blocks, of grey frames [H, W, 1]."""
    rows, columns = (-(-size // block) for size in now.shape[:2])
    motion = np.zeros((rows, columns, 2), np.int32)
    _native.find_motion(now, before, block, REACH, price, motion)
    return motion


def guide(references: Sequence[Pixels], parts: Ints, threads: int = 1) -> Tensor:
    """[3, H, W] in 0..1 of references [H, W, 3]: each part from where its vectors point.

    Parts overlap (Orchard and Sullivan 1994). Bit-exact everywhere. Raises ValueError for parts of
    another size.
    """
    out = torch.empty(3, *references[0].shape[:2])
    _native.compose([np.ascontiguousarray(r) for r in references], parts, out, threads)
    return out


def write(parts: Ints, away: Sequence[int]) -> bytes:
    """Parts as bytes. Raises ValueError for vectors that are too long."""
    return _native.encode_parts(parts, list(away))


def read(data: bytes, height: int, width: int, away: Sequence[int]) -> Ints:
    """The inverse of `write`. Raises ValueError for damage."""
    parts = np.zeros(grid(height, width, len(away)), np.int32)
    _native.decode_parts(data, list(away), parts)
    return parts


def _grey(frame: Pixels) -> Pixels:
    x = frame.astype(np.uint16)
    return ((x[..., :1] + 2 * x[..., 1:2] + x[..., 2:] + 2) >> 2).astype(np.uint8)

"""Motion of blocks between frames: found, coded, and applied, in integers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
VECTOR_BITS = 3  # About what a vector takes.
MOST_AWAY = 64  # Farther from a guess costs as much.
SQUARE = 255**2 * 3  # A mean squared error of 0..1 in squared grey levels of a pixel's channels.


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


def read(data: bytes, height: int, width: int) -> Ints:
    """Vectors of groups of version 1. Raises ValueError for damage."""
    shape = grid(height, width)
    scale, context, neighbors = _contexts(*shape[:2])
    try:
        rest = decode_ints(data, 2, scale, context, neighbors).reshape(shape)
        motion = np.zeros(shape, np.int32)
        _native.predict_motion(motion, np.ascontiguousarray(rest), False)
    except ValueError:
        raise ValueError("motion: damaged stream") from None
    return motion


@dataclass(frozen=True)
class Motion:
    """Of a frame made of one or two others.

    Attributes:
        vectors: [references, rows, columns, 2] of `find`.
        modes: [rows, columns] 0: the mean of both references, 1: the first, 2: the second.
    """

    vectors: Ints
    modes: Ints


def choose(now: Pixels, references: Sequence[Pixels], price: int) -> Motion:
    """Motion of least absolute difference plus `price` a bit."""
    vectors = [find(now, reference, price) for reference in references]
    rows, columns, _ = vectors[0].shape
    if len(references) == 1:
        return Motion(np.stack(vectors), np.ones((rows, columns), np.int32))
    first, second = (move(r, v).numpy() for r, v in zip(references, vectors, strict=True))
    target = now.transpose(2, 0, 1).astype(np.float32) / 255
    losses = []
    for picture, count in (((first + second) / 2, 2), (first, 1), (second, 1)):
        away = np.abs(picture - target).mean(0) * 255
        losses.append(_of_blocks(away) + price * VECTOR_BITS * count)
    modes = np.argmin(losses, 0).astype(np.int32)
    stacked = np.stack(vectors)
    _forget_unused(stacked, modes)
    return Motion(stacked, modes)


def refine(
    now: Pixels, references: Sequence[Pixels], motion: Motion, lmbda: float, passes: int
) -> Motion:
    """Motion of less squared error plus bits: every block's in turn, some times over.

    A block's vectors are judged together, beside each other and by the bits of all that are coded
    against them; what a bit costs is learned from the motion at hand before each pass.

    Args:
        now: frame [H, W, 3].
        references: one or two of [H, W, 3].
        motion: of `choose`.
        lmbda: what a bit a pixel may cost in mean squared error of 0..1.
        passes: 0 and up.
    """
    vectors, modes = motion.vectors.copy(), motion.modes.copy()
    for _ in range(passes):
        bits = _bits_of(vectors, modes)
        _native.refine_motion(now, list(references), BLOCK, lmbda * SQUARE, *bits, vectors, modes)
    if len(vectors) > 1:
        _forget_unused(vectors, modes)
    return Motion(vectors, modes)


def _bits_of(vectors: Ints, modes: Ints) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Bits of components by how far they are from their guess, and of modes, as they are now."""
    away = np.minimum(np.abs(_differences(vectors)).reshape(-1), MOST_AWAY)
    far = np.arange(MOST_AWAY + 1)
    counts = np.bincount(away, minlength=len(far)) + 0.5 / (1 + far / 4)  # None is impossible.
    kinds = np.bincount(modes.reshape(-1), minlength=3) + 0.5
    signs = far > 0
    components, modes_bits = (-np.log2(c / c.sum()) for c in (counts, kinds))
    return (components + signs).astype(np.float32), modes_bits.astype(np.float32)


def _differences(vectors: Ints) -> Ints:
    """Of vectors to their guesses."""
    rest = np.empty_like(vectors)
    for own, to in zip(vectors, rest, strict=True):
        _native.predict_motion(own, to, True)
    return rest


def _forget_unused(vectors: Ints, modes: Ints) -> None:
    """What a block of two references does not use is as guessed: no bits."""
    for own, skipped in zip(vectors, (2, 1), strict=True):
        _native.guess_unused(own, (modes == skipped).astype(np.int32))


def _of_blocks(plane: np.ndarray) -> np.ndarray:
    """[rows, columns] sums of a plane [H, W] over blocks."""
    down = np.add.reduceat(plane, np.arange(0, plane.shape[0], BLOCK), 0)
    return np.add.reduceat(down, np.arange(0, plane.shape[1], BLOCK), 1)


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


def write_modes(motion: Motion) -> bytes:
    """Modes, where there are two references, and vectors as differences to a median."""
    rest = _differences(motion.vectors)
    columns = [*rest.transpose(1, 2, 0, 3).reshape(-1, 2 * len(rest)).T]
    if len(rest) > 1:
        columns = [motion.modes.reshape(-1), *columns]
    if not any(column.any() for column in columns):
        return b""
    return encode_ints(np.stack(columns, 1), *_contexts(*motion.modes.shape))


def read_modes(data: bytes, height: int, width: int, references: int) -> Motion:
    """The inverse of `write_modes`. Raises ValueError for damage."""
    rows, columns, _ = grid(height, width)
    channels = 2 * references + (references > 1)
    symbols = np.zeros((rows * columns, channels), np.int32)
    try:
        if data:
            symbols = decode_ints(data, channels, *_contexts(rows, columns))
        rest = symbols[:, -2 * references :].reshape(rows, columns, references, 2)
        vectors = np.zeros((references, rows, columns, 2), np.int32)
        for to, part in zip(vectors, rest.transpose(2, 0, 1, 3), strict=True):
            _native.predict_motion(to, np.ascontiguousarray(part), False)
    except ValueError:
        raise ValueError("motion: damaged stream") from None
    if references == 1:
        return Motion(vectors, np.ones((rows, columns), np.int32))
    modes = symbols[:, 0].reshape(rows, columns)
    if modes.min() < 0 or modes.max() > 2:
        raise ValueError("motion: expected modes 0 to 2")
    return Motion(vectors, modes)


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

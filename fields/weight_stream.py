"""Weights of small networks as bytes: whole multiples of steps, beside those of the group before.

All parameters of a group of frames go into one stream of adaptive integer contexts: matrices,
convolutions, biases alike, and the steps too. Decoding is exact everywhere (docs/format.md, 6.2).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..quant import entropy
from .tables import MAX_EXPANSION, SLACK_BYTES

Int = NDArray[np.int32]
Shapes = Sequence[tuple[int, ...]]
# 2^(i/8): steps are these times powers of two, so that no library's exp is asked.
MANTISSAS = (
    1.0, 1.0905077326652577, 1.189207115002721, 1.2968395546510096,
    1.4142135623730951, 1.5422108254079407, 1.681792830507429, 1.8340080864093424,
)  # fmt: skip
PER_OCTAVE = len(MANTISSAS)
MIN_STEP, MAX_STEP = -24 * PER_OCTAVE, 8 * PER_OCTAVE
MAX_SYMBOL = (1 << 23) - 1  # So that a difference of two is still a symbol.
CONTEXTS = 32
MAGNITUDES = (1, 2, 4, 8, 16, 32, 64)  # Where the next context of a value before begins.
_HEAD = struct.Struct("<BH")  # 1 where symbols are differences; bytes of the steps.


@dataclass(frozen=True)
class Quantised:
    """The parameters of a network, rounded.

    Attributes:
        symbols: [N] int32, all tensors one after the other.
        steps: of each tensor, in eighths of an octave: 2^(k/8) is worth one symbol.
        moved: [N] uint8, how much each differs from the group before: 0, 1, 2, 3 or more.
        shapes: of the tensors.
    """

    symbols: Int
    steps: tuple[int, ...]
    moved: NDArray[np.uint8]
    shapes: tuple[tuple[int, ...], ...]

    def values(self) -> Tensor:
        """[N] float32: one product in double precision, rounded once."""
        return torch.from_numpy((self.symbols * _per_weight(self.steps, self.shapes)).astype("f4"))

    def tensors(self) -> list[Tensor]:
        """The parameters, each in its shape."""
        return split(self.values(), self.shapes)

    @property
    def float_bytes(self) -> int:
        return 4 * len(self.symbols)


def step_size(index: int) -> float:
    """What a symbol is worth: 2^(index/8)."""
    return math.ldexp(MANTISSAS[index % PER_OCTAVE], index // PER_OCTAVE)


def count(shapes: Shapes) -> int:
    """Of all parameters."""
    return sum(math.prod(shape) for shape in shapes)


def split(flat: Tensor, shapes: Shapes) -> list[Tensor]:
    """Views of a flat vector [N] in their shapes."""
    sizes = [math.prod(shape) for shape in shapes]
    return [part.reshape(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]


def quantise(
    values: NDArray[np.float64], steps: Sequence[int], shapes: Shapes, before: Quantised | None
) -> Quantised:
    """The nearest multiples of the steps of values [N]; `before` is of the group before."""
    ratio = values / _per_weight(steps, shapes)
    symbols = np.clip(np.rint(ratio), -MAX_SYMBOL, MAX_SYMBOL).astype(np.int32)
    return _of(symbols, tuple(steps), tuple(shapes), before)


def _of(
    symbols: Int,
    steps: tuple[int, ...],
    shapes: tuple[tuple[int, ...], ...],
    before: Quantised | None,
) -> Quantised:
    base = np.zeros_like(symbols) if before is None else rebased(before, steps)
    moved = np.minimum(np.abs(symbols - base), 3).astype(np.uint8)
    return Quantised(symbols, steps, moved, shapes)


def rebased(before: Quantised, steps: Sequence[int]) -> Int:
    """[N] the symbols of the group before in other steps: exact, as division is."""
    old, new = (_per_weight(s, before.shapes) for s in (before.steps, steps))
    ratio = np.rint(before.symbols * old / new)
    return np.clip(ratio, -MAX_SYMBOL, MAX_SYMBOL).astype(np.int32)


def encode(found: Quantised, before: Quantised | None) -> bytes:
    """The smaller of the symbols themselves and what they differ by from the group before."""
    choices = [_encode(found, None)]
    if before is not None:
        choices.append(_encode(found, before))
    return min(choices, key=len)


def _encode(found: Quantised, before: Quantised | None) -> bytes:
    old = np.zeros(len(found.steps), np.int32) if before is None else np.array(before.steps)
    steps = _column(np.array(found.steps) - old)
    first = entropy.encode_ints(steps, *_plain(len(steps)))
    base = np.zeros_like(found.symbols) if before is None else rebased(before, found.steps)
    second = entropy.encode_ints(
        _column(found.symbols - base), *_contexts(found.shapes, base, before)
    )
    return _HEAD.pack(before is not None, len(first)) + first + second


def decode(data: bytes, shapes: Shapes, before: Quantised | None) -> Quantised:
    """The inverse of `encode`. Raises ValueError, in one line, for a damaged stream."""
    shapes, number = tuple(shapes), count(shapes)
    check_expansion(number, len(data))
    differs, size = _HEAD.unpack_from(data) if len(data) >= _HEAD.size else (2, 0)
    if differs > 1 or _HEAD.size + size > len(data):
        raise ValueError(f"weights: expected a stream of weights, got {len(data)} other bytes")
    known = before if before is not None and before.shapes == shapes else None
    if differs and known is None:
        raise ValueError("weights: differences, but of no network of this shape")
    base_of = known if differs else None
    old = np.zeros(len(shapes), np.int64) if base_of is None else np.array(base_of.steps)
    at = _HEAD.size + size
    found = entropy.decode_ints(data[_HEAD.size : at], 1, *_plain(len(shapes)))[:, 0]
    steps = tuple(int(step) for step in found + old)
    if not all(MIN_STEP <= step <= MAX_STEP for step in steps):
        raise ValueError(f"weights: expected steps of {MIN_STEP} to {MAX_STEP}, got {steps[:4]}")
    base = np.zeros(number, np.int32) if base_of is None else rebased(base_of, steps)
    change = entropy.decode_ints(data[at:], 1, *_contexts(shapes, base, base_of))[:, 0]
    symbols = base.astype(np.int64) + change
    if (np.abs(symbols) > MAX_SYMBOL).any():
        raise ValueError(f"weights: expected symbols up to {MAX_SYMBOL}")
    return _of(symbols.astype(np.int32), steps, shapes, known)


def check_expansion(number: int, size: int) -> None:
    """Refuse more parameters than `size` bytes can hold."""
    most = MAX_EXPANSION * size + SLACK_BYTES
    if 4 * number > most:
        raise ValueError(f"weights: expected at most {most // 4} of {size} bytes, got {number}")


def _per_weight(steps: Sequence[int], shapes: Shapes) -> NDArray[np.float64]:
    sizes = [math.prod(shape) for shape in shapes]
    return np.repeat(np.array([step_size(step) for step in steps]), sizes)


def _column(values: NDArray) -> Int:
    return np.ascontiguousarray(values, np.int32)[:, None]


def _plain(rows: int) -> tuple[Int, NDArray[np.uint8], Int]:
    """Scales, contexts and neighbours of a column that has the one before it alone."""
    near = np.arange(-1, rows - 1, dtype=np.int32)[:, None]
    return np.ones(rows, np.int32), np.zeros((rows, 2), np.uint8), near


def _contexts(
    shapes: Shapes, base: Int, before: Quantised | None
) -> tuple[Int, NDArray[np.uint8], Int]:
    """Scales, contexts [N, 2] and neighbours [N, 3] of all parameters.

    The contexts are the tensor, and how large its value in the group before was and how far that
    had moved; the neighbours are the parameter before, that of the row before, and that of the
    same place in the kernel before.
    """
    number = len(base)
    context, near = np.zeros((number, 2), np.uint8), np.full((number, 3), -1, np.int32)
    ends = [0, *accumulate(math.prod(shape) for shape in shapes)]
    for index, ((first, end), shape) in enumerate(zip(pairwise(ends), shapes, strict=True)):
        context[first:end, 0] = min(index, CONTEXTS - 1)
        place = np.arange(end - first, dtype=np.int32)
        row, kernel = math.prod(shape[1:]), math.prod(shape[2:])
        for column, back in enumerate((1, row, kernel)):
            near[first:end, column] = np.where(place >= back, place - back + first, -1)
    if before is not None:
        size = np.searchsorted(MAGNITUDES, np.abs(base), side="right")
        context[:, 1] = 8 * before.moved + size
    return np.ones(number, np.int32), context, near

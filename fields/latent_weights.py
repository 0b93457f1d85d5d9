"""Parameters of small networks as whole numbers around a prior, each group with its own step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from .latent_model import NETWORKS, Design
from .latent_ops import (
    UNIT_BITS,
    WEIGHT_BITS,
    Ints,
    decode_numbers,
    encode_numbers,
    tail_tables,
)  # fmt: skip

STEP_BITS = range(1, WEIGHT_BITS + 1)  # Steps are 2^-1 to 2^-10.
SCALES = 89  # Of `tail_tables`.
MOST_WEIGHT = 1 << 8
MOST_CODED = 1 << 15


@dataclass(frozen=True)
class Coding:
    """How a group of parameters is coded: its step is 2^-bits, its numbers spread as of a scale."""

    bits: int
    scale: int


@lru_cache(maxsize=8)
def groups(design: Design) -> list[tuple[str, Tensor]]:
    """Names and places in the flat parameters of each group, all together each place once."""
    places = torch.arange(design.parameters)
    parts = design.split(places)
    found = [("levels", parts["levels"]), ("kernels", parts["kernels"])]
    for name in NETWORKS:
        views = design.shape(name).views(parts[name])
        for kind, wide in (("weights", True), ("biases", False)):
            chosen = [v.reshape(-1) for v in views if (v.shape[1] > 1) == wide]
            found.append((f"{name} {kind}", torch.cat(chosen)))
    return found


def rounded(values: Tensor, prior: Tensor, bits: int, dead: float = 0.0) -> Ints:
    """Whole numbers of a group; those within 1/2 + dead steps of the prior's are the prior's."""
    units, base = values * 2.0**bits, (prior * 2.0**bits).round()
    away = units - base
    kept = torch.where(away.abs() < 0.5 + dead, torch.zeros(()), away.round())
    found = (base + kept).clamp(-MOST_WEIGHT * 2.0**bits, MOST_WEIGHT * 2.0**bits)
    return found.to(torch.int32).numpy()


def centers(prior: Tensor, bits: int) -> Ints:
    """Of the numbers' distributions, in 1/16: the prior's whole numbers."""
    return (prior * 2.0**bits).round().to(torch.int32).numpy() * 16


@lru_cache(maxsize=1)
def _costs() -> np.ndarray:
    """[scale, |offset|] bits of a number, up to 64 away from its center."""
    tails, first, reach = tail_tables()
    found = np.full((SCALES, 65), 40.0)
    for k in range(SCALES):
        tail = tails[first[k] : first[k] + 16 * reach[k] + 1].astype(float)
        far = min(64, int(reach[k]) - 1)
        for o in range(far + 1):
            inner = tail[16 * o - 8] if o else 32768 - 2 * reach[k] - 1 - tail[8]
            found[k, o] = -np.log2((inner - tail[16 * o + 8] + 1) / 32768)
    return found


def cheapest(numbers: Ints, middle: Ints) -> tuple[int, float]:
    """The scale under which numbers take the fewest bits, and those bits, nearly."""
    away = np.minimum(np.abs(numbers - (middle >> 4)), 64)
    total = _costs() @ np.bincount(away, minlength=65)
    scale = int(total.argmin())
    return scale, float(total[scale])


@dataclass(frozen=True)
class Coded:
    """Parameters as they are coded: numbers of each group, and their codings."""

    numbers: list[Ints]
    codings: list[Coding]
    bits: float
    dead: float = 0.0  # How much farther than half a step the prior's numbers reach.


def quantise(
    design: Design, flat: Tensor, prior: Tensor, bits: Sequence[int], dead: float
) -> Coded:
    """Parameters in steps of 2^-bits, of each group."""
    numbers, codings, total = [], [], 0.0
    for (_, at), step in zip(groups(design), bits, strict=True):
        found = rounded(flat[at], prior[at], step, dead)
        scale, cost = cheapest(found, centers(prior[at], step))
        numbers.append(found)
        codings.append(Coding(step, scale))
        total += cost
    return Coded(numbers, codings, total, dead)


def restored(design: Design, coded: Coded) -> Tensor:
    """[P] float32 parameters of their numbers, exactly."""
    flat = torch.zeros(design.parameters)
    for (_, at), numbers, coding in zip(groups(design), coded.numbers, coded.codings, strict=True):
        flat[at] = torch.from_numpy(numbers).float() * 2.0**-coding.bits
    return flat


def search(
    design: Design,
    flat: Tensor,
    prior: Tensor,
    loss: Callable[[Tensor], float],
    cost: float,
) -> Coded:
    """The steps of least loss plus `cost` times bits, one group after the other.

    Args:
        design: of the parameters.
        flat: [P] parameters.
        prior: [P] those around which they are coded, which stay where nothing is better.
        loss: of parameters [P].
        cost: of a bit.
    """

    def judged(values: Tensor, bits: Sequence[int], dead: float) -> tuple[float, Coded]:
        coded = quantise(design, values, prior, bits, dead)
        return loss(restored(design, coded)) + cost * coded.bits, coded

    best, dead = [min(8, finest(prior[at])) for _, at in groups(design)], 0.0
    least, kept = judged(flat, best, dead)
    for _ in range(2):
        for k in range(len(best)):
            for way in (-1, 1):
                while best[k] + way in STEP_BITS:
                    tried = [*best[:k], best[k] + way, *best[k + 1 :]]
                    value, coded = judged(flat, tried, dead)
                    if value >= least:
                        break
                    least, kept, best = value, coded, tried
        for wider in (0.15, 0.3, 0.5, 1.0, 2.0):
            value, coded = judged(flat, best, wider)
            if value < least:
                least, kept, dead = value, coded, wider
    value, coded = judged(prior, [finest(prior[at]) for _, at in groups(design)], 0.0)
    return coded if value < least else kept


def finest(values: Tensor) -> int:
    """The bits of the coarsest step of which all values are whole multiples, as near as can be."""
    fits = (bits for bits in STEP_BITS if bool((values * 2.0**bits % 1 == 0).all()))
    return next(fits, STEP_BITS[-1])


def write(design: Design, coded: Coded, prior: Tensor) -> bytes:
    """Two bytes a group, and the coded numbers."""
    head = bytes(x for c in coded.codings for x in (c.bits, c.scale))
    middles = [
        centers(prior[at], c.bits) for (_, at), c in zip(groups(design), coded.codings, strict=True)
    ]
    scales = [
        np.full(len(m), c.scale, np.int32) for m, c in zip(middles, coded.codings, strict=True)
    ]
    numbers = np.concatenate(coded.numbers).astype(np.int32)
    return head + encode_numbers(numbers, np.concatenate(middles), np.concatenate(scales))


def read(design: Design, data: bytes, prior: Tensor) -> Coded:
    """The inverse of `write`. Raises ValueError for damage."""
    named = groups(design)
    if len(data) < 2 * len(named):
        raise ValueError(f"weights: expected {2 * len(named)} bytes of steps, got {len(data)}")
    codings = [Coding(data[2 * k], data[2 * k + 1]) for k in range(len(named))]
    for (name, _), coding in zip(named, codings, strict=True):
        if coding.bits not in STEP_BITS or coding.scale >= SCALES:
            raise ValueError(f"weights: {name}: no such step or scale, {coding}")
    middles = [centers(prior[at], c.bits) for (_, at), c in zip(named, codings, strict=True)]
    scales = [np.full(len(m), c.scale, np.int32) for m, c in zip(middles, codings, strict=True)]
    try:
        numbers = decode_numbers(
            data[2 * len(named) :], np.concatenate(middles), np.concatenate(scales)
        )
    except ValueError:
        raise ValueError("weights: damaged stream") from None
    ends = np.cumsum([len(m) for m in middles])[:-1]
    parts = np.split(numbers, ends)
    for (name, _), part, coding in zip(named, parts, codings, strict=True):
        if len(part) and np.abs(part).max() > MOST_WEIGHT << coding.bits:
            raise ValueError(f"weights: {name}: expected magnitudes up to {MOST_WEIGHT}")
    return Coded([p.astype(np.int32) for p in parts], codings, 8.0 * len(data))


def integers(design: Design, flat: Tensor) -> Ints:
    """[levels, P] parameters of the integer context networks, the finest level first."""
    units = _units(design) * torch.stack(design.context_parameters(flat)).double()
    return units.round_().to(torch.int32).numpy()


@lru_cache(maxsize=8)
def _units(design: Design) -> Tensor:
    """[P] what parameters of a context network are multiplied by; biases are of sums."""
    parts = design.context_shape.parts
    bits = [WEIGHT_BITS + (UNIT_BITS if columns == 1 else 0) for _, columns in parts]
    sizes = torch.tensor([rows * columns for rows, columns in parts])
    return 2.0 ** torch.tensor(bits, dtype=torch.float64).repeat_interleave(sizes)

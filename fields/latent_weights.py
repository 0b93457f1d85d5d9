"""Parameters of small networks as few whole steps from a prior, each group with its own step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..quant.entropy import decode_ints, encode_ints
from .latent_engine import Engine
from .latent_model import NETWORKS, Design
from .latent_ops import UNIT_BITS, WEIGHT_BITS, Ints

STEP_BITS = range(1, WEIGHT_BITS + 1)  # Steps are 2^-1 to 2^-10.
USUAL_BITS = 6
MOST_WEIGHT = 1 << 8
PREDICTING = ("levels", "context")  # Parts that the bits of latents depend on, pixels do not.
DEAD = 0.15  # How much farther than half a step nothing reaches.


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


@dataclass(frozen=True)
class Coded:
    """How many steps of 2^-bits the parameters of each group lie from the prior's."""

    deltas: list[Ints]
    steps: list[int]

    @property
    def bits(self) -> float:
        """About what they take, under adaptive contexts."""
        return sum(_cost(delta) for delta in self.deltas)


def _cost(deltas: Ints) -> float:
    """Bits of which are not zero, of their signs, and of their sizes as of a geometric law."""
    count, some = len(deltas), int(np.count_nonzero(deltas))
    if not some:
        return 1 + 0.01 * count
    share = (some + 0.5) / (count + 1)
    beyond = float(np.abs(deltas).sum()) - some
    stop = some / (some + beyond + 0.5)
    sizes = some * np.log2(stop) + beyond * np.log2(1 - stop)
    flags = some * np.log2(share) + (count - some) * np.log2(1 - share)
    return 6 + some - float(flags + sizes)


def quantise(design: Design, flat: Tensor, prior: Tensor, steps: Sequence[int]) -> Coded:
    """Parameters in steps of 2^-steps from the prior, of each group."""
    deltas = []
    for (_, at), bits in zip(groups(design), steps, strict=True):
        away = (flat[at].clamp(-MOST_WEIGHT, MOST_WEIGHT) - prior[at]) * 2.0**bits
        found = torch.where(away.abs() < 0.5 + DEAD, torch.zeros(()), away.round())
        deltas.append(found.to(torch.int32).numpy())
    return Coded(deltas, list(steps))


def restored(design: Design, coded: Coded, prior: Tensor) -> Tensor:
    """[P] float32 parameters of their steps, exactly: all are in 1/1024, and small."""
    flat = prior.clone()
    for (_, at), deltas, bits in zip(groups(design), coded.deltas, coded.steps, strict=True):
        flat[at] += torch.from_numpy(deltas).float() * 2.0**-bits
    return flat


class Judge:
    """What coded parameters come to: squared error, and bits of theirs and of the latents.

    Args:
        engine: of the picture.
        latents: [N] whole numbers.
        prior: [P] parameters around which others are coded.
        cost: of a bit.
    """

    def __init__(self, engine: Engine, latents: Tensor, prior: Tensor, cost: float) -> None:
        self._engine, self._latents, self._prior, self._cost = engine, latents, prior, cost
        self._error = self._bits = 0.0

    def start(self, coded: Coded) -> float:
        """The loss of some parameters, against which `loss` measures a changed group."""
        flat = restored(self._engine.design, coded, self._prior)
        self._error, self._bits = self._engine.losses(self._latents, flat)
        return self._error + self._cost * (self._bits + coded.bits)

    def loss(self, coded: Coded, group: int) -> tuple[float, tuple[float, float]]:
        """The loss where one group is another, and what `take` needs to go on from there."""
        engine = self._engine
        flat = restored(engine.design, coded, self._prior)
        error, bits = self._error, self._bits
        if groups(engine.design)[group][0].startswith(PREDICTING):
            bits = engine.bits(self._latents, flat)
        else:
            error = engine.error(self._latents, flat)
        return error + self._cost * (bits + coded.bits), (error, bits)

    def take(self, found: tuple[float, float]) -> None:
        """Go on from what `loss` found."""
        self._error, self._bits = found


def search(design: Design, flat: Tensor, prior: Tensor, judge: Judge) -> Coded:
    """The steps of least loss, one group after the other."""
    kept = quantise(design, flat, prior, [USUAL_BITS] * len(groups(design)))
    least = judge.start(kept)
    for k in range(len(kept.steps)):
        for way in (-1, 1):
            while kept.steps[k] + way in STEP_BITS:
                steps = [*kept.steps[:k], kept.steps[k] + way, *kept.steps[k + 1 :]]
                tried = quantise(design, flat, prior, steps)
                value, found = judge.loss(tried, k)
                if value >= least:
                    break
                least, kept = value, tried
                judge.take(found)
    return kept


def trimmed(coded: Coded, judge: Judge, trials: int) -> Coded:
    """Without the steps that do not pay for their bits: the smallest are tried first."""
    least, deltas = judge.start(coded), [delta.copy() for delta in coded.deltas]
    some = [(abs(int(d[i])), k, int(i)) for k, d in enumerate(deltas) for i in np.flatnonzero(d)]
    for size, k, i in sorted(some)[:trials]:
        before = deltas[k][i]
        deltas[k][i] = 0 if size == 1 else before // 2 if before > 0 else -(-before // 2)
        for _ in range(2):
            value, found = judge.loss(Coded(deltas, coded.steps), k)
            if value < least:
                least, before = value, deltas[k][i]
                judge.take(found)
            if deltas[k][i] == 0:
                break
            deltas[k][i] = 0
        deltas[k][i] = before
    return Coded(deltas, coded.steps)


@lru_cache(maxsize=8)
def _contexts(design: Design) -> tuple[NDArray[np.uint8], Ints]:
    """Of the steps, then of each number: its group, and those left of and above it."""
    named = groups(design)
    order = torch.cat([at for _, at in named])
    place = torch.empty(design.parameters, dtype=torch.long)
    place[order] = torch.arange(design.parameters) + len(named)
    near = torch.full((design.parameters, 2), -1)
    for matrix in design.matrices:
        near[matrix[:, 1:], 0] = place[matrix[:, :-1]]
        near[matrix[1:], 1] = place[matrix[:-1]]
    context = np.repeat(np.arange(len(named) + 1), [len(named), *(len(at) for _, at in named)])
    neighbors = np.concatenate([np.full((len(named), 2), -1), near[order].numpy()])
    both = np.stack([context, np.zeros_like(context)], -1).astype(np.uint8)
    return both, neighbors.astype(np.int32)


def write(design: Design, coded: Coded) -> bytes:
    """Steps and numbers in one stream; of all zeros it is empty."""
    if not any(delta.any() for delta in coded.deltas):
        return b""
    steps = [
        bits - USUAL_BITS if delta.any() else 0
        for bits, delta in zip(coded.steps, coded.deltas, strict=True)
    ]
    symbols = np.concatenate([np.array(steps), *coded.deltas]).astype(np.int32)
    context, neighbors = _contexts(design)
    return encode_ints(symbols[:, None], np.ones(len(symbols), np.int32), context, neighbors)


def read(design: Design, data: bytes, prior: Tensor) -> Tensor:
    """[P] parameters: the inverse of `write`. Raises ValueError for damage."""
    if not data:
        return prior.clone()
    context, neighbors = _contexts(design)
    try:
        symbols = decode_ints(data, 1, np.ones(len(context), np.int32), context, neighbors)[:, 0]
    except ValueError:
        raise ValueError("weights: damaged stream") from None
    named = groups(design)
    steps, numbers = symbols[: len(named)] + USUAL_BITS, symbols[len(named) :]
    ends = np.cumsum([len(at) for _, at in named])[:-1]
    for (name, _), bits in zip(named, steps, strict=True):
        if bits not in STEP_BITS:
            raise ValueError(f"weights: {name}: expected a step of 2^-1 to 2^-10, got 2^-{bits}")
    if np.abs(numbers).max() > 2 * MOST_WEIGHT << WEIGHT_BITS:
        raise ValueError(f"weights: expected magnitudes up to {MOST_WEIGHT}")
    flat = restored(design, Coded(np.split(numbers, ends), [int(b) for b in steps]), prior)
    if float(flat.abs().max()) > MOST_WEIGHT + 1:
        raise ValueError(f"weights: expected magnitudes up to {MOST_WEIGHT}")
    return flat


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

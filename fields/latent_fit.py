"""Fitting latents and networks to a picture: noise that anneals, then whole numbers, nets alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _native
from .latent_engine import Engine
from .latent_weights import Coded, Judge, quantise, restored, search, trimmed
from .soap import Soap

Watch = Callable[[int, float, float], None]  # step, mean squared error, bits
NOISE_ROOM = 1 << 16
BETA1, BETA2 = 0.9, 0.97
EXPLODED = 8.0  # Times the least loss: further is diverging, and not noise.
MOST_FALLS, SLOWER = 4, 0.3
# What a parameter is priced at that lies d from the prior: WEIGHT_BITS log2(1 + d / WEIGHT_STEP).
WEIGHT_BITS, WEIGHT_STEP = 4.5, 2**-6


@dataclass(frozen=True)
class Schedule:
    """Of a fit: steps, and rates, temperature and noise at its beginning and end.

    Attributes:
        steps: on latents and networks. tail: on networks alone, behind them.
        latent_rate, net_rate, tail_rate: learning rates at the beginning.
        temperature, noise: of soft rounding, from and to.
        polish: how often whole latents are tried a step away, before parameters are settled and
            behind it.
    """

    steps: int = 2000
    tail: int = 200
    latent_rate: float = 0.12
    net_rate: float = 0.01
    tail_rate: float = 2e-3
    temperature: tuple[float, float] = (0.35, 0.08)
    noise: tuple[float, float] = (0.22, 0.15)
    polish: tuple[int, int] = (1, 1)


class _Guard:
    """The best values of a fit: where it diverges it goes back to them, and on more slowly."""

    def __init__(self, *values: Tensor) -> None:
        self._values, self._kept = values, [value.clone() for value in values]
        self._least, self._falls = math.inf, 0
        self.pace = 1.0

    def fell(self, loss: float, step: int) -> bool:
        """Whether values were put back. Raises ValueError where going slowly does not help."""
        if loss <= self._least:
            self._least = loss
            for kept, value in zip(self._kept, self._values, strict=True):
                kept.copy_(value)
        if loss < EXPLODED * self._least:  # False of what is not a number.
            return False
        self._falls += 1
        if self._falls > MOST_FALLS:
            raise ValueError(
                f"fit: diverged {self._falls} times, last at step {step}: expected a loss near "
                f"{self._least:.3g}, got {loss:.3g}"
            )
        self.pace *= SLOWER
        for kept, value in zip(self._kept, self._values, strict=True):
            value.copy_(kept)
        return True


class Adam:
    """Kingma and Ba 2015 on latents, in the compiled kernel."""

    def __init__(self, size: int) -> None:
        self._mean, self._square = torch.zeros(size), torch.zeros(size)
        self._touched = torch.zeros(-(-size // 16), dtype=torch.uint8)
        self._step = 0

    def step(self, values: Tensor, grad: Tensor, rate: float) -> None:
        self._step += 1
        root = math.sqrt(1 - BETA2**self._step)
        numbers = (rate / (1 - BETA1**self._step), BETA1, BETA2, root, 1e-12)
        moments = (values, self._mean, self._square)
        _native.adam(moments, numbers, grad, self._touched.fill_(1), 1)


def fit(
    engine: Engine,
    start: Tensor,
    lmbda: float,
    schedule: Schedule,
    *,
    latents: Tensor | None = None,
    seed: int = 0,
    watch: Watch | None = None,
) -> tuple[Tensor, Tensor]:
    """Latents [N], whole numbers, and parameters [P] for the picture of an engine.

    The loss is the mean squared error plus `lmbda` times all bits a pixel. Raises ValueError where
    it diverges however slowly it goes.

    Args:
        engine: losses and gradients.
        start: [P] parameters to start from, around which they are coded.
        lmbda: positive.
        schedule: rates and steps.
        latents: [N] to start from, by default zeros.
        seed: of the noise.
        watch: told of each step.
    """
    count = engine.count
    latents = torch.zeros(count) if latents is None else latents.clone()
    flat, flat_grad = start.clone(), torch.zeros_like(start)
    rng = torch.Generator().manual_seed(seed)
    pool = torch.randn(count + NOISE_ROOM, generator=rng)
    adam, soap = Adam(count), Soap(flat, engine.design.matrices)
    soft, slope = torch.empty(count), torch.empty(count)
    guard = _Guard(latents, flat)
    for step in range(schedule.steps):
        part = step / schedule.steps
        cosine = 0.5 * (1 + math.cos(math.pi * part)) * guard.pace
        first = int(torch.randint(0, NOISE_ROOM, (), generator=rng))
        cold = 1 / between(schedule.temperature, part)
        _native.soften(
            latents, pool[first : first + count], cold, 0.5 / math.tanh(0.5 * cold),
            between(schedule.noise, part), soft, slope,
        )  # fmt: skip
        error, bits, grad = engine.gradients(soft, flat, lmbda, flat_grad)
        if guard.fell(error + lmbda * bits / engine.pixels, step):
            adam, soap = Adam(count), Soap(flat, engine.design.matrices)
            continue
        grad.mul_(slope)
        adam.step(latents, grad, schedule.latent_rate * cosine)
        flat_grad.add_(_price(flat, start), alpha=lmbda / engine.pixels)
        soap.step(flat_grad, schedule.net_rate * cosine)
        if watch:
            watch(step, error, bits)
    return latents.round_(), flat


def settle(
    engine: Engine,
    latents: Tensor,
    flat: Tensor,
    prior: Tensor,
    lmbda: float,
    schedule: Schedule,
    watch: Watch | None = None,
) -> Coded:
    """Parameters as they are coded: steps are searched, then values trained through the rounding.

    Latents are whole numbers already. The least loss of all steps is kept, the bits of the
    parameters in it, and goes on without what does not pay for its bits; the gradient goes
    straight through (Bengio et al. 2013).
    """
    design, cost = engine.design, lmbda / engine.pixels
    judge = Judge(engine, latents, prior, cost)
    kept = search(design, flat, prior, judge)
    least, flat, grad = math.inf, flat.clone(), torch.zeros_like(flat)
    steps, soap = kept.steps, Soap(flat, design.matrices)
    for step in range(schedule.tail):
        coded = quantise(design, flat, prior, steps)
        error, bits, _ = engine.gradients(latents, restored(design, coded, prior), lmbda, grad)
        total = error + cost * (bits + coded.bits)
        if not math.isfinite(total):  # The best is kept.
            break
        if total < least:
            least, kept = total, coded
        grad.add_(_price(flat, prior), alpha=cost)
        soap.step(grad, schedule.tail_rate * (1 - step / schedule.tail))
        if watch:
            watch(schedule.steps + step, error, bits)
    return trimmed(kept, judge, schedule.steps)


def _price(flat: Tensor, prior: Tensor) -> Tensor:
    """The gradient of bits that parameters take."""
    away = flat - prior
    return away.sign().div_(away.abs().add_(WEIGHT_STEP)).mul_(WEIGHT_BITS / math.log(2))


def between(ends: tuple[float, float], part: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * part

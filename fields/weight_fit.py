"""Fits a small network whose parameters are to be few bits: noise, then real rounding.

A parameter is a symbol times its tensor's step. While training explores, uniform noise of one
step stands for the rounding (Ballé et al. 2017); then parameters are rounded in earnest, with
straight-through gradients, and the best of those states counts. The rate is that of a logistic
distribution a tensor, of the symbols or of what they differ by from the group before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .network import cosine_rate
from .weight_stream import (
    MAX_STEP,
    MIN_STEP,
    PER_OCTAVE,
    Quantised,
    Shapes,
    quantise,
    split,
)

BETAS = (0.9, 0.9)  # A short memory of squares: 3 dB more after 250 steps than with 0.99.
STEP_RATE = 0.3  # Learning rates of log steps and log widths, of that of parameters.
WIDTH_RATE = 1.0
LEAST_PROBABILITY = 2.0**-50
Error = Callable[[list[Tensor]], Tensor]
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class FitSettings:
    """How long and how hard.

    Attributes:
        steps: of Adam. rate: learning rate, in spreads of a tensor.
        rounded_share: of the steps, the last ones: parameters are really rounded there.
        bit_cost: what one bit adds to the loss.
    """

    steps: int
    rate: float
    rounded_share: float
    bit_cost: float


class WeightFit:
    """Parameters under training, all in one vector.

    Args:
        start: what a network without one before it begins with.
        spreads: of each tensor, what its parameters differ by: the unit of learning rates.
        fineness: how many steps make a spread at first.
        before: the network to begin with instead, and to differ little from.

    Attributes:
        shapes: of the tensors.
    """

    def __init__(
        self,
        start: Sequence[Tensor],
        spreads: Sequence[float],
        fineness: Sequence[int],
        before: Quantised | None,
    ) -> None:
        self.shapes: Shapes = tuple(tuple(t.shape) for t in start)
        self._before = before
        self._sizes = [t.numel() for t in start]
        self._spread = self._each(torch.tensor(spreads))
        flat = torch.cat([t.reshape(-1) for t in start]) if before is None else before.values()
        self._theta = (flat / self._spread).requires_grad_()
        steps = [math.log2(s / n) for s, n in zip(spreads, fineness, strict=True)]
        if before is not None:
            steps = [k / PER_OCTAVE for k in before.steps]
        self._log_step = torch.tensor(steps).requires_grad_()
        self._log_width = torch.full((len(spreads),), 1.0 if before is None else -2.0)
        self._log_width.requires_grad_()
        self._base = torch.zeros_like(flat) if before is None else flat

    def run(self, error: Error, settings: FitSettings, progress: Progress | None) -> Quantised:
        """Minimise `error` of the tensors plus the cost of their bits; the best rounded state."""
        groups = [
            {"params": [self._theta], "scale": 1.0},
            {"params": [self._log_step], "scale": STEP_RATE},
            {"params": [self._log_width], "scale": WIDTH_RATE},
        ]
        adam = torch.optim.Adam(groups, lr=settings.rate, betas=BETAS, eps=1e-12)
        rng = torch.Generator().manual_seed(0)
        turn = settings.steps - max(1, round(settings.steps * settings.rounded_share))
        best, least = self._theta.detach().clone(), math.inf
        for step in range(settings.steps):
            if progress is not None and step % 10 == 0:
                progress("fitting", step / settings.steps)
            if step == turn:
                self._fix_steps()
            for group in adam.param_groups:
                group["lr"] = group["scale"] * cosine_rate(step, settings.steps, settings.rate)
            noise = None if step >= turn else torch.rand(len(self._base), generator=rng) - 0.5
            values, bits = self._values(noise)
            loss = error(split(values, self.shapes)) + settings.bit_cost * bits
            cost = float(loss.detach())
            if noise is None and cost < least:  # Its parameters are what a file would have.
                best, least = self._theta.detach().clone(), cost
            adam.zero_grad()
            loss.backward()
            adam.step()
        self._theta.data = best
        return self.quantised()

    def _values(self, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """The parameters [N] as decoded or, with noise, about so; and their bits."""
        step = self._each(self._log_step.exp2())
        ratio = self._theta * self._spread / step
        coded = ratio + ((ratio.round() - ratio).detach() if noise is None else noise)
        width = self._each(self._log_width.exp2())
        differs = coded - self._base / step
        upper = torch.sigmoid((0.5 - differs.abs()) / width)
        lower = torch.sigmoid((-0.5 - differs.abs()) / width)
        bits = -(upper - lower).clamp_min(LEAST_PROBABILITY).log2().sum()
        return coded * step, bits

    def _each(self, values: Tensor) -> Tensor:
        """[N] a tensor's value for all of its parameters."""
        return torch.cat([v.expand(n) for v, n in zip(values, self._sizes, strict=True)])

    def _fix_steps(self) -> None:
        """From here on steps are those that a file can hold."""
        self._log_step = torch.tensor([k / PER_OCTAVE for k in self._steps()])

    def _steps(self) -> list[int]:
        found = (self._log_step.detach() * PER_OCTAVE).round().clamp(MIN_STEP, MAX_STEP)
        return [int(k) for k in found]

    def quantised(self) -> Quantised:
        """The parameters as a file has them."""
        values = (self._theta * self._spread).detach().double().numpy()
        return quantise(values, self._steps(), tuple(self.shapes), self._before)


def seeded_uniform(shape: tuple[int, ...], reach: float, rng: torch.Generator) -> Tensor:
    """Values of -reach to reach."""
    return torch.empty(shape).uniform_(-1, 1, generator=rng) * reach

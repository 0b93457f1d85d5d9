"""Densification as Markov chain Monte Carlo (Kheradmand et al. 2024) under a budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .frames import rotations
from .train import NAMES, Trainer

MAX_COPIES = 51  # of one Gaussian at a time; the sum below is alternating
NOISE_SHARPNESS, NOISE_THRESHOLD = 100.0, 0.995
NOISE_LEAST = 0.1  # Above this opacity the noise is below 1e-4 of its scale: left out.
OPACITY_RANGE = (0.005, 1 - 1e-6)


@dataclass(frozen=True)
class DensifySettings:
    """Growth to a budget of Gaussians, and the noise that explores.

    Attributes:
        budget: Gaussians at the end.
        every: steps between relocations.
        start, stop: shares of all steps between which Gaussians move and are added.
        growth: factor of the count at each relocation, until the budget is reached.
        dead: opacity at or below which a Gaussian is moved elsewhere.
        noise: times the means' learning rate.
        opacity_weight, scale_weight: of the L1 regularisers of opacity and of size over extent.
    """

    budget: int = 100_000
    every: int = 100
    start: float = 0.05
    stop: float = 0.8
    growth: float = 1.05
    dead: float = 0.005
    noise: float = 5e5
    opacity_weight: float = 0.01
    scale_weight: float = 0.01

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ValueError(f"budget: expected at least 1 Gaussian, got {self.budget}")


class DensifyingTrainer(Trainer):
    """A trainer whose Gaussians are moved to where they are needed, up to a budget."""

    densify = DensifySettings()

    def after_update(self) -> None:
        """Moves, adds and disturbs Gaussians."""
        done, d = self.number / self.settings.steps, self.densify
        if d.start <= done < d.stop:
            if self.number % d.every == 0:
                self._move_dead()
                self._add()
            self._disturb()

    def before_update(self) -> None:
        """Adds the gradients of the regularisers, without autograd."""
        d, count = self.densify, len(self.params["means"])
        if self.number / self.settings.steps >= d.stop:
            return
        with torch.no_grad():
            logits, scales = self.params["opacities"], self.params["scales"]
            if d.opacity_weight and logits.grad is not None:
                o = logits.sigmoid()
                logits.grad.add_(o * (1 - o), alpha=d.opacity_weight / count)
            if d.scale_weight and scales.grad is not None:
                weight = d.scale_weight / (3 * count * self.extent)
                scales.grad.add_(scales.exp(), alpha=weight)

    @torch.no_grad()
    def _move_dead(self) -> None:
        """Dead Gaussians become copies of live ones, drawn by opacity (eq. 9)."""
        opacities = self.params["opacities"].sigmoid()
        dead = torch.nonzero(opacities <= self.densify.dead)[:, 0]
        alive = torch.nonzero(opacities > self.densify.dead)[:, 0]
        if not len(dead) or not len(alive):
            return
        chosen = alive[self._draw(opacities[alive], len(dead))]
        values = self._split(chosen)
        moments = self.moments()
        for name, p in self.params.items():
            p[chosen] = values[name]
            p[dead] = p[chosen]
            for moment in moments.get(name, ()):
                moment[chosen] = 0
                moment[dead] = 0

    @torch.no_grad()
    def _add(self) -> None:
        """New Gaussians, copies of live ones drawn by opacity, up to the budget."""
        count = len(self.params["means"])
        wanted = min(self.densify.budget, math.ceil(count * self.densify.growth)) - count
        if wanted <= 0:
            return
        chosen = self._draw(self.params["opacities"].sigmoid(), wanted)
        values = self._split(chosen)
        grown, moments = {}, {}
        for name, p in self.params.items():
            p[chosen] = values[name]
            grown[name] = torch.cat([p, p[chosen]])
        for name, pair in self.moments().items():
            empty = torch.zeros_like(grown[name][count:])
            moments[name] = [torch.cat([m, empty]) for m in pair]
            for m in moments[name]:
                m[chosen] = 0
        self.replace(grown, moments)

    def _draw(self, weights: Tensor, count: int) -> Tensor:
        """Indices drawn with replacement in proportion to the weights.

        By inversion of the running sum: torch.multinomial refuses more than 2^24 categories.
        """
        total = weights.double().cumsum(0)
        draws = torch.rand(count, generator=self.generator, dtype=torch.float64)
        where = draws.to(self.device) * total[-1]
        return torch.searchsorted(total, where).clamp_max(len(weights) - 1)

    def _split(self, chosen: Tensor) -> dict[str, Tensor]:
        """Values of the drawn Gaussians such that all copies together look as each one did."""
        copies = torch.bincount(chosen, minlength=len(self.params["means"]))[chosen] + 1
        opacity = self.params["opacities"][chosen].sigmoid()
        opacity, factor = relocated(opacity, copies.clamp_max(MAX_COPIES))
        values = {name: self.params[name][chosen] for name in NAMES}
        opacity = opacity.clamp(*OPACITY_RANGE)
        values["opacities"] = torch.logit(opacity)
        values["scales"] = values["scales"] + factor.log()[:, None]
        return values

    @torch.no_grad()
    def _disturb(self) -> None:
        """Noise on the means of faint Gaussians, shaped by their covariance (eq. 8)."""
        opacities = self.params["opacities"].sigmoid()
        faint = torch.nonzero(opacities < NOISE_LEAST)[:, 0]
        if not len(faint):
            return
        strength = torch.sigmoid(NOISE_SHARPNESS * ((1 - opacities[faint]) - NOISE_THRESHOLD))
        noise = torch.randn(len(faint), 3, generator=self.generator).to(self.device)
        noise *= strength[:, None]
        rotation = rotations(self.params["quats"][faint])
        # The paper's noise grows with the variance: right for scenes of about one unit. Here it
        # follows the extent, and no Gaussian jumps further than it is wide.
        rate = self.rates()["means"] / self.extent * self.densify.noise
        sigma = self.params["scales"][faint].exp()
        reach = torch.minimum(rate * sigma.square() / self.extent, sigma)
        local = (rotation.transpose(1, 2) @ noise[:, :, None])[:, :, 0] * reach
        self.params["means"][faint] += (rotation @ local[:, :, None])[:, :, 0]


def relocated(opacity: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Opacity and size factor of each of n Gaussians that replace one (Kheradmand et al., eq. 9).

    Args:
        opacity: [M] in (0, 1).
        copies: [M] int64, n from 1 to 51.

    Returns:
        [M] opacities and [M] factors of the scales, float32: the n together have the same
        transmittance at the centre and the same integral along a line through it.
    """
    old = opacity.double()
    new = 1 - (1 - old) ** (1 / copies.double())
    factor = torch.ones_like(old)
    for n in copies.unique().tolist():
        at = copies == n
        o = new[at]
        total = torch.zeros_like(o)
        for k in range(n):  # The double sum of eq. 9, its inner one a hockey stick: C(n, k + 1).
            total += (-1) ** k * math.comb(n, k + 1) * o ** (k + 1) / math.sqrt(k + 1)
        factor[at] = old[at] / total
    return new.float(), factor.float()

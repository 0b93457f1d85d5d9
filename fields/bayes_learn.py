"""Learning the prior of Bayesian fields from example signals, its rate steered to a budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .bayes_network import Shared, cut, evaluate, places
from .bayes_posterior import Gaussians, inputs_of, kl_nats
from .bayes_shape import Shape

ROUND = 10  # Steps between updates of the prior and of beta.
FIRST_STD, PRIOR_STD = 0.05, 0.3  # Of posteriors and the prior before learning.
MEAN_RATE, STD_RATE, MIXING_RATE, KERNEL_RATE = 0.02, 0.06, 1e-4, 2e-3  # Of Adam.
LAST_RATE = 0.2  # Share of the rates that is left in the end.
STEER, LARGEST_STEP = 0.7, 1.5  # Beta times (rate / budget)^STEER, at most so many times.
FIRST_BETA = 1e-6
LEAST_VARIANCE = 1e-8

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Learner:
    """Where learning stands; `learn` goes on from here, to another budget too.

    Attributes:
        shape: of the fields.
        grid: patches along each axis of every example.
        target: [S, patches, channels, samples], values about -1/2 to 1/2.
        shared, posterior, prior: what is learned.
        beta: mean squared error that a nat is worth.
        history: (bits of a signal, mean squared error) at each update of the prior.
    """

    shape: Shape
    grid: tuple[int, ...]
    target: Tensor
    shared: Shared
    posterior: Gaussians
    prior: Gaussians
    beta: float
    history: tuple[tuple[float, float], ...] = ()

    @staticmethod
    def new(shape: Shape, signals: Tensor, seed: int = 0) -> Learner:
        """At the start: all posteriors alike. Signals are [S, *size, channels]."""
        generator = torch.Generator().manual_seed(seed)
        grid = shape.grid(signals.shape[1:-1])
        mean, rows = {}, shape.rows(grid)
        for level, count in shape.levels.items():
            start = torch.zeros(count)
            if level == "patch":
                start[: shape.weights] = 2 * torch.rand(shape.weights, generator=generator) - 1
                start[shape.weights - shape.channels * (shape.width + 1) : shape.weights] *= 0.3
            mean[level] = start
        wide = {k: torch.full_like(v, math.log(PRIOR_STD)) for k, v in mean.items()}
        narrow = {k: torch.full_like(v, math.log(FIRST_STD)) for k, v in mean.items()}
        prior = Gaussians(mean, wide)
        posterior = spread_out(prior, len(signals), rows, narrow)
        if shape.positional:  # Otherwise nothing would tell one sign from the other.
            part = posterior.mean["patch"][..., shape.weights :]
            part += 0.1 * torch.randn(part.shape, generator=generator)
        shared = Shared.new(shape, generator)
        return Learner(
            shape, grid, patches_of(shape, signals), shared, posterior, prior, FIRST_BETA
        )


def spread_out(
    prior: Gaussians, signals: int, rows: dict[str, int], log_std: dict[str, Tensor]
) -> Gaussians:
    """Posteriors [S, rows, n] at the prior's mean."""
    mean, std = {}, {}
    for level, value in prior.mean.items():
        size = (signals, rows[level], len(value))
        mean[level] = value.expand(size).clone()
        std[level] = log_std[level].expand(size).clone()
    return Gaussians(mean, std)


def patches_of(shape: Shape, signals: Tensor) -> Tensor:
    """[S, patches, channels, samples] of signals [S, *size, channels], edges repeated."""
    size = signals.shape[1:-1]
    grid = shape.grid(size)
    for axis, (n, cells, patch) in enumerate(zip(size, grid, shape.patch, strict=True)):
        index = torch.arange(cells * patch).clamp(max=n - 1)
        signals = signals.index_select(1 + axis, index)
    return cut(signals.movedim(-1, 1), grid, shape.patch).flatten(3)


def learn(
    start: Learner, bits: float, steps: int, *, seed: int = 0, progress: Progress | None = None
) -> Learner:
    """So many steps of Adam, the mean rate of a signal steered to `bits`; `start` stays as it is.

    Every ROUND steps the prior becomes what fits all posteriors best (its mean theirs, its variance
    their mean variance and spread), and beta is multiplied by how far the rate is off
    (RECOMBINER, He et al. 2024).
    """
    shape, generator = start.shape, torch.Generator().manual_seed(seed)
    shared = _copied(start.shared)
    posterior = _detached(start.posterior)
    adam = _adam(posterior, shared if shape.mixing else replace(shared, mixing=()))
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: _rate(step / steps))
    prior, beta, history, fixed = start.prior, start.beta, [*start.history], places(shape)
    for step in range(steps):
        values = inputs_of(shape, posterior.sample(generator), start.grid)
        found = evaluate(shape, shared, *values, fixed, start.grid)
        error = (found - start.target).square().mean((1, 2, 3)).sum()
        nats = torch.stack([kl.sum() for kl in kl_nats(posterior, prior).values()]).sum()
        adam.zero_grad()
        (error + beta * nats).backward()
        adam.step()
        schedule.step()
        if (step + 1) % ROUND == 0:
            rate = float(nats.detach()) / math.log(2) / len(start.target)
            prior = fitted_prior(posterior)
            beta *= min(max((rate / bits) ** STEER, 1 / LARGEST_STEP), LARGEST_STEP)
            history.append((rate, float(error.detach()) / len(start.target)))
            if progress:
                progress("learning the prior", (step + 1) / steps)
    return replace(
        start, shared=_copied(shared), posterior=_detached(posterior), prior=prior, beta=beta,
        history=tuple(history),
    )  # fmt: skip


def _adam(posterior: Gaussians, shared: Shared) -> torch.optim.Adam:
    rates = [
        (MEAN_RATE, posterior.mean.values()), (STD_RATE, posterior.log_std.values()),
        (MIXING_RATE, shared.mixing), (KERNEL_RATE, shared.kernels),
    ]  # fmt: skip
    groups = [{"params": [p.requires_grad_() for p in group], "lr": rate} for rate, group in rates]
    return torch.optim.Adam([group for group in groups if group["params"]], betas=(0.9, 0.99))


def _rate(done: float) -> float:
    return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def fitted_prior(posterior: Gaussians) -> Gaussians:
    """The Gaussians [n] of least KL from all posteriors (COMBINER, Guo et al. 2023)."""
    mean = {level: x.mean((0, 1)) for level, x in posterior.mean.items()}
    log_std = {}
    for level, x in posterior.mean.items():
        apart = (x - mean[level]).square() + (2 * posterior.log_std[level]).exp()
        log_std[level] = 0.5 * apart.mean((0, 1)).clamp_min(LEAST_VARIANCE).log()
    return Gaussians(mean, log_std)


def _copied(shared: Shared) -> Shared:
    return Shared(
        tuple(x.detach().clone() for x in shared.mixing),
        tuple(x.detach().clone() for x in shared.kernels),
    )


def _detached(posterior: Gaussians) -> Gaussians:
    return Gaussians(
        {k: v.detach().clone() for k, v in posterior.mean.items()},
        {k: v.detach().clone() for k, v in posterior.log_std.items()},
    )

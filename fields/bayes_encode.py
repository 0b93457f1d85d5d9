"""Encoding signals with a prior: posteriors, a rate for each block, then index after index."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .bayes_blocks import COST_UNITS, Blocks, Index, choose
from .bayes_learn import patches_of, spread_out
from .bayes_network import evaluate, places
from .bayes_noise import NORMAL_SHIFT, normals
from .bayes_posterior import Gaussians, inputs_of, kl_nats
from .bayes_prior import Prior

MARGIN = 0.3  # Bits below the budget that a block's KL is steered to.
EVERY = 5  # Steps between changes of the betas.
STEER, LARGEST_STEP = 0.3, 1.2  # Beta times (KL / goal)^STEER, at most so many times.
LEAST_COST = 0.02  # Nats; a posterior starts no wider than at this.
LEAST_TUNING = 2  # Steps between two waves of blocks.
BETAS = (1e-12, 1e-1)

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class EncodeSettings:
    """How signals are encoded.

    Attributes:
        steps: of Adam before any block is coded.
        tuning: of Adam in all between blocks (progressive fine-tuning).
        rate: learning rate.
        seed: of every random choice.
    """

    steps: int = 400
    tuning: int = 400
    rate: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.tuning < 0 or not 0 < self.rate <= 1:
            raise ValueError(f"settings: expected positive steps and a rate up to 1, got {self}")


def encode_signals(
    prior: Prior,
    signals: Tensor,
    settings: EncodeSettings | None = None,
    *,
    progress: Progress | None = None,
) -> list[dict[str, Index]]:
    """Indices [rows, blocks] by level, of each signal of [S, *size, channels], about -1/2 to 1/2.

    Every block has a beta of its own, which steers its KL to the budget. Then block after block of
    all rows, upper levels first and dear ones first, is replaced by the sample that its index
    stands for, and the others go on learning around it (RECOMBINER, He et al. 2024).
    """
    settings = settings or EncodeSettings()
    work = _Encoder(prior, signals, settings)
    waves = [(level, block) for level in prior.blocks for block in range(work.count(level))]
    total = settings.steps + max(settings.tuning, LEAST_TUNING * len(waves))

    def tell() -> None:
        if progress:
            progress("encoding", min(work.step / total, 1.0))

    for _ in range(settings.steps):
        work.learn()
        tell()
    tuning = max(settings.tuning // len(waves), LEAST_TUNING)
    for level in prior.blocks:
        for block in work.dearest(level):
            work.code(level, block)
            for _ in range(tuning):
                work.learn()
            tell()
    return [
        {level: index[signal] for level, index in work.index.items()}
        for signal in range(len(signals))
    ]


class _Level:
    """One level of an encoding: places of its values, and what is already coded, in coded order."""

    def __init__(self, blocks: Blocks, signals: int, rows: int, beta: float):
        self.blocks = blocks
        n = len(blocks.columns)
        sources = torch.from_numpy(blocks.sources(rows)).reshape(-1)
        self.places = torch.argsort(sources)  # Of each value of [rows * n] in coded order.
        self.columns = torch.from_numpy(blocks.columns)
        self.member = torch.zeros(n, len(blocks.ends))
        self.member[torch.arange(n), torch.from_numpy(blocks.number)] = 1
        self.betas = torch.full((signals, rows, len(blocks.ends)), beta)
        self.open = torch.ones(len(blocks.ends))
        self.free = torch.ones(n, dtype=torch.bool)
        self.fixed = torch.zeros(signals, rows, n)

    def natural(self, values: Tensor) -> Tensor:
        """[S, rows, n] in the order of the vectors, of those in coded order."""
        return values.flatten(1)[:, self.places].reshape(values.shape)


class _Encoder:
    """The state of an encoding of several signals: posteriors in coded order, betas, indices."""

    def __init__(self, prior: Prior, signals: Tensor, settings: EncodeSettings):
        shape = self.shape = prior.shape
        self.prior = prior
        self.grid = shape.grid(signals.shape[1:-1])
        self.target = patches_of(shape, signals)
        self.fixed = places(shape)
        rows = shape.rows(self.grid)
        self.levels = {
            level: _Level(blocks, len(signals), rows[level], prior.beta)
            for level, blocks in prior.blocks.items()
        }
        order = {level: x.columns for level, x in self.levels.items()}
        mean, log_std = prior.gaussians.mean, prior.gaussians.log_std
        self.base = Gaussians(
            {k: v[order[k]] for k, v in mean.items()}, {k: v[order[k]] for k, v in log_std.items()}
        )
        nats = {
            k: torch.from_numpy(prior.cost[k].astype(np.float32))[order[k]]
            * math.log(2)
            / COST_UNITS
            for k in order
        }
        start = {k: v - nats[k].clamp_min(LEAST_COST) for k, v in self.base.log_std.items()}
        self.posterior = spread_out(self.base, len(signals), rows, start)
        for parameter in self.posterior.parameters():
            parameter.requires_grad_()
        self.adam = torch.optim.Adam(self.posterior.parameters(), settings.rate, betas=(0.9, 0.99))
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.gumbel = np.random.default_rng(settings.seed)
        self.index = {
            k: np.zeros((len(signals), rows[k], len(x.blocks.ends)), np.int64)
            for k, x in self.levels.items()
        }
        self.step = 0

    def count(self, level: str) -> int:
        return len(self.levels[level].blocks.ends)

    def bits(self) -> dict[str, Tensor]:
        """KL of every block in bits, [S, rows, blocks]; differentiable."""
        found = kl_nats(self.posterior, self.base)
        return {k: (v @ self.levels[k].member) / math.log(2) for k, v in found.items()}

    def values(self) -> dict[str, Tensor]:
        """A sample, in the order of the vectors; what is coded is as coded."""
        found = {}
        for level, value in self.posterior.sample(self.generator).items():
            state = self.levels[level]
            found[level] = state.natural(torch.where(state.free, value, state.fixed))
        return found

    def learn(self) -> None:
        """One step of Adam on the error and the blocks' KL; the betas follow."""
        values = inputs_of(self.shape, self.values(), self.grid)
        found = evaluate(self.shape, self.prior.shared, *values, self.fixed, self.grid)
        loss = (found - self.target).square().mean((1, 2, 3)).sum()
        bits = self.bits()
        for level, state in self.levels.items():
            loss = loss + math.log(2) * (bits[level] * state.betas * state.open).sum()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        self.step += 1
        if self.step % EVERY == 0:
            goal = max(self.prior.budget - MARGIN, 0.5 * self.prior.budget)
            for level, state in self.levels.items():
                factor = (bits[level].detach() / goal).clamp_min(1e-3) ** STEER
                state.betas *= factor.clamp(1 / LARGEST_STEP, LARGEST_STEP)
                state.betas.clamp_(*BETAS)

    def dearest(self, level: str) -> list[int]:
        """Blocks by falling KL, on average over rows."""
        return [int(b) for b in self.bits()[level].mean((0, 1)).argsort(descending=True)]

    @torch.no_grad()
    def code(self, level: str, block: int) -> None:
        """Choose the index of a block in all rows; the sample takes the posterior's place."""
        state, part = self.levels[level], self.levels[level].blocks.parts[block]
        std0 = self.base.log_std[level][part].exp()
        mean = (self.posterior.mean[level][..., part] - self.base.mean[level][part]) / std0
        std = self.posterior.log_std[level][..., part].exp() / std0
        wide = part.stop - part.start
        place = (state.blocks.level, block)
        found = choose(
            mean.reshape(-1, wide).numpy(), std.reshape(-1, wide).numpy(), place,
            self.prior.index_bits, self.gumbel,
        )  # fmt: skip
        self.index[level][..., block] = found.reshape(mean.shape[:-1])
        z = torch.from_numpy(normals(found, *place, wide).T.astype(np.float32))
        z = z.reshape(mean.shape) / (1 << NORMAL_SHIFT)
        state.fixed[..., part] = self.base.mean[level][part] + std0 * z
        state.free[part] = False
        state.open[block] = 0

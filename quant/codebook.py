"""Vector quantisation: a codebook by importance-weighted k-means with moving averages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PAIRS = 1 << 23  # Distances held at once: 32 MB.
SETTLE_SHARE = 0.2  # Of the steps, the last, in which no codeword is moved to another place.
LEAST_MASS = 1e-12  # Below it a codeword's average says nothing.


@dataclass(frozen=True)
class CodebookSettings:
    """How a codebook is fitted; the defaults are LightGaussian's (Fan et al. 2024, released code).

    Attributes:
        size: codewords, fewer where there are fewer vectors.
        steps: averages taken, each over `batch` random vectors (all, if there are no more).
        decay: of the moving averages of a codeword's mass and sum.
        expire: codewords of 8,192 (fewer in proportion, at least one, or none where this is 0) that
            each step may move: the least used, to the vectors worst served.
        seed: of the draws.
    """

    size: int = 8192
    steps: int = 1000
    batch: int = 80_000
    decay: float = 0.8
    expire: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("size", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("steps", "expire"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay: expected in [0, 1), got {self.decay}")


def fit_codebook(x: Tensor, weights: Tensor, settings: CodebookSettings) -> Tensor:
    """A codebook [K, D] float32 that serves vectors x [M, D] of weights [M] >= 0; K <= M.

    Assignment is plain L2; the weights enter the averages, so that codewords lie where the
    important vectors of their cell do. Begins at K different vectors drawn at random. A function
    of its arguments and the seed (on one machine and number of threads).

    Raises ValueError for shapes that do not match and for values that are not finite.
    """
    x, weights = _checked(x, weights)
    rng = torch.Generator().manual_seed(settings.seed)
    size = min(settings.size, len(x))
    codebook = x[torch.randperm(len(x), generator=rng)[:size]].clone()
    if not size:
        return codebook
    mass = torch.full((size,), len(x) / size)
    total = codebook * mass[:, None]
    for step in range(settings.steps):
        rows, w = _batch(x, weights, settings.batch, rng)
        indices = assign(rows, codebook)
        new = torch.zeros(size).index_add_(0, indices, w)
        sums = torch.zeros_like(codebook).index_add_(0, indices, rows * w[:, None])
        mass = settings.decay * mass + (1 - settings.decay) * new
        total = settings.decay * total + (1 - settings.decay) * sums
        alive = mass > LEAST_MASS
        codebook = torch.where(
            alive[:, None], total / mass.clamp_min(LEAST_MASS)[:, None], codebook
        )
        if step < (1 - SETTLE_SHARE) * settings.steps:
            least, worst = _moves(rows, w, codebook, indices, mass, settings.expire)
            codebook[least], mass[least] = rows[worst], w[worst].clamp_min(LEAST_MASS)
            total[least] = codebook[least] * mass[least][:, None]
    return codebook


def assign(x: Tensor, codebook: Tensor) -> Tensor:
    """[M] int64, the codeword [K, D] nearest to each vector [M, D]; the first among equals."""
    if len(x) and not len(codebook):
        raise ValueError(f"codebook: expected codewords for {len(x)} vectors, got none")
    half = 0.5 * codebook.square().sum(1)
    rows = max(1, PAIRS // max(1, len(codebook)))
    parts = [(half - part @ codebook.T).argmin(1) for part in x.split(rows)] if len(x) else []
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def distortion(x: Tensor, weights: Tensor, codebook: Tensor, indices: Tensor) -> float:
    """Weighted mean of the squared distances to the codewords that `indices` [M] name."""
    errors = (x.double() - codebook[indices].double()).square().sum(1)
    return float((errors * weights.double()).sum() / weights.double().sum().clamp_min(1e-300))


def _checked(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Float32, and weights of mean 1: the moving averages need no other scale."""
    if x.ndim != 2 or weights.shape != x.shape[:1]:
        raise ValueError(
            f"x, weights: expected [M, D] and [M], got {list(x.shape)} and {list(weights.shape)}"
        )
    if not bool(x.isfinite().all()) or not bool((weights.isfinite() & (weights >= 0)).all()):
        raise ValueError("x, weights: expected finite values and weights >= 0, got others")
    mean = float(weights.double().mean()) if len(weights) else 1.0
    weights = weights.double() / mean if mean > 0 else torch.ones_like(weights)
    return x.float(), weights.float()


def _moves(
    rows: Tensor, w: Tensor, codebook: Tensor, indices: Tensor, mass: Tensor, expire: int
) -> tuple[Tensor, Tensor]:
    """Codewords to move and the rows to move them to, where that gains more than it costs.

    The gain is that row's weighted error; the cost is bounded by what the codeword's mass loses
    when it has to go to the nearest other one.
    """
    count = min(-(-expire * len(codebook) // 8192), len(rows), len(codebook) - 1)
    if not count:
        return indices[:0], indices[:0]
    errors = w * (rows - codebook[indices]).square().sum(1)
    least, worst = mass.topk(count, largest=False).indices, errors.topk(count).indices
    nearest = torch.cdist(codebook[least], codebook).topk(2, largest=False).values[:, 1:]
    gain = errors[worst] > mass[least] * nearest.square().sum(1)
    return least[gain], worst[gain]


def _batch(x: Tensor, weights: Tensor, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    if len(x) <= size:
        return x, weights
    rows = torch.randint(len(x), (size,), generator=rng)
    return x[rows], weights[rows]

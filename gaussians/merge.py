"""Fewer Gaussians by merging: near pairs become one, where that costs less than removing one.

Everything is counted in squared error of the pictures, summed over views, to first order: the
unit of `sparsify.removal_error`, so that merging a pair and removing one compete on one list.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..quant import entropy
from ..render.statistics import statistics
from ..scenes.cameras import Cameras
from .curve import DEPTH, along_curve
from .frames import rotations
from .model import SplatModel
from .shelf import let_go
from .sparsify import counts, removal_error

NEIGHBORS = 4  # Nearest centres before each one on the Morton curve: 8 find no better pairs.
ENOUGH = 3  # Times what is wanted: so many of the cheapest steps hold enough that fit together.
MAX_GAP = 6.0  # Squared distance, in units of both covariances' sum, beyond which none merge.
MAX_RATIO = 64.0  # Of the areas of a pair.
MAX_OPACITY = 0.999  # Of a merged one: its logit stays finite.
PROBES = 4  # Of the removal error: one alone says of many, by chance, that they cost nothing.
STEADY = 0.1  # Share of the mean contrast in it, see `measure`.
STRIP = 1 << 14  # Pairs that are looked at at once,
PAIRS = 1 << 13  # and that are merged at once: their colours are in double precision.
LEAST = 1e-300


@dataclass(frozen=True)
class Measured:
    """What N Gaussians do in some views, each [N] float64.

    Attributes:
        mass: sum over views and pixels of alpha T, the weight in moment matching.
        weight: sum of (alpha T)^2, what squared errors of colour are multiplied by.
        error: squared error of removing it, see `sparsify.removal_error`.
    """

    mass: Tensor
    weight: Tensor
    error: Tensor


@dataclass(frozen=True)
class Pairs:
    """P pairs of Gaussians that might be merged.

    Attributes:
        first, second: [P] int64 indices, first < second.
        cost: [P] float64 squared error that merging the pair causes.
    """

    first: Tensor
    second: Tensor
    cost: Tensor

    def __len__(self) -> int:
        return len(self.cost)

    def __getitem__(self, index: Tensor | slice) -> Pairs:
        return Pairs(self.first[index], self.second[index], self.cost[index])


@dataclass(frozen=True)
class Reduced:
    """A model of fewer Gaussians, in the order of the old, and where they come from.

    Attributes:
        model: M Gaussians; a merged one stands where the first of its pair stood.
        kept: [M] int64 index of each in the old model.
        partner: [M] int64 index of what was merged into it, or -1.
        cost: expected squared error, summed over what was done.
    """

    model: SplatModel
    kept: Tensor
    partner: Tensor
    cost: float

    def summed(self, values: Tensor) -> Tensor:
        """[M] of values [N] of the old model: those of merged pairs added."""
        other = values[self.partner.clamp_min(0)] if len(values) else values
        return values[self.kept] + torch.where(self.partner < 0, torch.zeros_like(other), other)


def measure(model: SplatModel, views: Cameras, *, probes: int = PROBES, seed: int = 0) -> Measured:
    """Mass, weight and removal error of each Gaussian over the views.

    To the error comes a share of what it would be at the scene's mean contrast: what looks like
    its background is missed once that goes too.
    """
    means, quats, scales, opacities, _ = model.activated()
    found = statistics(
        means, quats, scales, opacities, views.viewmats, views.Ks, views.width, views.height,
        model.options(),
    )  # fmt: skip
    error = removal_error(model, views, probes=probes, seed=seed)
    contrast = float(error.sum() / found.weight_sq.sum().clamp_min(LEAST))
    error = (error + STEADY * contrast * found.weight_sq) / (1 + STEADY)
    return Measured(found.weight, found.weight_sq, error)


@torch.no_grad()
def candidates(model: SplatModel, measured: Measured, *, neighbors: int = NEIGHBORS) -> Pairs:
    """Near pairs that are cheaper to merge, by `_Pair.cost`, than either is to remove: O(N)."""
    found = []
    for part in _near(model.means, neighbors):
        shape = [covariances(model, end) for end in part.unbind(1)]
        sizes = [area(a).log() for a in shape]
        offset = (model.means[part[:, 1]] - model.means[part[:, 0]]).double()
        like = (sizes[0] - sizes[1]).abs() <= math.log(MAX_RATIO)
        part = part[like & (gap(shape[0] + shape[1], offset) <= MAX_GAP)]
        pair = _Pair(model, part[:, 0], part[:, 1], measured)
        cost = pair.cost()
        let_go(model.sh0)
        good = cost < measured.error[part].amin(1)
        found.append(Pairs(part[good, 0], part[good, 1], cost[good]))
    return Pairs(*(torch.cat([getattr(p, n) for p in found]) for n in ("first", "second", "cost")))


def _near(means: Tensor, neighbors: int) -> Iterator[Tensor]:
    """Strips [P, 2] int64 of pairs of near centres, each once, the lower index first; one at least.

    In strips because on large models the pairs alone take as much memory as a fourth of the model.
    """
    codes = along_curve(means)
    order = np.argsort(codes, kind="stable")
    before = entropy.causal_neighbors(codes[order], DEPTH, neighbors)
    rows = max(1, STRIP // neighbors)
    for start in range(0, max(len(order), 1), rows):
        strip = before[start : start + rows]
        row, column = np.nonzero(strip >= 0)
        pairs = np.stack([order[start + row], order[strip[row, column]]], 1).astype(np.int64)
        yield torch.from_numpy(np.sort(pairs, axis=1))


def _elementary(a: Tensor) -> Tensor:
    """Second elementary symmetric polynomial of the eigenvalues of packed [M, 6] matrices."""
    xx, yy, zz, xy, xz, yz = a.unbind(1)
    return xx * yy + yy * zz + zz * xx - xy * xy - xz * xz - yz * yz


def area(a: Tensor) -> Tensor:
    """[M] integral of exp(-Mahalanobis^2 / 2) of the projection of packed covariances [M, 6].

    Root mean square over all directions: the projection along d has the determinant
    d . adj(A) d, and the trace of adj(A) is the second elementary symmetric polynomial.
    """
    return 2 * math.pi * (_elementary(a) / 3).clamp_min(LEAST).sqrt()


def gap(a: Tensor, offset: Tensor) -> Tensor:
    """[M] mean over projections of the squared Mahalanobis distance of offsets [M, 3].

    Each direction counts by the squared area that it shows. This is offset . (tr A - A) offset
    over the second elementary symmetric polynomial: no inverse, discs and needles allowed.
    """
    x, y, z = offset.unbind(1)
    xx, yy, zz, xy, xz, yz = a.unbind(1)
    along = xx * x * x + yy * y * y + zz * z * z + 2 * (xy * x * y + xz * x * z + yz * y * z)
    total = (xx + yy + zz) * offset.square().sum(1) - along
    return total / _elementary(a).clamp_min(LEAST)


def overlap(a: Tensor, b: Tensor, offset: Tensor) -> Tensor:
    """[M] integral of the product of two projected unit Gaussians: packed [M, 6], offset [M, 3]."""
    both = a + b
    return area(a) * area(b) / area(both) * torch.exp(-0.5 * gap(both, offset))


def covariances(model: SplatModel, index: Tensor) -> Tensor:
    """[M, 6] float64 xx, yy, zz, xy, xz, yz of the Gaussians at some indices."""
    turned = rotations(model.quats[index].double()) * model.scales[index].double().exp()[:, None]
    full = turned @ turned.transpose(1, 2)
    return full[:, (0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2)]


def _outer(x: Tensor) -> Tensor:
    return x[:, (0, 1, 2, 0, 0, 1)] * x[:, (0, 1, 2, 1, 2, 2)]


class _Pair:
    """P pairs and what becomes of them: offsets are taken from the first's centre."""

    def __init__(self, model: SplatModel, first: Tensor, second: Tensor, measured: Measured):
        self.model, self.index, self.measured = model, (first, second), measured
        self.offset = model.means[second].double() - model.means[first].double()
        self.shape = [covariances(model, i) for i in self.index]
        self.area = [area(a) for a in self.shape]
        self.opacity = [model.opacities[i].double().sigmoid() for i in self.index]

    def match(self) -> None:
        """Share of the second, offset of the mean, covariance and opacity of the merged."""
        flat = [o * a for o, a in zip(self.opacity, self.area, strict=True)]
        mass = [self.measured.mass[i] for i in self.index]
        unseen = (mass[0] + mass[1]) <= 0
        mass = [torch.where(unseen, f, m) for f, m in zip(flat, mass, strict=True)]
        share = mass[1] / (mass[0] + mass[1]).clamp_min(LEAST)
        self.share, self.center = share, share[:, None] * self.offset
        s = share[:, None]
        self.merged = (1 - s) * self.shape[0] + s * self.shape[1]
        self.merged += s * (1 - s) * _outer(self.offset)
        # What both would stop of light that meets one and then the other.
        total = flat[0] + flat[1]
        total -= (
            self.opacity[0] * self.opacity[1] * overlap(self.shape[0], self.shape[1], self.offset)
        )
        self.alpha = (total / area(self.merged)).clamp_max(MAX_OPACITY)

    def cost(self) -> Tensor:
        """[P] squared error: the pair's pictures minus the merged one's, in closed form.

        With mean contrast q to what is behind and colours that differ by d, the pair shows
        q (a1 g1 + a2 g2 - a g) + d (s a1 g1 - (1 - s) a2 g2), s the second's share: integrals of
        products of Gaussians. The measured weights give their unit, the removal errors |q|^2.
        """
        self.match()
        a, (a1, a2), s = self.alpha, self.opacity, self.share
        one, two = a1.square() * self.area[0] / 2, a2.square() * self.area[1] / 2
        both = a1 * a2 * overlap(self.shape[0], self.shape[1], self.offset)
        cross = a * a1 * overlap(self.merged, self.shape[0], self.center)
        cross += a * a2 * overlap(self.merged, self.shape[1], self.offset - self.center)
        form = a.square() * area(self.merged) / 2 + one + two + 2 * both - 2 * cross
        tint = s.square() * one + (1 - s).square() * two - 2 * s * (1 - s) * both
        error = self.measured.error[self.index[0]] + self.measured.error[self.index[1]]
        weight = self.measured.weight[self.index[0]] + self.measured.weight[self.index[1]]
        total = error * form.clamp_min(0) + weight * self._difference() * tint.clamp_min(0)
        return total / (one + two).clamp_min(LEAST)

    def _difference(self) -> Tensor:
        """[P] squared distance of the colours, mean over all directions (Parseval)."""
        (first, second), colors = self.index, (self.model.sh0, self.model.shN)
        parts = [(x[first] - x[second]).double().square().sum((1, 2)) for x in colors]
        return (parts[0] + parts[1]) / (4 * math.pi)


def merged(model: SplatModel, first: Tensor, second: Tensor, mass: Tensor) -> SplatModel:
    """P Gaussians with the mass, mean and covariance of P pairs.

    Args:
        model: N Gaussians.
        first: [P] int64 one of each.
        second: [P] int64 the other.
        mass: [N] float64 what each contributes; pairs without any get opacity times area.
    """
    pair = _Pair(model, first, second, Measured(mass, mass, mass))
    pair.match()
    values = pair.merged[:, (0, 3, 4, 3, 1, 5, 4, 5, 2)].reshape(-1, 3, 3)
    variances, axes = torch.linalg.eigh(values)
    # No direction is thinner than in both: what is below that is rounding.
    floor = torch.minimum(model.scales[first].amin(1), model.scales[second].amin(1))
    scales = torch.maximum(0.5 * variances.clamp_min(LEAST).log(), floor[:, None].double())
    axes[:, :, 0] *= torch.linalg.det(axes).sign()[:, None]
    share = pair.share[:, None]
    colors = {
        name: ((1 - share[:, None]) * x[first] + share[:, None] * x[second]).float()
        for name, x in (("sh0", model.sh0), ("shN", model.shN))
    }
    return replace(
        model,
        means=(model.means[first].double() + pair.center).float(),
        quats=_quaternions(axes).float(),
        scales=scales.float(),
        opacities=torch.logit(pair.alpha).float(),
        **colors,
    )


def _quaternions(axes: Tensor) -> Tensor:
    """[P, 4] wxyz of rotation matrices: the longest row of 4 q q^T, which is never short."""
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(1) for row in axes.unbind(1))
    rows = [
        1 + a + e + i, h - f, c - g, d - b, h - f, 1 + a - e - i, b + d, c + g,
        c - g, b + d, 1 - a + e - i, f + h, d - b, c + g, f + h, 1 - a - e + i,
    ]  # fmt: skip
    outer = torch.stack(rows, 1).reshape(-1, 4, 4)
    longest = outer.diagonal(dim1=1, dim2=2).argmax(1)
    return torch.nn.functional.normalize(outer[torch.arange(len(outer)), longest], dim=1)


def choose(
    pairs: Pairs, removal: Tensor, count: int, limit: float = math.inf
) -> tuple[Pairs, Tensor]:
    """The cheapest merges and removals, greedily by cost, no Gaussian twice.

    Args:
        pairs: candidates, in any number for a Gaussian.
        removal: [N] float64 cost of removing each; infinite where that is not wanted.
        count: how many Gaussians to lose at most.
        limit: cost from which on nothing is done.

    Returns:
        The pairs to merge, disjoint, and the [N] bool mask of the Gaussians to remove.
    """
    n = len(removal)
    cost = torch.cat([pairs.cost, removal])
    some = ENOUGH * max(count, 1)
    if some < len(cost):  # What is dearer than enough others is not even looked at.
        bound = float(cost.kthvalue(some).values)
        if bound < limit:
            done = choose(pairs, removal, count, bound)
            if len(done[0]) + int(done[1].sum()) >= count:
                return done
    order = torch.nonzero(cost < limit)[:, 0]
    order = order[cost[order].argsort(stable=True)]
    del cost
    first, second = (
        torch.cat([end, torch.arange(n)])[order] for end in (pairs.first, pairs.second)
    )
    free = torch.ones(n, dtype=torch.bool)
    taken = torch.zeros(len(order), dtype=torch.bool)
    left = torch.arange(len(order))
    # An action that is the best left of both its Gaussians is one that greedy choice takes.
    while len(left):
        best = torch.full((n,), len(order))
        for end in (first, second):
            best.scatter_reduce_(0, end[left], left, "amin")
        now = left[(best[first[left]] == left) & (best[second[left]] == left)]
        taken[now] = True
        free[first[now]] = free[second[now]] = False
        left = left[free[first[left]] & free[second[left]]]
    done = order[torch.nonzero(taken)[:, 0][: max(count, 0)]]
    remove = torch.zeros(n, dtype=torch.bool)
    remove[done[done >= len(pairs)] - len(pairs)] = True
    return pairs[done[done < len(pairs)]], remove


def _apply(model: SplatModel, pairs: Pairs, remove: Tensor, mass: Tensor, own: bool) -> Reduced:
    """The model without the removed, each pair merged at the place of its first."""
    keep = ~remove
    keep[pairs.second] = False
    kept = torch.nonzero(keep)[:, 0]
    partner = torch.full((len(model),), -1)
    partner[pairs.first] = pairs.second
    out = model if own else model[kept]
    pairs = pairs[pairs.first.argsort()]  # Near ones share pages of colours on a shelf.
    for start in range(0, len(pairs), PAIRS):  # They are disjoint: none needs what another was.
        some = pairs[start : start + PAIRS]
        at = some.first if own else torch.searchsorted(kept, some.first)
        for name, value in merged(model, some.first, some.second, mass).tensors().items():
            out.tensors()[name][at] = value
        let_go(model.sh0)
    out = compacted(model, kept) if own else out
    return Reduced(out, kept, partner[kept], float(pairs.cost.sum()))


def compacted(model: SplatModel, kept: Tensor) -> SplatModel:
    """`model[kept]` for rising indices [M], in the model's own memory: the model is no more."""
    tensors = (model.means, model.quats, model.scales, model.opacities, model.colors())
    for x in tensors:
        for start in range(0, len(kept), STRIP):
            rows = kept[start : start + STRIP]
            x[start : start + len(rows)] = x[rows]  # Never from a place already written.
            let_go(x)
    means, quats, scales, opacities, colors = (x[: len(kept)] for x in tensors)
    return replace(
        model, means=means, quats=quats, scales=scales, opacities=opacities,
        sh0=colors[:, :1], shN=colors[:, 1:],
    )  # fmt: skip


@torch.no_grad()
def merge(
    model: SplatModel,
    measured: Measured,
    count: int,
    *,
    limit: float = math.inf,
    prune: bool = True,
    own: bool = False,
) -> Reduced:
    """One round: lose `count` Gaussians at the least cost, each merged or removed at most once.

    Args:
        model: N Gaussians, finite.
        measured: of these, from `measure`.
        count: how many to lose at most.
        limit: squared error from which on a step is not taken: the price of a Gaussian's bits.
        prune: whether removals compete with merges.
        own: whether the model's memory may be used for the new one.
    """
    if len(measured.error) != len(model):
        raise ValueError(f"measured: expected {len(model)} Gaussians, got {len(measured.error)}")
    removal = measured.error if prune else torch.full_like(measured.error, math.inf)
    pairs, remove = choose(candidates(model, measured), removal, count, limit)
    found = _apply(model, pairs, remove, measured.mass, own)
    return replace(found, cost=found.cost + float(measured.error[remove].sum()))


def reduce(
    model: SplatModel,
    views: Cameras,
    goal: int,
    *,
    rounds: int = 3,
    seed: int = 0,
) -> Reduced:
    """At most `goal` Gaussians, in rounds: measure, merge and remove, measure again.

    `kept` is an index into the model given, of the first of all that became one; `partner` is of
    the last round.
    """
    every = torch.arange(len(model))
    found = Reduced(model, every, torch.full_like(every, -1), 0.0)
    for number, want in enumerate(counts(len(model), goal, rounds)):
        now = found.model
        measured = measure(now, views, seed=seed + number)
        step = merge(now, measured, len(now) - want)
        found = replace(step, kept=found.kept[step.kept], cost=found.cost + step.cost)
    return found

"""Fewer Gaussians in rounds: the least merged or dropped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..scenes.cameras import Cameras
from . import merge
from .codec import Steps
from .fit_tables import Source
from .importance import GEOMETRY_SHARE, importance, reference, to_classes
from .memory import give_back
from .model import SplatModel
from .sensitivity import sensitivity

LEAST = 1e-300


@dataclass(frozen=True)
class Measured:
    """What views say of a model's Gaussians.

    Attributes:
        effect: mass, squared weights and the error of removing each, [N] float64 all. The error is
            the geometric mean of the squared error that removal causes, to first order, and of the
            squared weights at the mean contrast: the first alone takes what colours can repair for
            as bad as what they cannot, the second sees no contrast.
        classes: [N, 2] int32 of colour and of geometry.
        moments: direction moments of the AC bases, see `Importance`.
    """

    effect: merge.Measured
    classes: NDArray[np.int32]
    moments: NDArray[np.float64]

    @staticmethod
    def of(model: SplatModel, views: Cameras, seed: int, *, frugal: bool = False) -> Measured:
        """Measure on views [C]: the statistics of each, and one backward pass.

        A frugal measurement leaves out that pass, whose gradients take memory: geometry goes by the
        classes of colour, the error of removal by the squared weights.
        """
        seen = importance(model, views)
        if frugal:
            effect = merge.Measured(seen.weight, seen.weight, seen.weight)
            one = to_classes(seen.weight, reference(seen.weight))
            return Measured(effect, np.stack([one, one], 1), seen.moments.numpy())
        give_back(model.float_bytes)
        found = sensitivity(model, views, seed=seed)
        give_back(model.float_bytes)
        geometry = found.geometry(Steps.position, Steps.scale, Steps.opacity)
        classes = [
            to_classes(seen.weight, reference(seen.weight)),
            to_classes(geometry, reference(geometry, GEOMETRY_SHARE)),
        ]
        contrast = found.removal.sum() / seen.weight.sum().clamp_min(LEAST)
        error = found.removal.mul_(seen.weight).mul_(contrast).sqrt_()
        effect = merge.Measured(seen.mass, seen.weight, error)
        return Measured(effect, np.stack(classes, 1), seen.moments.numpy())

    @property
    def score(self) -> Tensor:
        """[N] float64, the least go first where nothing is merged."""
        return self.effect.error

    def source(self, model: SplatModel) -> Source:
        """The model measured, ready for coding."""
        return Source.of(model, self.classes, self.moments)


def reduced(
    model: SplatModel, measured: Measured, count: int, merging: bool, *, own: bool = False
) -> SplatModel:
    """At least `count` of N Gaussians: others are dropped or, where that costs less, merged.

    With `own` the new model may take the memory of the old, which is no more then.
    """
    if merging:
        return merge.merge(model, measured.effect, len(model) - count, own=own).model
    kept = measured.score.argsort(descending=True, stable=True)[:count].sort().values
    return merge.compacted(model, kept) if own else model[kept]

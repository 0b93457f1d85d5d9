"""How much each Gaussian matters in the picture, and the classes and pruning that follow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..render.sh import sh_bases
from ..render.statistics import statistics
from ..scenes.cameras import Cameras
from .layout import CLASSES
from .model import SplatModel
from .shelf import STRIP

REFERENCE_SHARE = 0.97  # Class 0 begins at this quantile of importance,
GEOMETRY_SHARE = 0.998  # at this of geometry, whose sensitivities have a heavier tail.
SAMPLE = 20_000  # Gaussians whose directions are looked at.
UNSEEN_SHARE = 0.25  # Of its estimate, for a Gaussian that no view had in its frustum.


def estimate(model: SplatModel) -> Tensor:
    """[N] float64 importance without rendering: alpha^2 times the area of the widest section."""
    found = torch.empty(len(model), dtype=torch.float64)
    for start in range(0, len(model), STRIP):
        part = slice(start, start + STRIP)
        scales = model.scales[part].double().sort(dim=1).values
        alpha = model.opacities[part].double().sigmoid()
        found[part] = alpha.square() * (scales[:, 1] + scales[:, 2]).exp()
    return found


@dataclass(frozen=True)
class Importance:
    """How errors of colour enter the squared error of the pictures, to first order.

    Cross terms between Gaussians are neglected. Gaussians outside every view's frustum get a share
    of what `estimate` says, calibrated on the others, because nothing is known of them.

    Attributes:
        weight: [N] float64 sum over views and pixels of (alpha T)^2.
        mass: [N] float64 sum of alpha T.
        moments: [K-1, K-1] float64, 4 pi times the mean over Gaussians of Y(d) Y(d)^T for the AC
            bases Y in the directions d in which they are seen, each weighted by its share of the
            Gaussian's weight: the identity if all directions were seen alike.
    """

    weight: Tensor
    mass: Tensor
    moments: Tensor


def importance(model: SplatModel, views: Cameras) -> Importance:
    """Measure N Gaussians in views [C]."""
    means, quats, scales, opacities, _ = model.activated()
    weight, mass = torch.zeros(2, len(model), dtype=torch.float64)
    sample = slice(None, None, max(1, len(model) // SAMPLE))
    # One tensor: small ones between the large ones of each view would keep their room from reuse.
    parts = torch.empty(len(views), len(weight[sample]), dtype=torch.float64)
    for index in range(len(views)):
        view = views[index : index + 1]
        found = statistics(
            means, quats, scales, opacities, view.viewmats, view.Ks, view.width, view.height,
            model.options(),
        )  # fmt: skip
        weight += found.weight_sq
        mass += found.weight
        parts[index] = found.weight_sq[sample]
        del found  # Before the next view's come.
    moments = _moments(means[sample], views.positions, parts, model.sh_degree)
    weight, mass = (known_or_guessed(model, views, x) for x in (weight, mass))
    return Importance(weight, mass, moments)


def known_or_guessed(model: SplatModel, views: Cameras, measured: Tensor) -> Tensor:
    """[N] what was measured in views where they cover a Gaussian, else a share of its guess."""
    guess = estimate(model)
    seen = covered(model.means, views)
    known = seen & (measured > 0)
    if bool(known.any()):
        guess = guess * (measured[known] / guess[known].clamp_min(1e-300)).median()
    return torch.where(seen, measured, UNSEEN_SHARE * guess)


def _moments(means: Tensor, positions: Tensor, weights: Tensor, degree: int) -> Tensor:
    """Mean direction moments of the AC bases: means [S, 3], positions [C, 3], weights [C, S]."""
    share = weights / weights.sum(0).clamp_min(1e-300)
    total = torch.zeros((degree + 1) ** 2 - 1, (degree + 1) ** 2 - 1, dtype=torch.float64)
    for position, part in zip(positions, share, strict=True):
        directions = torch.nn.functional.normalize(means - position, dim=1)
        bases = sh_bases(degree, directions)[:, 1:].double()
        total += (bases * part[:, None]).T @ bases
    return total * (4 * math.pi / max(float(share.sum()), 1e-9))


def covered(means: Tensor, views: Cameras) -> Tensor:
    """[N] bool whether any view has the centre [N, 3] in its frustum."""
    found = torch.zeros(len(means), dtype=torch.bool)
    size = torch.tensor([views.width, views.height], dtype=means.dtype)
    for viewmat, K in zip(views.viewmats, views.Ks, strict=True):
        points = means @ viewmat[:3, :3].T + viewmat[:3, 3]
        pixels = (points @ K.T)[:, :2] / points[:, 2:].clamp_min(1e-6)
        found |= (points[:, 2] > 0.01) & ((pixels > 0) & (pixels < size)).all(1)
    return found


def reference(weight: Tensor, share: float = REFERENCE_SHARE) -> float:
    """The importance [N] at which class 0 begins: its quantile at `share`."""
    values = weight[weight > 0]
    values = values[:: 1 + len(values) // (1 << 22)]  # torch's quantile takes 16M values at most.
    return float(values.quantile(share)) if len(values) else 1.0


def to_classes(weight: Tensor, ref: float) -> NDArray[np.int32]:
    """[N] 0..9: the power of two by which steps may grow so that weight * step^2 stays level."""
    octaves = 0.5 * torch.log2(ref / weight.clamp_min(1e-300)) + 0.5
    return octaves.floor().clamp(0, CLASSES - 1).numpy().astype(np.int32)

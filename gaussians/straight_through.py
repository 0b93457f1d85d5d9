"""The codec's rounding as training sees it: a lagged straight-through estimate.

Every so often the codec quantises the splats for real, closed-loop prediction and all. What it
moved each value by is then held constant and added, so that the picture shows decoded values
while gradients reach the values behind them unchanged (Bengio et al. 2013).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import blocks
from .codec import Steps, Tables, requantise
from .fit_tables import Source
from .frames import LEAST_LOG, rotations
from .layout import Layout
from .model import SplatModel

WATCHED = ("opa", "scl", "dc", "ac")  # Attributes that a rate model can follow.


def _symmetries() -> Tensor:
    """[24, 4] unit quaternions that permute the coordinate axes, up to signs."""
    found = [torch.eye(4)]
    for i in range(4):
        for j in range(i + 1, 4):
            for sign in (1.0, -1.0):
                q = torch.zeros(1, 4)
                q[0, i], q[0, j] = 0.5**0.5, sign * 0.5**0.5
                found.append(q)
    signs = torch.tensor([[1.0, a, b, c] for a in (1, -1) for b in (1, -1) for c in (1, -1)])
    return torch.cat([*found, 0.5 * signs])


SYMMETRIES = _symmetries()
PERMUTATIONS = rotations(SYMMETRIES).abs().argmax(1)  # [24, 3] old axis at each new axis


def nearest_description(quats: Tensor, scales: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """The same ellipsoids, described so that their quaternions are nearest to given ones.

    Args:
        quats: [N, 4] wxyz, unit.
        scales: [N, 3] in the order of the axes.
        like: [N, 4] wxyz of any length but zero.

    Returns:
        [N, 4] quaternions of the length of `like`, and [N, 3] scales: of the 48 descriptions (24
        turns that permute the axes, q and -q) the one of the largest dot product.
    """
    length = like.norm(dim=1, keepdim=True)
    conjugate = quats * quats.new_tensor([1, -1, -1, -1])
    dots = multiply(conjugate, like / length) @ SYMMETRIES.T  # like . (q g) = (q* like) . g
    best = dots.abs().argmax(1)
    sign = torch.where(dots.gather(1, best[:, None]) < 0, -1.0, 1.0)
    turned = multiply(quats, SYMMETRIES[best]) * sign
    return turned * length, scales.gather(1, PERMUTATIONS[best])


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """[N, 4] Hamilton products of quaternions [N, 4] wxyz."""
    aw, ax, ay, az = a.unbind(1)
    bw, bx, by, bz = b.unbind(1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        1,
    )


@dataclass(frozen=True)
class Prediction:
    """What the codec expected of one attribute, in the model's order of Gaussians.

    Attributes:
        center: [N, C] float32 predicted coefficients; where they are exact nothing need be coded.
        step: [N, 1] float32 quantisation step.
        inverse: [C, C] float32, coefficients = values [N, C] @ inverse; None for the identity.
    """

    center: Tensor
    step: Tensor
    inverse: Tensor | None = None


@dataclass(frozen=True)
class Rounded:
    """A model as a decoder will see it, Gaussian for Gaussian, and what the codec expected."""

    model: SplatModel
    predictions: dict[str, Prediction]


def rounded(source: Source, steps: Steps) -> Rounded:
    """What decoding `encode_source(source, steps)` gives, in the order of the source's model.

    Every Gaussian of the model must be in the source.
    """
    notes = _Notes(source)
    decoded = requantise(source, steps, notes.watch)
    back = torch.from_numpy(np.argsort(source.order))
    model = source.model
    quats, scales = nearest_description(decoded.quats[back], decoded.scales[back], model.quats)
    values = {name: tensor[back] for name, tensor in decoded.tensors().items()}
    values |= {"quats": quats, "scales": scales}
    return Rounded(replace(model, **values), notes.predictions(back))


class _Notes:
    """Predictions and steps, noted while the codec quantises block by block."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.found: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def watch(self, layout: Layout, tables: Tables) -> Callable[[int], blocks.Stream]:
        self.layout, self.tables = layout, tables
        n = len(self.source.order)
        channels = {"opa": 1, "scl": 3, "dc": 3, "ac": layout.rest}
        for key in WATCHED:
            shape = (n, channels[key])
            self.found[key] = (np.zeros(shape, np.float32), np.ones((n, 1), np.float32))
        return lambda block: _Watched(self.source.near[block], layout.place(block), self.found)

    def predictions(self, back: Tensor) -> dict[str, Prediction]:
        inverses = {"dc": _inverse(self.tables.dc), "ac": _inverse(self.tables.ac)}
        found = {}
        for key, (center, step) in self.found.items():
            if not center.shape[1]:
                continue
            unit = self.layout.units[key]
            center, step = (torch.from_numpy(x)[back] * unit for x in (center, step))
            if key == "opa":  # From ln alpha to the logits that training moves.
                alpha = center.clamp_max(-LEAST_LOG).exp()
                center, step = alpha.logit(), step / (1 - alpha)
            if key == "scl":  # From falling order to the axes that have those ranks.
                rank = self.source.model.scales.argsort(dim=1, descending=True, stable=True)
                center = torch.empty_like(center).scatter_(1, rank, center)
            found[key] = Prediction(center, step, inverses.get(key))
        return found


@dataclass(frozen=True)
class _Watched(blocks.Dry):
    """A dry stream of one block that notes what was expected."""

    place: slice
    found: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]

    def values(self, key: str, wanted: blocks.Int | None, row: blocks.Row) -> blocks.Int:
        symbols, values = blocks.quantise(key, wanted, row)
        if key in self.found:
            center, step = self.found[key]
            center[self.place] = values - symbols * row.scale[:, None]
            step[self.place] = row.scale[:, None]
        return values

    limited = values


def _inverse(basis: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.linalg.inv(basis).astype(np.float32))

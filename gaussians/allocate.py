"""How one scene's bits are best shared among its attributes, by measurement.

To first order the squared errors that the attributes' quantisation leaves in the picture add up,
each grows with the square of its step, and each attribute's rate falls by a fixed number of bits
per octave of its step. Minimising the rate at a given error then asks for the same ratio of
error to bits per octave everywhere: measure both, and set each step accordingly.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from ..quant import container
from ..scenes.cameras import Cameras
from .codec import Steps, encode_source, requantise
from .fit_tables import Source
from .memory import give_back
from .model import SplatModel

# Step -> the sections that hold its bits.
PARTS = {
    "position": ("fin",),
    "opacity": ("opa",),
    "scale": ("scl",),
    "rotation": ("tlt", "rol"),
    "dc": ("dc",),
    "ac": ("lim", "ac"),
}
OCTAVE = 0.5  # Rates are compared with steps this much coarser, in octaves.
FINE = 1 / 32  # The other steps, while the error of one is measured.
SPREAD = 1.5  # Thresholds this much to either side give the marginal error of pruning.
PRUNED_BITS = 36  # What a Gaussian of the last class takes: position, class, a little of the rest.
REPAIRED = {"opacity": 0.5, "scale": 0.8}  # Measured on real scenes: positions stay as wrong.
MOST = 2.5  # A step moves by no more than this factor in one round.


class Prunable(Protocol):
    """A scene that can be pruned and ordered for coding."""

    @property
    def whole(self) -> Source: ...

    def source(self, steps: Steps) -> Source: ...


def section_bits(data: bytes) -> dict[str, int]:
    """Bits by attribute of a file, all blocks together."""
    total: dict[str, int] = {}
    for name, size in container.sizes(data).items():
        key = name.split("/")[0]
        total[key] = total.get(key, 0) + 8 * size
    return total


def allocate(scene: Prunable, steps: Steps, views: Cameras) -> Steps:
    """Steps of about the same error in the views [C], shared so that the rate is least.

    One Newton step: with error ~ step^2 and a constant number of bits per octave, the ratio of
    error to bits per octave is brought to the same value for all attributes. Pruning gets the
    threshold at which the last Gaussian dropped costs as much error per bit as they do.
    """
    shared, slope = share_bits(scene.source(steps), steps, views)
    if slope <= 0:
        return steps
    return replace(shared, prune=_prune(steps.prune, slope, _marginal(scene, steps, views)))


def share_bits(
    source: Source, steps: Steps, views: Cameras, *, repaired: bool = False
) -> tuple[Steps, float]:
    """That step for what is kept, and its slope: mean squared error that one bit more takes off.

    With `repaired`, errors count by what a colour re-fit is known to leave of them.
    """
    fine = section_bits(encode_source(source, steps))
    coarse = section_bits(encode_source(source, steps.scaled(2**OCTAVE)))
    squared = errors(source, steps, views)
    if repaired:
        squared = {name: error * REPAIRED.get(name, 1.0) for name, error in squared.items()}
    ratios = {}
    for name, sections in PARTS.items():
        saved = sum(fine.get(key, 0) - coarse.get(key, 0) for key in sections) / OCTAVE
        if saved > 0 and squared[name] > 0:
            ratios[name] = squared[name] / saved
    if not ratios:
        return steps, 0.0
    level = sum(squared[name] for name in ratios) / sum(squared[n] / r for n, r in ratios.items())
    moved = {
        name: getattr(steps, name) * _bounded((level / r) ** 0.5) for name, r in ratios.items()
    }
    return replace(steps, **moved), 2 * math.log(2) * level  # d error / d bit


def _bounded(factor: float) -> float:
    return max(1 / MOST, min(MOST, factor))


def _prune(threshold: float, slope: float, marginal: float | None) -> float:
    """The pruning threshold whose marginal error per Gaussian is worth the bits it takes."""
    if marginal is None:  # Nothing there to prune: try a higher threshold next time.
        return threshold * MOST
    return threshold * _bounded(slope * PRUNED_BITS / marginal)


def _marginal(scene: Prunable, steps: Steps, views: Cameras) -> float | None:
    """Error that one more pruned Gaussian adds at this threshold; None where none would go."""
    give_back(scene.whole.stored.float_bytes)
    whole = scene.whole.model
    pictures = whole.render(views)

    def measure(factor: float) -> tuple[float, int]:
        source = scene.source(replace(steps, prune=steps.prune * factor))
        return squared_error(source.kept(whole), views, pictures), len(source.order)

    (less, many), (more, few) = measure(1 / SPREAD), measure(SPREAD)
    return None if many == few else max(more - less, 1e-12) / (many - few)


def errors(source: Source, steps: Steps, views: Cameras) -> dict[str, float]:
    """Mean squared error in the views that each step alone causes."""
    give_back(source.stored.float_bytes)
    render = source.kept().renderer()  # Alone: the stored values are not needed beside it.
    pictures = render(views)
    del render
    fine = steps.scaled(FINE)
    found = {}
    for name in PARTS:
        one = replace(fine, **{name: getattr(steps, name)})
        found[name] = squared_error(requantise(source, one), views, pictures)
    return found


def squared_error(model: SplatModel, views: Cameras, pictures: Tensor) -> float:
    """Mean squared difference from pictures [C, H, W, 3], one view in memory at a time."""
    give_back(model.float_bytes)
    render = model.renderer()
    total = 0.0
    for c in range(len(views)):
        total += float(
            (render(views[c : c + 1])[0] - pictures[c]).square().mean(dtype=torch.float64)
        )
    return total / len(views)

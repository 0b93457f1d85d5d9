"""What an interchange format can hold, and a model brought within that, its losses counted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .model import SplatModel, truncated
from .sanitize import REMOVED, REPAIRED, sanitize
from .unpack import ALPHA_MARGIN

LARGEST_LOGIT = math.log((1 - ALPHA_MARGIN) / ALPHA_MARGIN)  # What opacity bytes 0 and 255 become.
BYTE_OPACITY = (-LARGEST_LOGIT, LARGEST_LOGIT)


@dataclass(frozen=True)
class Limits:
    """What a format has room for.

    Attributes:
        sh_degree: the highest.
        finite: NaN, infinities and rotations of length 0 do not fit.
        ranges: tensor name -> least and largest stored value; the others have none.
    """

    sh_degree: int = 4
    finite: bool = True
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def cut(self, model: SplatModel) -> SplatModel:
        """The same without the colour coefficients that are of too high a degree."""
        return truncated(model, self.sh_degree)


def within(model: SplatModel, limits: Limits) -> tuple[SplatModel, dict[str, Any]]:
    """The model as far as a format can hold it, and what that took.

    The report has `sh_degree` of the result, `removed` and `repaired` (counts of Gaussians by
    reason, see `sanitize`) and `clamped` (counts of values by tensor); each leaves zeros out.
    """
    found: dict[str, int] = {}
    if limits.finite:
        model, found = sanitize(model, min_alpha=0)
    model = limits.cut(model)
    clamped, changed = {}, {}
    for name, (low, high) in limits.ranges.items():
        value = model.tensors()[name]
        outside = int(((value < low) | (value > high)).sum())
        if outside:
            clamped[name], changed[name] = outside, value.clamp(low, high)
    report = {
        "sh_degree": model.sh_degree,
        "removed": {reason: found[reason] for reason in REMOVED if found.get(reason)},
        "repaired": {reason: found[reason] for reason in REPAIRED if found.get(reason)},
        "clamped": clamped,
    }
    return replace(model, **changed) if changed else model, report


def half_range(values: torch.Tensor, most: float) -> float:
    """The largest magnitude in `values`, but at most `most`, and above 0."""
    largest = float(values.abs().max()) if values.numel() else 0.0
    return min(largest, most) or most

"""A file without a single picture: importance by opacity and size, steps that are known before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from . import merge
from .codec import Steps, decode_one, encode_source
from .curve import along_curve
from .fit_tables import Source
from .importance import GEOMETRY_SHARE, estimate, reference, to_classes
from .model import SplatModel

FACTORS = {"small": 0.8, "balanced": 0.42, "high": 0.2}  # On `Steps`: real captures at 36, 40, 45.
PRUNE = 1e-3  # What is dropped matters less by this, at a factor of 1, than class 0 does.
HALVINGS = 3  # Of the Gaussians for a coarser level.


def draft(model: SplatModel, preset: str, seed: int = 0) -> tuple[bytes, SplatModel]:
    """The file of a sanitised model of N > 0 Gaussians, and what it decodes to.

    Nothing is rendered, nothing tried: what a preset loses depends on the scene.
    """
    steps = replace(Steps(), prune=PRUNE).scaled(FACTORS[preset])
    weight = estimate(model)
    keep = weight >= min(steps.prune * reference(weight), float(weight.max()))
    shares = reference(weight), reference(weight, GEOMETRY_SHARE)
    classes = np.stack([to_classes(weight[keep], share) for share in shares], 1)
    header = {"seed": seed, "count_in": len(model)}
    data = encode_source(Source.of(model[keep], classes), steps, header)
    return data, decode_one(data)


def halved(model: SplatModel, times: int = HALVINGS) -> SplatModel:
    """Neighbours on the Morton curve made one, moments matched, so many times; N / 2^times."""
    for _ in range(times):
        order = torch.from_numpy(np.argsort(along_curve(model.means), kind="stable"))
        pairs = order[: len(order) // 2 * 2].view(-1, 2)
        model = merge.merged(model, pairs[:, 0], pairs[:, 1], torch.zeros(len(model)).double())
    return model

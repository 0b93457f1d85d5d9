"""What other methods can do to a finished scene without training: drop, truncate, coarsen.

They are what a rate-distortion sweep compares our codec with (`fieldpress bench`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..render.statistics import statistics
from ..scenes.cameras import Cameras
from .model import SplatModel, truncated
from .significance import FORMS, keep_mask, significance
from .vectree import VecTreeSettings, quantise
from .vectree_file import encode


@dataclass(frozen=True)
class PosthocSettings:
    """LightGaussian without its training steps.

    Attributes:
        prune: share of the Gaussians that go, the least significant.
        sh_degree: of what is left of the colours; a model of less keeps its own.
        form: of the significance, "released" or "published".
        vectree: what quantisation keeps; its codebook's own seed is not used.
        seed: of the codebook's draws.
    """

    prune: float = 0.66
    sh_degree: int = 2
    form: str = "released"
    vectree: VecTreeSettings = field(default_factory=VecTreeSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {self.form!r}")
        if not 0 <= self.prune < 1:
            raise ValueError(f"prune: expected a share in [0, 1), got {self.prune}")
        if self.sh_degree not in range(5):
            raise ValueError(f"sh_degree: expected 0..4, got {self.sh_degree}")


def lightgaussian_posthoc(model: SplatModel, views: Cameras, settings: PosthocSettings) -> bytes:
    """The .fpz file of LightGaussian's steps (Fan et al. 2024) that need no training.

    Prune by the significance, truncate the colours, quantise with VecTree; the significance is
    measured anew for the codebook, as the released code does.

    Args:
        model: a sanitised scene.
        views: cameras that the significance is summed over.
        settings: how much goes.

    Raises:
        ValueError: for values that are not finite, and where pruning leaves nothing.
    """
    keep = keep_mask(significance(model, views, form=settings.form), settings.prune)
    if not bool(keep.any()):
        raise ValueError(f"prune: all {len(model)} Gaussians are equally significant")
    left = truncated(model[keep], settings.sh_degree)
    scores = significance(left, views, form=settings.form)
    book = replace(settings.vectree.codebook, seed=settings.seed)
    tree = quantise(left, scores, replace(settings.vectree, codebook=book))
    return encode(tree, {"recipe": "lightgaussian-posthoc", "seed": settings.seed})


def seen_weight(model: SplatModel, views: Cameras) -> Tensor:
    """[N] float64, sum over views and pixels of (alpha T)^2: what removal of each would cost.

    To first order, in squared error of colour. What no view sees gets 0 and goes first, which the
    views that are measured do not hold against a method.
    """
    means, quats, scales, opacities, _ = model.activated()
    weight = torch.zeros(len(model), dtype=torch.float64)
    for index in range(len(views)):
        view = views[index : index + 1]
        found = statistics(
            means, quats, scales, opacities, view.viewmats, view.Ks, view.width, view.height,
            model.options(),
        )  # fmt: skip
        weight += found.weight_sq
    return weight


def without_least(model: SplatModel, weight: Tensor, share: float) -> SplatModel:
    """The model without the `share` of least weight [N], in its order; one Gaussian stays."""
    if not 0 <= share < 1:
        raise ValueError(f"prune: expected a share in [0, 1), got {share}")
    if weight.shape != (len(model),):
        raise ValueError(f"weight: expected [{len(model)}], got {list(weight.shape)}")
    drop = int(share * len(model))
    if not drop:
        return model
    keep = torch.ones(len(model), dtype=torch.bool)
    keep[weight.argsort(stable=True)[:drop]] = False
    return model[keep]

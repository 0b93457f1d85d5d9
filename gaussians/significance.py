"""LightGaussian's global significance of each Gaussian, and pruning by it (Fan et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..render.statistics import statistics
from ..scenes.cameras import Cameras
from .model import SplatModel

FORMS = ("released", "published")
VOLUME_POWER = 0.1  # the paper's beta; v_pow of the released script
VOLUME_RANK = 0.9  # of the sorted volumes: the one that all are divided by


def significance(
    model: SplatModel, views: Cameras, *, form: str = "released", power: float = VOLUME_POWER
) -> Tensor:
    """[N] float64 scores: a sum over the pixels of all views that a Gaussian hits, times volume.

    A pixel is hit where alpha is at least 1/255 and the ray has not ended. The two forms differ:

    - released, what the published results were made with: the opacity for each hit, without
      transmittance and fall-off, times (V / V90)^power, V90 the volume at index floor(0.9 N) of
      the falling order (a small one), unclipped.
    - published, the paper's equation: alpha times transmittance for each hit, where alpha is the
      opacity at the pixel, which is what the transmittance is a product of, times
      min(V / V90, 1)^power, V90 at index floor(0.9 N) of the rising order (a large one).

    Raises ValueError for another form.
    """
    if form not in FORMS:
        raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {form!r}")
    means, quats, scales, opacities, _ = model.activated()
    hits = torch.zeros(len(model), dtype=torch.float64)
    for index in range(len(views)):
        view = views[index : index + 1]
        found = statistics(
            means, quats, scales, opacities, view.viewmats, view.Ks, view.width, view.height,
            model.options(),
        )  # fmt: skip
        hits += found.opacity_hits if form == "released" else found.weight
    return hits * volume_factor(model.scales, form, power)


def volume_factor(scales: Tensor, form: str, power: float = VOLUME_POWER) -> Tensor:
    """[N] float64 of log scales [N, 3]: the volumes over V90, clipped if published, to a power.

    The 4/3 pi of the volume cancels. Worked in logarithms: no product over- or underflows.
    """
    volume = scales.double().sum(1)
    if not len(volume):
        return volume
    order = volume.sort(descending=form == "released").values
    relative = volume - order[min(int(VOLUME_RANK * len(volume)), len(volume) - 1)]
    if form == "published":
        relative = relative.clamp_max(0.0)
    return (relative * power).exp()


def keep_mask(scores: Tensor, share: float) -> Tensor:
    """[N] bool, what is left when the `share` of least score goes, as the released code has it.

    The threshold is the score at index int(share (N - 1)) of the rising order, and all that do
    not exceed it go: also those that tie with it, so that equal scores leave nothing.

    Raises ValueError for a share outside [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"prune: expected a share in [0, 1), got {share}")
    if not share or not len(scores):
        return torch.ones(len(scores), dtype=torch.bool)
    threshold = scores.sort().values[int(share * (len(scores) - 1))]
    return scores > threshold

"""What each Gaussian contributes to a set of views."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .elsewhere import elsewhere_for
from .splat import DEFAULTS, RasterOptions, backend_of, checked_scene, native_settings


@dataclass(frozen=True)
class SplatStatistics:
    """Sums over all pixels of all cameras, one per Gaussian.

    A pixel counts where alpha is at least 1/255 and the ray has not ended before.

    Attributes:
        hits: [N] int64 pixels.
        opacity_hits: [N] float64 opacity summed over the hits: the score in LightGaussian's
            released code (Fan et al. 2024), which leaves transmittance out.
        weight: [N] float64 sum of alpha * T.
        weight_sq: [N] float64 sum of (alpha * T)^2.
        max_weight: [N] float32 largest alpha * T.
    """

    hits: Tensor
    opacity_hits: Tensor
    weight: Tensor
    weight_sq: Tensor
    max_weight: Tensor


def statistics(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    options: RasterOptions = DEFAULTS,
) -> SplatStatistics:
    """Contributions of N Gaussians to C views; the same bits whatever the number of threads.

    On CUDA the last bits of the sums depend on the order in which tiles finish.

    Takes the tensors that `rasterize` takes, without colours, and raises the same errors. Of the
    options those about geometry and opacity matter; in antialiased mode the opacity summed is the
    compensated one.
    """
    there = elsewhere_for(means)
    if there is not None:
        tensors = (means, quats, scales, opacities, viewmats, Ks)
        given = there.copies_of(tensors)
        found = statistics(*given, width=width, height=height, options=options)
        return SplatStatistics(**{k: v.to(means.device) for k, v in vars(found).items()})
    gaussians, cameras = checked_scene(means, quats, scales, opacities, viewmats, Ks)
    settings = native_settings(width, height, options)
    n, device = len(means), means.device
    sums = SplatStatistics(
        hits=torch.zeros(n, dtype=torch.int64, device=device),
        opacity_hits=torch.zeros(n, dtype=torch.float64, device=device),
        weight=torch.zeros(n, dtype=torch.float64, device=device),
        weight_sq=torch.zeros(n, dtype=torch.float64, device=device),
        max_weight=torch.zeros(n, dtype=torch.float32, device=device),
    )
    backend_of(device).statistics(
        *gaussians, *cameras, settings,
        sums.hits, sums.opacity_hits, sums.weight, sums.weight_sq, sums.max_weight,
    )  # fmt: skip
    return sums

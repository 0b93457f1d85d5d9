"""Take out Gaussians that no renderer can show, and repair those that it can."""

from __future__ import annotations

from dataclasses import replace

import torch

from .model import SplatModel

MIN_ALPHA = 1 / 255  # Every renderer of the field skips a contribution below this.
MAX_LOGIT = 13.815510  # logit(1 - 1e-6): opaque.
MAX_LOG_SCALE = 40.0  # Its variance, exp(2 s), still fits float32.
MIN_LOG_SCALE = -30.0  # Thinner than any pixel or float32 coordinate resolves.
MAX_MAGNITUDE = 1e18  # Its square still fits float32.
MIN_NORM = 1e-12  # torch's normalize does not make anything shorter a unit quaternion.


def sanitize(model: SplatModel, min_alpha: float = MIN_ALPHA) -> tuple[SplatModel, dict[str, int]]:
    """A model of finite, visible Gaussians in the same order, and counts of what was done.

    Removed, each counted once: `non_finite` (NaN or Inf), `overflow` (scales above e^40,
    coordinates or SH above 1e18), `invisible` (opacity below `min_alpha`). Repaired:
    `zero_quats` to the identity, `huge_quats` scaled down, `clamped_scales` below e^-30 and
    `clamped_opacities` of +inf. Also `count_in` and `count_out`. The input is never changed.
    """
    opaque = model.opacities == torch.inf
    thin = model.scales < MIN_LOG_SCALE  # -inf too: a flat Gaussian of no thickness.
    opacities = torch.where(opaque, MAX_LOGIT, model.opacities)
    scales = torch.where(thin, MIN_LOG_SCALE, model.scales)
    quats, zero, huge = _repair_quats(model.quats)

    invisible = opacities.sigmoid() < min_alpha  # -inf too.
    finite = ~opacities.isnan()
    overflow = (scales > MAX_LOG_SCALE).any(1)
    for value in (model.means, model.quats, scales, model.sh0, model.shN):
        finite &= value.isfinite().flatten(1).all(1)
    for value in (model.means, model.sh0, model.shN):
        overflow |= (value.abs() > MAX_MAGNITUDE).flatten(1).any(1)
    removed = {
        "non_finite": ~finite,
        "overflow": finite & overflow,
        "invisible": finite & ~overflow & invisible,
    }
    keep = finite & ~overflow & ~invisible
    repaired = {
        "zero_quats": keep & zero,
        "huge_quats": keep & huge,
        "clamped_scales": keep & thin.any(1),
        "clamped_opacities": keep & opaque,
    }
    report = {"count_in": len(model), "count_out": int(keep.sum())}
    report |= {reason: int(mask.sum()) for reason, mask in (removed | repaired).items()}
    if any(report[reason] for reason in repaired):
        model = replace(model, opacities=opacities, scales=scales, quats=quats)
    return (model if bool(keep.all()) else model[keep]), report


def _repair_quats(quats: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quaternions that normalise in float32, and masks of the too short and too long."""
    norm = quats.double().norm(dim=1)
    zero = norm < MIN_NORM
    huge = (norm > MAX_MAGNITUDE) & norm.isfinite()
    identity = quats.new_tensor([1, 0, 0, 0])
    unit = (quats.double() / norm.clamp_min(MIN_NORM)[:, None]).to(quats.dtype)
    repaired = torch.where(zero[:, None], identity, torch.where(huge[:, None], unit, quats))
    return repaired, zero, huge

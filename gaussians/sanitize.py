"""Take out Gaussians that no renderer can show, and repair those that it can."""

from __future__ import annotations

from dataclasses import replace

import torch

from .model import SplatModel
from .shelf import STRIP, let_go

Tensors = dict[str, torch.Tensor]

MIN_ALPHA = 1 / 255  # Every renderer of the field skips a contribution below this.
MAX_LOGIT = 13.815510  # logit(1 - 1e-6): opaque.
MAX_LOG_SCALE = 40.0  # Its variance, exp(2 s), still fits float32.
MIN_LOG_SCALE = -30.0  # Thinner than any pixel or float32 coordinate resolves.
MAX_MAGNITUDE = 1e18  # Its square still fits float32.
REMOVED = ("non_finite", "overflow", "invisible")
REPAIRED = ("zero_quats", "huge_quats", "clamped_scales", "clamped_opacities")
MIN_NORM = 1e-12  # torch's normalize does not make anything shorter a unit quaternion.


def sanitize(
    model: SplatModel, min_alpha: float = MIN_ALPHA, *, consume: bool = False
) -> tuple[SplatModel, dict[str, int]]:
    """A model of finite, visible Gaussians in the same order, and counts of what was done.

    Removed, each counted once: `non_finite` (NaN or Inf), `overflow` (scales above e^40,
    coordinates or SH above 1e18), `invisible` (opacity below `min_alpha`). Repaired:
    `zero_quats` to the identity, `huge_quats` scaled down, `clamped_scales` below e^-30 and
    `clamped_opacities` of +inf. Also `count_in` and `count_out`. The input is never changed,
    unless `consume` gives its memory to the result.
    """
    report: dict[str, int] = dict.fromkeys(("count_in", "count_out", *REMOVED, *REPAIRED), 0)
    report["count_in"] = len(model)
    strips = [slice(start, start + STRIP) for start in range(0, len(model), STRIP)]
    kept = []  # Strip by strip: masks and doubles of all Gaussians would be as large as they are.
    for strip in strips:
        keep, counts = _judge(_cut(model, strip), min_alpha)
        let_go(model.sh0)
        kept.append(keep)
        for reason, count in counts.items():
            report[reason] += count
    if report["count_out"] == len(model) and not any(report[reason] for reason in REPAIRED):
        return model, report
    out = _room(model, report["count_out"], consume)
    start = 0
    for strip, keep in zip(strips, kept, strict=True):
        end = start + int(keep.sum())
        for name, value in _repaired(_cut(model, strip)).items():
            out[name][start:end] = value[keep]
        let_go(model.sh0)
        start = end
    return replace(model, **out), report


def _cut(model: SplatModel, strip: slice) -> Tensors:
    return {name: value[strip] for name, value in model.tensors().items()}


def _room(model: SplatModel, count: int, consume: bool) -> Tensors:
    """Tensors for `count` of the model's Gaussians: its own first ones, or new."""
    old = model.tensors()
    if consume and all(x.stride(0) >= x[:1].numel() for x in old.values()):
        return {name: x[:count] for name, x in old.items()}
    new = {name: x.new_empty(count, *x.shape[1:]) for name, x in old.items() if "sh" not in name}
    colors = model.sh0.new_empty(count, 1 + model.shN.shape[1], 3)
    return new | {"sh0": colors[:, :1], "shN": colors[:, 1:]}


def _judge(given: Tensors, min_alpha: float) -> tuple[torch.Tensor, dict[str, int]]:
    """Which Gaussians stay [n] bool, and how many are removed or repaired for what."""
    fixed = _repaired(given)
    invisible = fixed["opacities"].sigmoid() < min_alpha  # -inf too.
    finite = ~fixed["opacities"].isnan()
    overflow = (fixed["scales"] > MAX_LOG_SCALE).any(1)
    for value in (given["means"], given["quats"], fixed["scales"], given["sh0"], given["shN"]):
        finite &= value.isfinite().flatten(1).all(1)
    for name in ("means", "sh0", "shN"):
        overflow |= (given[name].abs() > MAX_MAGNITUDE).flatten(1).any(1)
    keep = finite & ~overflow & ~invisible
    _, zero, huge = _repair_quats(given["quats"])
    masks = {
        "count_out": keep,
        "non_finite": ~finite,
        "overflow": finite & overflow,
        "invisible": finite & ~overflow & invisible,
        "zero_quats": keep & zero,
        "huge_quats": keep & huge,
        "clamped_scales": keep & (given["scales"] < MIN_LOG_SCALE).any(1),
        "clamped_opacities": keep & (given["opacities"] == torch.inf),
    }
    return keep, {reason: int(mask.sum()) for reason, mask in masks.items()}


def _repaired(given: Tensors) -> Tensors:
    """The same with opaque logits and thin scales (-inf too: no thickness) made finite."""
    opacities, scales = given["opacities"], given["scales"]
    return given | {
        "opacities": torch.where(opacities == torch.inf, MAX_LOGIT, opacities),
        "scales": torch.where(scales < MIN_LOG_SCALE, MIN_LOG_SCALE, scales),
        "quats": _repair_quats(given["quats"])[0],
    }


def _repair_quats(quats: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quaternions that normalise in float32, and masks of the too short and too long."""
    norm = quats.double().norm(dim=1)
    zero = norm < MIN_NORM
    huge = (norm > MAX_MAGNITUDE) & norm.isfinite()
    identity = quats.new_tensor([1, 0, 0, 0])
    unit = (quats.double() / norm.clamp_min(MIN_NORM)[:, None]).to(quats.dtype)
    repaired = torch.where(zero[:, None], identity, torch.where(huge[:, None], unit, quats))
    return repaired, zero, huge

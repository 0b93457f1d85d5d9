"""Compression to a goal: statistics over views, pruning, and rate control by real encodes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..scenes.cameras import Cameras
from ..scenes.metrics import psnr
from ..scenes.synthesise import synthesise_cameras
from .codec import Steps, decode, encode
from .importance import importance, prune_mask, reference, to_classes
from .model import SplatModel
from .sanitize import sanitize

Progress = Callable[[str, float], None]

PRESETS = {"small": 36.0, "balanced": 41.0, "high": 46.0}  # psnr_self on held-out views, dB
VIEW_SIZE = (640, 480)
VIEWS = 32  # statistics views; a quarter as many are held out for acceptance
DB_TOLERANCE = 0.05
BYTES_TOLERANCE = 0.005
MAX_TRIALS = 10
FACTOR_RANGE = (1 / 64, 64.0)  # of the steps of `Steps()`
PRUNE_GAIN = 0.02  # Removal error per importance (squared contrast) over bits; see prune_mask.
DB_SLOPE, SIZE_SLOPE = -7.0, 0.4  # First guesses: goal's excess per unit of ln(factor).
MAX_STEP = math.log(6.0)


@dataclass(frozen=True)
class CompressSettings:
    """What is asked for: a preset, or a size in bytes, or a psnr_self in dB (not two of them)."""

    preset: str = "balanced"
    target_bytes: int | None = None
    target_db: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {self.preset!r}")
        if self.target_bytes is not None and self.target_db is not None:
            raise ValueError("goal: expected a size or a quality, got both")
        if self.target_bytes is not None and self.target_bytes < 1:
            raise ValueError(f"target_bytes: expected at least 1, got {self.target_bytes}")
        if self.target_db is not None and not 5 <= self.target_db <= 90:
            raise ValueError(f"target_db: expected 5..90, got {self.target_db}")


@dataclass(frozen=True)
class Compressed:
    """A finished file and what is known of it.

    Attributes:
        data: the .fpz bytes, decoded again before this was returned.
        report: count_in, count_out, psnr_self (held-out views), trials, seconds by stage.
    """

    data: bytes
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One real encode: the factor on all steps, the file, what decoding and rendering it gave."""

    factor: float
    data: bytes
    count: int
    psnr_self: float


@dataclass
class _Job:
    """One scene at work: what every trial needs and no trial changes."""

    model: SplatModel
    weight: Tensor
    reference: float
    holdout: Cameras
    pictures: Tensor
    header: dict[str, Any]
    steps: Steps = field(default_factory=Steps)
    trials: list[Trial] = field(default_factory=list)

    def run(self, factor: float) -> Trial:
        """Prune, encode, decode the bytes and render them."""
        steps = self.steps.scaled(factor)
        keep = prune_mask(self.model, self.weight, self.reference, steps.dc, PRUNE_GAIN)
        if not bool(keep.any()):
            keep = self.weight == self.weight.max()
        kept, weight = self.model[keep], self.weight[keep]
        data = encode(kept, to_classes(weight, self.reference), steps, header=self.header)
        decoded = decode(data)
        quality = float(psnr(decoded.render(self.holdout), self.pictures).mean())
        trial = Trial(factor, data, len(decoded), quality)
        self.trials.append(trial)
        return trial


def compress(
    model: SplatModel,
    settings: CompressSettings,
    *,
    views: Cameras | None = None,
    holdout: Cameras | None = None,
    progress: Progress | None = None,
) -> Compressed:
    """Compress splats to a quality or a size, from the model alone or with given cameras.

    Args:
        model: the scene; it is sanitised first, what that removes is counted in the report.
        settings: the goal.
        views: cameras for the importance statistics; synthesised around the scene if None.
        holdout: cameras on which psnr_self is measured and accepted; likewise.
        progress: called with a stage name and the fraction of all work done.

    Raises:
        ValueError: nothing visible to compress, or a goal that cannot be reached.
    """
    say = progress or (lambda stage, done: None)
    began = time.perf_counter()
    count_in, float_bytes = len(model), model.float_bytes
    model, sanitised = sanitize(model)
    if not len(model):
        raise ValueError(f"no visible Gaussians to compress ({count_in} read)")
    say("views", 0.0)
    views, holdout = _views(model, views, holdout, settings.seed)
    say("statistics", 0.05)
    weight = importance(model, views)
    statistics_seconds = time.perf_counter() - began
    header = {"seed": settings.seed, "count_in": count_in}
    job = _Job(model, weight, reference(weight), holdout, model.render(holdout), header)
    say("encoding", 0.3)
    best = _search(job, settings, lambda done: say("encoding", 0.3 + 0.7 * done))
    say("done", 1.0)
    report = {
        "count_in": count_in,
        "count_out": best.count,
        "sanitised": sanitised,
        "output_bytes": len(best.data),
        "float_bytes": float_bytes,
        "psnr_self": best.psnr_self,
        "views": len(views),
        "holdout": len(holdout),
        "trials": len(job.trials),
        "factor": best.factor,
        "statistics_seconds": statistics_seconds,
        "encode_seconds": time.perf_counter() - began,
        "seed": settings.seed,
    }
    return Compressed(best.data, report)


def _views(
    model: SplatModel, views: Cameras | None, holdout: Cameras | None, seed: int
) -> tuple[Cameras, Cameras]:
    if views is not None and holdout is not None:
        return views, holdout
    scales = model.scales.exp().sort(dim=1).values
    own_views, own_holdout = synthesise_cameras(
        model.means,
        model.opacities.sigmoid() * scales[:, 1] * scales[:, 2],
        (scales[:, 1] * scales[:, 2]).sqrt(),
        count=VIEWS, width=VIEW_SIZE[0], height=VIEW_SIZE[1], seed=seed,
    )  # fmt: skip
    return views or own_views, holdout or own_holdout


def _search(job: _Job, settings: CompressSettings, say: Callable[[float], None]) -> Trial:
    """Solve for the step factor by real encodes: secant steps inside a bracket."""
    by_size = settings.target_bytes is not None
    if by_size:
        goal, tolerance = math.log(settings.target_bytes or 1), -math.log(1 - BYTES_TOLERANCE)
    else:
        goal, tolerance = settings.target_db or PRESETS[settings.preset], DB_TOLERANCE

    def excess(trial: Trial) -> float:
        """What is left over of the goal: bytes not used, or dB too many; 0..tolerance is met."""
        return goal - math.log(len(trial.data)) if by_size else trial.psnr_self - goal

    low, high = (math.log(f) for f in FACTOR_RANGE)
    points: list[tuple[float, float]] = []
    x = 0.0
    for trial_number in range(MAX_TRIALS):
        trial = job.run(math.exp(x))
        say((trial_number + 1) / MAX_TRIALS)
        e = excess(trial)
        if 0 <= e <= tolerance:
            return trial
        points.append((x, e))
        coarser = (e > 0) != by_size  # Bytes to spare ask for finer steps, dB for coarser ones.
        low, high = (x, high) if coarser else (low, x)
        if high - low < 1e-4:
            break
        x = _next(points, low, high, tolerance / 2, by_size)
    return _acceptable(job, excess, settings)


def _next(
    points: list[tuple[float, float]], low: float, high: float, aim: float, by_size: bool
) -> float:
    """The next log factor to try: a secant step to `aim`, kept inside the bracket."""
    x, e = points[-1]
    slope = SIZE_SLOPE if by_size else DB_SLOPE
    if len(points) > 1:
        # The two points nearest the goal; noise may give them a slope of the wrong sign.
        (x0, e0), (x, e) = sorted(points, key=lambda p: abs(p[1] - aim))[1::-1]
        if x0 != x and (e - e0) / (x - x0) * slope > 0:
            slope = (e - e0) / (x - x0)
    step = min(max((aim - e) / slope, -MAX_STEP), MAX_STEP)
    guess = x + step
    margin = 0.02 * (high - low)
    if not low + margin < guess < high - margin and len(points) > 1:
        guess = min(max(guess, low + margin), high - margin)
    return min(max(guess, low), high)


def _acceptable(
    job: _Job, excess: Callable[[Trial], float], settings: CompressSettings
) -> Trial:
    """The best trial that meets the goal; a preset takes the closest one if none does."""
    met = [trial for trial in job.trials if excess(trial) >= 0]
    if met:
        return min(met, key=excess)
    closest = max(job.trials, key=excess)
    if settings.target_bytes is not None:
        raise ValueError(
            f"target size: expected at most {settings.target_bytes} bytes, the smallest file "
            f"has {len(closest.data)}"
        )
    if settings.target_db is not None:
        raise ValueError(
            f"target quality: expected {settings.target_db} dB, the finest file reaches "
            f"{closest.psnr_self:.2f}"
        )
    return closest

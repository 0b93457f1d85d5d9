"""Compression to a goal: statistics over views, pruning, and rate control by real encodes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..scenes.cameras import Cameras
from ..scenes.metrics import psnr
from ..scenes.synthesise import synthesise_cameras
from .allocate import allocate
from .codec import Steps, decode, encode_source, requantise
from .fit_tables import Source
from .importance import importance, reference, to_classes
from .memory import LARGE, give_back
from .model import SplatModel
from .sanitize import sanitize
from .stored import STRIP

Progress = Callable[[str, float], None]

PRESETS = {"small": 36.0, "balanced": 40.2, "high": 45.0}  # psnr_self on held-out views, dB
VIEW_SIZE = (640, 480)
VIEWS = 32  # statistics views; a quarter as many are held out for acceptance
DB_TOLERANCE = 0.05
BYTES_TOLERANCE = 0.005
MAX_TRIALS = 10
COARSE_TRIALS = 4  # before the bits are shared anew
FACTOR_RANGE = (1 / 64, 64.0)  # of the steps that a search starts from
ROUNDS = 2  # of sharing the bits anew, for models up to
SMALL = 120_000  # Gaussians; larger ones get one round.
ALLOCATION_VIEWS = 4
DB_SLOPE, SIZE_SLOPE = -7.0, 0.4  # First guesses: dB, ln(bytes) lost per unit of ln(factor).
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
    """One real encode: its steps, the file, what decoding and rendering it gave."""

    steps: Steps
    data: bytes
    count: int
    psnr_self: float


def mean_psnr(model: SplatModel, cameras: Cameras, pictures: Tensor) -> float:
    """Mean over the views of each view's PSNR against pictures [C, H, W, 3], view by view."""
    give_back()
    render = model.renderer()
    found = [
        float(psnr(render(cameras[c : c + 1]), pictures[c : c + 1])) for c in range(len(cameras))
    ]
    return sum(found) / len(found)


@dataclass
class _Job:
    """One scene at work: what every trial needs and no trial changes, and how many were made."""

    weight: Tensor
    reference: float
    whole: Source
    holdout: Cameras
    pictures: Tensor
    header: dict[str, Any]
    steps: Steps = field(default_factory=Steps)
    evaluations: int = 0

    def source(self, steps: Steps) -> Source:
        """What is left after pruning at these steps, in octree order."""
        keep = self.weight >= min(steps.prune * self.reference, float(self.weight.max()))
        return self.whole.keep(keep.numpy())

    def quality(self, model: SplatModel) -> float:
        """psnr_self of a model on the held-out views."""
        self.evaluations += 1
        return mean_psnr(model, self.holdout, self.pictures)

    def preview(self, factor: float) -> float:
        """The psnr_self that `run` will find, without coding."""
        steps = self.steps.scaled(factor)
        return self.quality(requantise(self.source(steps), steps))

    def size(self, factor: float) -> int:
        """The bytes that `run` will find."""
        self.evaluations += 1
        steps = self.steps.scaled(factor)
        return len(encode_source(self.source(steps), steps, self.header))

    def run(self, factor: float) -> Trial:
        """Prune, encode, decode the bytes and render them."""
        steps = self.steps.scaled(factor)
        data = encode_source(self.source(steps), steps, self.header)
        decoded = decode(data)
        return Trial(steps, data, len(decoded), self.quality(decoded))


@dataclass(frozen=True)
class Prepared:
    """All that `encode_to_goal` needs of a scene: the model itself may be let go.

    Attributes:
        report: what is known so far, see `Compressed`.
    """

    job: _Job
    views: Cameras
    report: dict[str, Any]


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
    prepared = prepare(model, settings, views=views, holdout=holdout, progress=progress)
    return encode_to_goal(prepared, settings, progress=progress)


def prepare(
    model: SplatModel,
    settings: CompressSettings,
    *,
    views: Cameras | None = None,
    holdout: Cameras | None = None,
    pictures: Tensor | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """The first part of `compress`: all that looks at the model.

    A large model is set aside in a scratch file (see memory.LARGE), so that a caller who drops it
    afterwards makes room for the trials. `pictures` are renders of the sanitised model from
    the `holdout` views, where the caller has them.
    """
    say = progress or (lambda stage, done: None)
    began = time.perf_counter()
    count_in, float_bytes = len(model), model.float_bytes
    model, sanitised = sanitize(model)
    if not len(model):
        raise ValueError(f"no visible Gaussians to compress ({count_in} read)")
    say("views", 0.0)
    if views is None or holdout is None:
        own_views, own_holdout = scene_views(model, settings.seed)
        views, holdout = views or own_views, holdout or own_holdout
    say("statistics", 0.05)
    give_back(float_bytes)
    weight, moments = importance(model, views)
    statistics_seconds = time.perf_counter() - began
    header = {"seed": settings.seed, "count_in": count_in}
    give_back()
    ref = reference(weight)
    whole = Source.of(model, to_classes(weight, ref), moments.numpy())
    if model.float_bytes >= LARGE:
        whole = whole.spilled()
    pictures = model.render(holdout) if pictures is None else pictures
    give_back()
    report = {
        "count_in": count_in,
        "sanitised": sanitised,
        "float_bytes": float_bytes,
        "views": len(views),
        "holdout": len(holdout),
        "statistics_seconds": statistics_seconds,
        "encode_seconds": time.perf_counter() - began,
        "seed": settings.seed,
    }
    return Prepared(_Job(weight, ref, whole, holdout, pictures, header), views, report)


def encode_to_goal(
    prepared: Prepared, settings: CompressSettings, *, progress: Progress | None = None
) -> Compressed:
    """The second part of `compress`: trials until the goal is met."""
    say = progress or (lambda stage, done: None)
    began, job = time.perf_counter(), prepared.job
    say("encoding", 0.3)
    best = _search(job, settings, prepared.views, lambda done: say("encoding", 0.3 + 0.7 * done))
    say("done", 1.0)
    report = prepared.report | {
        "count_out": best.count,
        "output_bytes": len(best.data),
        "psnr_self": best.psnr_self,
        "trials": job.evaluations,
        "steps": vars(best.steps),
        "encode_seconds": prepared.report["encode_seconds"] + time.perf_counter() - began,
    }
    return Compressed(best.data, report)


def scene_views(model: SplatModel, seed: int) -> tuple[Cameras, Cameras]:
    """Statistics views, and held-out views for acceptance, of a scene without cameras."""
    width, height = VIEW_SIZE
    return synthesise_cameras(
        *core_arguments(model), count=VIEWS, width=width, height=height, seed=seed
    )


def core_arguments(model: SplatModel) -> tuple[Tensor, Tensor, Tensor]:
    """Means, weights and sizes with which `scenes.synthesise` finds the core of a scene."""
    parts = (part.sort(dim=1).values[:, 1:].sum(dim=1).exp() for part in model.scales.split(STRIP))
    area = torch.cat(list(parts)) if len(model) else model.opacities
    return model.means, model.opacities.sigmoid() * area, area.sqrt()


def _search(
    job: _Job, settings: CompressSettings, views: Cameras, say: Callable[[float], None]
) -> Trial:
    """Turn the factor on all steps to the goal; share the bits anew in between."""
    by_size = settings.target_bytes is not None
    goal = settings.target_db or PRESETS[settings.preset]

    def excess(x: float) -> float:
        """How far a log factor overshoots the goal: falls with x, as quality and size do."""
        if by_size:
            return math.log(job.size(math.exp(x)) / (settings.target_bytes or 1))
        return job.preview(math.exp(x)) - goal

    slope = -SIZE_SLOPE if by_size else DB_SLOPE
    rounds = ROUNDS if len(job.whole.order) <= SMALL else 1
    few = views[:: max(1, len(views) // ALLOCATION_VIEWS)]
    coarse = 0.1 if by_size else 0.4
    for number in range(rounds):
        x = solve(excess, slope, (-coarse, coarse), COARSE_TRIALS)
        job.steps = job.steps.scaled(math.exp(x))
        say((number + 0.5) / (rounds + 1))
        job.steps = allocate(job, job.steps, few)
        give_back()
        say((number + 1) / (rounds + 1))
    fine = (-BYTES_TOLERANCE, 0.0) if by_size else (0.0, DB_TOLERANCE)
    x = solve(excess, slope, fine, MAX_TRIALS)
    trial = job.run(math.exp(x))
    _check_goal(trial, settings)
    return trial


def solve(
    excess: Callable[[float], float], slope: float, window: tuple[float, float], trials: int
) -> float:
    """A log factor at which a noisy falling function lies in the window, or nearest above it.

    Secant steps to the middle of the window inside a shrinking bracket; at most `trials` calls.
    Nearest means: inside the window on the good side of the goal (above its lower end for a
    quality, below its upper end for a size), so that a goal is kept if it can be.
    """
    low, high = (math.log(f) for f in FACTOR_RANGE)
    aim = (window[0] + window[1]) / 2
    points: list[tuple[float, float]] = []
    x = 0.0
    for _ in range(trials):
        e = excess(x)
        points.append((x, e))
        if window[0] <= e <= window[1]:
            return x
        low, high = (x, high) if e > aim else (low, x)
        if high - low < 1e-4:
            break
        x = _next(points, low, high, aim, slope)
    good = [p for p in points if (p[1] <= 0 if window[1] == 0 else p[1] >= 0)]
    return min(good or points, key=lambda p: abs(p[1] - aim))[0]


def _next(
    points: list[tuple[float, float]], low: float, high: float, aim: float, slope: float
) -> float:
    """The next log factor to try: a secant step, kept inside the bracket."""
    x, e = points[-1]
    if len(points) > 1:
        # The two points nearest the goal; noise may give them a slope of the wrong sign.
        (x, e), (x0, e0) = sorted(points, key=lambda p: abs(p[1] - aim))[:2]
        if x0 != x and (e - e0) / (x - x0) < 0.2 * slope:
            slope = (e - e0) / (x - x0)
    guess = x + min(max((aim - e) / slope, -MAX_STEP), MAX_STEP)
    margin = 0.02 * (high - low)
    if {low, high} <= {p[0] for p in points} and not low < guess < high:
        return (low + high) / 2  # Noise misled the secant: it would creep along the end.
    return min(max(guess, low + margin), high - margin)


def _check_goal(trial: Trial, settings: CompressSettings) -> None:
    """Refuse a file that misses an explicit goal; a preset takes the closest there is."""
    size = len(trial.data)
    if settings.target_bytes is not None and size > settings.target_bytes:
        raise ValueError(
            f"target size: expected at most {settings.target_bytes} bytes, the smallest file "
            f"found has {size}"
        )
    if settings.target_db is not None and trial.psnr_self < settings.target_db - DB_TOLERANCE:
        raise ValueError(
            f"target quality: expected {settings.target_db} dB, the finest file found reaches "
            f"{trial.psnr_self:.2f}"
        )

"""Compression to a goal: statistics over views, pruning, and rate control by real encodes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..scenes.cameras import Cameras
from ..scenes.synthesise import synthesise_cameras
from .draft import draft
from .memory import LARGE, give_back
from .model import SplatModel
from .reduce import Measured
from .refit import Lesson
from .sanitize import sanitize
from .search import EFFORTS, Effort, Goal, Job, effort_for, search
from .shelf import STRIP, shelved

Progress = Callable[[str, float], None]

PRESETS = {"small": 36.0, "balanced": 40.2, "high": 45.0}  # psnr_self on held-out views, dB
VIEW_SIZE = (640, 480)
VIEWS = 32  # statistics views; a quarter as many are held out for acceptance


@dataclass(frozen=True)
class CompressSettings:
    """What is asked for: a preset, or a size in bytes, or a psnr_self in dB (not two of them).

    Attributes:
        effort: draft, which renders and tries nothing and so has no other goal than a preset, fast,
            normal or high, see `search.effort_for`, or one of one's own.
    """

    preset: str = "balanced"
    target_bytes: int | None = None
    target_db: float | None = None
    seed: int = 0
    effort: str | Effort = "normal"

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {self.preset!r}")
        if isinstance(self.effort, str) and self.effort not in EFFORTS:
            raise ValueError(f"effort: expected one of {', '.join(EFFORTS)}, got {self.effort!r}")
        if self.target_bytes is not None and self.target_db is not None:
            raise ValueError("goal: expected a size or a quality, got both")
        if self.is_draft and (self.target_bytes is not None or self.target_db is not None):
            raise ValueError("effort: draft tries nothing and meets no target; give a preset")
        if self.target_bytes is not None and self.target_bytes < 1:
            raise ValueError(f"target_bytes: expected at least 1, got {self.target_bytes}")
        if self.target_db is not None and not 5 <= self.target_db <= 90:
            raise ValueError(f"target_db: expected 5..90, got {self.target_db}")

    @property
    def is_draft(self) -> bool:
        return self.effort == "draft"

    def spend(self, count: int) -> Effort | None:
        """The effort for so many Gaussians; None for pruning and steps alone."""
        return effort_for(self.effort, count) if isinstance(self.effort, str) else self.effort


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
class Prepared:
    """All that `encode_to_goal` needs of a scene: the model itself may be let go.

    Attributes:
        report: what is known so far, see `Compressed`.
    """

    job: Job
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
    if settings.is_draft:
        return drafted(model, settings)
    prepared = prepare(model, settings, views=views, holdout=holdout, progress=progress)
    return encode_to_goal(prepared, settings, progress=progress)


def drafted(model: SplatModel, settings: CompressSettings) -> Compressed:
    """The draft of a model, with a preset's steps; psnr_self is not known. Raises ValueError."""
    began, count_in = time.perf_counter(), len(model)
    model, sanitised = sanitize(model)
    if not len(model):
        raise ValueError(f"no visible Gaussians to compress ({count_in} read)")
    data, decoded = draft(model, settings.preset, settings.seed)
    report = {
        "count_in": count_in,
        "sanitised": sanitised,
        "float_bytes": model.float_bytes,
        "count_out": len(decoded),
        "output_bytes": len(data),
        "trials": 0,
        "seed": settings.seed,
        "encode_seconds": time.perf_counter() - began,
    }
    return Compressed(data, report)


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

    A large model is set aside in scratch files, so that a caller who drops it, or has it set
    aside first, makes room. `pictures` are renders of the sanitised model from the `holdout` views,
    where the caller has them.
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
    spill = model.float_bytes >= LARGE
    pictures = model.render(holdout) if pictures is None else pictures
    effort = settings.spend(len(model))
    model = set_aside(model)
    give_back(float_bytes)
    measured = Measured.of(model, views, settings.seed, frugal=spill and effort is None)
    statistics_seconds = time.perf_counter() - began
    header = {"seed": settings.seed, "count_in": count_in}
    give_back()
    lesson = Lesson.of(model, views, effort.views) if effort else None
    give_back()
    whole = measured.source(model)
    whole = whole.spilled() if spill else whole
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
    return Prepared(Job(whole, measured, views, holdout, pictures, header, lesson, spill), report)


def set_aside(model: SplatModel) -> SplatModel:
    """A model of memory.LARGE bytes or more with its colours on a shelf, near Gaussians together.

    Others as they are.
    """
    return shelved(model, sort=True) if model.float_bytes >= LARGE else model


def encode_to_goal(
    prepared: Prepared, settings: CompressSettings, *, progress: Progress | None = None
) -> Compressed:
    """The second part of `compress`: trials until the goal is met."""
    say = progress or (lambda stage, done: None)
    began, job = time.perf_counter(), prepared.job
    say("encoding", 0.3)
    goal = Goal(
        settings.target_bytes,
        settings.target_db or PRESETS[settings.preset],
        strict=settings.target_db is not None,
    )
    effort = settings.spend(len(job.whole.order))
    best = search(job, goal, effort, lambda done: say("encoding", 0.3 + 0.7 * done))
    say("done", 1.0)
    report = prepared.report | {
        "count_out": best.count,
        "output_bytes": len(best.data),
        "psnr_self": best.psnr_self,
        "trials": job.evaluations,
        "steps": vars(best.steps),
        "rounds": job.history,
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

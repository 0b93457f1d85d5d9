"""Gaussians from posed photographs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ..scenes.cameras import Scene
from .densify import DensifyingTrainer, DensifySettings
from .initialise import from_points, random_points
from .model import SplatModel
from .sanitize import sanitize
from .train import TrainSettings

Progress = Callable[[str, float], None]

KEEP_SECONDS = 30.0  # between one state kept and the next
REPORT_EVERY = 20  # steps
SH_SHARE = 0.1  # of the steps between one SH degree and the next
COOL = 0.25  # of the steps with falling rates at the end


@dataclass(frozen=True)
class FitSettings:
    """What to fit.

    Attributes:
        budget: Gaussians at the end, never more.
        steps: views shown.
        init: points (of the scene), or random.
        sh_degree: 0 to 4.
        exposure: learn a colour change per training view.
        seed: of every random choice; the same seed gives the same splats.
    """

    budget: int = 100_000
    steps: int = 10_000
    init: str = "points"
    sh_degree: int = 3
    exposure: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.init not in ("points", "random"):
            raise ValueError(f"init: expected points or random, got {self.init!r}")
        if not 0 <= self.sh_degree <= 4:
            raise ValueError(f"sh_degree: expected 0 to 4, got {self.sh_degree}")
        if self.budget < 1 or self.steps < 1:
            raise ValueError(
                f"budget, steps: expected at least 1 of each, got {self.budget} and {self.steps}"
            )


@dataclass(frozen=True)
class Fitted:
    """Splats, and how they came about: steps, count, seconds, steps_per_second, psnr_train."""

    model: SplatModel
    report: dict[str, Any] = field(default_factory=dict)


def initial(scene: Scene, settings: FitSettings) -> SplatModel:
    """The splats that a fit starts from. Raises ValueError for a scene without points."""
    points, colors = scene.points, scene.colors
    if settings.init == "random":
        points, colors = random_points(scene.train, settings.budget, settings.seed)
    elif points is None or not len(points):
        raise ValueError(
            f"{scene.name}: expected SfM points to start from, got none; init=random does without"
        )
    return from_points(
        points, colors, sh_degree=settings.sh_degree, budget=settings.budget, seed=settings.seed
    )


def fit(
    scene: Scene,
    settings: FitSettings,
    *,
    progress: Progress | None = None,
    keep: Callable[[dict[str, Any]], None] | None = None,
    state: dict[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> Fitted:
    """Fit splats to the training photographs (L1 and D-SSIM, MCMC densification to a budget).

    Args:
        scene: at least one training photograph.
        settings: see there.
        progress: called with what goes on, PSNR of late training views included, and the share
            done.
        keep: called with the unfinished state (tensors, numbers, lists) every half minute, and
            when interrupted between two steps.
        state: go on from what `keep` was given, for the same scene and settings (`about_fit`); the
            result is the same as without the interruption.
        device: where to train; photographs go there one by one, the result comes back.

    Raises:
        ValueError: no photographs, no points to start from, or nothing visible at the end.
    """
    if scene.train_images is None or not len(scene.train):
        raise ValueError(f"{scene.name}: expected photographs to fit, got none")
    say = progress or (lambda stage, done: None)
    trainer = new_trainer(scene, settings, device)
    if state is not None:
        trainer.load_state(state)
    began, first = time.perf_counter(), trainer.number
    saved = began
    try:
        while trainer.number < settings.steps:
            trainer.step()
            if trainer.number % REPORT_EVERY == 0:
                say(f"fit {trainer.psnr:.1f} dB", trainer.number / settings.steps)
                if keep is not None and time.perf_counter() - saved > KEEP_SECONDS:
                    keep(trainer.state())
                    saved = time.perf_counter()
    except KeyboardInterrupt:
        if keep is not None and trainer.whole:
            keep(trainer.state())
        raise
    seconds = time.perf_counter() - began
    report = {
        "steps": settings.steps,
        "count": len(trainer.params["means"]),
        "psnr_train": trainer.psnr,
        "fit_seconds": seconds,
        "steps_per_second": (settings.steps - first) / max(seconds, 1e-9),
        "resumed_at": first or None,
    }
    model, _ = sanitize(trainer.model().to("cpu"))
    if not len(model):
        raise ValueError(f"{scene.name}: the fit left no visible Gaussian")
    return Fitted(model, report)


def new_trainer(
    scene: Scene, settings: FitSettings, device: torch.device | str = "cpu"
) -> DensifyingTrainer:
    """A trainer at its first step."""
    assert scene.train_images is not None
    train = TrainSettings(
        steps=settings.steps,
        cool=COOL,
        sh_every=max(1, int(SH_SHARE * settings.steps)),
        exposure=settings.exposure,
        seed=settings.seed,
    )
    trainer = DensifyingTrainer(
        initial(scene, settings).to(device), scene.train, scene.train_images, train,
        masks=scene.train_masks,
    )  # fmt: skip
    trainer.densify = DensifySettings(budget=settings.budget)
    return trainer


def about_fit(scene: Scene, settings: FitSettings) -> dict[str, Any]:
    """What must be the same for a state to be of this fit."""
    assert scene.train_images is not None
    return {
        **asdict(settings),
        "views": len(scene.train),
        "size": [scene.train.width, scene.train.height],
        "brightness": round(float(scene.train_images.double().mean()), 6),
    }

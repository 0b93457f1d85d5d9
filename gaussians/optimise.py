"""A better SOG or SPZ for the same bytes, by what views of the scene show.

Errors are weighed by the squared weights of each Gaussian in the views, and SH by the directions in
which it was seen (`importance`). SOG: weighted codebooks and palette, even levels. SPZ: SH rounded
the more coarsely the less a Gaussian is seen, which its readers need not know. For a size, palettes
and steps go down a ladder, and Gaussians are merged and colours fitted again where that is better;
every candidate is encoded, and decoded again to be measured on views held out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

import torch

from ..scenes.cameras import Cameras, Scene
from ..scenes.metrics import psnr
from .compress import scene_views
from .importance import Importance, importance, reference, to_classes
from .model import SplatModel
from .reduce import Measured, reduced
from .refit import Lesson, refit
from .sanitize import sanitize
from .sog import read_sog
from .sog_write import bundle, palette_size, write_sog
from .spz import read_spz, write_spz

SHARES = (1.0, 0.8, 0.6, 0.45, 0.3, 0.2, 0.1)  # Of the Gaussians, until quality falls.
LESSON_VIEWS, REFITS = 8, 4
SOG_LEVELS = (128, 64)  # The first palette has many levels; it and all smaller ones fewer.
SOG_RUNGS, LEAST_PALETTE = 20, 16
SPZ_STEPS = (
    1,
    1.5,
    2,
    2.5,
    3,
    3.5,
    4,
    5,
    6,
    8,
    10,
    12,
    16,
    24,
    32,
    64,
    256,
)  # In 1/128, of what is seen best.
SPZ_KEPT = 0.97  # Quantile of importance above which steps are the finest.

Made = dict[str, bytes] | list[bytes]
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Aim:
    """What is wanted: a size in bytes, or None for that of plain writing or a little less."""

    target_bytes: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Optimised:
    """The files made, how many Gaussians they hold, and psnr_self, views, trials and the like."""

    made: Made
    count: int
    report: dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """One file: its pieces, bytes, and what it decodes to."""

    made: Made
    size: int
    decoded: SplatModel


def optimised(
    model: SplatModel, kind: str, aim: Aim, scene: Scene | None, progress: Progress
) -> Optimised:
    """The model as "sog", "meta.json" (a folder's files) or "spz".

    Views are the scene's, or synthesised ones. Raises ValueError for another kind, for a model of
    which nothing is visible, and for a size that cannot be reached.
    """
    if kind not in LADDERS:
        raise ValueError(f"optimize: expected one of {', '.join(LADDERS)}, got {kind}")
    model, _ = sanitize(model)
    if not len(model):
        raise ValueError("optimize: none of the Gaussians is visible")
    start = time.perf_counter()
    views, holdout = scene_views(model, aim.seed) if scene is None else _split(scene)
    progress("statistics", 0.0)
    bench = _Bench(kind, model, views, holdout, aim.seed, progress)
    best = bench.whole() if aim.target_bytes is None else bench.within(aim.target_bytes)
    report = {
        "psnr_self": bench.psnr(best.decoded),
        "views": len(views),
        "trials": bench.trials,
        "optimize_seconds": time.perf_counter() - start,
    }
    return Optimised(best.made, len(best.decoded), report)


def _split(scene: Scene) -> tuple[Cameras, Cameras]:
    return (scene.train if len(scene.train) else scene.test), scene.test


class _Bench:
    """A model, its views, and the trials on them."""

    def __init__(
        self,
        kind: str,
        model: SplatModel,
        views: Cameras,
        holdout: Cameras,
        seed: int,
        progress: Progress,
    ) -> None:
        self.ladder = LADDERS[kind]
        self.model, self.views, self.holdout = model, views, holdout
        self.seed, self.progress, self.trials = seed, progress, 0
        self._pictures: torch.Tensor | None = None
        self._lesson: Lesson | None = None
        self._measured: Measured | None = None

    def psnr(self, decoded: SplatModel) -> float:
        """The mean over held-out views, as `scenes.evaluate` has it."""
        if self._pictures is None:
            self._pictures = self.model.render(self.holdout)
        pairs = zip(decoded.render(self.holdout), self._pictures, strict=True)
        return fmean(float(psnr(image, picture)) for image, picture in pairs)

    def whole(self) -> Trial:
        """All Gaussians, at the size of plain writing or a little less."""
        plain = self.ladder.plain_size(self.model)
        seen = importance(self.model, self.views)
        if plain is None:
            return self._try(self.model, seen, 0)
        found = self._finest(self.model, seen, plain)
        return found or self._try(self.model, seen, self.ladder.rungs - 1)

    def within(self, target: int) -> Trial:
        """The best of at most `target` bytes."""
        best, best_psnr = None, 0.0
        for index, share in enumerate(SHARES):
            self.progress("trials", index / len(SHARES))
            model = self.model
            if share < 1:
                model = self._reduced(int(share * len(self.model)))
            found = self._finest(model, importance(model, self.views), target)
            quality = 0.0 if found is None else self.psnr(found.decoded)
            if best is not None and quality <= best_psnr:
                break
            if found is not None:
                best, best_psnr = found, quality
        if best is None:
            raise ValueError(
                f"optimize: {len(self.model)} Gaussians do not go into {target} bytes so"
            )
        return best

    def _finest(self, model: SplatModel, seen: Importance, target: int) -> Trial | None:
        """The finest rung of at most `target` bytes, found by halving; bytes fall along them."""
        low, high, best = 0, self.ladder.rungs, None
        while low < high:
            middle = (low + high) // 2
            trial = self._try(model, seen, middle)
            if trial.size <= target:
                best, high = trial, middle
            else:
                low = middle + 1
        return best

    def _try(self, model: SplatModel, seen: Importance, rung: int) -> Trial:
        self.trials += 1
        return self.ladder.trial(model, seen, rung, self.seed)

    def _reduced(self, count: int) -> SplatModel:
        if self._measured is None:
            self._measured = Measured.of(self.model, self.views, self.seed)
        if self._lesson is None:
            self._lesson = Lesson.of(self.model, self.views, LESSON_VIEWS)
        fewer = reduced(self.model, self._measured, max(count, 1), merging=True)
        return refit(fewer, self._lesson, REFITS)


# What each format can be told


@dataclass(frozen=True)
class Ladder:
    """Settings of a writer from the finest to the coarsest.

    Attributes:
        rungs: how many.
        plain_size: bytes of plain writing, or None where the first rung is of about that size.
        trial: a file of (model, what views say of it, rung, seed).
    """

    rungs: int
    plain_size: Callable[[SplatModel], int | None]
    trial: Callable[[SplatModel, Importance, int, int], Trial]


def _sog(
    model: SplatModel, seen: Importance, rung: int, seed: int, *, folder: bool = False
) -> Trial:
    size = max(LEAST_PALETTE, int(palette_size(len(model)) / 2 ** (max(0, rung - 1) / 2)))
    levels = SOG_LEVELS[min(rung, len(SOG_LEVELS) - 1)]
    files = write_sog(model, seen=seen, palette=size, levels=levels, seed=seed)
    data = bundle(files)
    size = sum(map(len, files.values())) if folder else len(data)
    return Trial(files if folder else [data], size, read_sog(data))


def _spz(model: SplatModel, seen: Importance, rung: int, seed: int) -> Trial:
    data = write_spz(coarsened(model, seen, SPZ_STEPS[rung]), sh_bits=8)
    return Trial([data], len(data), read_spz(data))


def coarsened(model: SplatModel, seen: Importance, step: float) -> SplatModel:
    """The model with SH beyond DC rounded to steps of `step` / 128, wider where little is seen.

    A Gaussian of a quarter of the weight has steps twice as wide: each then adds as much error.
    """
    classes = to_classes(seen.weight, reference(seen.weight, SPZ_KEPT))
    wide = torch.from_numpy(classes).float().exp2()[:, None, None] * (step / 128)
    return replace(model, shN=(model.shN / wide).round() * wide)


LADDERS = {
    "sog": Ladder(SOG_RUNGS, lambda model: None, _sog),
    "meta.json": Ladder(SOG_RUNGS, lambda model: None, partial(_sog, folder=True)),
    "spz": Ladder(len(SPZ_STEPS), lambda model: len(write_spz(model)), _spz),
}

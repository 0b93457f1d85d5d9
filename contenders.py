"""The methods that a sweep sets against each other, and how one of their files is measured."""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from . import models
from .gaussians.compress import CompressSettings, compress
from .gaussians.memory import be_frugal
from .gaussians.model import SplatModel, truncated
from .gaussians.posthoc import (
    PosthocSettings,
    lightgaussian_posthoc,
    seen_weight,
    without_least,
)
from .gaussians.sanitize import sanitize
from .gaussians.spz import write_spz
from .gaussians.vectree import VecTreeSettings
from .manifest import KNOBS, SceneEntry, Settings
from .press import split_views
from .quant import budget
from .quant.codebook import CodebookSettings
from .scenes.cameras import Cameras, Scene
from .scenes.datasets import read_scene
from .scenes.evaluate import Render, evaluate
from .sources import read_gaussians

SUFFIXES = {
    "fieldpress": ".fpz",
    "fieldpress-fast": ".fpz",
    "spz": ".spz",
    "compressed.ply": ".compressed.ply",
    "sog": ".sog",
    "lightgaussian-posthoc": ".fpz",
}
TIMED_VIEWS, TIMED_ROUNDS = 8, 4
SHORT = {
    "target_db": "db",
    "sh_degree": "sh",
    "sh_bits": "bits",
    "vq_share": "vq",
    "vq_steps": "steps",
}


@dataclass
class Stage:
    """A scene at hand, and what its methods share.

    Attributes:
        model: sanitised.
        views, holdout: cameras to learn from, and to measure on.
        photos: [C, H, W, 3] of the holdout, or None.
        count, float_bytes, input_bytes: of the input as it was read.
        fingerprint: of all that a measurement depends on.
    """

    name: str
    model: SplatModel
    views: Cameras
    holdout: Cameras
    photos: Tensor | None
    count: int
    float_bytes: int
    input_bytes: int | None
    seed: int
    fingerprint: str = ""
    _weight: tuple[Tensor, float] | None = None

    @staticmethod
    def read(entry: SceneEntry, seed: int) -> Stage:
        """Raises ValueError, one line naming the file."""
        photos = None
        if entry.scene is not None:
            photos = read_scene(entry.scene, downscale=entry.downscale, most_bytes=budget.limit())
            if not len(photos.test):
                raise ValueError(f"{entry.scene}: expected test views, got none")
        given = read_gaussians(str(entry.path))
        be_frugal(given.model.float_bytes)
        count, float_bytes = len(given.model), given.model.float_bytes
        model = sanitize(given.model, consume=True)[0]
        if not len(model):
            raise ValueError(f"{entry.path}: none of its {count} Gaussians is finite and visible")
        views, holdout = split_views(model, photos, seed)
        stage = Stage(
            name=entry.name, model=model, views=views, holdout=holdout,
            photos=None if photos is None else photos.test_images,
            count=count, float_bytes=float_bytes, input_bytes=given.input_bytes, seed=seed,
        )  # fmt: skip
        stage.fingerprint = _fingerprint(stage, photos)
        return stage

    def without_least(self, share: float) -> tuple[SplatModel, float]:
        """The model without a share of it, and the seconds that the statistics took, once."""
        if not share:
            return self.model, 0.0
        if self._weight is None:
            start = time.perf_counter()
            weight = seen_weight(self.model, self.views)
            self._weight = weight, time.perf_counter() - start
        weight, seconds = self._weight
        return without_least(self.model, weight, share), seconds

    def facts(self) -> dict[str, Any]:
        """What is the same for all methods."""
        found = evaluate(self.model.renderer(), self.holdout, photos=self.photos)
        return {
            "scene": self.name,
            "count": self.count,
            "sh_degree": self.model.sh_degree,
            "float_bytes": self.float_bytes,
            "input_bytes": self.input_bytes,
            "views": len(self.holdout),
            "render_size": list(found.render_size),
            "synthesised_views": self.photos is None,
            "psnr": found.psnr,
            "ssim": found.ssim,
            "device": found.device,
            "fingerprint": self.fingerprint,
        }


def _fingerprint(stage: Stage, photos: Scene | None) -> str:
    digest = hashlib.sha256()
    parts = [*stage.model.tensors().values(), stage.views.viewmats, stage.views.Ks]
    parts += [stage.holdout.viewmats, stage.holdout.Ks]
    parts += [] if photos is None or photos.test_images is None else [photos.test_images]
    for part in parts:
        digest.update(f"{list(part.shape)}".encode())
        digest.update(part.contiguous().cpu().numpy().data)
    return digest.hexdigest()[:16]


# Methods


def _fieldpress(stage: Stage, settings: Settings, path: Path, *, effort: str = "normal") -> float:
    goal = CompressSettings(target_db=settings["target_db"], seed=stage.seed, effort=effort)
    made = compress(stage.model, goal, views=stage.views, holdout=stage.holdout)
    models.write_atomic(path, [made.data])
    return 0.0


def _interchange(stage: Stage, settings: Settings, path: Path) -> float:
    left, seconds = stage.without_least(settings["prune"])
    models.save(truncated(left, int(settings["sh_degree"])), path)
    return seconds


def _spz(stage: Stage, settings: Settings, path: Path) -> float:
    if "sh_bits" not in settings:
        return _interchange(stage, settings, path)
    left, seconds = stage.without_least(settings["prune"])
    left = truncated(left, int(settings["sh_degree"]))
    models.write_atomic(path, [write_spz(left, sh_bits=int(settings["sh_bits"]))])
    return seconds


def _lightgaussian(stage: Stage, settings: Settings, path: Path) -> float:
    wanted = PosthocSettings(
        prune=settings["prune"],
        sh_degree=int(settings["sh_degree"]),
        vectree=VecTreeSettings(
            share=settings["vq_share"], codebook=CodebookSettings(steps=int(settings["vq_steps"]))
        ),
        seed=stage.seed,
    )
    models.write_atomic(path, [lightgaussian_posthoc(stage.model, stage.views, wanted)])
    return 0.0


# Each writes the file, and returns seconds of work that it had from an earlier point.
WRITERS: dict[str, Callable[[Stage, Settings, Path], float]] = {
    "fieldpress": _fieldpress,
    "fieldpress-fast": functools.partial(_fieldpress, effort="fast"),
    "spz": _spz,
    "compressed.ply": _interchange,
    "sog": _interchange,
    "lightgaussian-posthoc": _lightgaussian,
}


def label(method: str, settings: Mapping[str, float]) -> str:
    """The knobs of a point in short: "prune 0.3, sh 0"; without those that nobody turned."""
    turned = {key: v for key, v in settings.items() if KNOBS[method][key].values != (v,)}
    return ", ".join(f"{SHORT.get(key, key)} {value:g}" for key, value in turned.items())


def measure(
    stage: Stage, method: str, settings: Settings, path: Path, *, per_view: bool = False
) -> dict[str, Any]:
    """Write a file, decode it again and look at it: one row of the results.

    With `per_view` the figures of every view stand in it too.

    Raises:
        ValueError: if the method cannot do what its settings ask for.
    """
    start = time.perf_counter()
    before = WRITERS[method](stage, settings, path)
    encode_seconds = time.perf_counter() - start + before
    size = path.stat().st_size
    start = time.perf_counter()
    decoded = models.load(path)
    decode_seconds = time.perf_counter() - start
    render, original = decoded.renderer(), stage.model.renderer()
    found = evaluate(render, stage.holdout, reference=original, photos=stage.photos).to_json()
    if not per_view:
        found.pop("per_view")
    return {
        "output_bytes": size,
        "ratio": stage.float_bytes / size,
        "ratio_to_input": stage.input_bytes / size if stage.input_bytes else None,
        "count_in": stage.count,
        "count_out": len(decoded),
        "sh_degree": decoded.sh_degree,
        **found,
        "fps_ratio": _seconds_ratio(original, render, stage.holdout),
        "encode_seconds": encode_seconds,
        "decode_seconds": decode_seconds,
    }


def _seconds_ratio(one: Render, other: Render, cameras: Cameras) -> float:
    """How many times longer one takes than the other, in turns on the same views.

    The least time of each view counts: what else the machine does only ever adds.
    """
    total = [0.0, 0.0]
    for index in range(min(len(cameras), TIMED_VIEWS)):
        camera = cameras[index : index + 1]
        least = [math.inf, math.inf]
        for _ in range(TIMED_ROUNDS):
            for which, render in enumerate((one, other)):
                start = time.perf_counter()
                render(camera)
                least[which] = min(least[which], time.perf_counter() - start)
        total = [a + b for a, b in zip(total, least, strict=True)]
    return total[0] / max(total[1], 1e-9)


def file_name(method: str, settings: Mapping[str, float]) -> str:
    """What the file of a point is called."""
    knobs = "".join(f"-{SHORT.get(key, key)}{value:g}" for key, value in settings.items())
    return f"{method}{knobs}{SUFFIXES[method]}"

"""The jobs of Bayesian fields: learn a prior from pictures, encode a picture with one."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import __version__, field_jobs
from .console import Progress, sink
from .fields import bayes_codec
from .fields.bayes_codec import BayesField
from .fields.bayes_encode import EncodeSettings, encode_signals
from .fields.bayes_learn import Learner, learn
from .fields.bayes_prior import Prior, read_prior
from .fields.bayes_shape import Shape
from .models import read_bytes
from .quant import container
from .scenes import metrics

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
MAX_PIXELS = 1 << 20  # Every step of an encoder sees all of them.
ENCODE_SHARE = 0.98  # Of the time; the rest is writing and measuring.
SHAPES = {
    "recombiner": Shape(),
    "combiner": Shape(latents=0, mixing=False),
}


@dataclass(frozen=True)
class PriorJob:
    """What `fit prior` was asked for: KL bits of a crop, and how much it learns from."""

    method: str = "recombiner"
    kl_bits: float = 1024
    crops: int = 256
    grid: int = 1
    steps: int = 600
    seed: int = 0

    def __post_init__(self) -> None:
        if not 16 <= self.kl_bits <= 1e6:
            raise ValueError(f"kl_bits: expected 16 to 1e6, got {self.kl_bits:g}")
        for key, low in {"crops": 2, "grid": 1, "steps": 1}.items():
            if not low <= getattr(self, key) <= 1 << 20:
                raise ValueError(f"{key}: expected at least {low}, got {getattr(self, key)}")
        if self.grid > 16:
            raise ValueError(f"grid: expected up to 16 patches a side, got {self.grid}")

    @property
    def shape(self) -> Shape:
        """With groups where a crop has several patches."""
        plain = SHAPES[self.method]
        group = (self.grid + 1) // 2 if self.grid > 1 and plain.mixing else 0
        return Shape(**{**plain.config(), "patch": plain.patch, "group": group})


def fit_prior(source: str, output: str, job: PriorJob, *, progress: Progress) -> dict[str, Any]:
    """Learn a prior from random crops of a folder's pictures, or of one picture, and write it."""
    check_name(output)
    side = job.grid * job.shape.patch[0]
    signals = random_crops(read_pictures(source, side), side, job.crops, job.seed)
    start = time.perf_counter()
    learner = learn(
        Learner.new(job.shape, signals, job.seed), job.kl_bits, job.steps, seed=job.seed,
        progress=progress,
    )  # fmt: skip
    prior = Prior.of(learner, {"crops": job.crops, "steps": job.steps, "seed": job.seed})
    with sink(output) as write:
        data = write(prior.data)
        if read_prior(data, name=output).name != prior.name:
            raise ValueError(f"{output}: what was read back is not what was written")
    bits, error = learner.history[-1] if learner.history else (math.nan, 1.0)
    return {
        "output_bytes": len(data), "prior": prior.name, "method": job.method, "crops": job.crops,
        "kl_bits": bits, "psnr": -10 * math.log10(error), "index_bits": prior.index_bits,
        "budget": prior.budget, "fit_seconds": time.perf_counter() - start, "seed": job.seed,
        "blocks": {level: len(blocks.ends) for level, blocks in prior.blocks.items()},
        "version": __version__, "input": source, "output": output,
    }  # fmt: skip


def read_pictures(source: str, side: int) -> list[Tensor]:
    """The pictures [H, W, 3] uint8 of a folder, by name, or a single one.

    Raises ValueError for a folder without any that is at least `side` pixels each way.
    """
    folder = Path(source)
    paths = [folder]
    if folder.is_dir():
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES)
    pictures = [field_jobs.read_picture(str(path)) for path in paths]
    large = [x for x in pictures if min(x.shape[:2]) >= side]
    if not large:
        raise ValueError(f"{source}: expected pictures of at least {side}x{side} pixels, got none")
    return large


def random_crops(pictures: Sequence[Tensor], side: int, count: int, seed: int) -> Tensor:
    """[count, side, side, 3] from -1/2 to 1/2, of the pictures in turn."""
    generator, found = torch.Generator().manual_seed(seed), []
    for number in range(count):
        picture = pictures[number % len(pictures)]
        y, x = (
            int(torch.randint(n - side + 1, (1,), generator=generator)) for n in picture.shape[:2]
        )
        found.append(picture[y : y + side, x : x + side])
    return centred(torch.stack(found))


def centred(pictures: Tensor) -> Tensor:
    """uint8 to -1/2 .. 1/2."""
    return pictures.float() / 255 - 0.5


def load_prior(path: str) -> Prior:
    """The prior of a file. Raises ValueError or OSError naming it."""
    return read_prior(read_bytes(path), name=path)


def fit_image_file(
    source: str,
    output: str,
    prior_path: str,
    method: str,
    settings: EncodeSettings,
    *,
    progress: Progress,
) -> dict[str, Any]:
    """Encode a picture with a prior and write it; the written bytes are decoded and measured."""
    check_name(output)
    prior = load_prior(prior_path)
    if prior.shape.mixing != (method == "recombiner") or prior.shape.dims != 2:
        raise ValueError(f"{prior_path}: expected a prior of {method} for pictures")
    picture = field_jobs.read_picture(source)
    if picture[..., 0].numel() > MAX_PIXELS:
        raise ValueError(f"{source}: expected up to {MAX_PIXELS} pixels for method {method}")
    start = time.perf_counter()
    index = encode_signals(
        prior, centred(picture)[None], settings, progress=progress.part(0, ENCODE_SHARE)
    )[0]
    size = (picture.shape[0], picture.shape[1])
    model = BayesField(prior, size, index)
    with sink(output) as write:
        data = write(bayes_codec.encode(model))
        encode_seconds, start = time.perf_counter() - start, time.perf_counter()
        decoded = bayes_codec.decode(data, prior=prior, name=output)
        assert isinstance(decoded, BayesField)
        decoded.bytes()
        decode_seconds = time.perf_counter() - start
        measured = _compared(decoded, picture)
    return {
        "input_bytes": Path(source).stat().st_size, "output_bytes": len(data),
        "ratio": decoded.float_bytes / len(data), **measured,
        "bits_per_pixel": 8 * len(data) / (size[0] * size[1]),
        "bytes_by_section": container.by_attribute(container.sizes(data)),
        "prior": prior.name, "method": method, "render_size": [size[1], size[0]],
        "encode_seconds": encode_seconds, "decode_seconds": decode_seconds, "device": "cpu",
        "seed": settings.seed, "version": __version__, "input": source, "output": output,
    }  # fmt: skip


def _compared(model: BayesField, picture: Tensor) -> dict[str, float]:
    found, truth = model.picture(), picture.float() / 255
    return {"psnr": float(metrics.psnr(found, truth)), "ssim": float(metrics.ssim(found, truth))}


def check_name(output: str) -> None:
    """Raises ValueError for a name that is no .fpz file's."""
    if Path(output).suffix.lower() != ".fpz":
        raise ValueError(f"{output}: expected a name ending in .fpz")

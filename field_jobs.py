"""The jobs of neural fields: fit pictures, solids and scenes, measure and describe them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import __version__
from .console import Progress, sink
from .fields import codec
from .fields.backdrop import backdrop
from .fields.checkpoint import in_frame
from .fields.fit_image import ImageSettings, encoding_for, fit_image, search_steps
from .fields.fit_nerf import FittedNerf, NerfSettings, fit_nerf
from .fields.fit_sdf import SdfSettings, Solid, compare, fit_sdf
from .fields.fit_vq_nerf import FittedVqNerf, VqSettings, fit_vq_nerf
from .fields.image import MAX_SIDE
from .fields.levels import Encoding
from .fields.nerf import NerfField
from .fields.pixels import HeldPixels, Pixels
from .fields.sdf import SdfField
from .fields.vq_nerf import VqNerfField
from .large_pictures import compare_bands, opened, peak_memory
from .quant import budget, container
from .render.cuda import require
from .scenes import metrics
from .scenes.cameras import Cameras, Scene
from .scenes.datasets import read_scene
from .scenes.evaluate import evaluate
from .scenes.orbit import orbit
from .scenes.picture_file import open_picture
from .scenes.upright import upright

FIT_SHARE = 0.95  # Of the time; the rest is writing and measuring.
LOSS_DB = {"small": 1.5, "balanced": 0.4, "high": 0.05}
SDF_LEVELS, SDF_GROWTH = 8, 1.38  # From 16 to 152 cells.
NERF_LEVELS, NERF_GROWTH = 10, 1.5  # From 16 to 615 cells.
ORBIT_REACH = 1.6  # Distance of an orbit's cameras, in edges of the cube.
GREY = {"white": 1.0}  # That transparent photographs are laid over; else black.
AUTO = "auto"  # Background: by what the photographs show at their borders.
TRAINED = ("small", "balanced")  # Presets that train through the rounding.


@dataclass(frozen=True)
class ImageJob:
    """What `fit image` was asked for."""

    otype: str = "SimplexGrid"
    log2_hashmap_size: int | None = None
    neurons: int = 64
    steps: int = 1500
    batch: int = 1 << 15
    preset: str = "balanced"
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.settings(64, 64)  # Refuses what no picture could be fitted with.

    def settings(self, width: int, height: int) -> ImageSettings:
        loss = LOSS_DB[self.preset] if self.preset in TRAINED else None
        encoding = encoding_for(width, height, self.otype, self.log2_hashmap_size)
        return ImageSettings(
            encoding, self.neurons, steps=self.steps, batch=self.batch, quantise_db=loss,
            seed=self.seed,
        )  # fmt: skip


def read_picture(path: str) -> Tensor:
    """[H, W, 3] uint8 of a picture file. Raises ValueError or OSError naming it."""
    import numpy as np

    with open_picture(path) as picture:
        if max(picture.size) > MAX_SIDE:
            raise ValueError(f"{path}: expected sides up to {MAX_SIDE}, got {picture.size}")
        # As it is read, as RGB of four bytes, as bytes and as an array.
        budget.check(16 * picture.size[0] * picture.size[1], path)
        return torch.from_numpy(np.array(upright(picture, path)))


def fit_image_file(
    source: str, output: str, job: ImageJob, *, progress: Progress
) -> dict[str, Any]:
    """Fit a field to a picture and write it, compressed; decoded again before it is measured."""
    _check_name(output)
    there = require(job.device)
    with opened(source) as pixels:
        width, height = pixels.width, pixels.height
        share = progress.part(0, FIT_SHARE)
        fitted = fit_image(pixels, job.settings(width, height), device=there, progress=share)
        start = time.perf_counter()
        steps = fitted.steps or search_steps(
            fitted.model.network, fitted.used, pixels, LOSS_DB[job.preset]
        )
        pressed = _pressed(fitted, steps, job, source, output, start, lambda m: _compare(m, pixels))
        unrounded = _compare(fitted.model, pixels)
    return {
        "input_bytes": Path(source).stat().st_size,
        **pressed,
        "bits_per_pixel": 8 * pressed["output_bytes"] / (width * height),
        "psnr_unrounded": unrounded["psnr"],
        "render_size": [width, height],
        "peak_memory_bytes": peak_memory(),
    }


def _pressed(
    fitted: Any,
    steps: Any,
    job: ImageJob | SdfJob | NerfJob,
    source: str,
    output: str,
    start: float,
    measure: Callable[[Any], dict[str, Any]],
) -> dict[str, Any]:
    """Write what was fitted, decode the written bytes, measure that: what all reports have.

    `start` is when encoding began; a measurement that fails leaves no output.
    """
    with sink(output) as write:
        data = write(codec.encode(fitted.model, steps, fitted.used, {"seed": job.seed}))
        encode_seconds, start = time.perf_counter() - start, time.perf_counter()
        decoded: Any = codec.decode(data, name=output)
        decode_seconds = time.perf_counter() - start
        there = require(job.device)
        measured = measure(decoded.to(there))
    return {
        "output_bytes": len(data),
        "ratio": fitted.model.float_bytes / len(data),
        **measured,
        "bytes_by_section": container.by_attribute(container.sizes(data)),
        "fit_seconds": fitted.seconds,
        "encode_seconds": encode_seconds,
        "decode_seconds": decode_seconds,
        "encoding": fitted.model.network.encoding.config(),
        "device": str(there),
        "seed": job.seed,
        "version": __version__,
        "input": source,
        "output": output,
    }


@dataclass(frozen=True)
class SdfJob:
    """What `fit sdf` was asked for."""

    otype: str = "SimplexGrid"
    log2_hashmap_size: int = 14
    steps: int = 2000
    quantise: float = 5e-4
    eikonal: float = 0.0
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.settings()

    def settings(self) -> SdfSettings:
        encoding = Encoding(3, self.otype, SDF_LEVELS, 2, self.log2_hashmap_size, 16, SDF_GROWTH)
        return SdfSettings(
            encoding, steps=self.steps, quantise=self.quantise, eikonal=self.eikonal, seed=self.seed
        )


def read_solid(path: str) -> Solid:
    """A mesh of any format that Open3D reads. Raises ValueError or OSError naming it."""
    import numpy as np

    try:
        import open3d
    except ImportError:
        raise ValueError(f"{path}: meshes need Open3D: pip install 'fieldpress[meshes]'") from None
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file")
    with open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error):
        mesh = open3d.io.read_triangle_mesh(Path(path))
    try:
        return Solid(np.asarray(mesh.vertices, np.float32), np.asarray(mesh.triangles, np.uint32))
    except ValueError as error:
        raise ValueError(f"{path}: not a mesh that Open3D reads: {error}") from None


def fit_sdf_file(source: str, output: str, job: SdfJob, *, progress: Progress) -> dict[str, Any]:
    """Fit a field to a mesh and write it, compressed; decoded again before it is measured."""
    _check_name(output)
    there, solid = require(job.device), read_solid(source)
    share = progress.part(0, FIT_SHARE)
    fitted = fit_sdf(solid, job.settings(), device=there, progress=share)
    start = time.perf_counter()
    pressed = _pressed(
        fitted, fitted.steps, job, source, output, start, lambda m: compare(m, solid)
    )
    return {
        "input_bytes": Path(source).stat().st_size,
        **pressed,
        "faces": len(solid.faces),
    }


@dataclass(frozen=True)
class NerfJob:
    """What `fit nerf` was asked for."""

    otype: str = "SimplexGrid"
    log2_hashmap_size: int = 16
    steps: int = 2000
    rays: int = 1024
    loss_db: float = 0.1
    rate_db: float | None = None
    seed: int = 0
    device: str = "cpu"
    background: str = AUTO
    exposure: bool = False

    def __post_init__(self) -> None:
        self.settings()
        if self.rate_db is not None and self.device != "cpu":
            raise ValueError(f"device: expected cpu with rate_db, got {self.device}")

    @property
    def alpha(self) -> bool:
        """Whether photographs come with their alpha."""
        return self.background in (AUTO, "random")

    def settings(self, scene: Scene | None = None) -> NerfSettings:
        """Settings for a scene; what is AUTO is black where there is none."""
        behind = self.background
        if behind == AUTO:
            found = "black" if scene is None else backdrop(scene, alpha=True)
            behind = found if found in ("black", "white") else "random"
        alpha = behind == "random" and scene is not None and scene.train_masks is not None
        encoding = Encoding(3, self.otype, NERF_LEVELS, 2, self.log2_hashmap_size, 16, NERF_GROWTH)
        return NerfSettings(
            encoding, steps=self.steps, rays=self.rays, loss_db=self.loss_db,
            rate_db=self.rate_db, seed=self.seed, background=behind, alpha=alpha,
            exposure=self.exposure,
        )  # fmt: skip

    def fit(
        self, scene: Scene, device: torch.device, progress: Progress
    ) -> FittedNerf | FittedVqNerf:
        return fit_nerf(scene, self.settings(scene), device=device, progress=progress)


@dataclass(frozen=True)
class VqNerfJob(NerfJob):
    """What `fit nerf --method vqnerf` was asked for."""

    upscale: int = 4

    def fit(
        self, scene: Scene, device: torch.device, progress: Progress
    ) -> FittedNerf | FittedVqNerf:
        return fit_vq_nerf(scene, self.vq_settings(), progress=progress)

    def __post_init__(self) -> None:
        self.vq_settings()
        if self.rate_db is not None:
            raise ValueError("rate_db: expected none with --method vqnerf, got one")
        if self.background not in (AUTO, "black") or self.exposure:
            raise ValueError("background, exposure: expected neither with --method vqnerf")
        if self.device != "cpu":
            raise ValueError(f"device: expected cpu with --method vqnerf, got {self.device}")

    def vq_settings(self) -> VqSettings:
        return VqSettings(self.settings(), self.upscale)


def fit_nerf_file(
    source: str, output: str, job: NerfJob, *, downscale: float, progress: Progress
) -> dict[str, Any]:
    """Fit a radiance field to photographs and write it, compressed; the decoded one is measured."""
    _check_name(output)
    there = require(job.device)
    scene = read_scene(
        source, downscale=downscale, background=GREY.get(job.background, 0.0),
        masks="alpha" if job.alpha else True, most_bytes=budget.limit(),
    )  # fmt: skip
    fitted = job.fit(scene, there, progress.part(0, FIT_SHARE))
    start = time.perf_counter()
    pressed = _pressed(
        fitted, fitted.steps, job, source, output, start, lambda m: _measure(m, scene)
    )
    unrounded = _measure(fitted.model.to(there), scene)
    return {
        **pressed,
        "psnr_unrounded": unrounded["psnr"],
        "fps_reference": unrounded["fps"],
        "train_views": len(scene.train),
    }


def _measure(model: Any, scene: Scene) -> dict[str, Any]:
    views = in_frame(scene.test, model.extra.get("frame"))
    report = evaluate(model.render, views, photos=scene.test_images).to_json()
    keys = ("psnr", "ssim", "lpips", "fps", "render_size", "views", "device")
    measured = {key: report[key] for key in keys}
    if isinstance(model, VqNerfField):
        measured["seconds_by_stage"] = model.staged(scene.test[:1])[1]
    return measured


def orbit_views(model: SdfField | NerfField, count: int) -> Cameras:
    """`count` views on a circle around a field's cube, y up for solids and z up for captures."""
    up = [0.0, 1.0, 0.0] if model.kind == "sdf" else [0.0, 0.0, 1.0]
    center = [x + model.edge / 2 for x in model.low]
    return orbit(center, ORBIT_REACH * model.edge, count, width=640, height=480, up=up)


def _check_name(output: str) -> None:
    if Path(output).suffix.lower() != ".fpz":
        raise ValueError(f"{output}: expected a name ending in .fpz")


def _compare(model: Any, pixels: Pixels) -> dict[str, Any]:
    """Quality against the picture, and what decoding all pixels takes."""
    if not isinstance(pixels, HeldPixels):
        return compare_bands(model, pixels)
    start = time.perf_counter()
    found = model.picture().cpu()
    seconds = time.perf_counter() - start
    truth = pixels.picture.cpu().float() / 255
    return {
        "psnr": float(metrics.psnr(found, truth)),
        "ssim": float(metrics.ssim(found, truth)),
        "fps": 1 / seconds,
    }


def evaluate_field(model: Any, scene: str | None, reference: str | None) -> dict[str, Any]:
    """Quality of a field, on its device, against what `reference` names. Raises ValueError."""
    if isinstance(model, NerfField):
        if scene is None or reference is not None:
            raise ValueError("eval: expected --scene with the photographs of a radiance field")
        grey = sum(model.background) / 3  # Transparent photographs are laid over the same.
        return _measure(model, read_scene(scene, background=grey, most_bytes=budget.limit()))
    if model.kind not in ("image", "sdf"):
        raise ValueError(f"eval: expected a field to look at, got one of kind {model.kind!r}")
    device = str(model.network.table.device) if hasattr(model, "network") else "cpu"
    if scene is not None or reference is None:
        raise ValueError("eval: expected --reference with the picture or mesh of a field")
    if model.kind == "sdf":
        return {**compare(model, read_solid(reference)), "reference": reference, "device": device}
    picture = read_picture(reference)
    if tuple(picture.shape[:2]) != (model.height, model.width):
        raise ValueError(
            f"{reference}: expected {model.width}x{model.height} pixels, got "
            f"{picture.shape[1]}x{picture.shape[0]}"
        )
    return {**_compare(model, HeldPixels(picture)), "render_size": [model.width, model.height],
            "reference": reference, "device": device}  # fmt: skip


def describe(model: Any) -> dict[str, Any]:
    """What `info` says of a field."""
    if hasattr(model, "describe"):
        return model.describe()
    network = model.network
    return {
        "kind": model.kind,
        **{k: v for k, v in model.meta().items() if k in ("width", "height", "low", "edge")},
        "encoding": network.encoding.config(),
        "rows": network.encoding.rows,
        "layers": [len(weight) for weight in network.weights],
        "float_bytes": model.float_bytes,
        "bytes_by_attribute": {name: 4 * x.numel() for name, x in model.tensors().items()},
        "provenance": dict(model.extra),
    }

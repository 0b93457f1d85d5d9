"""Evaluation of a renderer against photographs and against a reference renderer."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import metrics
from .cameras import Cameras

Render = Callable[[Cameras], Tensor]  # C cameras to [C, H, W, 3] float32 pictures.

MIN_TIMINGS = 5  # The median of fewer frames says little.


@dataclass(frozen=True)
class View:
    """What one view scored; None where there was nothing to compare with."""

    index: int
    psnr: float | None
    ssim: float | None
    lpips: float | None
    psnr_self: float | None
    ssim_self: float | None
    seconds: float


@dataclass(frozen=True)
class Report:
    """Quality and speed over a set of views; every figure is the mean of the views' figures.

    Attributes:
        psnr, ssim, lpips: against photographs (without any, LPIPS is against the reference).
        psnr_self, ssim_self: against the reference renderer, that is, the uncompressed scene.
        fps, fps_reference: frames per second, one view at a time, median after a warm-up.
        render_size: [W, H] pixels.
        views: number of views.
        device: where the pictures were made.
        per_view: one entry for each view, in the cameras' order.
    """

    psnr: float | None
    ssim: float | None
    lpips: float | None
    psnr_self: float | None
    ssim_self: float | None
    fps: float | None
    fps_reference: float | None
    render_size: tuple[int, int]
    views: int
    device: str
    per_view: tuple[View, ...]

    def to_json(self) -> dict[str, Any]:
        """A dict of plain numbers, lists and None, with DESIGN's keys."""
        result = dataclasses.asdict(self)
        return {**result, "render_size": list(self.render_size), "per_view": [*result["per_view"]]}

    def worst(self, count: int) -> list[int]:
        """Indices of the `count` views that lost most: by psnr_self, else by psnr."""

        def score(view: View) -> float:
            known = (view.psnr_self, view.psnr, metrics.PSNR_CAP)
            return next(value for value in known if value is not None)

        return [view.index for view in sorted(self.per_view, key=score)[:count]]


def evaluate(
    render: Render,
    cameras: Cameras,
    *,
    reference: Render | Tensor | None = None,
    photos: Tensor | None = None,
    progress: Callable[[float], None] | None = None,
) -> Report:
    """Render every view, one at a time, and compare it with its photograph and its reference.

    Holds a few pictures in memory whatever the number of views. Pictures are clamped to [0, 1]
    and compared as floats.

    Args:
        render: what is measured.
        cameras: C views.
        reference: the renderer of the uncompressed scene, or its [C, H, W, 3] pictures.
        photos: [C, H, W, 3] float in [0, 1], or uint8.
        progress: called with the share done, in (0, 1].

    Raises:
        ValueError: if pictures and cameras do not fit.
    """
    for name, pictures in (("reference", reference), ("photos", photos)):
        expected = (len(cameras), cameras.height, cameras.width, 3)
        if isinstance(pictures, Tensor) and pictures.shape != expected:
            raise ValueError(f"{name}: expected {list(expected)}, got {list(pictures.shape)}")
    lpips = metrics.load_lpips() if photos is not None or reference is not None else None
    views, reference_seconds, device = [], [], torch.device("cpu")
    if len(cameras):
        device = _timed(render, cameras[0:1])[0].device  # The warm-up.
        if callable(reference):
            _timed(reference, cameras[0:1])
    for index in range(len(cameras)):
        camera = cameras[index : index + 1]
        image, seconds = _timed(render, camera)
        truth, elapsed = _picture(reference, index, camera)
        photo = _picture(photos, index, camera)[0]
        if callable(reference):
            reference_seconds.append(elapsed)
        # Compared on the CPU wherever they were made, so that figures do not depend on the device.
        truth, photo = (None if t is None else t.cpu() for t in (truth, photo))
        views.append(_view(index, image[0].cpu(), photo, truth, lpips, seconds))
        if progress is not None:
            progress((index + 1) / len(cameras))
    fps = _fps(render, cameras, [view.seconds for view in views])
    fps_reference = _fps(reference, cameras, reference_seconds) if callable(reference) else None
    return _summary(views, cameras, str(device), fps, fps_reference)


def _view(
    index: int,
    image: Tensor,
    photo: Tensor | None,
    truth: Tensor | None,
    lpips: Callable[[Tensor, Tensor], Tensor] | None,
    seconds: float,
) -> View:
    def score(metric: Callable[[Tensor, Tensor], Tensor] | None, other: Tensor | None):
        return None if metric is None or other is None else float(metric(image, other))

    return View(
        index=index,
        psnr=score(metrics.psnr, photo),
        ssim=score(metrics.ssim, photo),
        lpips=score(lpips, truth if photo is None else photo),
        psnr_self=score(metrics.psnr, truth),
        ssim_self=score(metrics.ssim, truth),
        seconds=seconds,
    )


def _summary(
    views: list[View], cameras: Cameras, device: str, fps: float | None, fps_reference: float | None
) -> Report:
    names = ("psnr", "ssim", "lpips", "psnr_self", "ssim_self")
    columns = {name: [getattr(view, name) for view in views] for name in names}
    means = {
        name: metrics.mean([value for value in column if value is not None])
        for name, column in columns.items()
    }
    return Report(
        **means,
        fps=fps,
        fps_reference=fps_reference,
        render_size=(cameras.width, cameras.height),
        views=len(cameras),
        device=device,
        per_view=tuple(views),
    )


def _picture(
    source: Render | Tensor | None, index: int, camera: Cameras
) -> tuple[Tensor | None, float]:
    """The picture [H, W, 3] of one view, and the seconds that rendering it took."""
    if source is None:
        return None, 0.0
    if callable(source):
        images, seconds = _timed(source, camera)
        return images[0], seconds
    image = source[index]
    return (image.float() / 255 if image.dtype == torch.uint8 else image), 0.0


def _timed(render: Render, camera: Cameras) -> tuple[Tensor, float]:
    start = time.perf_counter()
    with torch.no_grad():
        images = render(camera)
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
    seconds = time.perf_counter() - start
    expected = (len(camera), camera.height, camera.width, 3)
    if images.shape != expected:
        raise ValueError(f"render: expected {list(expected)}, got {list(images.shape)}")
    return images, seconds


def _fps(render: Render, cameras: Cameras, seconds: list[float]) -> float | None:
    """Frames per second from the median, with extra frames where there were too few."""
    if not seconds:
        return None
    extra = range(max(0, MIN_TIMINGS - len(seconds)))
    timings = seconds + [_timed(render, cameras[0:1])[1] for _ in extra]
    return 1 / max(statistics.median(timings), 1e-9)

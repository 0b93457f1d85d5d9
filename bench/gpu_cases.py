"""What bench/gpu.py draws, differentiates and compares."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from raster_cpu import seeded_scene
from torch import Tensor

from fieldpress.render import cuda
from fieldpress.render.packed import pack, rasterize_packed
from fieldpress.render.splat import RasterOptions, rasterize
from fieldpress.render.statistics import statistics as splat_statistics

OPTIONS = RasterOptions(sh_degree=3)
NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats")
Scene = tuple[Tensor, ...]
Report = dict[str, Any]


class TimedKernels:
    """Kernels with events around each launch."""

    def __init__(self, kernels: cuda.Kernels) -> None:
        self.kernels, self.device, self.processors = kernels, kernels.device, kernels.processors
        self.events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {}

    def launch(self, kernel: str, *arguments: int, macros: cuda.Macros = ()) -> None:
        pair = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        pair[0].record()
        self.kernels.launch(kernel, *arguments, macros=macros)  # pyright: ignore
        pair[1].record()
        self.events.setdefault(kernel, []).append(pair)

    def medians(self, frames: int) -> Report:
        """Milliseconds a frame of each kernel, all its launches together."""
        torch.cuda.synchronize(self.device)
        return {
            kernel: statistics.median(a.elapsed_time(b) for a, b in pairs) * len(pairs) / frames
            for kernel, pairs in self.events.items()
        }


def one(cameras: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor]:
    c = k % len(cameras[0])
    return cameras[0][c : c + 1], cameras[1][c : c + 1]


def render_call(
    draw: Callable[..., Any],
    scene: Scene,
    cameras: tuple[Tensor, Tensor],
    width: int,
    height: int,
    options: RasterOptions = OPTIONS,
) -> Callable[[int], Any]:
    """call(k) draws the k-th view."""

    def call(k: int) -> Any:
        with torch.no_grad():
            return draw(*scene, *one(cameras, k), width, height, options)

    return call


def training_call(
    draw: Callable[..., Any],
    scene: Scene,
    cameras: tuple[Tensor, Tensor],
    width: int,
    height: int,
) -> Callable[[int], Any]:
    """call(k) draws the k-th view and finds the gradients of its mean square."""
    leaves = [part.clone().requires_grad_() for part in scene]

    def call(k: int) -> Any:
        image = draw(*leaves, *one(cameras, k), width, height, OPTIONS)[0]
        return torch.autograd.grad(image.square().mean(), leaves)

    return call


def gradients(
    draw: Callable[..., Any], inputs: list[Tensor], width: int, height: int, options: RasterOptions
) -> Report:
    """Image, alpha and the gradients of a fixed random linear form of both."""
    leaves = [part.clone().requires_grad_() for part in inputs[:6]]
    image, alpha, _ = draw(*leaves, inputs[6], width, height, options)
    g = torch.Generator().manual_seed(1)
    forms = [torch.randn(t.shape, generator=g).to(t) for t in (image, alpha)]
    grads = torch.autograd.grad([image, alpha], leaves, forms)
    return {"image": image, "alpha": alpha} | dict(zip(NAMES, grads, strict=True))


def errors(ours: Report, truth: Report) -> Report:
    """PSNR of the pictures, relative L2 error of each gradient."""
    found: Report = {f"{name}_psnr": psnr(ours[name], truth[name]) for name in ("image", "alpha")}
    return found | {f"{name}_grad": relative(ours[name], truth[name]) for name in NAMES}


def psnr(ours: Tensor, truth: Tensor) -> float:
    error = (ours.detach().cpu().double() - truth.detach().cpu().double()).square().mean()
    return -10 * math.log10(float(error) + 1e-30)


def relative(ours: Tensor, truth: Tensor) -> float:
    a, b = ours.detach().cpu().double(), truth.detach().cpu().double()
    return float((a - b).norm() / b.norm())


def orbit(count: int, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Cameras on a circle around the seeded scene."""
    views = torch.zeros(count, 4, 4)
    for i in range(count):
        c, s = math.cos(0.7 * i), math.sin(0.7 * i)
        rows = [[c, 0, s, 0.1], [0, 1, 0, -0.2], [-s, 0, c, 5.0], [0, 0, 0, 1]]
        views[i] = torch.tensor(rows)
    focal = 0.8 * width
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return views, K.expand(count, 3, 3).contiguous()


def small_case(device: torch.device) -> None:
    """A frame, its gradients, statistics and a packed frame."""
    scene, cameras = seeded_scene(2000), orbit(1, 80, 60)
    here = [part.to(device) for part in (*scene, *cameras)]
    gradients(rasterize, here, 80, 60, RasterOptions(sh_degree=3, render_mode="RGB+D"))
    splat_statistics(*here[:4], *here[5:], 80, 60)  # pyright: ignore
    rasterize_packed(pack(*here[:5]), *here[5:], 80, 60, OPTIONS)  # pyright: ignore
    if device.type == "cuda":
        torch.cuda.synchronize(device)

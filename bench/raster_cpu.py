"""Speed and exactness of the CPU rasteriser on a seeded scene.

    python bench/raster_cpu.py [--frames 15] [--quick]

Prints a table and writes bench/results/raster_cpu.json: median milliseconds per frame and their
spread, share per stage, 1 and 2 threads, backward against forward, against the pure-torch twin on
a small case, and the error of values and gradients against the twin in double precision. On a
shared machine give it the cores for its minute (`chrt -f 1 python bench/raster_cpu.py`); the
report says whether it had them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from pathlib import Path

import torch
from record import machine
from torch import Tensor

from fieldpress.render import _reference
from fieldpress.render.splat import RasterOptions, rasterize
from fieldpress.render.statistics import statistics as splat_statistics

RESULT = Path(__file__).parent / "results" / "raster_cpu.json"
CASES = [(10_000, 800, 600), (100_000, 800, 600), (1_000_000, 800, 600), (100_000, 1920, 1080)]
OPTIONS = RasterOptions(sh_degree=3)
STAGES = ("project", "sort", "bin", "blend")
BACKWARD_STAGES = ("backward_unblend", "backward_reduce", "backward_unproject")
NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats")
Gaussians = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def seeded_scene(count: int, seed: int = 0) -> Gaussians:
    """Flat splats on spheres, a floor and a round wall, and 25 % fuzz; SH degree 3."""
    g = torch.Generator().manual_seed(seed)
    fuzz = count // 4
    flat = count - fuzz
    points, normals, spacing = _surfaces(count, g)
    tangent = 0.55 * spacing[:flat] * (0.6 * torch.randn(flat, 2, generator=g)).exp()
    thickness = 0.1 * tangent.amin(1, keepdim=True)
    quats = _turn_z_to(normals[:flat], 2 * math.pi * torch.rand(flat, generator=g))

    loose = 0.2 * torch.randn(fuzz, 3, generator=g)
    blobs = 0.8 * spacing[flat:] * (0.5 * torch.randn(fuzz, 3, generator=g)).exp()
    means = torch.cat([points[:flat], points[flat:] + loose])
    quats = torch.cat([quats, torch.randn(fuzz, 4, generator=g)])
    scales = torch.cat([torch.cat([tangent, thickness], 1), blobs])
    solid = torch.rand(count, generator=g) < torch.where(torch.arange(count) < flat, 0.5, 0.1)
    logits = torch.where(solid, 3.0, -2.0) + torch.randn(count, generator=g)
    colors = 0.08 * torch.randn(count, 16, 3, generator=g)
    colors[:, 0] = torch.sin(2 * means + torch.tensor([0.0, 2.0, 4.0]))
    order = torch.randperm(count, generator=g)
    parts = (means, quats, scales, logits.sigmoid(), colors)
    return tuple(part[order].contiguous() for part in parts)  # pyright: ignore


def _surfaces(count: int, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Points, normals, spacing: half on 12 spheres, a quarter on the floor, the rest on a wall."""
    centers = (torch.rand(12, 3, generator=g) - 0.5) * torch.tensor([4.5, 2.5, 4.5])
    radii = 0.3 + 0.6 * torch.rand(12, generator=g)
    which = torch.multinomial(radii**2, count, replacement=True, generator=g)
    outward = torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=1)
    sphere = centers[which] + radii[which, None] * outward
    u, v = torch.rand(2, count, generator=g)
    turn = 2 * math.pi * u
    around = torch.stack([turn.cos(), torch.zeros(count), turn.sin()], 1)
    floor = torch.stack([14 * (u - 0.5), torch.full((count,), 2.0), 14 * (v - 0.5)], 1)
    wall = 7 * around + torch.tensor([0.0, 1.0, 0.0]) * (2 - 8 * v[:, None])
    kind = torch.randint(0, 4, (count, 1), generator=g)
    up = torch.tensor([0.0, 1.0, 0.0]).expand(count, 3)
    points = torch.where(kind < 2, sphere, torch.where(kind == 2, floor, wall))
    normals = torch.where(kind < 2, outward, torch.where(kind == 2, up, around))
    area = torch.tensor([54.0, 54.0, 196.0, 352.0])[kind]  # Two kinds share the spheres.
    share = torch.tensor([0.5, 0.5, 0.25, 0.25])[kind]
    return points, normals, (area / (share * count)).sqrt()


def _turn_z_to(normals: Tensor, spin: Tensor) -> Tensor:
    """Quaternions wxyz that turn the z axis to the normals, after a spin about it."""
    x, y, z = normals.unbind(1)
    tilt = torch.stack([1 + z, -y, x, torch.zeros_like(z)], 1)
    tilt = torch.nn.functional.normalize(tilt + 1e-6, dim=1)
    w, a, b, _ = tilt.unbind(1)
    c, s = (spin / 2).cos(), (spin / 2).sin()
    return torch.stack([w * c, a * c + b * s, b * c - a * s, w * s], 1)


def seeded_cameras(count: int, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Views from a circle of radius 6 inside the wall towards the middle, 60 degrees wide."""
    views = []
    for turn in torch.linspace(0, 2 * math.pi, count + 1)[:-1]:
        c, s = math.cos(turn), math.sin(turn)
        views.append([[c, 0, s, 0], [0, 1, 0, 0.3], [-s, 0, c, 6.0], [0, 0, 0, 1]])
    focal = width / 2 / math.tan(math.radians(30))
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return torch.tensor(views), K.expand(count, 3, 3).contiguous()


def time_case(count: int, width: int, height: int, threads: int, frames: int) -> dict:
    """Median and spread over frames from as many cameras, after one warm-up round."""
    torch.set_num_threads(threads)
    scene = seeded_scene(count)
    views, Ks = seeded_cameras(4, width, height)
    seconds, busy, stages = [], [], {name: [] for name in STAGES}
    for frame in range(-4, frames):
        c = frame % 4
        start, busy_start = time.perf_counter(), time.process_time()
        _, _, meta = rasterize(*scene, views[c : c + 1], Ks[c : c + 1], width, height, OPTIONS)
        elapsed = time.perf_counter() - start
        if frame >= 0:
            seconds.append(elapsed)
            busy.append(time.process_time() - busy_start)
            for name in STAGES:
                stages[name].append(meta["seconds"][name])
    medians = {name: 1e3 * statistics.median(stages[name]) for name in STAGES}
    quarter = statistics.quantiles(seconds, n=4)
    return {
        "gaussians": count, "width": width, "height": height, "threads": threads,
        "frames": frames, "median_ms": 1e3 * statistics.median(seconds),
        "min_ms": 1e3 * min(seconds), "quartiles_ms": [1e3 * quarter[0], 1e3 * quarter[2]],
        "cpu_ms": 1e3 * statistics.median(busy),
        "fps": 1 / statistics.median(seconds), "stage_ms": medians,
    }  # fmt: skip


def time_backward(count: int, width: int, height: int, threads: int, frames: int) -> dict:
    """Forward and backward in turn, as a training step has them: gradients of the whole scene."""
    torch.set_num_threads(threads)
    scene = [part.requires_grad_() for part in seeded_scene(count)]
    views, Ks = seeded_cameras(4, width, height)
    grad = torch.randn(1, height, width, 3, generator=torch.Generator().manual_seed(0))
    forward, backward, stages = [], [], {name: [] for name in STAGES + BACKWARD_STAGES}
    for frame in range(-4, frames):
        c = frame % 4
        start = time.perf_counter()
        image, _, meta = rasterize(*scene, views[c : c + 1], Ks[c : c + 1], width, height, OPTIONS)
        middle = time.perf_counter()
        torch.autograd.grad(image, scene, grad)
        if frame >= 0:
            backward.append(time.perf_counter() - middle)
            forward.append(middle - start)
            for name, of_stage in stages.items():
                of_stage.append(meta["seconds"][name])
    return {
        "gaussians": count, "width": width, "height": height, "threads": threads,
        "frames": frames, "forward_ms": 1e3 * statistics.median(forward),
        "backward_ms": 1e3 * statistics.median(backward),
        "forward_min_ms": 1e3 * min(forward), "backward_min_ms": 1e3 * min(backward),
        "ratio": statistics.median(backward) / statistics.median(forward),
        "stage_ms": {name: 1e3 * statistics.median(each) for name, each in stages.items()},
    }  # fmt: skip


def gradient_parity(seed: int) -> dict:
    """Relative L2 and 1 - cosine per tensor against double autograd of the twin, 96x72."""
    width, height = 96, 72
    views, Ks = seeded_cameras(1, width, height)
    inputs = (*seeded_scene(12_000, seed), views)
    g = torch.Generator().manual_seed(seed)
    grads = [torch.randn(1, height, width, k, generator=g) for k in (3, 1)]
    results = []
    for draw, dtype in ((rasterize, torch.float32), (_reference.rasterize, torch.float64)):
        leaves = [part.to(dtype, copy=True).requires_grad_() for part in inputs]
        image, alpha, _ = draw(*leaves, Ks.to(dtype), width, height, OPTIONS)  # pyright: ignore
        torch.autograd.backward([image, alpha], [grad.to(dtype) for grad in grads])
        results.append([leaf.grad.double().flatten() for leaf in leaves])  # pyright: ignore
    return {
        name: {
            "relative_l2": float((ours - truth).norm() / truth.norm()),
            "one_minus_cosine": 1 - float(ours @ truth / (ours.norm() * truth.norm())),
        }
        for name, ours, truth in zip(NAMES, *results, strict=True)
    }


def describe(count: int, width: int, height: int) -> dict:
    """How heavy a case is: visible Gaussians, contributions per pixel, mean alpha."""
    scene = seeded_scene(count)
    views, Ks = seeded_cameras(4, width, height)
    options = RasterOptions(sh_degree=3, details=True)
    _, alpha, meta = rasterize(*scene, views, Ks, width, height, options)
    hits = splat_statistics(*scene[:4], views, Ks, width, height).hits.sum()
    return {
        "visible": int((meta["radii"][..., 0] > 0).sum()) // 4,
        "tiles_per_visible": float(meta["tiles_per_gauss"].sum() / (meta["radii"] > 0).sum() * 2),
        "hits_per_pixel": float(hits) / (4 * width * height),
        "mean_alpha": float(alpha.mean()),
    }


def parity(seed: int) -> dict:
    """Errors of a 96x72 view against the twin in double precision."""
    width, height = 96, 72
    scene = seeded_scene(12_000, seed)
    views, Ks = seeded_cameras(3, width, height)
    views, Ks = views[seed % 3 :][:1], Ks[:1]
    ours, alpha, _ = rasterize(*scene, views, Ks, width, height, OPTIONS)
    doubles = [part.double() for part in (*scene, views, Ks)]
    truth, _, _ = _reference.rasterize(*doubles, width, height, OPTIONS)  # pyright: ignore
    error = (ours.double() - truth).abs().flatten()
    return {
        "seed": seed, "mean_abs": float(error.mean()),
        "p999": float(error.quantile(0.999)), "max": float(error.max()),
        "psnr": -10 * math.log10(float((error**2).mean())), "mean_alpha": float(alpha.mean()),
    }  # fmt: skip


def against_torch(threads: int) -> dict:
    """The twin in float32 and the native rasteriser on one small case, in turn."""
    torch.set_num_threads(threads)
    width, height = 120, 90
    scene = seeded_scene(3_000)
    views, Ks = seeded_cameras(1, width, height)
    ours, twin = [], []
    for _ in range(3):
        start = time.perf_counter()
        rasterize(*scene, views, Ks, width, height, OPTIONS)
        middle = time.perf_counter()
        _reference.rasterize(*scene, views, Ks, width, height, OPTIONS)
        ours.append(middle - start)
        twin.append(time.perf_counter() - middle)
    mine, other = statistics.median(ours), statistics.median(twin)
    return {
        "gaussians": 3_000, "width": width, "height": height, "threads": threads,
        "native_ms": 1e3 * mine, "torch_ms": 1e3 * other, "ratio": other / mine,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="only 100k at 800x600; writes nothing")
    arguments = parser.parse_args()
    cases = CASES[1:2] if arguments.quick else CASES
    rows = []
    print(
        "gaussians  size        threads   median ms (quartiles)    FPS   project sort bin blend %"
    )
    for case in cases:
        for threads in (1, 2):
            row = time_case(*case, threads, arguments.frames)
            rows.append(row)
            total = sum(row["stage_ms"].values())
            share = " ".join(f"{100 * ms / total:6.1f}" for ms in row["stage_ms"].values())
            low, high = row["quartiles_ms"]
            size = f"{case[1]}x{case[2]}"
            print(f"{case[0]:9d}  {size:10s} {threads:4d} {row['median_ms']:9.2f}"
                  f" ({low:.2f} .. {high:.2f}) {row['min_ms']:8.2f} {row['cpu_ms']:8.2f}"
                  f" {row['fps']:7.1f} {share}")  # fmt: skip
    steps = []
    for case in cases[:1] if arguments.quick else cases[:2]:
        for threads in (1, 2):
            row = time_backward(*case, threads, arguments.frames)
            steps.append(row)
            stages = {name: round(ms, 2) for name, ms in row["stage_ms"].items()}
            print(f"{case[0]:9d}  {threads} threads: forward {row['forward_ms']:.2f} ms, backward"
                  f" {row['backward_ms']:.2f} ms, ratio {row['ratio']:.2f}"
                  f" (least {row['forward_min_ms']:.2f}, {row['backward_min_ms']:.2f})"
                  f" {json.dumps(stages)}")  # fmt: skip
    if arguments.quick:
        return
    report = {
        **machine(), "realtime": os.sched_getscheduler(0) == os.SCHED_FIFO, "cases": rows,
        "backward": steps, "gradient_parity": [gradient_parity(seed) for seed in (0, 1)],
        "weights": {f"{n} {w}x{h}": describe(n, w, h) for n, w, h in CASES},
        "torch_twin": against_torch(2), "parity": [parity(seed) for seed in (0, 1, 2)],
    }  # fmt: skip
    for key in ("weights", "torch_twin", "parity", "gradient_parity"):
        print(key, json.dumps(report[key], indent=1))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

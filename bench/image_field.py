"""Simplex beside grid on pictures, and image fields beside JPEG and AVIF.

    python bench/image_field.py [--steps 300] [--only NAME ...] [--parts race files]
        [--presets balanced small]

Each picture is fitted with a HashGrid and with a SimplexGrid of as many cells a side, and of as
many vertices, all with the same rows at most, network, batches and rates. PSNR is measured on
2^18 random pixels every few steps (outside the clock, which is the processor time of the fit; a fit
of another picture warms it up). `time_ratio` is the time at which a simplex reaches what the grid
has in the end, less 0.05 dB, over the grid's for the same; seconds of a step are the median of all,
so that what disturbs one fit is no part of it. Files are those of `fieldpress fit image`, presets
balanced and small, measured on all pixels; JPEG and AVIF get the least quality that is as good.
Parts that are not asked for keep their last figures. Writes bench/results/image_field.json.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from record import DATA, RESULTS, machine, write
from torch import Tensor

from fieldpress.field_jobs import ImageJob
from fieldpress.fields import codec
from fieldpress.fields.fit_image import ImageSettings, encoding_for, fit_image
from fieldpress.fields.image import places
from fieldpress.fields.network import Network, Trainer
from fieldpress.scenes.metrics import psnr

PICTURES = {  # name -> file, pixels of a step
    "kodim23": ("images/kodim23.png", 1 << 14),
    "astronaut": ("images/astronaut.png", 1 << 14),
    "snowmiku 990x742": ("multiview/snowmiku/images/20240212_003919.jpg", 1 << 14),
    "earth 4096x2048": ("images/earth-blue-marble.jpg", 1 << 16),
    "milkyway 8192x4096": ("images/milkyway_8192x4096.jpg", 1 << 16),
}
SAMPLES = 1 << 18
AVIF_SPEED = {False: 6, True: 9}  # Pillow's own; the fastest for pictures of more than 2^22 pixels.
TOLERANCE_DB = 0.05
EVERY = 25  # Steps between measurements.


def read(name: str) -> Tensor:
    return torch.from_numpy(np.array(Image.open(DATA / PICTURES[name][0]).convert("RGB")))


class Watch:
    """PSNR along a fit, and the processor time of its steps."""

    def __init__(self, picture: Tensor) -> None:
        height, width = picture.shape[:2]
        pick = torch.Generator().manual_seed(3)
        index = torch.randint(height * width, (SAMPLES,), generator=pick)
        self.points = places(index, width, height)
        self.truth = picture.reshape(1, -1, 3)[:, index].float() / 255
        self.seconds: list[float] = []
        self.levels: list[tuple[int, float]] = []
        self._last: float | None = None

    def __call__(self, step: int, trainer: Trainer) -> bool:
        if self._last is not None:
            self.seconds.append(time.process_time() - self._last)
        if step and step % EVERY == 0:
            self.level(step, trainer.network)
        self._last = time.process_time()
        return False

    def level(self, step: int, network: Network) -> None:
        self.levels.append((step, float(psnr(network(self.points).T[None], self.truth))))


def curve(picture: Tensor, settings: ImageSettings) -> dict[str, Any]:
    """Seconds of processor time and PSNR along a fit."""
    watch = Watch(picture)
    fitted = fit_image(picture, settings, watch=watch)
    watch.level(settings.steps, fitted.model.network)
    step = statistics.median(watch.seconds)
    return {
        "rows": fitted.model.network.encoding.rows,
        "rows_in_use": int(sum(u.sum() for u in fitted.used)),
        "curve": [(step * number, level) for number, level in watch.levels],
        "psnr": watch.levels[-1][1],
        "seconds": step * settings.steps,
        "seconds_per_step": step,
    }


def time_to(points: list[tuple[float, float]], goal: float) -> float | None:
    """When a curve first reaches a PSNR, straight lines between its points."""
    before = (0.0, 0.0)
    for seconds, level in points:
        if level >= goal:
            part = (goal - before[1]) / max(level - before[1], 1e-9)
            return before[0] + part * (seconds - before[0])
        before = (seconds, level)
    return None


def race(picture: Tensor, steps: int, batch: int) -> dict[str, Any]:
    height, width = picture.shape[:2]
    grid = encoding_for(width, height, "HashGrid")
    simplex = encoding_for(width, height, "SimplexGrid")
    sparse = replace(simplex, base_resolution=grid.base_resolution * 3**-0.25)
    found = {
        name: curve(picture, ImageSettings(encoding, steps=steps, batch=batch))
        for name, encoding in {
            "grid": grid, "simplex": simplex, "simplex at equal vertices": sparse,
        }.items()
    }  # fmt: skip
    goal = found["grid"]["psnr"] - TOLERANCE_DB
    base = time_to(found["grid"]["curve"], goal)
    for row in found.values():
        reached = time_to(row["curve"], goal)
        row["time_ratio"] = None if reached is None or base is None else reached / base
    return found


def files(picture: Tensor, steps: int, batch: int, presets: list[str]) -> list[dict[str, Any]]:
    """Our files, and those of others that are as good."""
    height, width = picture.shape[:2]
    truth, rows = picture.float() / 255, []
    for preset in presets:
        settings = ImageJob(steps=steps, batch=batch, preset=preset).settings(width, height)
        fitted = fit_image(picture, settings)
        assert fitted.steps is not None
        data = codec.encode(fitted.model, fitted.steps, fitted.used)
        decoded = codec.decode(data)
        quality = float(psnr(decoded.picture(), truth))
        row = {
            "preset": preset,
            "steps": steps,
            "bytes": len(data),
            "psnr": quality,
            "ratio": fitted.model.float_bytes / len(data),
        }
        rows.append(row | {kind: least(picture, kind, quality) for kind in ("JPEG", "AVIF")})
    return rows


def least(picture: Tensor, kind: str, goal: float) -> dict[str, float] | None:
    """The smallest file of a kind whose PSNR is at least `goal`, by bisection over its quality."""
    image, truth = Image.fromarray(picture.numpy()), picture.float() / 255
    low, high, best = 1, 100, None
    while low <= high:
        quality, buffer = (low + high) // 2, io.BytesIO()
        avif = {"subsampling": "4:2:0", "speed": AVIF_SPEED[image.width * image.height > 1 << 22]}
        image.save(
            buffer, kind, quality=quality, **(avif if kind == "AVIF" else {"subsampling": 2})
        )
        size = buffer.tell()
        back = torch.from_numpy(np.array(Image.open(buffer).convert("RGB"))).float() / 255
        level = float(psnr(back, truth))
        if level >= goal:
            best, high = {"bytes": size, "psnr": level, "quality": quality}, quality - 1
        else:
            low = quality + 1
    return best


def show(case: dict[str, Any]) -> None:
    for kind, row in case.get("race", {}).items():
        ratio = "never" if row["time_ratio"] is None else f"{row['time_ratio']:.2f}"
        line = f"{kind:28s} {row['psnr']:6.2f} dB {row['seconds']:6.1f} s  time ratio {ratio}"
        print(f"{case['picture']:20s} {line}", flush=True)
    for row in case.get("files", []):
        print(f"{case['picture']:20s} {row}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", nargs="*", default=list(PICTURES))
    parser.add_argument("--parts", nargs="*", default=["race", "files"])
    parser.add_argument("--presets", nargs="*", default=["balanced", "small"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    before = json.loads((RESULTS / "image_field.json").read_text()).get("cases", [])
    cases = {case["picture"]: case for case in before if case["picture"] in PICTURES}
    race(torch.zeros(64, 64, 3, dtype=torch.uint8), 20, 1 << 12)
    for name in given.only:
        picture, batch = read(name), PICTURES[name][1]
        size = [picture.shape[1], picture.shape[0]]
        case = cases.setdefault(name, {"picture": name})
        case |= {"size": size, "batch": batch, "commit": machine()["commit"]}
        if "race" in given.parts:
            case |= {"race": race(picture, given.steps, batch), "steps": given.steps}
        if "files" in given.parts:
            case["files"] = files(picture, given.steps, batch, given.presets)
        show(case)
        ordered = [cases[name] for name in PICTURES if name in cases]
        write("image_field", {"cases": ordered})


if __name__ == "__main__":
    main()

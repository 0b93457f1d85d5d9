"""Simplex beside grid on pictures, and image fields beside JPEG and AVIF.

    python bench/image_field.py [--steps 300] [--batch 16384] [--only NAME ...]

Pictures are the shared ones, made smaller where they are large so that this ends in minutes. Each
is fitted with a HashGrid and with a SimplexGrid of as many cells a side, and of as many vertices,
all with the same rows at most, network, batches and rates. PSNR is measured on all pixels every few
steps (outside the clock, which is the processor time of the fit; a fit of another picture warms it
up). `time_ratio` is the time at which a simplex reaches what the grid has in the end, less 0.05 dB,
over the grid's for the same. Files are those of `fieldpress fit image`, presets balanced and small;
JPEG and AVIF get the least quality that is as good. Writes bench/results/image_field.json.
"""

from __future__ import annotations

import argparse
import io
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from record import DATA, write
from torch import Tensor

from fieldpress.field_jobs import ImageJob
from fieldpress.fields import codec
from fieldpress.fields.fit_image import ImageSettings, encoding_for, fit_image
from fieldpress.fields.image import ImageField
from fieldpress.fields.network import Trainer
from fieldpress.scenes.metrics import psnr

PICTURES = {  # name -> file, how many times smaller each way
    "kodim23": ("kodim23.png", 1),
    "astronaut": ("astronaut.png", 1),
    "earth 1024x512": ("earth-blue-marble.jpg", 4),
    "milkyway 1024x512": ("milkyway_8192x4096.jpg", 8),
}
TOLERANCE_DB = 0.05
EVERY = 25  # Steps between measurements.


def read(name: str) -> Tensor:
    file, scale = PICTURES[name]
    picture = Image.open(DATA / "images" / file).convert("RGB")
    if scale > 1:
        picture = picture.reduce(scale)
    return torch.from_numpy(np.array(picture))


def curve(picture: Tensor, settings: ImageSettings) -> dict[str, Any]:
    """Seconds of processor time and PSNR along a fit."""
    height, width = picture.shape[:2]
    truth, points = picture.float() / 255, []
    spent = 0.0
    last = time.process_time()

    def watch(step: int, trainer: Trainer) -> bool:
        nonlocal spent, last
        spent += time.process_time() - last
        if step and step % EVERY == 0:
            points.append(
                (spent, float(psnr(ImageField(trainer.network, width, height).picture(), truth)))
            )
        last = time.process_time()
        return False

    fitted = fit_image(picture, settings, watch=watch)
    spent += time.process_time() - last
    points.append((spent, float(psnr(fitted.model.picture(), truth))))
    return {
        "rows": fitted.model.network.encoding.rows,
        "rows_in_use": int(sum(u.sum() for u in fitted.used)),
        "curve": points,
        "psnr": points[-1][1],
        "seconds": spent,
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
        row["seconds_per_step"] = row["seconds"] / steps
    return found


def files(picture: Tensor, steps: int, batch: int) -> list[dict[str, Any]]:
    """Our files, and those of others that are as good."""
    height, width = picture.shape[:2]
    truth, rows = picture.float() / 255, []
    for preset in ("balanced", "small"):
        settings = ImageJob(steps=steps, batch=batch, preset=preset).settings(width, height)
        fitted = fit_image(picture, settings)
        assert fitted.steps is not None
        data = codec.encode(fitted.model, fitted.steps, fitted.used)
        decoded = codec.decode(data)
        quality = float(psnr(decoded.picture(), truth))
        row = {
            "preset": preset,
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
        image.save(buffer, kind, quality=quality, subsampling="4:2:0" if kind == "AVIF" else 2)
        size = buffer.tell()
        back = torch.from_numpy(np.array(Image.open(buffer).convert("RGB"))).float() / 255
        level = float(psnr(back, truth))
        if level >= goal:
            best, high = {"bytes": size, "psnr": level, "quality": quality}, quality - 1
        else:
            low = quality + 1
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=1 << 14)
    parser.add_argument("--only", nargs="*", default=list(PICTURES))
    given = parser.parse_args()
    torch.set_num_threads(1)
    cases = []
    race(torch.zeros(64, 64, 3, dtype=torch.uint8), 20, given.batch)
    for name in given.only:
        picture = read(name)
        found = race(picture, given.steps, given.batch)
        rates = files(picture, given.steps, given.batch)
        cases.append(
            {
                "picture": name,
                "size": [picture.shape[1], picture.shape[0]],
                "race": found,
                "files": rates,
            }
        )
        for kind, row in found.items():
            ratio = "never" if row["time_ratio"] is None else f"{row['time_ratio']:.2f}"
            line = f"{kind:28s} {row['psnr']:6.2f} dB {row['seconds']:6.1f} s  time ratio {ratio}"
            print(f"{name:20s} {line}", flush=True)
        for row in rates:
            print(f"{name:20s} {row}", flush=True)
        write("image_field", {"steps": given.steps, "batch": given.batch, "cases": cases})


if __name__ == "__main__":
    main()

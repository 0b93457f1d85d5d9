"""Every pair of formats on real scenes: what each step loses against its own quantisation.

A scene is written as A, read, written as B and read again. The error of B against what A held is
counted in B's own steps (bench/format_steps.py): 0.5 is rounding to the nearest. Also: the time in
which 200,000 Gaussians of degree 3 become a SOG, plain and optimised, against plain k-means at
equal bytes; the time and memory of reading a million from PLY.
Writes bench/results/formats.json. Other people's tools: bench/format_peers.py.

    python bench/formats.py [--only pairs sog large ply]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from format_steps import domain, order_of, steps
from record import DATA, RESULTS, machine, write

from fieldpress import models
from fieldpress.gaussians import sog_write
from fieldpress.gaussians.compress import scene_views
from fieldpress.gaussians.limits import within
from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.optimise import Aim, optimised
from fieldpress.gaussians.sanitize import sanitize
from fieldpress.gaussians.spz import write_spz
from fieldpress.gaussians.turn import joined, moved
from fieldpress.quant import palette
from fieldpress.scenes.evaluate import evaluate

KINDS = (
    *("ply", "safetensors", "glb", "splat", "ksplat 0", "ksplat 1", "ksplat 2"),
    *("spz 2", "spz 3", "spz 4", "compressed.ply", "sog"),
)
SCENES = {
    "leica, degree 3, float, every 4th": ("leica-sofort/leica-sofort-top8192.ply", 4),
    "fox, degree 3, float, every 20th": ("fox-trained/point_cloud.ply", 20),
    "playbot, degree 2, SOG, every 200th": ("playbot/0_0/meta.json", 200),
    "guitar, degree 0, compressed PLY, every 40th": ("guitar/guitar.compressed.ply", 40),
}


def writer(kind: str) -> tuple[models.Format, dict[str, int]]:
    name, _, number = kind.partition(" ")
    option = {"spz": "version", "ksplat": "level"}.get(name)
    return models.format_named(name), {option: int(number)} if option else {}


def converted(kind: str, model: SplatModel) -> tuple[SplatModel, SplatModel, int, dict]:
    """What the format was given and what it holds, in one order; bytes; what was clamped."""
    found, options = writer(kind)
    given, report = within(model, found.limits())
    made = models.encoded(given, found, **options)
    assert not isinstance(made, dict)
    data = b"".join(made)
    decoded = models.load_bytes(data, f"a{found.suffix}")
    return given[torch.from_numpy(order_of(kind, given))], decoded, len(data), report


def error(kind: str, given: SplatModel, decoded: SplatModel) -> dict[str, list[float]]:
    """Tensor -> the largest and the root mean square error, in steps."""
    before, after, unit = domain(kind, given), domain(kind, decoded), steps(kind, given, decoded)
    sign = np.sign((before["quats"] * after["quats"]).sum(1, keepdims=True))
    after["quats"] = after["quats"] * np.where(sign == 0, 1, sign)
    found = {}
    for name, step in unit.items():
        if not before[name].size:
            continue
        whole = np.abs(after[name] - before[name])
        if not isinstance(step, np.ndarray) and np.isnan(step):  # In units of their own spread.
            step = float(before[name].std())
        ratio = whole / step
        if kind == "spz 2" and name == "quats":
            ratio = ratio[:, 1:]
        found[name] = [float(ratio.max()), float(np.sqrt(np.square(ratio).mean()))]
    return found


def pairs() -> list[dict]:
    rows = []
    for scene, (source, every) in SCENES.items():
        model = models.load(DATA / "gaussians" / source)[slice(None, None, every)]
        model, _ = within(model, models.format_named("glb").limits())
        for first in KINDS:
            _, held, _, _ = converted(first, model)
            for second in KINDS:
                start = time.perf_counter()
                given, decoded, size, report = converted(second, held)
                rows.append({
                    "scene": scene, "from": first, "to": second, "count": len(given),
                    "bytes": size, "clamped": report["clamped"],
                    "error_in_steps": error(second, given, decoded),
                    "seconds": time.perf_counter() - start,
                })  # fmt: skip
            worst = {
                name: max(r["error_in_steps"].get(name, [0])[0] for r in rows[-len(KINDS) :]
                          if name != "shN" or r["to"] != "sog")
                for name in ("means", "quats", "scales", "opacities", "sh0", "shN")
            }  # fmt: skip
            text = ", ".join(f"{name} {value:.3f}" for name, value in worst.items())
            print(f"{scene[:8]:8s} {first:14s} to {len(KINDS)}: largest error in steps: {text}",
                  flush=True)  # fmt: skip
    return rows


# SOG and SPZ by what views show

FLOAT_BORN = {"fox": "fox-trained/point_cloud.ply", "snowmiku": "snowmiku-trained/point_cloud.ply"}
LARGE = (*FLOAT_BORN.values(), "skull/skull.sog")
LLOYD = 10  # splat-transform's iterations


def plain_kmeans(rows: torch.Tensor, size: int, **_: object) -> tuple[torch.Tensor, None]:
    """A palette as others fit it: a random start, Lloyd's iterations, every vector alike."""
    entries = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:size]]
    ones = torch.ones(len(rows))
    for _ in range(LLOYD):
        entries = palette._moved(rows, ones, entries, palette.nearest(rows, entries))
    return entries, None


def optimised_rows() -> list[dict]:
    """Plain k-means, our plain writing and the optimised one, on held-out views."""
    rows = []
    for name, source in FLOAT_BORN.items():
        model, _ = sanitize(models.load(DATA / "gaussians" / source))
        _, holdout = scene_views(model, 0)
        pictures = model.render(holdout)
        for what, make in {
            "sog, plain k-means": lambda model=model: sog_by_kmeans(model),
            "sog": lambda model=model: sog_write.sog_bundle(model),
            "sog, optimised": lambda model=model: best(model, "sog", None),
            "sog, optimised, half": lambda model=model: best(model, "sog", rows[-1]["bytes"] // 2),
            "spz 3": lambda model=model: write_spz(model),
            "spz 3, optimised": lambda model=model: best(model, "spz", None),
        }.items():
            start = time.perf_counter()
            data = make()
            seconds = time.perf_counter() - start
            decoded = models.load_bytes(data, "file")
            psnr = evaluate(decoded.renderer(), holdout, reference=pictures).psnr_self
            rows.append({"scene": name, "what": what, "bytes": len(data), "psnr_self": psnr,
                         "count": len(decoded), "seconds": seconds})  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def best(model: SplatModel, kind: str, target: int | None) -> bytes:
    made = optimised(model, kind, Aim(target), None, lambda stage, done: None).made
    assert isinstance(made, list)
    return b"".join(made)


def sog_by_kmeans(model: SplatModel) -> bytes:
    before, sog_write.fit_palette = sog_write.fit_palette, plain_kmeans
    try:
        return sog_write.sog_bundle(model)
    finally:
        sog_write.fit_palette = before


def large_row(count: int = 200_000) -> dict:
    """Seconds to write a SOG of so many Gaussians of degree 3, of real scenes side by side."""
    parts = []
    for index, source in enumerate(LARGE):
        part = models.load(DATA / "gaussians" / source)
        shift = np.array([100.0 * index, 0, 0])
        parts.append(moved(part, np.eye(3), shift))
    model, _ = sanitize(joined(parts, {})[:count])
    found: dict = {"count": len(model), "threads": torch.get_num_threads()}
    for what in ("plain", "optimised"):
        start = time.perf_counter()
        data = best(model, "sog", None) if what == "optimised" else sog_write.sog_bundle(model)
        found[what] = {"seconds": time.perf_counter() - start, "bytes": len(data)}
        print(count, what, found[what], flush=True)
    return found


# A million Gaussians from PLY

READ = """
import re, sys, time
from pathlib import Path
from fieldpress import models
import fieldpress.gaussians.ply
import torch
torch.set_num_threads(1)

def kilobytes(what):
    return int(re.search(what + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew.
before = kilobytes("VmRSS")
start, busy = time.perf_counter(), time.process_time()
model = models.load(sys.argv[1])
seconds, busy = time.perf_counter() - start, time.process_time() - busy
print(len(model), seconds, 1024 * (kilobytes("VmHWM") - before), busy)
"""


def read_ply(count: int = 1_000_000, rounds: int = 5) -> dict:
    rng = torch.Generator().manual_seed(0)
    model = SplatModel(
        torch.randn(count, 3, generator=rng), torch.randn(count, 4, generator=rng),
        torch.randn(count, 3, generator=rng), torch.randn(count, generator=rng),
        torch.randn(count, 1, 3, generator=rng), torch.randn(count, 15, 3, generator=rng),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.ply"
        size = models.save(model, path)
        del model
        rows = []
        for _ in range(rounds):
            done = subprocess.run(
                [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True
            )
            rows.append([float(x) for x in done.stdout.split()])
    seconds = sorted(row[1] for row in rows)
    found = {
        "count": count,
        "file_bytes": size,
        "seconds_median": statistics.median(seconds),
        "seconds_all": seconds,
        "cpu_seconds_median": statistics.median(row[3] for row in rows),
        "peak_rss_bytes_more": max(row[2] for row in rows),
    }
    found["memory_over_file"] = found["peak_rss_bytes_more"] / size
    print(found, flush=True)
    return found


JOBS = {"pairs": pairs, "sog": optimised_rows, "large": large_row, "ply": read_ply}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=["pairs", "sog", "large", "ply"])
    arguments = parser.parse_args()
    last = RESULTS / "formats.json"
    result = json.loads(last.read_text()) if last.exists() else {}
    result = {key: value for key, value in result.items() if key in JOBS}
    for name in arguments.only:
        result[name] = {"commit": machine()["commit"], "rows": JOBS[name]()}
    print("wrote", write("formats", result))


if __name__ == "__main__":
    main()

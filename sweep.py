"""A rate-distortion sweep: every file is written, decoded again and measured on the same views."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from . import __version__, models
from .console import Progress, to_json, whole
from .contenders import Stage, file_name, label, measure
from .gaussians.memory import give_back
from .manifest import Manifest, Settings
from .render import _native
from .scenes.rate_distortion import BdRate, bd_rate, front
from .temporaries import scratch
from .viewer.curves import Curve, Panel, Point, draw
from .viewer.sweep_page import sweep_page

ANCHOR = "fieldpress"  # What every other method is compared with.
LEAST_DB = 1.0  # That curves must share for their BD-rate to enter a median: less is a sliver.
ROWS = "results.jsonl"
ROW_KEYS = ("scene", "method", "settings", "fingerprint", "seed", "version")  # What a point is.


# What is known already


@dataclass
class Rows:
    """results.jsonl: a line a point, added as it is measured, so that a kill loses one at most."""

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    @staticmethod
    def open(path: Path, *, resume: bool) -> Rows:
        """The rows of an earlier run, without those that failed and a last line cut short.

        Raises ValueError naming the file and the line that is no row.
        """
        found = Rows(path)
        if resume and path.exists():
            try:
                lines = path.read_bytes().split(b"\n")
            except OSError as error:
                raise ValueError(f"{path}: not readable: {error.strerror}") from None
            for number, line in enumerate(lines, 1):
                row = _row(line)
                if row is None and line and number < len(lines):
                    raise ValueError(f"{path}: line {number}: not a row of results")
                if row is not None and "failed" not in row:
                    found.rows.append(row)
        models.write_atomic(path, [_line(row) for row in found.rows])
        return found

    def find(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """The row of a point, or None."""
        fits = (row for row in self.rows if all(row.get(k) == v for k, v in key.items()))
        return next(fits, None)

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        """Put a row on the disk; what is returned is as a later run will read it."""
        line = _line(row)
        try:
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ValueError(f"{self.path}: cannot write: {error.strerror}") from None
        self.rows.append(json.loads(line))
        return self.rows[-1]


def _line(row: Mapping[str, Any]) -> bytes:
    return (to_json(row, indent=None) + "\n").encode()


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and all(key in row for key in ROW_KEYS) else None


# The whole


def run_sweep(
    manifest: Manifest,
    folder: str | Path,
    *,
    seed: int = 0,
    resume: bool = False,
    keep: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure all points of a manifest into a folder, and compare their curves.

    Writes results.jsonl as it goes, and in the end, all or none, results.json, curves.svg and
    index.html. A point that a method cannot do is a row that says why.

    Args:
        manifest: scenes, methods, settings.
        folder: made if it is not there.
        seed: of the views and of the methods.
        resume: take the points that results.jsonl has.
        keep: leave the files of all points in files/, instead of a temporary folder.
        progress: is told where the sweep is.

    Raises:
        ValueError: for a scene that cannot be read, or a folder that cannot be written.
    """
    folder = Path(folder)
    began = time.perf_counter()
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder}: cannot write: {error.strerror}") from None
    rows = Rows.open(folder / ROWS, resume=resume)
    facts: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    known = len(rows.rows)
    for number, entry in enumerate(manifest.scenes):
        if progress is not None:
            progress.part(number / len(manifest.scenes), (number + 1) / len(manifest.scenes))
        stage = Stage.read(entry, seed)
        facts.append(stage.facts())
        with _place(folder, entry.name, keep) as place:
            points += _scene_rows(stage, manifest, place, rows, progress)
        float_bytes = stage.float_bytes
        del stage  # Before the next one is read.
        give_back(float_bytes)
    results = {
        "version": __version__,
        "seed": seed,
        "manifest": manifest.to_json(),
        "machine": machine(),
        "scenes": facts,
        "points": points,
        **compare(points, [fact["scene"] for fact in facts]),
    }
    publish(results, folder)
    return _report(results, folder, len(rows.rows) - known, time.perf_counter() - began)


@contextmanager
def _place(folder: Path, scene: str, keep: bool) -> Iterator[Path]:
    """Where the files of a scene lie while, or after, they are measured."""
    if keep:
        place = folder / "files" / scene
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{place}: cannot write: {error.strerror}") from None
        yield place
        return
    with scratch("fieldpress-bench") as place:
        yield place


def _scene_rows(
    stage: Stage, manifest: Manifest, place: Path, rows: Rows, progress: Progress | None
) -> list[dict[str, Any]]:
    plan = [
        (method.name, settings)
        for method in manifest.methods
        for settings in method.points(stage.model.sh_degree)
    ]
    found = []
    for number, (method, settings) in enumerate(plan):
        if progress is not None:
            progress(f"{stage.name}: {method}", number / len(plan))
        key = {
            "scene": stage.name,
            "method": method,
            "settings": settings,
            "fingerprint": stage.fingerprint,
            "seed": stage.seed,
            "version": __version__,
        }
        row = rows.find(key)
        if row is None:
            row = rows.add({**key, **_measured(stage, method, settings, place)})
        found.append(row)
    return found


def _measured(stage: Stage, method: str, settings: Settings, place: Path) -> dict[str, Any]:
    """A row's figures, or why there are none."""
    path = place / file_name(method, settings)
    try:
        return {**measure(stage, method, settings, path), "file": path.name}
    except ValueError as error:
        return {"failed": " ".join(str(error).replace(str(path), path.name).split())}


def machine() -> dict[str, Any]:
    """What the times of this run were measured on."""
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "isa": _native.isa(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


# Comparison and pages


def compare(points: Sequence[Mapping[str, Any]], scenes: Sequence[str]) -> dict[str, Any]:
    """BD-rates against our own method: each scene's, and each method's median over scenes.

    A BD-rate over less than LEAST_DB stands in its scene's row and stays out of the median.
    """
    found = []
    for scene in scenes:
        curves = {method: _curve(points, scene, method) for method in _methods(points)}
        for method, curve in curves.items():
            if method == ANCHOR:
                continue
            if ANCHOR in curves:
                delta = bd_rate(curves[ANCHOR], curve)
            else:
                delta = BdRate(None, None, f"no curve of {ANCHOR}")
            found.append(
                {
                    "scene": scene,
                    "method": method,
                    "percent": delta.percent,
                    "overlap_db": None if delta.overlap is None else list(delta.overlap),
                    "reason": delta.reason,
                }
            )
    medians = {}
    for method in dict.fromkeys(row["method"] for row in found):
        known = [
            row["percent"]
            for row in found
            if row["method"] == method and row["percent"] is not None and _shared(row) >= LEAST_DB
        ]
        medians[method] = {
            "percent": statistics.median(known) if known else None,
            "scenes": len(known),
        }
    return {"bd_rate": found, "bd_rate_median": medians}


def _shared(row: Mapping[str, Any]) -> float:
    low, high = row["overlap_db"]
    return high - low


def _methods(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """In the order of the manifest, ours first: it gets the first colour and lies on top."""
    names = dict.fromkeys(row["method"] for row in points)
    return sorted(names, key=lambda name: name != ANCHOR)


def _curve(
    points: Sequence[Mapping[str, Any]], scene: str, method: str, quality: str = "psnr_self"
) -> list[tuple[float, float]]:
    return [
        (row["output_bytes"], row[quality])
        for row in points
        if (row["scene"], row["method"]) == (scene, method) and row.get(quality) is not None
    ]


def panels(results: Mapping[str, Any], quality: str = "psnr_self") -> list[Panel]:
    """A panel for each scene that has figures of that quality."""
    points = results["points"]
    found = []
    for scene in results["scenes"]:
        curves = []
        for method in _methods(points):
            best = set(front(_curve(points, scene["scene"], method, quality)))
            marks: tuple[list[Point], list[Point]] = ([], [])
            for row in points:
                if (row["scene"], row["method"]) != (scene["scene"], method):
                    continue
                if row.get(quality) is not None:
                    at = row["output_bytes"], row[quality]
                    marks[at not in best].append(Point(*at, label(method, row["settings"])))
            on, off = (sorted(side, key=lambda p: (p.x, p.y)) for side in marks)
            if on:
                curves.append(Curve(method, tuple(on), tuple(off)))
        if curves:
            level = scene["psnr"] if quality == "psnr" else None
            title = f"{scene['scene']}, {scene['count']:,} Gaussians"
            found.append(Panel(title, tuple(curves), level, scene["float_bytes"]))
    return found


def report_files(results: Mapping[str, Any]) -> dict[str, str]:
    """The text of results.json, curves.svg and index.html, the last two drawn from the first."""
    drawing = draw(panels(results), "PSNR against the uncompressed render, dB")
    seen = panels(results, "psnr")
    photographs = draw(seen, "PSNR against photographs, dB") if seen else ""
    points = [{**row, "knobs": label(row["method"], row["settings"])} for row in results["points"]]
    page = sweep_page({**results, "points": points}, drawing, photographs)
    return {"results.json": to_json(results) + "\n", "curves.svg": drawing, "index.html": page}


def publish(results: Mapping[str, Any], folder: Path) -> None:
    """Write results.json, curves.svg and index.html, all of them or none."""
    with whole(folder) as new:
        new.mkdir()
        for name, text in report_files(results).items():
            (new / name).write_text(text, "utf-8")


def _report(
    results: Mapping[str, Any], folder: Path, measured: int, seconds: float
) -> dict[str, Any]:
    """What the command says in the end."""
    by_scene: dict[str, dict[str, Any]] = {}
    for row in results["bd_rate"]:
        said = row["reason"] if row["percent"] is None else row["percent"]
        by_scene.setdefault(row["scene"], {})[row["method"]] = said
    return {
        "output": str(folder),
        "scenes": len(results["scenes"]),
        "points": len(results["points"]),
        "measured_now": measured,
        "failed": sum("failed" in row for row in results["points"]),
        "bd_rate": by_scene,
        "bd_rate_median": {k: v["percent"] for k, v in results["bd_rate_median"].items()},
        "seconds": seconds,
        "seed": results["seed"],
        "version": __version__,
    }

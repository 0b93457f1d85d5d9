"""What a batch says beside its page: medians over scenes, a CSV, and the layouts of others."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .console import to_json
from .contenders import label

LAYOUTS = ("nerfstudio", "3dgs")
MEDIANS = (
    "ratio", "psnr_self", "ssim_self", "psnr", "ssim", "fps_ratio", "encode_seconds",
    "decode_seconds",
)  # fmt: skip
COLUMNS = (
    "scene", "method", "knobs", "output_bytes", "ratio", "ratio_to_input", "count_in", "count_out",
    "sh_degree", "psnr", "ssim", "lpips", "psnr_self", "ssim_self", "fps", "fps_reference",
    "fps_ratio", "encode_seconds", "decode_seconds", "views", "attempts", "seed", "version",
    "sha256", "failed",
)  # fmt: skip

Row = Mapping[str, Any]


def medians(points: Sequence[Row]) -> list[dict[str, Any]]:
    """For each method and its settings the median of each figure over the scenes that have it."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in points:
        if "failed" not in row:
            groups.setdefault((row["method"], label(row["method"], row["settings"])), []).append(
                row
            )
    found = []
    for (method, knobs), rows in groups.items():
        known = {key: [row[key] for row in rows if row.get(key) is not None] for key in MEDIANS}
        middle = {
            key: statistics.median(values) if values else None for key, values in known.items()
        }
        found.append({"method": method, "knobs": knobs, "scenes": len(rows), **middle})
    return found


def to_csv(points: Sequence[Row]) -> str:
    """A line a point, for spreadsheets; what is not known is empty."""
    text = io.StringIO()
    columns: list[str] = list(COLUMNS)
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in points:
        writer.writerow({**row, "knobs": label(row["method"], row["settings"])})
    return text.getvalue()


def layouts(records: Sequence[Row], wanted: Sequence[str]) -> dict[str, str]:
    """Files by name in the layouts that are wanted, of what was measured on photographs.

    nerfstudio: what ns-eval writes, one file a point. 3dgs: what INRIA's metrics.py writes,
    results.json and per_view.json of each scene, a method in each.
    """
    seen = [row for row in records if row.get("psnr") is not None]
    files: dict[str, str] = {}
    if "nerfstudio" in wanted:
        for row in seen:
            name = f"nerfstudio/{row['scene']}/{_slug(row)}.json"
            files[name] = to_json(_nerfstudio(row)) + "\n"
    if "3dgs" in wanted:
        for scene in dict.fromkeys(row["scene"] for row in seen):
            rows = [row for row in seen if row["scene"] == scene]
            means = {_slug(row): _inria(row) for row in rows}
            views = {_slug(row): _inria_views(row) for row in rows}
            files[f"3dgs/{scene}/results.json"] = to_json(means) + "\n"
            files[f"3dgs/{scene}/per_view.json"] = to_json(views) + "\n"
    return files


def _slug(row: Row) -> str:
    knobs = label(row["method"], row["settings"])
    return re.sub(r"[^\w.]+", "_", f"{row['method']} {knobs}".strip())


def _nerfstudio(row: Row) -> dict[str, Any]:
    views = row["per_view"]
    results: dict[str, Any] = {}
    for key in ("psnr", "ssim", "lpips"):
        values = [view[key] for view in views if view[key] is not None]
        if values:
            results[key] = row[key]
            results[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else 0.0
    width, height = row["render_size"]
    return {
        "experiment_name": row["scene"],
        "method_name": _slug(row),
        "checkpoint": row["file"],
        "results": {**results, "num_rays_per_sec": row["fps"] * width * height, "fps": row["fps"]},
    }


def _inria(row: Row) -> dict[str, Any]:
    found = {"SSIM": row["ssim"], "PSNR": row["psnr"], "LPIPS": row["lpips"]}
    return {key: value for key, value in found.items() if value is not None}


def _inria_views(row: Row) -> dict[str, Any]:
    views = row["per_view"]
    return {
        name: {f"{view['index']:05d}.png": view[name.lower()] for view in views}
        for name in _inria(row)
    }

"""The figures of bench/gpu.py, one line each."""

from __future__ import annotations

from typing import Any

import gpu_fields

Report = dict[str, Any]


def table(report: Report) -> str:
    """The figures that were asked for, one line each."""
    lines = []
    for unit, rows in report.get("compile", {}).get("units", {}).items():
        parts = [f"{a} {r['seconds']:.2f} s {r['bytes']:,} B" for a, r in rows.items()]
        lines.append(f"{unit + '.cu':14}" + "   ".join(parts))
    for name in ("first_frame_cold_seconds", "first_frame_cached_seconds"):
        if name in report.get("compile", {}):
            lines.append(f"{name} {report['compile'][name]:.2f}")
    for name, found in report.get("parity", {}).items():
        if isinstance(found, dict):
            found = "  ".join(f"{k} {v:.3g}" for k, v in found.items())
        lines.append(f"parity {name}: {found}")
    lines += _speeds(report)
    lines += gpu_fields.lines(report)
    if "steps_per_second" in report.get("fit", {}):
        fit = report["fit"]
        lines.append(
            f"fit: {fit['steps_per_second']:.1f} steps/s of {fit['gaussians']:,} Gaussians"
        )
    for check, found in report.get("sanitizer", {}).items():
        last = found["lines"][-1] if isinstance(found, dict) and found["lines"] else found
        lines.append(f"sanitizer {check}: {last}")
    return "\n".join(lines)


def _speeds(report: Report) -> list[str]:
    peers, lines = report.get("gsplat", {}), []
    for size, rows in report.get("times", {}).items():
        if not isinstance(rows, dict):
            continue
        forward = rows["forward_ms"]["median"]
        both = rows["forward_and_backward_ms"]["median"]
        lines.append(
            f"{int(size):>9,} Gaussians: forward {forward:.2f} ms (queued"
            f" {rows['forward_ms']['back_to_back']:.2f}), with backward {both:.2f},"
            f" statistics {rows['statistics_ms']['median']:.2f},"
            f" int8 {rows['packed_int8_ms']['median']:.2f} in"
            f" {rows['packed_int8_bytes'] / rows['scene_bytes']:.2f} of the memory"
            f" at {rows['packed_int8_psnr']:.1f} dB"
        )
        if rows.get("stages_ms"):
            stages = "  ".join(f"{k} {v:.3f}" for k, v in rows["stages_ms"].items())
            lines.append(f"          {stages}")
        if size in peers:
            for kind in ("dense", "packed"):
                theirs = peers[size][f"{kind}_forward_ms"]["median"]
                trained = peers[size][f"{kind}_forward_and_backward_ms"]["median"]
                lines.append(
                    f"          gsplat {kind}: forward {theirs:.2f} ms ({theirs / forward:.2f}x"
                    f" ours), with backward {trained:.2f} ({trained / both:.2f}x),"
                    f" {peers[size][f'{kind}_psnr']:.1f} dB apart"
                )
    if "skipped" in peers:
        lines.append(f"gsplat: {peers['skipped']}")
    return lines

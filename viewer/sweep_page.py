"""The page of a rate-distortion sweep: BD-rates, curves, and every point in a sortable table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from .curves import size_label

DASH, TIMES, MINUS = "\u2013", "\u00d7", "\u2212"
STYLE = """main { max-width: 1060px; }
svg.rd { max-width: 100%; height: auto; display: block; }
table.delta th, table.delta td { vertical-align: top; }
table.delta th[scope=row], .views .word, .failed td { text-align: left; }
table small { display: block; color: var(--soft); font-size: .78rem; }
.views td { white-space: nowrap; }
.failed td { border-bottom: 1px solid var(--line); }
"""
COLUMNS = (  # Key, heading, format.
    ("output_bytes", "bytes", "{:,.0f}"),
    ("ratio", "ratio", "{:.1f}"),
    ("psnr_self", "PSNR self", "{:.2f}"),
    ("ssim_self", "SSIM self", "{:.4f}"),
    ("psnr", "PSNR photo", "{:.2f}"),
    ("ssim", "SSIM photo", "{:.4f}"),
    ("lpips", "LPIPS", "{:.4f}"),
    ("count_out", "Gaussians", "{:,.0f}"),
    ("encode_seconds", "encode s", "{:.2f}"),
    ("decode_seconds", "decode s", "{:.3f}"),
    ("fps_ratio", f"FPS, {TIMES}", "{:.2f}"),
)


def sweep_page(results: Mapping[str, Any], curves: str, photographs: str = "") -> str:
    """A page that loads nothing: style, script and drawings are inside it.

    Args:
        results: scenes, points (with `knobs`, their settings in words), bd_rate, bd_rate_median,
            machine, seed and version, as a sweep has them; a batch has a title and medians too.
        curves: the SVG of all scenes against their uncompressed renders.
        photographs: the same against photographs, or nothing.
    """
    here = resources.files(__package__ or "")
    style = (here / "report.css").read_text("utf-8") + STYLE
    script = (here / "report.js").read_text("utf-8")
    title = escape(results.get("title", "Rate-distortion sweep"))
    sections = [
        _medians(results.get("medians", [])),
        _deltas(results),
        _drawing("Quality against size", curves, "Lines join the points that no other of the "
                 "method beats; pale marks are beaten. Upper axis: ratio to 4 bytes a number."),
        _drawing("Against the photographs", photographs, "Held-out views; the dashed line is the "
                 "uncompressed scene."),
        _points(results),
        _failures(results["points"]),
    ]  # fmt: skip
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<header><p class='brand'>fieldpress {escape(str(results['version']))}</p>"
        f"<h1>{title}</h1>{_subtitle(results)}</header>\n"
        + "\n".join(part for part in sections if part)
        + f"\n{_notes(results)}\n</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _subtitle(results: Mapping[str, Any]) -> str:
    scenes, points = len(results["scenes"]), len(results["points"])
    methods = len({row["method"] for row in results["points"]})
    return (
        f"<p class='sub'>{_count(scenes, 'scene')}, {_count(methods, 'method')}, "
        f"{_count(points, 'point')}</p>"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _medians(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row a method with its settings: the median of each figure over scenes."""
    shown = [c for c in COLUMNS if any(row.get(c[0]) is not None for row in rows)]
    if not shown:
        return ""
    head = "".join(f"<th scope='col'>{heading}</th>" for _, heading, _ in shown)
    body = "".join(
        f"<tr><th scope='row'>{escape(row['method'])}<small>{escape(row['knobs'])}</small></th>"
        f"<td>{row['scenes']}</td>{''.join(_cell(row, column) for column in shown)}</tr>"
        for row in rows
    )
    return (
        "<section><h2>Medians over scenes</h2><p class='hint'>Of each figure by itself.</p>"
        f"<div class='scroll'><table class='delta'><thead><tr><th></th><th scope='col'>scenes</th>"
        f"{head}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )


def _deltas(results: Mapping[str, Any]) -> str:
    """The table of BD-rates: a row a method, a column a scene, and the median."""
    found = {(row["method"], row["scene"]): row for row in results["bd_rate"]}
    if not found:
        return ""
    scenes = [scene["scene"] for scene in results["scenes"]]
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in scenes)
    rows = []
    for method, median in results["bd_rate_median"].items():
        cells = "".join(_delta(found.get((method, scene))) for scene in scenes)
        over = f"<small>{median['scenes']} of {len(scenes)}</small>"
        rows.append(
            f"<tr><th scope='row'>{escape(method)}</th>{cells}"
            f"<td><b>{_percent(median['percent'])}</b>{over}</td></tr>"
        )
    return (
        "<section><h2>BD-rate against fieldpress</h2><p class='hint'>How many more bytes a method "
        "takes at equal PSNR, in the mean over the dB that both curves reach (below each figure). "
        "The median is over scenes whose curves share at least 1 dB."
        f"</p><div class='scroll'><table class='delta'><thead><tr><th></th>{head}"
        f"<th scope='col'>median</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        "</section>"
    )


def _delta(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return f"<td>{DASH}</td>"
    reach = ""
    if row["overlap_db"] is not None:
        low, high = row["overlap_db"]
        reach = f"<small>{low:.1f} to {high:.1f} dB</small>"
    if row["percent"] is None:
        return f"<td>{DASH}<small>{escape(row['reason'])}</small></td>"
    return f"<td>{_percent(row['percent'])}{reach}</td>"


def _percent(value: float | None) -> str:
    if value is None:
        return DASH
    return f"{MINUS if value < 0 else '+'}{abs(value):,.1f}%"


def _drawing(title: str, svg: str, hint: str) -> str:
    if not svg:
        return ""
    return f"<section><h2>{title}</h2><p class='hint'>{hint}</p>{svg}</section>"


def _points(results: Mapping[str, Any]) -> str:
    rows = [row for row in results["points"] if "failed" not in row]
    shown = [c for c in COLUMNS if any(row.get(c[0]) is not None for row in rows)]
    if not shown:
        return ""
    names = [(word, " class='word'") for word in ("scene", "method", "settings")]
    names += [(heading, "") for _, heading, _ in shown]
    head = "".join(
        f"<th scope='col'{kind}><button type='button'>{name}</button></th>" for name, kind in names
    )
    order = {key: _ranks(rows, key) for key in ("scene", "method", "knobs")}
    body = []
    for row in rows:
        words = "".join(
            f"<td class='word' data-value='{order[key][row[key]]}'>{escape(row[key])}</td>"
            for key in order
        )
        body.append(f"<tr>{words}{''.join(_cell(row, column) for column in shown)}</tr>")
    return (
        "<section><h2>Every point</h2><p class='hint'>Self: against the uncompressed render. Click "
        "a heading to sort.</p><div class='scroll'><table class='views'><thead><tr>"
        f"{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div></section>"
    )


def _ranks(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, int]:
    """The place of each word, in the order of the results: what its column is sorted by."""
    return {word: i for i, word in enumerate(dict.fromkeys(row[key] for row in rows))}


def _cell(row: Mapping[str, Any], column: tuple[str, str, str]) -> str:
    key, _, pattern = column
    value = row.get(key)
    if value is None or not math.isfinite(value):
        return f"<td data-value=''>{DASH}</td>"
    return f"<td data-value='{value!r}'>{pattern.format(value)}</td>"


def _failures(points: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(row['scene'])}</td><td>{escape(row['method'])}, {escape(row['knobs'])}"
        f"</td><td>{escape(row['failed'])}</td></tr>"
        for row in points
        if "failed" in row
    )
    if not rows:
        return ""
    return (
        "<section><h2>Failed</h2><p class='hint'>Points that could not be made, and why.</p>"
        f"<div class='scroll'><table class='failed'>{rows}</table></div></section>"
    )


def _notes(results: Mapping[str, Any]) -> str:
    scenes = "; ".join(
        f"{scene['scene']}: {size_label(scene['float_bytes'])} of floats, {scene['views']} "
        f"{'synthesised' if scene['synthesised_views'] else 'held-out'} views of "
        f"{scene['render_size'][0]}{TIMES}{scene['render_size'][1]}"
        for scene in results["scenes"]
    )
    machine = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    return (
        "<footer><p>Every figure is measured on the file on disk, decoded again, on the same views "
        "for all methods, against the render of the input after removal of what is not finite or "
        "not visible. fieldpress turns its rate control on these views; no other method looks at "
        "them. Pruning of the interchange formats is by squared blending weights over the "
        "statistics views, that of lightgaussian-posthoc by its own score over the same; no "
        "method trains. PSNR is the mean over views, at most 100 dB. MB are 10<sup>6</sup> "
        "bytes.</p>"
        f"<p>{escape(scenes)}.</p><p>Seed {results['seed']}; {escape(machine)}.</p></footer>"
    )

"""One self-contained HTML page that says what a compression kept, what it cost, and shows it."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any

from torch import Tensor

from .heat import ERROR_GAIN, HEAT, heat_map
from .png import encode_png

TIMES, DASH = "\u00d7", "\u2013"
ROW, LABEL, BAR = 26, 160, 400  # Pixels of the chart of bytes.


@dataclass(frozen=True)
class ViewPictures:
    """One view to be shown: a name, and pictures [H, W, 3] float in [0, 1] of one size.

    `basis` says what the original is, where it is not the uncompressed scene.
    """

    name: str
    original: Tensor
    compressed: Tensor
    photo: Tensor | None = None
    basis: str = "uncompressed"


def html_report(
    title: str,
    report: Mapping[str, Any],
    pictures: Sequence[ViewPictures],
    section_names: Mapping[str, str] | None = None,
) -> str:
    """A page with figures, a swipe comparison, bytes by section and a sortable table of views.

    The page loads nothing: pictures, style and script are inside it.

    Args:
        title: headline.
        report: DESIGN's keys (input_bytes, output_bytes, ratio, psnr, psnr_self, fps,
            bytes_by_section, per_view, ...); what is missing or None is left out.
        pictures: views to look at, the most interesting first; may be empty.
        section_names: what to call the keys of bytes_by_section on the page.
    """
    names: Mapping[str, str] = section_names or {}
    by_section: Mapping[str, int] = report.get("bytes_by_section") or {}
    sizes = {names.get(name, name): size for name, size in by_section.items()}
    here = resources.files(__package__ or "")
    style = (here / "report.css").read_text("utf-8")
    script = (here / "report.js").read_text("utf-8")
    sections = [
        _tiles(report),
        _comparison(pictures),
        _bytes(sizes),
        _figures(report),
        _views(report.get("per_view") or []),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<header><p class='brand'>fieldpress {escape(str(report.get('version', '')))}</p>"
        f"<h1>{escape(title)}</h1>{_subtitle(report)}</header>\n"
        + "\n".join(part for part in sections if part)
        + f"\n{_notes(report)}\n</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _subtitle(report: Mapping[str, Any]) -> str:
    count_in, count_out = report.get("count_in"), report.get("count_out")
    parts = []
    if count_in is not None and count_out is not None:
        parts.append(f"{count_in:,} Gaussians in, {count_out:,} kept")
    if report.get("views") and report.get("render_size"):
        width, height = report["render_size"]
        parts.append(f"measured on {report['views']} held-out views of {width}{TIMES}{height}")
    if report.get("device"):
        parts.append(f"on {escape(str(report['device']))}")
    return f"<p class='sub'>{', '.join(parts)}</p>" if parts else ""


def _tiles(report: Mapping[str, Any]) -> str:
    tiles = []

    def tile(value: str, label: str, detail: str = "") -> None:
        small = f"<small>{escape(detail)}</small>" if detail else ""
        tiles.append(f"<div class='tile'><b>{escape(value)}</b><span>{label}</span>{small}</div>")

    ratio, size = report.get("ratio"), report.get("output_bytes")
    if ratio:
        tile(f"{ratio:.1f}{TIMES}", "smaller", "than 4 bytes a stored number")
    if size is not None:
        before = report.get("input_bytes")
        tile(_size(size), "file", f"from {_size(before)}" if before else "")
    if report.get("psnr_self") is not None:
        ssim = report.get("ssim_self")
        detail = f"SSIM {ssim:.4f}" if ssim is not None else ""
        tile(f"{report['psnr_self']:.2f} dB", "against the uncompressed render", detail)
    if report.get("psnr") is not None:
        before = report.get("psnr_original")
        detail = f"uncompressed: {before:.2f} dB" if before is not None else ""
        tile(f"{report['psnr']:.2f} dB", "against the photographs", detail)
    if report.get("fps"):
        before = report.get("fps_reference")
        tile(f"{report['fps']:.0f}", "frames a second", f"before: {before:.0f}" if before else "")
    return f"<section class='tiles' aria-label='Summary'>{''.join(tiles)}</section>"


def _comparison(pictures: Sequence[ViewPictures]) -> str:
    if not pictures:
        return ""
    choices, stages = [], []
    for i, view in enumerate(pictures):
        chosen = "true" if i == 0 else "false"
        choices.append(
            f"<button type='button' data-view='{i}' aria-pressed='{chosen}'>"
            f"{escape(view.name)}</button>"
        )
        stages.append(_stage(i, view))
    sides = [("compressed", "compressed"), ("error", f"error {TIMES}{ERROR_GAIN:g}")]
    if all(view.photo is not None for view in pictures):
        sides.append(("photo", "photograph"))
    buttons = "".join(
        f"<button type='button' data-side='{key}' aria-pressed='{str(i == 0).lower()}'>"
        f"{text}</button>"
        for i, (key, text) in enumerate(sides)
    )
    return (
        "<section id='compare'><h2>Look for yourself</h2>"
        f"<p class='hint'>Drag across the picture. Left: {pictures[0].basis}. "
        "Right: what you choose.</p>"
        f"<div class='choices' role='group' aria-label='View'>{''.join(choices)}</div>"
        f"<div class='choices' role='group' aria-label='Right side'>{buttons}</div>"
        f"{''.join(stages)}{_heat_legend()}</section>"
    )


def _stage(index: int, view: ViewPictures) -> str:
    height, width = view.original.shape[:2]
    named = {
        "original": (view.basis, view.original),
        "compressed": ("compressed", view.compressed),
        "error": ("error heat map", heat_map(view.compressed, view.original)),
    }
    if view.photo is not None:
        named["photo"] = ("photograph", view.photo)
    shown = ("original", "compressed")
    pictures = "".join(
        f"<img class='{key}' src='{_data_uri(image)}' width='{width}' height='{height}' "
        f"alt='{escape(view.name)}, {text}'{'' if key in shown else ' hidden'}>"
        for key, (text, image) in named.items()
    )
    hidden = "" if index == 0 else " hidden"
    return (
        f"<div class='stage' data-view='{index}' style='--w:{width}'{hidden}>{pictures}"
        f"<span class='tag left'>{view.basis}</span><span class='tag right'>compressed</span>"
        "<i class='line'></i><input type='range' min='0' max='100' step='0.1' value='50' "
        f"aria-label='Swipe between the pictures of {escape(view.name)}'></div>"
    )


def _heat_legend() -> str:
    stops = ", ".join(f"rgb({', '.join(str(round(255 * c)) for c in color)})" for color in HEAT)
    return (
        "<p class='legend'><span>no error</span>"
        f"<i style='background: linear-gradient(90deg, {stops})'></i>"
        f"<span>{100 / ERROR_GAIN:.0f}% of full brightness and more</span></p>"
    )


def _bytes(sizes: Mapping[str, int]) -> str:
    """Bars of the bytes of each section, largest first, every one with its number."""
    total = sum(sizes.values())
    if not total:
        return ""
    ordered = sorted(sizes.items(), key=lambda item: -item[1])
    bars, longest = [], ordered[0][1]
    for i, (name, size) in enumerate(ordered):
        y, width = i * ROW, max(1.0, BAR * size / longest)
        bars.append(
            f"<text x='{LABEL - 10}' y='{y + 17}' text-anchor='end'>{escape(name)}</text>"
            f"<rect x='{LABEL}' y='{y + 4}' width='{width:.1f}' height='{ROW - 8}' rx='3'/>"
            f"<text class='value' x='{LABEL + width + 8:.1f}' y='{y + 17}'>"
            f"{_size(size)} · {100 * size / total:.1f}%</text>"
        )
    box = f"0 0 {LABEL + BAR + 150} {len(ordered) * ROW}"
    return (
        f"<section><h2>Where the {_size(total)} go</h2><svg class='bars' viewBox='{box}' "
        f"role='img' aria-label='Bytes by section'>{''.join(bars)}</svg></section>"
    )


FIGURES = (  # Key, what it is, format.
    ("psnr_self", "PSNR against the uncompressed render", "{:.2f} dB"),
    ("ssim_self", "SSIM against the uncompressed render", "{:.4f}"),
    ("psnr", "PSNR against the photographs", "{:.2f} dB"),
    ("psnr_original", "PSNR of the uncompressed scene against them", "{:.2f} dB"),
    ("ssim", "SSIM against the photographs", "{:.4f}"),
    ("lpips", "LPIPS", "{:.4f}"),
    ("input_bytes", "Input file", "{:,} bytes"),
    ("output_bytes", "Compressed file", "{:,} bytes"),
    ("ratio", "Ratio to 4 bytes a stored number", "{:.2f}"),
    ("fps", "Frames a second, compressed", "{:.1f}"),
    ("fps_reference", "Frames a second, uncompressed", "{:.1f}"),
    ("encode_seconds", "Time to compress", "{:.1f} s"),
    ("decode_seconds", "Time to decompress", "{:.2f} s"),
    ("seed", "Seed", "{}"),
)


def _figures(report: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{text}</th><td>{pattern.format(report[key])}</td></tr>"
        for key, text, pattern in FIGURES
        if report.get(key) is not None
    )
    return f"<section><h2>Figures</h2><table class='figures'>{rows}</table></section>"


COLUMNS = (
    ("index", "view", "{}"),
    ("psnr_self", "PSNR self", "{:.2f}"),
    ("ssim_self", "SSIM self", "{:.4f}"),
    ("psnr", "PSNR photo", "{:.2f}"),
    ("ssim", "SSIM photo", "{:.4f}"),
    ("lpips", "LPIPS", "{:.4f}"),
    ("seconds", "ms a frame", "{:.1f}"),
)


def _views(views: Sequence[Mapping[str, Any]]) -> str:
    shown = [column for column in COLUMNS if any(v.get(column[0]) is not None for v in views)]
    if not shown:
        return ""
    head = "".join(
        f"<th scope='col'><button type='button'>{text}</button></th>" for _, text, _ in shown
    )
    body = []
    for view in views:
        cells = []
        for key, _, pattern in shown:
            value = view.get(key)
            if value is None or not math.isfinite(value):
                cells.append(f"<td data-value=''>{DASH}</td>")
                continue
            value = value * 1000 if key == "seconds" else value
            cells.append(f"<td data-value='{value!r}'>{pattern.format(value)}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        "<section><h2>View by view</h2><p class='hint'>Self: against the uncompressed render. "
        "Click a heading to sort.</p>"
        f"<div class='scroll'><table class='views'><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div></section>"
    )


def _notes(report: Mapping[str, Any]) -> str:
    lpips = "" if report.get("lpips") is not None else " LPIPS needs its package and weights."
    return (
        "<footer>Every figure is the mean over views of each view's figure, measured on the file "
        "decoded again from its bytes, on held-out views. PSNR is capped at 100 dB."
        f"{lpips} MB are 10<sup>6</sup> bytes.</footer>"
    )


def _size(size: int) -> str:
    if size >= 10**6:
        return f"{size / 10**6:.2f} MB"
    return f"{size / 1000:.1f} kB" if size >= 1000 else f"{size} B"


def _data_uri(image: Tensor) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode("ascii")

"""The plotter: well-formed, nothing outside its axes, round ticks, the same bytes every time."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldpress.viewer.curves import COLORS, HEIGHT, WIDTH, Curve, Panel, Point, draw, size_label

SVG = "{http://www.w3.org/2000/svg}"
sizes = st.floats(1.0, 1e12)
points = st.lists(st.builds(Point, sizes, st.floats(-100.0, 1000.0)), max_size=8)


def panel(*curves: Curve, level: float | None = None, whole: float | None = None) -> Panel:
    return Panel("a <scene>", curves, level, whole)


def curve(label: str = "ours", shift: float = 0.0) -> Curve:
    return Curve(
        label,
        tuple(Point(1000.0 * 2**i, 30.0 + 3 * i + shift, f"knob {i}") for i in range(5)),
        (Point(9000.0, 31.0 + shift),),
    )


def parsed(text: str) -> ET.Element:
    return ET.fromstring(text)


def texts(root: ET.Element) -> list[str]:
    return [node.text or "" for node in root.iter(f"{SVG}text")]


def test_a_drawing_says_what_it_shows():
    text = draw(
        [panel(curve("ours & co"), curve("theirs", -4), level=40.0, whole=248_000.0)], "PSNR, dB"
    )
    root = parsed(text)
    said = texts(root)
    assert said.count("ours & co") == said.count("theirs") == 1
    for shown in (
        "a <scene>",
        "PSNR, dB",
        "file size",
        "uncompressed: 40.00 dB",
        "2 kB",
        "100\u00d7",
    ):
        assert shown in said, said
    titles = [node.text for node in root.iter(f"{SVG}title")]
    assert len(titles) == 12
    assert "ours & co, knob 2: 4 kB, 36.00 dB" in titles
    assert text == draw(
        [panel(curve("ours & co"), curve("theirs", -4), level=40.0, whole=248_000.0)], "PSNR, dB"
    )
    assert not re.search(r"nan|inf\b|url\(|@import|href", text)


def test_a_curve_has_one_colour_in_every_panel():
    text = draw([panel(curve("a"), curve("b")), panel(curve("b"))], "dB")
    groups = [g for g in parsed(text).iter(f"{SVG}g") if g.get("transform")]
    assert len(groups) == 2
    colors = [
        {path.get("stroke") for path in g.iter(f"{SVG}path") if "line" in (path.get("class") or "")}
        for g in groups
    ]
    assert colors == [{COLORS[0], COLORS[1]}, {COLORS[1]}]


@given(st.lists(points, max_size=4), st.none() | st.floats(-100.0, 1000.0))
@settings(deadline=None, max_examples=60)
def test_marks_lie_inside_the_axes(clouds, level):
    curves = [
        Curve(str(i), tuple(sorted(cloud, key=lambda p: p.x))) for i, cloud in enumerate(clouds)
    ]
    root = parsed(draw([panel(*curves, level=level, whole=1e9)], "dB"))
    group = next(g for g in root.iter(f"{SVG}g") if g.get("transform"))
    marks = [p.get("d") or "" for p in group.iter(f"{SVG}path") if p.get("class") == "mark"]
    assert len(marks) == sum(len(cloud) for cloud in clouds)
    for mark in marks:
        x, y = map(float, re.findall(r"-?[\d.]+", mark)[:2])
        assert -8 <= x - 58 <= WIDTH - 58
        assert 50 <= y <= HEIGHT - 44
    for node in group.iter(f"{SVG}text"):
        if node.get("x"):
            assert 0 <= float(node.get("x") or 0) <= WIDTH


@given(sizes, sizes)
@settings(deadline=None, max_examples=100)
def test_labels_of_an_axis_do_not_touch(a, b):
    root = parsed(draw([panel(Curve("c", (Point(min(a, b), 1), Point(max(a, b), 2))))], "dB"))
    group = next(g for g in root.iter(f"{SVG}g") if g.get("transform"))
    labels = [t for t in group.iter(f"{SVG}text") if re.search(r"\d (k|M|G)?B$", t.text or "")]
    places = sorted(float(t.get("x") or 0) for t in labels)
    assert all(y - x >= 40 for x, y in itertools.pairwise(places))


def test_what_cannot_be_drawn_is_left_out():
    odd = (Point(math.nan, 3), Point(0, 3), Point(-5, 3), Point(math.inf, 3), Point(10, math.nan))
    assert "nothing measured" in draw([panel(Curve("odd", odd))], "dB")
    assert "nothing measured" in draw([panel()], "dB")
    parsed(draw([], "dB"))
    one = draw([panel(Curve("one", (Point(500.0, 40.0), *odd)))], "dB")
    assert one.count('class="mark"') == 2  # In the legend, and the point.


def test_rows_of_panels_fit_the_drawing():
    root = parsed(draw([panel(curve(f"method number {i}")) for i in range(9)], "dB"))
    width, height = float(root.get("width") or 0), float(root.get("height") or 0)
    assert width == 2 * WIDTH
    places = [
        tuple(map(float, re.findall(r"[\d.]+", g.get("transform") or "")))
        for g in root.iter(f"{SVG}g")
        if g.get("transform")
    ]
    assert len(set(places)) == 9
    assert max(y for _, y in places) + HEIGHT <= height
    assert max(x for x, _ in places) + WIDTH <= width
    names = [t for t in root.iter(f"{SVG}text") if t.get("class") == "name"]
    assert all(float(t.get("x") or 0) + 7 * len(t.text or "") <= width for t in names)


@pytest.mark.parametrize(
    ("size", "said"),
    [(950, "950 B"), (1000, "1 kB"), (999_900, "1 MB"), (12_500, "12.5 kB"), (1.2e6, "1.2 MB"),
     (3e9, "3 GB")],
)  # fmt: skip
def test_sizes_for_people(size, said):
    assert size_label(size) == said


def test_colours_can_be_read_on_white_and_on_the_dark_card():
    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for color in COLORS:
        for ground in ("#ffffff", "#1d2026"):
            light, dark = sorted((luminance(color), luminance(ground)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 3.0, (color, ground)

"""What the rasteriser refuses, in one line, and that its stub tells the truth."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest
import torch

from fieldpress.render import _native, _reference
from fieldpress.render.splat import RasterOptions, rasterize

WIDTH, HEIGHT = 53, 37


def make_scene(n=5, bases=16):
    return (
        torch.zeros(n, 3), torch.ones(n, 4), torch.ones(n, 3), torch.ones(n) / 2,
        torch.ones(n, bases, 3),
    )  # fmt: skip


def make_cameras():
    return torch.eye(4).repeat(2, 1, 1), torch.eye(3).repeat(2, 1, 1)


BAD = [
    ("means", lambda a: a.update(means=a["means"][:, :2]), r"means: expected shape \[5, 3\]"),
    (
        "dtype",
        lambda a: a.update(quats=a["quats"].double()),
        "quats: expected float32, got float64",
    ),
    ("rows", lambda a: a.update(scales=a["scales"][:3]), "scales: expected shape"),
    ("opacities", lambda a: a.update(opacities=a["opacities"][:, None]), "opacities: expected"),
    ("list", lambda a: a.update(opacities=[0.5] * 5), "opacities: expected a tensor, got list"),
    ("bases", lambda a: a.update(colors=a["colors"][:, :9]), "colors: expected .* or more"),
    ("no colors", lambda a: a.update(colors=None), "colors: expected a tensor"),
    ("viewmats", lambda a: a.update(viewmats=a["viewmats"][0]), "viewmats: expected shape"),
    ("Ks", lambda a: a.update(Ks=a["Ks"][:1]), "Ks: expected shape"),
    ("focal", lambda a: a.update(Ks=-a["Ks"]), "Ks: expected positive focal"),
    (
        "nan view",
        lambda a: a.update(viewmats=a["viewmats"] * math.nan),
        "viewmats: expected finite",
    ),
    ("singular", lambda a: a.update(viewmats=a["viewmats"] * 0), "viewmats: expected invertible"),
    ("width", lambda a: a.update(width=0), "width: expected 1 to"),
    ("height", lambda a: a.update(height=10**6), "height: expected 1 to"),
    ("grad", lambda a: a["Ks"].requires_grad_(), "Ks: expected no requires_grad"),
    ("meta", lambda a: a.update(means=a["means"].to("meta")), "means: expected a CPU tensor"),
]


@pytest.mark.parametrize(("name", "spoil", "message"), BAD, ids=[case[0] for case in BAD])
def test_bad_arguments_end_in_one_line(name, spoil, message):
    names = ("means", "quats", "scales", "opacities", "colors")
    arguments = dict(zip(names, make_scene(5), strict=True))
    arguments["viewmats"], arguments["Ks"] = make_cameras()
    arguments |= {"width": WIDTH, "height": HEIGHT, "options": RasterOptions(sh_degree=3)}
    spoil(arguments)
    with pytest.raises(ValueError, match=message) as caught:
        rasterize(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"render_mode": "BGR"}, "render_mode"), ({"rasterize_mode": "fast"}, "rasterize_mode"),
        ({"sh_degree": 5}, "sh_degree"), ({"near_plane": 2.0, "far_plane": 1.0}, "near_plane"),
        ({"alpha_clamp": 0.0}, "alpha_clamp"), ({"eps2d": math.nan}, "eps2d"),
    ],
)  # fmt: skip
def test_bad_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        RasterOptions(**arguments)


def test_channels_without_sh_are_bounded():
    scene = make_scene(5)[:4]
    for colors in (torch.rand(5, 33), torch.rand(5, 0), torch.rand(3, 5, 3), torch.rand(5)):
        with pytest.raises(ValueError, match="colors: expected"):
            rasterize(*scene, colors, *make_cameras(), WIDTH, HEIGHT)


def test_the_stub_names_what_the_module_has():
    tree = ast.parse(Path(_reference.__file__).with_name("_native.pyi").read_text())
    stub = set()
    for node in tree.body:
        if isinstance(node, ast.AnnAssign):
            stub.add(node.target.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            stub.add(node.name)
    assert stub == {name for name in dir(_native) if not name.startswith("_")}
    settings_stub = next(n for n in tree.body if isinstance(n, ast.ClassDef))
    fields = {n.target.id for n in settings_stub.body if isinstance(n, ast.AnnAssign)}
    assert fields == {name for name in dir(_native.Settings) if not name.startswith("_")}

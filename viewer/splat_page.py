"""One HTML file that shows splats offline: renderer, controls and data are inside it."""

from __future__ import annotations

import base64
import json
from html import escape
from importlib import resources

from ..scenes.cameras import Cameras

SCRIPTS = ("camera.js", "fpz.js", "splats.js", "splat_page.js")


def splat_page(
    title: str,
    data: bytes,
    home: Cameras,
    target: tuple[float, float, float],
    up: tuple[float, float, float],
) -> str:
    """The page.

    Args:
        title: of the page.
        data: the .fpz file that it decodes and draws.
        home: one camera to begin with.
        target: what it circles, world units.
        up: world direction.
    """
    radius = float((home.positions[0] - home.positions.new_tensor(target)).norm())
    scene = {
        "home": {
            "pose": home.viewmats[0, :3].flatten().tolist(),
            "fov": 2 * float((0.5 * home.height / home.Ks[0, 1, 1]).atan()),
        },
        "target": target,
        "up": up,
        "size": radius,
    }
    folder = resources.files(__package__ or "") / "page"
    text = (folder / "splat_page.html").read_text("utf-8")
    scripts = "\n".join((folder / name).read_text("utf-8") for name in SCRIPTS)
    parts = {
        "TITLE": escape(title),
        "/*STYLE*/": (folder / "splat_page.css").read_text("utf-8"),
        "/*SCRIPT*/": scripts,
        "/*SCENE*/": json.dumps(scene).replace("<", "\\u003c"),
        "/*DATA*/": base64.b64encode(data).decode("ascii"),
    }
    for mark, part in parts.items():
        text = text.replace(mark, part)
    return text

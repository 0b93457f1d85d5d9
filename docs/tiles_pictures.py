"""Take the pictures of tiles in docs/viewer.md: copies of our own demo side by side, in Chromium.

fieldpress demo -o demo-out
python docs/tiles_pictures.py demo-out
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright
from screenshots import FLAGS, SIZE, shoot, wait

from fieldpress import models
from fieldpress.gaussians.ply import ply_head, ply_rows
from fieldpress.press import orbit_views

SIDE, SPACING = 3, 1.3  # Copies each way; distance of two, in radii of one.
COMPRESS = ("--tiles", "25000", "--effort", "draft", "--json")
WHOLE = "fieldpress.seen === fieldpress.sent && fieldpress.stage.frame.waiting === 0"
STANDS = "fieldpress.resting && !fieldpress.dirty && !fieldpress.stage.frame.moving"
VIEWS = {
    "tiles": "fieldpress.goHome(); fieldpress.camera.zoom(0.62)",
    "tiles-levels": "fieldpress.act({ left: { exhibit: 0, knobs: { tint: 1 } } })",
}


def city(source: Path, path: Path) -> None:
    """Copies of a scene on a square, as a PLY."""
    model = models.load(source)
    middle = model.means.median(0).values
    radius = float((model.means - middle).norm(dim=1).quantile(0.9))
    up = -orbit_views(model, 12).viewmats[:, 1, :3].mean(0)
    across = torch.linalg.svd(up[None])[2][1:]  # Two directions of the ground.
    near = model[(model.means - middle).norm(dim=1) < 1.2 * radius]
    with path.open("wb") as file:
        file.write(ply_head(SIDE**2 * len(near), near.shN.shape[1], False))
        for number in range(SIDE**2):
            place = torch.tensor([number % SIDE, number // SIDE]) - (SIDE - 1) / 2
            shift = SPACING * radius * place @ across
            for rows in ply_rows(replace(near, means=near.means + shift)):
                file.write(rows)


def main() -> None:
    demo = Path(sys.argv[1])
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        source, file = Path(folder) / "city.ply", Path(folder) / "city.fpz"
        city(demo / "scene.ply", source)
        command = [sys.executable, "-m", "fieldpress", "compress", source, "-o", file, *COMPRESS]
        subprocess.run(command, check=True)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        command = [sys.executable, "-m", "fieldpress", "view", file, "--port", "0", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout is not None
            page = browser.new_page(viewport=SIZE)
            page.goto(json.loads(run.stdout.readline())["url"])
            wait(page, "Boolean(window.fieldpress && fieldpress.frames)")
            for name, script in VIEWS.items():
                page.evaluate(f"{script}; fieldpress.moved()")
                page.wait_for_timeout(500)
                wait(page, f"{STANDS} && {WHOLE}")
                page.wait_for_timeout(300)
                shoot(page, name)
            run.terminate()
        browser.close()


if __name__ == "__main__":
    main()

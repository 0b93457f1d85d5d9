"""The viewer as people use it: frames a second of a 30 s orbit, and from a move to its picture.

`fieldpress view` in one process and headless Chromium on the same machine; the page's own turntable
turns the camera, and its own counter counts the pictures that were drawn. Scenes: fox-trained
(49,936 Gaussians, SH 3), the 200,000 Gaussians of playbot (SH 2) that matter most. Both modes: one
scene, and a swipe of two. Writes bench/results/viewer.json.

    python bench/viewer.py [--seconds 30]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright
from record import DATA, write

from fieldpress import models
from fieldpress.gaussians.importance import importance
from fieldpress.press import orbit_views

SIZE = 1280, 720
FLAGS = ["--no-sandbox", "--disable-gpu"]
MOVES = 15

TURN = """seconds => new Promise((done) => {
  const app = fieldpress, start = performance.now(), frames = app.frames;
  const widths = [], renders = [];
  const report = app.report.bind(app);
  app.report = (header) => {
    widths.push(header.size[0]); renders.push(header.seconds); report(header);
  };
  app.act({ control: "turntable" });
  setTimeout(() => {
    const spent = (performance.now() - start) / 1000;
    app.act({ control: "orbit" });
    app.report = report;
    done({ frames: app.frames - frames, seconds: spent, widths, renders });
  }, 1000 * seconds);
})"""
MOVE = """() => new Promise((done) => {
  const app = fieldpress, start = performance.now(), frames = app.frames;
  app.camera.orbit(0.02, 0); app.moved();
  let first = null;
  const look = () => {
    if (first === null && app.frames > frames) first = performance.now() - start;
    if (first !== null && !app.stage.frame.moving && app.seen === app.sent && app.resting)
      done([first, performance.now() - start]);
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})"""


@contextmanager
def viewer(scene: Path) -> Iterator[str]:
    """The address of `fieldpress view SCENE SCENE`."""
    command = [sys.executable, "-m", "fieldpress", "view", str(scene), str(scene), "--port", "0"]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        try:
            yield json.loads(run.stdout.readline())["url"]
        finally:
            run.terminate()


def wait(page: Page, expression: str) -> None:
    while not page.evaluate(expression):
        page.wait_for_timeout(50)


def measure(page: Page, mode: str, seconds: float) -> dict[str, Any]:
    page.evaluate("mode => { fieldpress.act({ mode }); fieldpress.goHome(); }", mode)
    wait(page, "fieldpress.resting && fieldpress.seen === fieldpress.sent")
    page.evaluate(TURN, 1.5)  # The scale of moving pictures settles.
    turned = page.evaluate(TURN, seconds)
    wait(page, "fieldpress.resting && fieldpress.seen === fieldpress.sent")
    moves = [page.evaluate(MOVE) for _ in range(MOVES)]
    first, rest = ([one[i] for one in moves] for i in (0, 1))
    return {
        "mode": mode,
        "fps": turned["frames"] / turned["seconds"],
        "seconds": turned["seconds"],
        "width_moving": statistics.median(turned["widths"]),
        "render_ms": 1000 * statistics.median(turned["renders"]),
        "latency_ms": statistics.median(first),
        "latency_ms_spread": [min(first), max(first)],
        "full_picture_ms": statistics.median(rest),
    }


def scenes(folder: Path) -> Iterator[tuple[str, Path]]:
    yield "fox-trained", DATA / "gaussians" / "fox-trained" / "point_cloud.ply"
    model = models.load(DATA / "gaussians" / "playbot")
    views = orbit_views(model, 8).resized(320, 240)
    model = model[importance(model, views).weight.argsort(descending=True)[:200_000].sort().values]
    models.save(model, folder / "playbot-200k.ply")
    yield "playbot-200k", folder / "playbot-200k.ply"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30)
    seconds = parser.parse_args().seconds
    rows = []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for name, path in scenes(Path(folder)):
            with viewer(path) as url:
                page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
                page.goto(url)
                wait(page, "Boolean(window.fieldpress && fieldpress.frames)")
                page.evaluate("document.getElementById('fold').click()")  # The canvas is 1280x720.
                count = page.evaluate("fieldpress.stage.frame.facts.left.Gaussians")
                for mode in ("one", "swipe"):
                    row = {"scene": name, "count": count, **measure(page, mode, seconds)}
                    rows.append(row)
                    print(
                        f"{name:13} {row['count']:,} {mode:6} {row['fps']:.1f} frames/s at "
                        f"{row['width_moving']:.0f} columns; {row['latency_ms']:.0f} ms to a fresh "
                        f"frame, {row['full_picture_ms']:.0f} ms to the full one",
                        flush=True,
                    )
                page.close()
        version = browser.version
        browser.close()
    print(write("viewer", {"size": SIZE, "chromium": version, "rows": rows}))


if __name__ == "__main__":
    main()

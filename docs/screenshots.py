"""Take the pictures of docs/viewer.md: of our own demo, in headless Chromium.

fieldpress demo -o demo-out
python docs/screenshots.py demo-out
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).resolve().parent
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
SIZE = {"width": 1280, "height": 720}
POSE = "fieldpress.goHome(); fieldpress.camera.orbit(0.35, -0.12); fieldpress.camera.zoom(1.15);"
VIEWS = {
    "swipe": POSE + "fieldpress.state.frusta = false; fieldpress.moved()",
    "error": "fieldpress.act({ error: true, gain: 8 }); fieldpress.setSwipe(0.38)",
    "pruned": "fieldpress.act({ error: false, right: { exhibit: 1, knobs: { prune: 0.7 } } });"
    " fieldpress.setSwipe(0.5)",
    "photo": "fieldpress.act({ mode: 'side', photoLeft: true, beside: false,"
    " right: { exhibit: 1, knobs: {} } }); fieldpress.jump(6)",
    "cameras": "fieldpress.act({ mode: 'one', photoLeft: false, beside: true }); " + POSE +
    "fieldpress.camera.zoom(1.7); fieldpress.state.frusta = true; fieldpress.moved()",
}  # fmt: skip


def wait(page: Page, expression: str) -> None:
    while not page.evaluate(expression):
        page.wait_for_timeout(50)


def shoot(page: Page, name: str) -> None:
    path = HERE / "pictures" / f"{name}.jpg"
    page.screenshot(path=path, type="jpeg", quality=82, timeout=120_000)
    print(path, path.stat().st_size)


def main() -> None:
    demo = Path(sys.argv[1])
    command = [sys.executable, "-m", "fieldpress", "view", demo / "scene.ply", demo / "scene.fpz"]
    command += ["--scene", demo / "capture", "--port", "0", "--json"]
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout is not None
            page = browser.new_page(viewport=SIZE)
            page.goto(json.loads(run.stdout.readline())["url"])
            wait(page, "Boolean(window.fieldpress && fieldpress.frames)")
            for name, script in VIEWS.items():
                page.evaluate(script)
                page.wait_for_timeout(500)
                wait(page, "fieldpress.resting && fieldpress.seen === fieldpress.sent")
                page.wait_for_timeout(300)
                shoot(page, name)
            run.terminate()
        offline = Path(folder) / "still life.html"
        subprocess.run(
            [sys.executable, "-m", "fieldpress", "decompress", demo / "scene.fpz", "-o", offline],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        page = browser.new_page(viewport=SIZE)
        page.goto(offline.as_uri())
        wait(page, "Boolean(window.fieldpress)")
        wait(page, "fieldpress.settled && document.getElementById('facts').textContent !== ''")
        shoot(page, "offline")
        browser.close()


if __name__ == "__main__":
    main()

"""What people see: the viewer and the exported page in Chromium, against our own renders."""

from __future__ import annotations

import base64
import io
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fieldpress import models, tile_viewing, viewing
from fieldpress.gaussians import codec
from fieldpress.gaussians.draft import draft, halved
from fieldpress.gaussians.frames import rotations
from fieldpress.gaussians.tiles import Tile, file_blocks
from fieldpress.press import orbit_views
from fieldpress.quant import container
from fieldpress.render.splat import RasterOptions
from fieldpress.scenes.cameras import Cameras
from fieldpress.scenes.metrics import psnr
from fieldpress.viewer import session

GOLDEN = Path(__file__).parent / "golden"
PATIENCE = 60.0  # Seconds; software rendering on a busy machine.
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, headless, with WebGL2 in software."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium on the path")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield found
        found.close()


def until(page: Any, expression: str) -> None:
    """Wait by asking: the page's policy forbids what Playwright's own waiting needs."""
    deadline = time.monotonic() + PATIENCE
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(20)


def pixels(page: Any) -> Tensor:
    """The canvas [H, W, 3] in [0, 1]."""
    from PIL import Image

    text = page.evaluate("document.getElementById('canvas').toDataURL()").partition(",")[2]
    image = Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")
    return torch.from_numpy(np.array(image)).float() / 255


# The viewer


@pytest.fixture(scope="module")
def files(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A fitted scene of photographs, the same through our codec, and another real scene."""
    folder = tmp_path_factory.mktemp("scenes")
    original = data_dir / "multiview" / "fox-tiny" / "point_cloud.ply"
    model = models.load(original)
    coded = codec.encode(model, np.zeros(len(model), np.int32), codec.Steps().scaled(12.0))
    (folder / "fox.fpz").write_bytes(coded)
    other = data_dir / "gaussians" / "leica-sofort" / "leica-sofort-top8192.ply"
    return [str(original), str(folder / "fox.fpz"), str(other)]


@pytest.fixture(scope="module")
def viewer(browser: Any, files: list[str], data_dir: Path, serving: Any) -> Iterator[Any]:
    """The viewer's page, open."""
    show = viewing.gather(files, str(data_dir / "multiview" / "fox-tiny"))
    errors: list[str] = []
    with serving(show) as (server, _):
        page = browser.new_page(viewport={"width": 820, "height": 360})
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server.url)
        until(page, "Boolean(window.fieldpress && fieldpress.frames)")
        page.evaluate("fieldpress.state.frusta = false")
        yield page
        page.close()
    assert errors == []


def settle(page: Any) -> None:
    calm = "fieldpress.resting && !fieldpress.dirty && !fieldpress.stale"
    until(page, f"fieldpress.seen === fieldpress.sent && {calm}")


def camera_of(page: Any) -> Cameras:
    """The camera at which the page looks, one side's picture."""
    pose = page.evaluate("fieldpress.camera.pose()")
    fov = page.evaluate("fieldpress.camera.fov")
    width, height = page.evaluate("fieldpress.stage.frame.size")
    focal = 0.5 * height / np.tan(0.5 * fov)
    viewmat = torch.eye(4)
    viewmat[:3] = torch.tensor(pose).reshape(3, 4)
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Cameras(viewmat[None], K[None].float(), width, height)


def test_swipe_shows_both_scenes_as_we_render_them(viewer: Any, files: list[str]) -> None:
    left, right = models.load(files[0]), models.load(files[1])
    viewer.evaluate("fieldpress.act({mode: 'swipe', error: false}); fieldpress.goHome()")
    viewer.evaluate("fieldpress.camera.orbit(0.3, -0.1); fieldpress.moved()")
    settle(viewer)
    handle = viewer.locator("#line").bounding_box()
    y = handle["y"] + 40
    viewer.mouse.move(handle["x"] + handle["width"] / 2, y)
    viewer.mouse.down()
    viewer.mouse.move(150, y, steps=3)
    viewer.mouse.up()
    settle(viewer)
    found = pixels(viewer)
    cut = round(viewer.evaluate("fieldpress.state.swipe") * found.shape[1])
    assert abs(cut - 150) < 4
    camera = camera_of(viewer)
    assert found.shape == (camera.height, camera.width, 3)
    a, b = left.render(camera)[0].clamp(0, 1), right.render(camera)[0].clamp(0, 1)
    assert float(psnr(found[:, : cut - 2], a[:, : cut - 2])) >= 30
    assert float(psnr(found[:, cut + 2 :], b[:, cut + 2 :])) >= 30
    # The two differ by more than JPEG does, so that sides in the wrong place would show.
    assert float(psnr(a, b)) < 30
    said = float(viewer.locator("#score b").inner_text().split()[0])
    assert said == pytest.approx(float(psnr(b, a)), abs=0.02)


def slide(page: Any, side: str, label: str, value: float) -> None:
    """Move a slider as a hand does: the value, then the event."""
    group = page.locator("details", has=page.locator(f"summary:text-is('{side}')")).first
    group.evaluate("box => { box.open = true; }")
    group.locator(f"input[aria-label='{label}']").evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value
    )
    page.wait_for_timeout(200)
    settle(page)


def test_the_sliders_render_anew(viewer: Any, files: list[str]) -> None:
    model = models.load(files[1])
    data = Path(files[1]).read_bytes()
    viewer.evaluate("fieldpress.act({mode: 'one', left: {exhibit: 1, knobs: {}}})")
    viewer.evaluate("fieldpress.goHome()")
    settle(viewer)
    camera = camera_of(viewer)

    def shows(expected: Tensor) -> bool:
        return float(psnr(pixels(viewer), expected.clamp(0, 1))) >= 30

    assert shows(model.render(camera)[0])
    slide(viewer, "Left", "SH degree", 0)
    flat = model.render(camera, RasterOptions(sh_degree=0))[0]
    assert shows(flat)
    slide(viewer, "Left", "SH degree", 3)
    slide(viewer, "Left", "prefix", 0)
    cut = viewing.cuts(data, "fox")[0].size
    assert cut < len(data)
    assert shows(codec.decode(data[:cut], partial=True).render(camera)[0])
    facts = viewer.locator("tbody").first.inner_text()
    assert f"{cut / 1e3:.1f} kB" in facts
    slide(viewer, "Left", "prefix", 1)
    slide(viewer, "Left", "share pruned", 0.9)
    assert f"{-(-len(model) // 10):,}" in viewer.locator("tbody").first.inner_text()
    pruned = pixels(viewer)
    assert float(psnr(pruned, model.render(camera)[0].clamp(0, 1))) < 28
    slide(viewer, "Left", "share pruned", 0)
    viewer.evaluate("fieldpress.act({left: {exhibit: 0, knobs: {}}, background: [1, 1, 1]})")
    settle(viewer)
    options = RasterOptions(sh_degree=3, backgrounds=torch.ones(3))
    assert shows(models.load(files[0]).render(camera, options)[0])
    viewer.evaluate("fieldpress.act({background: [0, 0, 0]})")


def test_a_jump_to_a_photograph_and_back(viewer: Any, files: list[str]) -> None:
    viewer.evaluate("fieldpress.act({mode: 'swipe', photoLeft: true}); fieldpress.jump(3)")
    settle(viewer)
    until(viewer, "document.querySelector('#photo img').naturalWidth > 0")
    assert "photograph" in viewer.locator("#tag-left").inner_text()
    assert "to the photograph" in viewer.locator("#score").inner_text()
    said = float(viewer.locator("#score b").inner_text().split()[0])
    assert 15 < said < 40  # The model was fitted to these photographs.
    viewer.evaluate("fieldpress.act({photoLeft: false}); fieldpress.goHome()")
    settle(viewer)
    assert viewer.locator("#photo").is_hidden()


def test_resolution_drops_while_moving_and_recovers(viewer: Any) -> None:
    # Frames of any machine are too slow for this budget: the scale must go down.
    viewer.evaluate("fieldpress.act({mode: 'one', control: 'turntable'})")
    until(viewer, "fieldpress.stage.frame.moving")
    size = viewer.evaluate("fieldpress.stage.frame.size")
    canvas = viewer.evaluate("[fieldpress.stage.canvas.width, fieldpress.stage.canvas.height]")
    assert size[0] < canvas[0] or viewer.evaluate("fieldpress.stage.frame.scale") == 1
    viewer.evaluate("fieldpress.act({control: 'orbit'})")
    settle(viewer)
    assert viewer.evaluate("fieldpress.stage.frame.size") == canvas
    assert not viewer.evaluate("fieldpress.stage.frame.moving")


def test_drag_wheel_and_keys_move_the_camera(viewer: Any) -> None:
    viewer.evaluate("fieldpress.act({mode: 'one', control: 'orbit'}); fieldpress.goHome()")
    settle(viewer)
    pose = "fieldpress.camera.pose()"
    start = viewer.evaluate(pose)
    far = viewer.evaluate("fieldpress.camera.distance")
    viewer.mouse.move(100, 200)
    viewer.mouse.down()
    viewer.mouse.move(180, 180, steps=4)
    viewer.mouse.up()
    turned = viewer.evaluate(pose)
    assert turned != start
    viewer.mouse.wheel(0, -300)
    until(viewer, f"fieldpress.camera.distance < 0.9 * {far}")
    viewer.keyboard.down("w")
    until(viewer, f"String({pose}) !== '{','.join(map(str, turned))}'")
    viewer.keyboard.up("w")
    rows = np.array(viewer.evaluate(pose)).reshape(3, 4)[:, :3]
    assert np.allclose(rows @ rows.T, np.eye(3), atol=1e-9)


def test_a_double_click_turns_to_what_is_there(viewer: Any) -> None:
    viewer.evaluate("fieldpress.act({mode: 'one', control: 'orbit'}); fieldpress.jump(3)")
    settle(viewer)
    box = viewer.evaluate("fieldpress.stage.box('left')")
    x, y = box["x"] + 0.6 * box["w"], box["y"] + 0.6 * box["h"]
    eye = viewer.evaluate("fieldpress.camera.eye")
    forward = np.array(viewer.evaluate("fieldpress.camera.axes[2]"))
    viewer.mouse.dblclick(x, y)
    until(viewer, "Boolean(fieldpress.turning)")
    until(viewer, "!fieldpress.turning")
    assert np.allclose(viewer.evaluate("fieldpress.camera.eye"), eye, atol=1e-6)
    turned = np.array(viewer.evaluate("fieldpress.camera.axes[2]"))
    angle = np.degrees(np.arccos(turned @ forward))
    K = np.array(viewer.evaluate("fieldpress.hello.photos[3].K")).reshape(3, 3)
    size = np.array(viewer.evaluate("fieldpress.hello.photo_size"))
    ray = np.linalg.inv(K) @ [0.6 * size[0], 0.6 * size[1], 1]
    expected = np.degrees(np.arccos(ray[2] / np.linalg.norm(ray)))
    assert angle == pytest.approx(expected, abs=0.7)


def test_key_frames_play_and_a_picture_is_saved(viewer: Any) -> None:
    viewer.evaluate("fieldpress.goHome(); fieldpress.addKey()")
    viewer.evaluate("fieldpress.camera.orbit(0.8, 0); fieldpress.moved(); fieldpress.addKey()")
    first, last, between = viewer.evaluate(
        "[0, 1, 0.5].map((t) => ((k) => [...k.eye, ...k.axes.flat()])(fieldpress.path.at(t)))"
    )
    assert not np.allclose(first, last, atol=1e-3)
    rows = np.array(between[3:]).reshape(3, 3)
    assert np.allclose(rows @ rows.T, np.eye(3), atol=1e-6)
    saved = viewer.evaluate(
        "(() => { const text = fieldpress.path.save(), p = new Path(); p.load(text);"
        " return p.save() === text; })()"
    )
    assert saved
    settle(viewer)
    with viewer.expect_download() as download:
        viewer.keyboard.press("p")
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


def test_a_scene_of_tiles_gets_finer_while_one_looks(
    browser: Any, shell: Callable[..., Any], tmp_path: Path, serving: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(tile_viewing, "COARSE_SECONDS", 0.0)  # One tile a picture.
    monkeypatch.setattr(tile_viewing, "FINE_SECONDS", 0.0)
    told: list[int] = []  # The page may be slower than the pictures that are not whole yet.
    frame = session.Session._frame

    async def noted(self: session.Session, view: Any) -> int:
        told.append(await frame(self, view))
        return told[-1]

    monkeypatch.setattr(session.Session, "_frame", noted)
    tiles, streams = [], {}
    for number in range(3):
        model = shell(900, seed=number)
        model = replace(model, means=model.means + torch.tensor([3.0 * number, 0, 0]))
        pair = [draft(one, "balanced") for one in (model, halved(model))]
        tiles.append(Tile.of([decoded for _, decoded in pair]))
        for level, (data, _) in enumerate(pair):
            streams[number, level] = tmp_path / f"{number}-{level}"
            streams[number, level].write_bytes(data)
    path = tmp_path / "city.fpz"
    path.write_bytes(b"".join(file_blocks({"sh_degree": 3}, tiles, streams)))
    with serving(viewing.gather([str(path)])) as (server, lines):
        page = browser.new_page(viewport={"width": 820, "height": 360})
        page.goto(server.url)
        until(page, "Boolean(window.fieldpress && fieldpress.frames)")
        page.evaluate("fieldpress.act({left: {exhibit: 0, knobs: {detail: 4}}})")
        until(page, "fieldpress.stage.frame.waiting === 0 && fieldpress.stage.frame.seq > 1")
        settle(page)
        assert "finer tiles to come" not in page.locator("#hud").inner_text()
        assert max(told) > 0
        whole = codec.decode(path.read_bytes()).render(camera_of(page))[0].clamp(0, 1)
        assert float(psnr(pixels(page), whole)) >= 30
        assert "tiles at level 0\t3" in page.locator("tbody").first.inner_text()
        page.close()
    assert lines == []


# The page


def offline(browser: Any, path: Path, size: tuple[int, int]) -> Any:
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    until(page, "Boolean(window.fieldpress || window.fieldpressError)")
    assert page.evaluate("window.fieldpressError") is None
    assert [url for url in requests if not url.startswith(("file:", "blob:", "data:"))] == []
    return page


def picture_at(page: Any, camera: Cameras) -> Tensor:
    fov = 2 * float((0.5 * camera.height / camera.Ks[0, 1, 1]).atan())
    pose = camera.viewmats[0, :3].flatten().tolist()
    page.evaluate("([pose, fov]) => fieldpress.look(pose, fov)", [pose, fov])
    page.wait_for_timeout(50)
    until(page, "fieldpress.settled")
    return pixels(page)


@pytest.mark.parametrize("name", ["guitar", "fox"])
def test_the_exported_page_shows_what_we_render(
    browser: Any, data_dir: Path, tmp_path: Path, name: str
) -> None:
    paths = {
        "guitar": data_dir / "gaussians" / "guitar" / "guitar.compressed.ply",
        "fox": data_dir / "multiview" / "fox-tiny" / "point_cloud.ply",  # Degree 3.
    }
    model = models.load(paths[name])
    size = (320, 240)
    viewing.save_page(model, tmp_path / "page.html")
    page = offline(browser, tmp_path / "page.html", size)
    views = orbit_views(model, 5).resized(*size)
    for camera in (views[0:1],) if name == "guitar" else (views[0:1], views[2:3]):
        assert float(psnr(picture_at(page, camera), model.render(camera)[0])) >= 25
    page.close()


DECODE = """async text => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const found = await decodeFpz(bytes);
  return ["means", "covars", "alphas", "sh"].map((name) => Array.from(found[name]));
}"""


@pytest.fixture(scope="module")
def page_decoder(
    browser: Any, shell: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[bytes], list[np.ndarray]]]:
    """The decoder of the exported page: a file's bytes to means, covariances, alphas, SH."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    viewing.save_page(shell(), path)
    page = offline(browser, path, (160, 120))

    def decode(data: bytes) -> list[np.ndarray]:
        arrays = page.evaluate(DECODE, base64.b64encode(data).decode())
        return [np.array(array, np.float32) for array in arrays]

    yield decode
    page.close()


@pytest.mark.parametrize("name", [path.name for path in sorted(GOLDEN.glob("*.fpz"))])
def test_the_page_decodes_what_we_decode(page_decoder: Any, name: str) -> None:
    """Every golden file, of all degrees and colour transforms, but LightGaussian's."""
    data = (GOLDEN / name).read_bytes()
    if "codec" in container.read(data).header:
        pytest.skip("a VecTree file: pages carry another encode of it")
    model = codec.decode(data)
    means, covars, alphas, sh = page_decoder(data)
    assert np.array_equal(means.reshape(-1, 3), model.means.numpy())
    assert np.allclose(alphas, model.opacities.sigmoid().numpy(), atol=1e-6)
    assert np.allclose(sh, model.colors().flatten().numpy(), rtol=1e-5, atol=1e-5)
    axes = rotations(model.quats.double()) * model.scales.double().exp()[:, None]
    full = (axes @ axes.transpose(1, 2)).numpy()
    six = full[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    size = np.abs(six).max(1, keepdims=True, initial=0)
    assert (np.abs(covars.reshape(-1, 6) - six) <= 1e-5 * size).all()


def test_the_page_of_degree_four(
    browser: Any, tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny_model(n=60, sh_degree=4)
    viewing.save_page(model, tmp_path / "page.html")
    page = offline(browser, tmp_path / "page.html", (160, 120))
    camera = orbit_views(model, 3)[:1].resized(160, 120)
    assert float(psnr(picture_at(page, camera), model.render(camera)[0])) >= 30
    page.close()


def test_the_address_of_the_page_sets_the_camera(
    browser: Any, shell: Callable[..., Any], tmp_path: Path
) -> None:
    viewing.save_page(shell(), tmp_path / "page.html")
    page = offline(browser, tmp_path / "page.html", (160, 120))
    page.evaluate("fieldpress.camera.orbit(0.7, 0.2)")
    pose, mark = page.evaluate("[fieldpress.camera.pose(), fieldpress.hash()]")
    page.evaluate("mark => { location.hash = '#'; location.hash = mark; }", mark)
    page.wait_for_timeout(100)
    assert np.allclose(page.evaluate("fieldpress.camera.pose()"), pose, atol=1e-6)
    page.evaluate("location.hash = '#pose=1,2,x&fov=9'")  # Nonsense changes nothing.
    page.wait_for_timeout(50)
    assert np.allclose(page.evaluate("fieldpress.camera.pose()"), pose, atol=1e-6)
    page.close()

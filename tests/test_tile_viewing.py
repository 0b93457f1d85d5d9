"""Files of tiles in the viewer: little is read, coarse before fine, until the picture is whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fieldpress import tile_viewing, viewing
from fieldpress.gaussians import codec
from fieldpress.gaussians.draft import halved
from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.tiles import Tile, TiledFile, file_blocks, joined
from fieldpress.scenes.metrics import psnr
from fieldpress.viewer.exhibit import Exhibition
from fieldpress.viewer.messages import View, parse
from fieldpress.viewer.painter import Frame, Painter

COUNT = 5  # Tiles in a row.


@pytest.fixture(scope="module")
def city(shell: Callable[..., SplatModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shells side by side, a tile each, at two levels."""
    folder, streams, tiles = tmp_path_factory.mktemp("city"), {}, []
    for number in range(COUNT):
        model = shell(800, seed=number)
        model = replace(model, means=model.means + torch.tensor([6.0 * number, 0, 0]))
        levels = [codec.encode(m, np.zeros(len(m), np.int32), codec.Steps()) for m in (
            model, halved(model))]  # fmt: skip
        tiles.append(Tile.of([codec.decode(data) for data in levels]))
        for level, data in enumerate(levels):
            streams[number, level] = folder / f"{number}-{level}"
            streams[number, level].write_bytes(data)
    path = folder / "city.fpz"
    path.write_bytes(b"".join(file_blocks({"sh_degree": 3}, tiles, streams)))
    return path


@pytest.fixture
def show(city: Path, monkeypatch: pytest.MonkeyPatch) -> Exhibition:
    """Time is up after each tile that is decoded."""
    monkeypatch.setattr(tile_viewing, "COARSE_SECONDS", 0.0)
    monkeypatch.setattr(tile_viewing, "FINE_SECONDS", 0.0)
    return viewing.gather([str(city)])


def asked(show: Exhibition, **changes: Any) -> dict[str, Any]:
    pose = show.home.viewmats[0, :3].flatten().tolist()
    slot = {"exhibit": 0, "knobs": {"detail": 4}}
    return {
        "type": "view", "seq": 1, "pose": pose, "fov": 0.9, "size": [160, 120], "mode": "one",
        "left": slot, "right": slot, "swipe": 0.5, "error": False, "gain": 8, "time": 0,
        "background": [0, 0, 0], "moving": False, "photo": None,
    } | changes  # fmt: skip


def painted(painter: Painter, show: Exhibition, **changes: Any) -> Frame:
    view = parse(json.dumps(asked(show, **changes)), show)
    assert isinstance(view, View)
    return painter.frame(view)


def test_a_picture_gets_finer_until_it_is_that_of_all(show: Exhibition, city: Path) -> None:
    painter = Painter(show)
    frames = [painted(painter, show)]
    while frames[-1].waiting:
        frames.append(painted(painter, show))
        assert frames[-1].waiting < frames[-2].waiting
    file = TiledFile.open(city)
    assert file is not None
    view = parse(json.dumps(asked(show)), show)
    assert isinstance(view, View)
    whole = joined(list(file.finest())).render(painter.camera(view))[0].clamp(0, 1)
    scores = [float(psnr(f.parts[0].pixels.float() / 255, whole)) for f in frames]
    assert scores[0] < scores[-1] - 10
    assert scores[-1] > 50
    assert frames[-1].facts["left"]["tiles at level 0"] == COUNT
    assert frames[-1].facts["left"]["Gaussians"] == file.count


def test_only_what_is_seen_is_read(show: Exhibition, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[tuple[int, int]] = []
    read = TiledFile.read
    monkeypatch.setattr(TiledFile, "read", lambda self, *key: reads.append(key) or read(self, *key))
    painter = Painter(show)
    pose = [0, 0, 1, 0, 0, 1, 0, 0, -1, 0, 0, 0.2]  # At the first tile, looking away from others.
    frames = [painted(painter, show, pose=pose, moving=m) for m in (True, False, False, False)]
    assert frames[-1].waiting == 0
    assert set(reads) == {(0, 1), (0, 0)}
    reads.clear()
    painted(painter, show, pose=pose)
    assert reads == []


def test_a_moving_camera_waits_for_no_fine_tile(show: Exhibition) -> None:
    painter = Painter(show)
    frames = []
    for step in range(3 * COUNT):
        pose = show.home.viewmats[0, :3].flatten().tolist()
        pose[11] += 0.01 * step
        frames.append(painted(painter, show, pose=pose, moving=True))
    assert frames[-1].facts["left"]["tiles at level 0"] == 0
    assert frames[-1].facts["left"]["tiles at level 1"] == COUNT


def test_a_saved_picture_and_a_click_need_no_waiting(show: Exhibition) -> None:
    painter = Painter(show)
    view = parse(json.dumps(asked(show)), show)
    assert isinstance(view, View)
    middle = (torch.tensor(show.target), view.pose)
    assert painter.place(view, "left", 0.5, 0.5) is not None, middle
    picture = painter.composed(view)
    frame = painter.frame(view)
    assert frame.waiting == 0
    assert torch.equal(picture, frame.parts[0].pixels)


def test_levels_can_be_told_apart(show: Exhibition) -> None:
    painter = Painter(show)
    tinted = {"exhibit": 0, "knobs": {"tint": 1, "detail": -6, "sh": 0}}
    frame = [painted(painter, show, left=tinted) for _ in range(2 * COUNT + 1)][-1]
    assert frame.waiting == 0
    colors = frame.parts[0].pixels.float().reshape(-1, 3)
    lit = colors[colors.sum(1) > 150].mean(0)
    assert lit[2] > lit[0] + 20  # All coarse, which are blue.


def test_the_server_sends_what_comes_unasked(show: Exhibition, serving: Any) -> None:
    from websockets.sync.client import connect

    with serving(show) as (server, lines), connect(server.url.replace("http", "ws") + "ws") as ws:
        assert json.loads(ws.recv())["type"] == "hello"
        ws.send(json.dumps(asked(show)))
        waiting = [len(show.exhibits)]
        while waiting[-1]:
            data = ws.recv(timeout=60)
            assert isinstance(data, bytes)
            size = int.from_bytes(data[:4], "little")
            header = json.loads(data[4 : 4 + size])
            assert header["seq"] == 1
            waiting.append(header["waiting"])
        assert waiting[1:] == sorted(waiting[1:], reverse=True)
        assert len(waiting) > 2
        with pytest.raises(TimeoutError):
            ws.recv(timeout=0.3)  # And no more than that.
    assert lines == []


def test_a_damaged_file_is_refused(city: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.fpz"
    data = bytearray(city.read_bytes())
    data[400] ^= 1
    bad.write_bytes(data)
    with pytest.raises(ValueError, match=r"bad.fpz"):
        viewing.gather([str(bad)])


def test_one_begins_around_the_middle(city: Path) -> None:
    file = TiledFile.open(city)
    assert file is not None
    middle = joined(list(file.finest())).means.mean(0)
    found = viewing.gather([str(city)])
    assert float((torch.tensor(found.target) - middle).norm()) < 0.1 * found.radius

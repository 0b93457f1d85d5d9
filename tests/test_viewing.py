"""Splats as exhibits: what the knobs do, where files are cut, the verb; pages."""

from __future__ import annotations

import base64
import json
import math
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldpress import viewing
from fieldpress.__main__ import main
from fieldpress.gaussians import codec
from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.tiles import Tile, file_blocks
from fieldpress.press import orbit_views
from fieldpress.quant import container
from fieldpress.render.splat import RasterOptions
from fieldpress.scenes.cameras import Scene
from fieldpress.scenes.metrics import psnr
from fieldpress.sources import Source
from fieldpress.viewer.exhibit import Shown
from fieldpress.viewer.messages import parse
from fieldpress.viewer.painter import Painter

BLACK = (0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def coded(shell: Callable[..., SplatModel]) -> viewing.Splats:
    model = shell()
    data = codec.encode(model, np.zeros(len(model), np.int32), codec.Steps())
    return viewing.Splats(Source(codec.decode(data), len(data), data), "shell.fpz")


def shown(splats: viewing.Splats, **values: float) -> Shown:
    defaults = {knob.name: knob.value for knob in splats.exhibit().knobs}
    return splats.show(defaults | values, BLACK)


def test_the_knobs_begin_where_nothing_is_changed(coded):
    camera = orbit_views(coded.model, 3)[:1]
    found = shown(coded)
    assert torch.equal(found.render(camera), coded.model.render(camera))
    assert found.facts["Gaussians"] == len(coded.model)
    assert [knob.name for knob in coded.exhibit().knobs] == ["prefix", "prune", "sh", "points"]


def test_every_cut_is_a_prefix_that_shows_more(coded):
    data = coded._data
    cuts = viewing.cuts(data, "shell")
    assert cuts[-1].size == len(data)
    assert [cut.size for cut in cuts] == sorted({cut.size for cut in cuts})
    camera = orbit_views(coded.model, 3)[:1]
    whole = coded.model.render(camera)
    scores = [float(psnr(shown(coded, prefix=i).render(camera), whole)) for i in range(len(cuts))]
    assert scores == sorted(scores)
    assert scores[-1] == 100
    assert shown(coded, prefix=0).facts["bytes"] == cuts[0].size


def test_pruning_keeps_what_matters_most(coded):
    camera = orbit_views(coded.model, 3)[:1]
    whole = coded.model.render(camera)
    found = shown(coded, prune=0.3)
    assert found.facts["Gaussians"] == round(0.7 * len(coded.model))
    random = coded.model[torch.randperm(len(coded.model))[: round(0.7 * len(coded.model))]]
    assert float(psnr(found.render(camera), whole)) > float(psnr(random.render(camera), whole)) + 3


def test_sh_degree_background_and_points(coded):
    camera = orbit_views(coded.model, 3)[:1]
    flat = coded.model.render(camera, RasterOptions(sh_degree=0))
    assert torch.equal(shown(coded, sh=0).render(camera), flat)
    defaults = {knob.name: knob.value for knob in coded.exhibit().knobs}
    white = coded.show(defaults, (1.0, 1.0, 1.0)).render(camera)
    assert float(white[0, 0, 0].min()) == 1
    lit = [
        float((shown(coded, points=p).render(camera).sum(-1) > 0.02).float().mean()) for p in (1, 3)
    ]
    assert 0 < lit[0] < lit[1] < 1


def test_a_place_is_found_where_it_is_seen(coded):
    show = viewing.exhibition([coded], "shell", None)
    painter = Painter(show)
    pose = show.home.viewmats[0, :3].flatten().tolist()
    asked = {
        "type": "place", "seq": 0, "pose": pose, "fov": 0.9, "size": [160, 120], "mode": "one",
        "left": {"exhibit": 0}, "right": {"exhibit": 0}, "swipe": 0, "gain": 1, "time": 0,
        "background": [0, 0, 0], "side": "left", "at": [0.5, 0.5],
    }  # fmt: skip

    def place(at):
        wish = parse(json.dumps(asked | {"at": at}), show)
        return painter.place(wish.view, wish.side, wish.x, wish.y)

    for at in ([0.5, 0.5], [0.4, 0.55]):
        found = torch.tensor(place(at))
        assert float(found.norm()) < 1.1  # Of the shell, which one sees through in places,
        seen = show.home.viewmats[0, :3, :3] @ found + show.home.viewmats[0, :3, 3]
        focal = 60 / math.tan(0.45)
        pixel = seen[:2] / seen[2] * focal + torch.tensor([80.0, 60.0])
        assert pixel.tolist() == pytest.approx([160 * at[0], 120 * at[1]], abs=0.01)
        assert float(seen[2]) < float(show.home.positions.norm())  # on the near side.
    assert place([0.0, 0.0]) is None


def test_a_model_without_a_file_of_ours_has_no_prefix(tiny_model):
    splats = viewing.Splats(Source(tiny_model(sh_degree=0), None), "a.ply")
    assert [knob.name for knob in splats.exhibit().knobs] == ["prune", "points"]
    assert shown(splats).facts == {"Gaussians": 200, "SH degree": 0}


def test_files_of_one_name_are_told_apart_by_their_folders(splat_ply, shell):
    paths = [str(splat_ply(shell(n=100))) for _ in range(2)]
    show = viewing.gather(paths)
    assert [one.name for one in show.exhibits] == [
        f"{Path(p).parent.name}/scene.ply" for p in paths
    ]
    assert viewing.gather(paths[:1]).exhibits[0].name == "scene.ply"


def test_an_empty_model_is_refused(tiny_model):
    with pytest.raises(ValueError, match="none of its 0 Gaussians"):
        viewing.Splats(Source(tiny_model(n=0), None), "a.ply")


def test_photographs_come_in_the_order_of_their_names(shell):
    model = shell()
    views = orbit_views(model, 4).resized(40, 30)
    images = torch.arange(4.0)[:, None, None, None].expand(4, 30, 40, 3) / 4
    scene = Scene(
        "s", views[[1, 3]], views[[0, 2]], images[[1, 3]], images[[0, 2]],
        train_names=("b", "d"), test_names=("a", "c"),
    )  # fmt: skip
    show = viewing.exhibition([viewing.Splats(Source(model, 1), "m.ply")], "m", scene)
    assert show.photos is not None
    assert show.photos.names == ("a (test)", "b", "c (test)", "d")
    assert [float(show.photos.load(i).mean()) for i in range(4)] == [0, 0.25, 0.5, 0.75]
    assert torch.equal(show.photos.cameras.viewmats, views.viewmats)
    no_photos = replace(scene, train_images=None, test_images=None)
    splats = viewing.Splats(Source(model, 1), "m.ply")
    assert viewing.exhibition([splats], "m", no_photos).photos is None


# The verb


def test_view_says_where_it_is_and_ends_on_a_signal(splat_ply, shell):
    pytest.importorskip("websockets", reason="the viewer's extra is not installed")
    path = splat_ply(shell())
    command = [sys.executable, "-m", "fieldpress", "view", str(path), "--port", "0", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        url = json.loads(run.stdout.readline())["url"]
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert b"scene.ply" in answer.read()
        run.send_signal(signal.SIGINT)
        errors = run.communicate(timeout=20)[1]
    assert run.returncode == 0
    assert "Traceback" not in errors


# The page


def test_a_page_is_whole_and_loads_nothing(shell, tmp_path):
    path = tmp_path / "a <b>.html"
    assert viewing.save_page(shell(), path) == path.stat().st_size
    text = path.read_text()
    assert "a &lt;b&gt;" in text
    assert "http://" not in text
    assert "https://" not in text
    with pytest.raises(ValueError, match="none of its 0 Gaussians"):
        viewing.save_page(shell()[:0], tmp_path / "empty.html")
    assert [p.name for p in tmp_path.iterdir()] == ["a <b>.html"]


def carried(page: Path) -> bytes:
    """The file that a page carries."""
    text = page.read_text()
    start = text.index('id="data">') + len('id="data">')
    return base64.b64decode(text[start : text.index("</script>", start)])


def test_the_page_carries_the_file_itself(coded, tmp_path, capsys):
    source, page = tmp_path / "shell.fpz", tmp_path / "shell.html"
    source.write_bytes(coded._data)
    assert main(["decompress", str(source), "-o", str(page), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output_bytes"] == page.stat().st_size
    assert carried(page) == coded._data


def test_a_page_of_tiles_carries_one_file_that_it_reads(coded, tmp_path):
    source, page, part = (tmp_path / name for name in ("city.fpz", "city.html", "part.fpz"))
    part.write_bytes(coded._data)
    tile = Tile.of([codec.decode(coded._data)])
    source.write_bytes(b"".join(file_blocks({}, [tile, tile], {(0, 0): part, (1, 0): part})))
    assert main(["decompress", str(source), "-o", str(page)]) == 0
    assert container.read(carried(page)).header["kind"] == "gaussians"
    assert len(codec.decode(carried(page))) == 2 * len(coded.model)


def test_pages_follow_patterns_and_take_no_options_of_formats(coded, tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / f"{name}.fpz").write_bytes(coded._data)
    assert main(["convert", str(tmp_path / "*.fpz"), str(tmp_path / "{stem}.html")]) == 0
    assert carried(tmp_path / "b.html") == coded._data
    args = ["convert", str(tmp_path / "a.fpz"), str(tmp_path / "c.html"), "--sh-bits", "4"]
    assert main(args) == 2
    assert "a page takes no options" in capsys.readouterr().err


def test_a_page_of_another_format_carries_a_fine_encode(shell, splat_ply, tmp_path):
    page, model = tmp_path / "shell.html", shell()
    assert main(["convert", str(splat_ply(model)), str(page)]) == 0
    camera = orbit_views(model, 3)[:1]
    found = codec.decode(carried(page))
    assert float(psnr(found.render(camera), model.render(camera))) > 45

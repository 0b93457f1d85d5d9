"""`convert` and `decompress` to today's other formats: what they write, and when they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fieldpress import models
from fieldpress.__main__ import main
from fieldpress.gaussians.sog_write import FILES

pytest.importorskip("PIL.Image", reason="SOG needs Pillow")


@pytest.fixture
def scene(splat_ply, tiny_model) -> str:
    return str(splat_ply(tiny_model(90, 2)))


def converted(source: str, output: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict:
    assert main(["convert", source, str(output), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["a.compressed.ply", "a.sog", "new/meta.json"])
def test_convert_and_back(scene, tmp_path, capsys, name):
    output = tmp_path / name
    report = converted(scene, output, capsys)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert report["output_bytes"] == sum(file.stat().st_size for file in files)
    assert (report["count_in"], report["count_out"]) == (90, 90)
    back = converted(str(output), tmp_path / "back.ply", capsys)
    assert back["input_bytes"] == report["output_bytes"]
    assert models.load(tmp_path / "back.ply").sh_degree == 2


def test_a_sog_folder_is_replaced_only_when_told(scene, tmp_path, capsys):
    folder = tmp_path / "scene"
    folder.mkdir()
    output = folder / "meta.json"
    converted(scene, output, capsys)  # An empty folder is no output yet.
    (folder / "meta.json").unlink()
    assert main(["convert", scene, str(output)]) == 1  # The textures would go.
    assert "means_l.webp: exists already; --overwrite" in capsys.readouterr().err
    converted(scene, output, capsys, "--overwrite")
    assert {file.name for file in folder.iterdir()} == {*FILES}
    assert main(["convert", scene, str(tmp_path / "no" / "such" / "meta.json")]) == 1
    assert "no such folder" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["scene"]


def test_what_a_format_cannot_hold(splat_ply, tiny_model, tmp_path, capsys):
    """Degree 4 goes down to what there is room for, and that is said."""
    source = str(splat_ply(tiny_model(5, 4)))
    for name in ("a.sog", "a.compressed.ply", "new/meta.json"):
        report = converted(source, tmp_path / name, capsys)
        assert (report["sh_degree_in"], report["sh_degree"]) == (4, 3)
        assert models.load(tmp_path / name).sh_degree == 3
        assert main(["convert", source, str(tmp_path / name), "--overwrite"]) == 0
        assert "cannot hold SH above degree 3: left out" in capsys.readouterr().err

"""Loading by content, saving whole or not at all, and one line for everything that goes wrong."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys

import numpy as np
import pytest
import torch

import fieldpress
from fieldpress import models
from fieldpress.gaussians import sog_write
from fieldpress.gaussians.compressed_ply_write import write_compressed
from fieldpress.gaussians.ply import write_ply
from fieldpress.gaussians.spz import write_spz


def assert_same(got, expected) -> None:
    for name, value in expected.tensors().items():
        assert torch.equal(got.tensors()[name], value), name


def test_saved_ply_loads(tiny_model, tmp_path):
    path = tmp_path / "scene.PLY"
    models.save(tiny_model(), path)
    assert_same(models.load(path), tiny_model())
    assert_same(fieldpress.load(str(path)), tiny_model())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.compressed.ply", "a.COMPRESSED.PLY", "a.sog"])
def test_saved_peers_load_and_are_what_their_extension_says(tiny_model, tmp_path, name):
    path = tmp_path / name
    size = models.save(tiny_model(), path)
    assert [(file, file.stat().st_size) for file in tmp_path.iterdir()] == [(path, size)]
    model = models.load(path)
    kind = "sog v2" if name.endswith("sog") else "compressed ply"
    assert (len(model), model.sh_degree, model.extra["source_format"]) == (200, 3, kind)


def test_saved_sog_folder_is_the_bundle(tiny_model, tmp_path):
    folder, bundle = tmp_path / "made", tmp_path / "a.sog"
    size = models.save(tiny_model(), folder / "meta.json")
    assert {file.name for file in folder.iterdir()} == set(sog_write.FILES)
    assert size == sum(file.stat().st_size for file in folder.iterdir())
    models.save(tiny_model(), bundle)
    for source in (folder, folder / "meta.json"):
        assert_same(models.load(source), models.load(bundle))
    (folder / "notes.txt").write_text("mine")
    models.save(tiny_model(9, 0), folder / "meta.json")  # Has no shN textures.
    names = {name for name in sog_write.FILES if not name.startswith("shN")}
    assert {file.name for file in folder.iterdir()} == names | {"notes.txt"}
    assert len(models.load(folder)) == 9


@pytest.mark.parametrize("moves", range(17))
def test_sog_folder_is_replaced_whole_or_not_at_all(tiny_model, tmp_path, monkeypatch, moves):
    """Whichever move of a file is interrupted, the folder is the old one, or the new one."""
    folder, done, move = tmp_path / "scene", [], os.replace
    models.save(tiny_model(30, 1), folder / "meta.json")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def interrupted(source, target):
        done.append(target)
        if len(done) == moves:
            raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    if 1 <= moves <= 15:  # Eight files out of the way, six in their place, and that is it.
        with pytest.raises(KeyboardInterrupt):
            models.save(tiny_model(5, 0), folder / "meta.json")
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    else:
        models.save(tiny_model(5, 0), folder / "meta.json")
        assert (len(done), len(models.load(folder))) == (15, 5)
    done.clear()
    with contextlib.suppress(KeyboardInterrupt):
        models.save(tiny_model(5, 0), tmp_path / "new" / "meta.json")
    made = tmp_path / "new"
    assert not made.exists() if 1 <= moves <= 7 else len(models.load(made)) == 5


def test_sog_folder_that_cannot_be(tiny_model, tmp_path):
    (tmp_path / "scene" / "quats.webp").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"quats\.webp: cannot write: expected a file there"):
        models.save(tiny_model(2), tmp_path / "scene" / "meta.json")
    with pytest.raises(ValueError, match="cannot write: No such file or directory"):
        models.save(tiny_model(2), tmp_path / "none" / "scene" / "meta.json")
    with pytest.raises(ValueError, match=r"meta\.json: SOG count: expected 1 to 268304400, got 0"):
        models.save(tiny_model(0), tmp_path / "new" / "meta.json")
    assert [file.name for file in tmp_path.iterdir()] == ["scene"]


def test_saved_spz_loads(tiny_model, tmp_path):
    path = tmp_path / "scene.spz"
    for frame in ("rub", "rdf"):
        models.save(tiny_model(), path, frame=frame)
        model = models.load(path, frame=frame)
        assert (model.means - tiny_model().means).abs().max() <= 2**-13
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["scene.ply", "scene.spz", "scene", "scene.bin"])
@pytest.mark.parametrize("write", [write_ply, write_spz, write_compressed])
def test_content_decides_before_the_extension(tiny_model, tmp_path, name, write):
    path = tmp_path / name
    path.write_bytes(write(tiny_model(3)))
    assert len(models.load(path)) == 3


@pytest.mark.parametrize("write", [write_ply, write_spz])
def test_dash_is_stdin(tiny_model, monkeypatch, write):
    class Stdin:
        buffer = io.BytesIO(write(tiny_model(4)))

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert len(models.load("-")) == 4
    with pytest.raises(ValueError, match=r"^stdin: unknown kind of model; expected one of \.ply"):
        models.load("-")


def test_press_file_loads_and_its_cuts_are_named(tiny_model, tmp_path):
    from fieldpress.gaussians.codec import Steps, encode

    path = tmp_path / "scene.fpz"
    data = encode(tiny_model(50), np.zeros(50, np.int32), Steps())
    path.write_bytes(data)
    assert len(models.load(path)) == len(models.load_bytes(data, "x")) == 50
    path.write_bytes(data[:-9])
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: [^\\n]*$"):
        models.load(path)


def test_training_folder(tiny_model, tmp_path):
    for n, iteration in ((3, 7000), (4, 30000)):
        folder = tmp_path / f"point_cloud/iteration_{iteration}"
        folder.mkdir(parents=True)
        models.save(tiny_model(n), folder / "point_cloud.ply")
    assert len(models.load(tmp_path)) == 4
    with pytest.raises(ValueError, match=r"expected a folder with meta\.json, lod-meta\.json or"):
        models.load(tmp_path / "point_cloud")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"hello", "unknown kind of model; expected one of .ply, .compressed.ply, .spz"),
        ("a.spz", b"hello", "not a .spz file: it begins with b'hell'"),
        ("a.fpz", b"hello", "not a .fpz file: it begins with b'hell'"),
        ("a.sog", b"PK\3\4", "SOG archive not readable"),
        ("a.ply", b"", "not a .ply file: it begins with b''"),
        ("a.ply", b"ply\n", "PLY header has no end_header line"),
        ("a.json", b"{", "SOG meta.json is not JSON"),
    ],
)
def test_one_line_for_what_cannot_be_read(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=f"^{re.escape(str(path))}: {re.escape(message)}"
    ) as caught:
        models.load(path)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    for read in (models.load, models.read_bytes):
        with pytest.raises(FileNotFoundError) as caught:
            read(tmp_path / "no.ply")
        assert str(caught.value) == f"{tmp_path / 'no.ply'}: no such file"
    with pytest.raises(ValueError, match="not readable"):
        models.read_bytes(tmp_path)


@pytest.mark.parametrize("name", ["a.obj", "lod-meta.json", "a", "a.fpz"])
def test_unknown_output(tiny_model, tmp_path, name):
    with pytest.raises(ValueError, match=r"cannot write this kind of file; expected one of \.ply"):
        models.save(tiny_model(2), tmp_path / name)


def test_failure_leaves_the_old_file(tiny_model, tmp_path):
    path = tmp_path / "scene.ply"
    path.write_bytes(b"precious")

    def blocks(error: BaseException):
        yield b"some"
        raise error

    for error in (RuntimeError(), KeyboardInterrupt(), OSError(28, "No space left on device")):
        expected = ValueError if isinstance(error, OSError) else type(error)
        with pytest.raises(expected):
            models.write_atomic(path, blocks(error))
        assert path.read_bytes() == b"precious"
        assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="cannot write: No such file or directory"):
        models.save(tiny_model(1), tmp_path / "none" / "scene.ply")
    bad = tiny_model(2)
    bad.means[0] = torch.nan
    with pytest.raises(ValueError, match=r"bad\.spz: SPZ means: expected finite values"):
        models.save(bad, tmp_path / "bad.spz")
    assert list(tmp_path.iterdir()) == [path]


def test_saved_mode_is_that_of_a_plain_file(tiny_model, tmp_path):
    models.save(tiny_model(1), tmp_path / "a.ply")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a.ply").stat().st_mode == (tmp_path / "b").stat().st_mode

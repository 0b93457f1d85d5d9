"""`convert` between all formats: frames, streams, patterns, URLs, and what was clamped."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import torch

from fieldpress import models
from fieldpress.__main__ import main
from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.unpack import FRAMES, flip_axes, frame_signs

SUFFIXES = (
    *("ply", "compressed.ply", "spz", "sog", "splat", "ksplat", "glb", "gltf", "safetensors"),
    "folder/meta.json",
)


@pytest.fixture
def scene(splat_ply, tiny_model) -> str:
    return str(splat_ply(tiny_model(60, 2)))


def report(capsys: pytest.CaptureFixture[str], *args: object) -> dict:
    assert main(["convert", *map(str, args), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_there_and_back(scene, tiny_model, tmp_path, capsys, suffix):
    if "sog" in suffix or "meta" in suffix:
        pytest.importorskip("PIL.Image", reason="SOG needs Pillow")
    there = report(
        capsys, scene, tmp_path / f"a.{suffix}" if "/" not in suffix else tmp_path / suffix
    )
    back = report(capsys, there["output"], tmp_path / "back.ply")
    assert there["output_bytes"] == back["input_bytes"]
    assert (there["count_in"], there["count_out"], back["count_out"]) == (60, 60, 60)
    assert there["sh_degree_in"] == 2
    assert there["sh_degree"] == back["sh_degree"] == (0 if suffix == "splat" else 2)
    got, model = models.load(tmp_path / "back.ply"), tiny_model(60, 2)
    far = torch.cdist(got.means, model.means).min(1).values.max()
    assert far < 2e-3
    assert got.means.mean(0).sub(model.means.mean(0)).abs().max() < 1e-3


@pytest.mark.parametrize("suffix", ["ply", "spz", "glb", "splat"])
@pytest.mark.parametrize("frame", ["rdf", "rub", "luf", "ldb"])
def test_frames_turn_both_ways(scene, tiny_model, tmp_path, capsys, suffix, frame):
    """Written in a frame and read as of it, all is as it was; as of another, mirrored."""
    path = tmp_path / f"a.{suffix}"
    assert report(capsys, scene, path, "--frame", frame)["frame"] == frame
    same = models.load(path, frame=frame)
    order = same.means[:, 0].argsort()
    expected = tiny_model(60, 2).means
    expected = expected[expected[:, 0].argsort()]
    assert (same.means[order] - expected).abs().max() < 1e-3
    signs = torch.tensor(frame_signs(frame)) * torch.tensor(frame_signs("ruf"))
    other = models.load(path, frame="ruf")
    assert torch.equal(other.means, same.means * signs)
    if suffix == "spz":  # Its files say what they are in.
        assert torch.equal(models.load(path).means, same.means)
    back = report(capsys, path, tmp_path / "b.safetensors", "--input-frame", frame)
    assert back["input_frame"] == frame


@pytest.mark.parametrize("frame", FRAMES)
def test_every_frame_is_its_own_inverse(tiny_model, frame):
    model = tiny_model(9, 4)
    signs = frame_signs(frame)
    twice = flip_axes(flip_axes(model, signs), signs)
    for name, value in model.tensors().items():
        assert torch.equal(twice.tensors()[name], value), name


def test_what_was_clamped_is_said(tiny_model, splat_ply, tmp_path, capsys):
    model = tiny_model(30, 3)
    model.means[3] = 3e7  # Beyond all 24 bits of SPZ.
    model.scales[0, 1] = 9
    model.opacities[1] = 100
    model.sh0[2, 0] = 40
    model.scales[5] = float("nan")
    source = splat_ply(model)
    found = report(capsys, source, tmp_path / "a.spz")
    assert found["removed"] == {"non_finite": 1}
    assert found["clamped"] == {"means": 3, "scales": 1, "opacities": 1, "sh0": 3}
    assert found["count_out"] == 29
    got = models.load(tmp_path / "a.spz")
    assert len(got) == 29
    assert got.means[3].tolist() == [2**23 - 1] * 3  # Clamped, not wrapped around.
    assert main(["convert", str(source), str(tmp_path / "b.splat")]) == 0
    said = capsys.readouterr().err
    assert ".splat cannot hold 1 Gaussians (non finite), SH above degree 0: left out" in said
    assert "values of sh0" in said
    exact = report(capsys, source, tmp_path / "c.safetensors")  # Holds all there is.
    assert (exact["removed"], exact["clamped"], exact["count_out"]) == ({}, {}, 30)
    assert models.load(tmp_path / "c.safetensors").scales[5].isnan().all()


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes, *args: str) -> bytes:
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    monkeypatch.setattr(sys, "__stdout__", io.TextIOWrapper(out, write_through=True))
    assert main(["convert", "-", "-", *args]) == 0
    return out.getvalue()


def test_streams(scene, tiny_model, monkeypatch, capsys):
    data = piped(monkeypatch, Path(scene).read_bytes(), "--to", "splat")
    assert len(data) == 60 * 32
    again = piped(monkeypatch, data, "--from", "splat", "--to", "safetensors")
    assert len(models.load_bytes(again, "stdin")) == 60  # Known by itself.
    assert piped(monkeypatch, again).startswith(b"ply\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert main(["convert", "-", "-", "--to", "ply"]) == 1
    assert "stdin: unknown kind of model" in capsys.readouterr().err


def test_patterns_make_many_files(splat_ply, tiny_model, tmp_path, capsys):
    for name in ("one", "two"):
        models.save(tiny_model(20, 1), tmp_path / f"{name}.compressed.ply")
    (tmp_path / "three.ply").write_bytes(b"ply\nbroken")
    out = tmp_path / "out"
    out.mkdir()
    args = ["convert", str(tmp_path / "*.ply"), str(out / "{stem}.spz"), "--json"]
    assert main(args) == 1  # One of three is broken; the others are made.
    found = json.loads(capsys.readouterr().out)
    assert (found["converted"], found["failed"]) == (2, 1)
    assert sorted(path.name for path in out.iterdir()) == ["one.spz", "two.spz"]
    assert "three.ply" in next(f["error"] for f in found["files"] if "error" in f)
    (tmp_path / "three.ply").unlink()
    assert main(args) == 1  # They exist by now.
    capsys.readouterr()
    assert main([*args, "--overwrite"]) == 0
    assert main(["convert", str(tmp_path / "*.ply"), str(out / "a.spz")]) == 2
    assert "2 files would become 1: use {stem}" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "*.xyz"), str(out / "{stem}.spz")]) == 1
    assert "no file matches" in capsys.readouterr().err


def test_urls(scene, tmp_path, capsys):
    fsspec = pytest.importorskip("fsspec", reason="URLs need fsspec")
    pytest.importorskip("PIL.Image", reason="SOG needs Pillow")
    url = "memory://fieldpress/a.spz"
    assert report(capsys, scene, url)["output"] == url
    assert fsspec.filesystem("memory").exists("/fieldpress/a.spz")
    assert main(["convert", scene, url]) == 1
    assert "exists already; --overwrite" in capsys.readouterr().err
    report(capsys, scene, "memory://fieldpress/folder/meta.json")
    for source in (url, "memory://fieldpress/folder/meta.json"):
        assert report(capsys, source, tmp_path / "b.ply", "--overwrite")["count_out"] == 60
    found = report(capsys, "memory://fieldpress/*.spz", tmp_path / "{stem}.glb")
    assert (tmp_path / "a.glb").exists()
    assert found["converted"] == 1
    assert main(["convert", "memory://fieldpress/none.ply", str(tmp_path / "c.ply")]) == 1
    assert "memory://fieldpress/none.ply: no such file" in capsys.readouterr().err
    assert main(["convert", "nosuch://a/b.ply", str(tmp_path / "c.ply")]) == 1
    assert "nosuch://a/b.ply: " in capsys.readouterr().err


def test_options_of_writers(scene, tmp_path, capsys):
    sizes = {
        bits: report(capsys, scene, tmp_path / f"{bits}.spz", "--sh-bits", bits)["output_bytes"]
        for bits in (2, 5, 8)
    }
    assert sizes[2] < sizes[5] < sizes[8]
    report(capsys, scene, tmp_path / "v4.spz", "--spz-version", "4")
    assert (tmp_path / "v4.spz").read_bytes().startswith(b"NGSP")
    for level in "012":
        report(capsys, scene, tmp_path / f"{level}.ksplat", "--ksplat-level", level)
        kind = models.load(tmp_path / f"{level}.ksplat").extra["source_format"]
        assert kind == f"ksplat level {level}"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["a.sog", "--sh-bits", "3"], "a.sog: .sog has no sh bits"),
        (["a.ply", "--optimize"], "optimize: expected one of sog, meta.json, spz, got ply"),
        (["a.sog", "--optimize", "--sh-bits", "3"], "--optimize: chooses the writer's options"),
        (["a.sog", "--target-mb", "3"], "--target-mb: expected"),
        (["a.fpz"], "fieldpress compress is the verb that writes .fpz"),
        (["a.xyz"], "cannot write this kind of file"),
        (["a.ply", "--to", "docx"], "format: expected one of ply"),
        (["a.ply", "--to", "meta.json"], "need a name that ends in meta.json"),
    ],
)
def test_what_makes_no_sense(scene, tmp_path, capsys, args, message):
    assert main(["convert", scene, str(tmp_path / args[0]), *args[1:]]) in (1, 2)
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_optimised_from_the_command_line(splat_ply, shell, tmp_path, capsys):
    pytest.importorskip("PIL.Image", reason="SOG needs Pillow")
    scene = splat_ply(shell(300))
    found = report(capsys, scene, tmp_path / "a.spz", "--optimize", "--target-mb", "0.006")
    assert found["output_bytes"] <= 6000
    assert (tmp_path / "a.spz").stat().st_size == found["output_bytes"]
    assert found["psnr_self"] > 25


def test_every_format_has_limits_and_reads_what_it_writes(tiny_model):
    for found in models.FORMATS:
        if found.writer is None:
            continue
        limits = found.limits()
        assert 0 <= limits.sh_degree <= 4
        assert all(low < high for low, high in limits.ranges.values())
        assert set(limits.ranges) <= set(SplatModel.__dataclass_fields__)

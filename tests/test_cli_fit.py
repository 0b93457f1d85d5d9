"""`fieldpress fit gaussians`: the report, both outputs, and one line for whatever is wrong."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fieldpress import fitting, models
from fieldpress.__main__ import main
from fieldpress.scenes.cameras import Scene
from fieldpress.scenes.orbit import orbit
from fieldpress.scenes.synthetic import save_capture

QUICK = ["--steps", "20", "--budget", "100", "--sh-degree", "1"]


@pytest.fixture(scope="module")
def capture(tiny_model, tmp_path_factory) -> Path:
    """A folder of eight small photographs with poses, and no points."""
    truth = tiny_model(80, sh_degree=1)
    cameras = orbit([0.0, 0.0, 0.0], 3.0, 9, width=40, height=30, up=[0.0, 1.0, 0.0])
    images = truth.render(cameras).clamp(0, 1)
    test = [i for i in range(9) if i % 8 == 0]
    train = [i for i in range(9) if i % 8]
    folder = tmp_path_factory.mktemp("capture")
    save_capture(Scene("known", cameras[train], cameras[test], images[train], images[test]), folder)
    return folder


def run(*argv: object) -> int:
    return main([str(a) for a in argv])


def failure(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The one line of a command that fails, without the word error."""
    assert run(*argv) == 1
    lines = [x for x in capsys.readouterr().err.splitlines() if "error:" in x]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("suffix", ["ply", "fpz"])
def test_a_fit_is_written_and_measured(capture, tmp_path, capsys, suffix, monkeypatch):
    kept = []
    save = fitting.save_checkpoint
    monkeypatch.setattr("fieldpress.gaussians.fit.KEEP_SECONDS", 0.0)
    monkeypatch.setattr(fitting, "save_checkpoint", lambda *a: (kept.append(a[0]), save(*a)))
    output = tmp_path / f"out.{suffix}"
    assert run("fit", "gaussians", capture, "-o", output, *QUICK, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["output_bytes"] == output.stat().st_size
    assert report["count_out"] == len(models.load(output)) <= 100
    assert report["render_size"] == [40, 30]
    assert report["views"] == 2
    assert report["train_views"] == 7
    assert report["psnr"] > 5
    assert report["steps"] == 20
    assert kept == [Path(f"{output}.checkpoint")]  # There was one, and it is gone.
    assert [p.name for p in tmp_path.iterdir()] == [output.name]


def test_resume_wants_its_checkpoint(capture, tmp_path, capsys):
    line = failure(
        capsys, "fit", "gaussians", capture, "-o", tmp_path / "x.ply", *QUICK, "--resume"
    )
    assert "x.ply.checkpoint: no such checkpoint" in line
    assert not list(tmp_path.iterdir())


def test_another_kind_of_output_is_refused_before_the_work(capture, tmp_path, capsys):
    line = failure(capsys, "fit", "gaussians", capture, "-o", tmp_path / "x.spz", *QUICK)
    assert "x.spz: expected a name ending in .fpz or .ply" in line


def test_a_bad_number_is_misuse(capture, tmp_path):
    assert run("fit", "gaussians", capture, "-o", tmp_path / "x.ply", "--budget", "0") == 2


def spoiled(capture: Path, tmp_path: Path) -> Path:
    """A copy of the capture to break."""
    folder = tmp_path / "broken"
    (folder / "images").mkdir(parents=True)
    for file in capture.rglob("*"):
        if file.is_file():
            (folder / file.relative_to(capture)).write_bytes(file.read_bytes())
    return folder


def test_a_bad_camera_file(capture, tmp_path, capsys):
    folder = spoiled(capture, tmp_path)
    (folder / "transforms.json").write_text('{"frames": [')
    line = failure(capsys, "fit", "gaussians", folder, "-o", tmp_path / "x.ply", *QUICK)
    assert "transforms.json" in line


def test_no_image_where_all_are_missing(capture, tmp_path, capsys):
    folder = spoiled(capture, tmp_path)
    for file in (folder / "images").iterdir():
        file.unlink()
    line = failure(capsys, "fit", "gaussians", folder, "-o", tmp_path / "x.ply", *QUICK)
    assert str(folder) in line


def test_images_of_different_size(capture, tmp_path, capsys):
    folder = spoiled(capture, tmp_path)
    Image.fromarray(np.zeros((10, 12, 3), np.uint8)).save(folder / "images" / "0003.png")
    line = failure(capsys, "fit", "gaussians", folder, "-o", tmp_path / "x.ply", *QUICK)
    assert "12x10" in line.replace(" x ", "x")


def test_a_colmap_model_without_points(capture, tmp_path, capsys):
    folder = spoiled(capture, tmp_path)
    (folder / "transforms.json").unlink()
    sparse = folder / "sparse" / "0"
    sparse.mkdir(parents=True)
    (sparse / "cameras.bin").write_bytes(
        struct.pack("<Q", 1)
        + struct.pack("<IiQQ", 1, 1, 40, 30)
        + struct.pack("<4d", 40, 40, 20, 15)
    )
    records = [struct.pack("<Q", 9)]
    for i in range(9):
        pose = torch.tensor([1.0, 0, 0, 0, 0.01 * i, 0, 3]).double().tolist()
        records.append(struct.pack("<I7dI", i + 1, *pose, 1) + f"{i:04d}.png".encode() + b"\0")
        records.append(struct.pack("<Q", 0))
    (sparse / "images.bin").write_bytes(b"".join(records))
    line = failure(capsys, "fit", "gaussians", folder, "-o", tmp_path / "x.ply", *QUICK)
    assert "expected SfM points" in line
    assert not (tmp_path / "x.ply").exists()


@pytest.fixture
def splats(tiny_model, splat_ply) -> Path:
    return splat_ply(tiny_model(80, sh_degree=1), "tiny.ply")


def test_a_fine_tune_keeps_its_target(capture, splats, tmp_path, capsys):
    output = tmp_path / "x.fpz"
    argv = ("compress", splats, "-o", output, "--scene", capture, "--finetune", "40")
    assert run(*argv, "--target-mb", "0.003", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["output_bytes"] == output.stat().st_size <= 3000
    assert report["finetune_steps"] == 40
    assert report["psnr"] > 5


def test_self_distillation_needs_no_photographs(splats, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fieldpress.gaussians.finetune.VIEW_SIZE", (64, 48))
    monkeypatch.setattr("fieldpress.gaussians.compress.VIEW_SIZE", (64, 48))
    output = tmp_path / "x.fpz"
    argv = ("compress", splats, "-o", output, "--self-distil", "20", "--target-mb", "0.003")
    assert run(*argv, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["output_bytes"] <= 3000
    assert report["psnr"] is None
    assert report["psnr_self"] > 25
    assert report["psnr_train"] > 25  # Of its own renders, which it begins with.


def test_lightgaussian_is_a_method(capture, splats, tmp_path, capsys):
    output = tmp_path / "x.fpz"
    argv = ("compress", splats, "-o", output, "--method", "lightgaussian", "--scene", capture)
    assert run(*argv, "--finetune", "9", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["stages"][0]["name"] == "baseline"
    assert report["stages"][-1]["size_bytes"] == output.stat().st_size
    assert report["count_out"] < report["count_in"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--finetune", "5", "--self-distil", "5"],
        ["--finetune", "5", "--target-db", "30"],
        ["--finetune", "-1"],
        ["--method", "lightgaussian", "--self-distil", "5"],
    ],
)
def test_training_flags_that_make_no_sense(splats, tmp_path, flags):
    assert run("compress", splats, "-o", tmp_path / "x.fpz", *flags) == 2


@pytest.mark.parametrize("flags", [["--finetune", "5"], ["--method", "lightgaussian"]])
def test_training_without_photographs_is_one_line(splats, tmp_path, capsys, flags):
    line = failure(capsys, "compress", splats, "-o", tmp_path / "x.fpz", *flags)
    assert "expected training photographs" in line
    assert not list(tmp_path.iterdir())

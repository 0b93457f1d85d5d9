"""The command's contract: exit codes, one line on failure, one JSON object, whole outputs."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fieldpress import __version__, console, demo, models, press
from fieldpress.__main__ import VERBS, main
from fieldpress.gaussians import compress as pressing
from fieldpress.gaussians.model import SplatModel
from fieldpress.scenes.orbit import orbit
from fieldpress.scenes.transforms_json import write_transforms

REPORT_KEYS = {
    *("input_bytes", "output_bytes", "ratio", "count_in", "count_out", "psnr", "ssim", "lpips"),
    *("psnr_self", "ssim_self", "fps", "fps_reference", "render_size", "views", "device"),
    *("bytes_by_section", "encode_seconds", "decode_seconds", "seed", "version"),
}
FAST = ("compress", "--effort", "fast")
Model = Callable[..., SplatModel]
Ply = Callable[..., Path]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few and small views: what is tested here is the command, not the codec."""
    monkeypatch.setattr(pressing, "VIEWS", 4)
    monkeypatch.setattr(pressing, "VIEW_SIZE", (64, 48))
    monkeypatch.setattr(press, "VIEW_SIZE", (64, 48))


@pytest.fixture(scope="module")
def scene(splat_ply: Ply, tiny_model: Model) -> Path:
    return splat_ply(tiny_model(120))


@pytest.fixture(scope="module")
def pressed(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small .fpz file, made by the command."""
    path = tmp_path_factory.mktemp("fpz") / "scene.fpz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pressing, "VIEWS", 4)
        patch.setattr(pressing, "VIEW_SIZE", (64, 48))
        assert main([*FAST, str(scene), "-o", str(path), "--target-db", "35"]) == 0
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder for outputs, apart from the inputs in tmp_path."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def assert_fails_with_one_line(
    args: list[str], names: str, capsys: pytest.CaptureFixture[str]
) -> str:
    capsys.readouterr()
    assert main(args) == 1
    said = capsys.readouterr()
    assert said.out == ""
    line = said.err.removesuffix("\n")
    assert line.startswith("fieldpress: error: ")
    assert "\n" not in line
    assert names in line
    return line


def run_json(args: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*args, "--json"]) == 0
    stdout = capsys.readouterr().out
    assert stdout.count("\n") == 1
    return json.loads(stdout, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


# Bad input


def bad_scenes(ply_bytes: Callable[..., bytes], splat_ply: Ply, tiny_model: Model) -> Iterator[Any]:
    whole = splat_ply(tiny_model(50)).read_bytes()
    lost = splat_ply(replace(tiny_model(50), means=torch.full((50, 3), float("nan")))).read_bytes()
    no_rows = splat_ply(tiny_model(0)).read_bytes()
    yield "empty.ply", b""
    yield "header.ply", whole[:200]
    yield "cut.ply", whole[:-1]
    yield "half.ply", whole[: len(whole) // 2]
    yield "lost.ply", lost
    yield "no_rows.ply", no_rows
    yield "points.ply", ply_bytes({axis: np.zeros(3) for axis in "xyz"})
    yield "claims.ply", whole.replace(b"vertex 50", b"vertex 4000000000")
    yield "noise.ply", bytes(range(256)) * 4
    yield "noise.spz", b"\x1f\x8b" + bytes(range(256))
    yield "noise.sog", b"PK\x03\x04" + bytes(range(256))
    yield "noise.fpz", bytes(range(256)) * 4
    yield "scene.xyz", b"hello"


def test_bad_scenes_end_in_one_line(
    ply_bytes: Callable[..., bytes],
    splat_ply: Ply,
    tiny_model: Model,
    tmp_path: Path,
    out: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, data in bad_scenes(ply_bytes, splat_ply, tiny_model):
        path = tmp_path / name
        path.write_bytes(data)
        args = ["compress", str(path), "-o", str(out / "x.fpz")]
        if name == "lost.ply":  # What the sanitiser removed is said as well.
            assert main(args) == 1
            assert "none of its 50 Gaussians" in capsys.readouterr().err
        else:
            assert_fails_with_one_line(args, name, capsys)
        assert list(out.iterdir()) == [], name


def test_missing_files_end_in_one_line(
    scene: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone, target = str(tmp_path / "gone"), str(out / "x.fpz")
    for args in (
        ["compress", gone, "-o", target],
        ["compress", str(scene), "-o", target, "--scene", gone],
        ["decompress", gone, "-o", str(out / "x.ply")],
        ["convert", gone, str(out / "x.ply")],
        ["render", gone, "--orbit", "2", "-o", str(out / "frames")],
        ["render", str(scene), "--cameras", gone, "-o", str(out / "frames")],
        ["eval", str(scene), "--reference", gone],
        ["eval", gone],
        ["info", gone],
        ["compress", str(scene), "-o", str(tmp_path / "gone" / "x.fpz")],
    ):
        assert_fails_with_one_line(args, "gone", capsys)
    assert list(out.iterdir()) == []


def test_a_file_cut_anywhere_ends_in_one_line(
    pressed: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, path = pressed.read_bytes(), tmp_path / "cut.fpz"
    for size in np.linspace(0, len(data) - 1, 20).astype(int):
        path.write_bytes(data[:size])
        args = ["decompress", str(path), "-o", str(out / "x.ply")]
        assert_fails_with_one_line(args, "cut.fpz", capsys)
    assert list(out.iterdir()) == []


def test_a_flipped_byte_anywhere_ends_in_one_line(
    pressed: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, path = pressed.read_bytes(), tmp_path / "flipped.fpz"
    rng = np.random.default_rng(0)
    for at in np.linspace(0, len(data) - 1, 200).astype(int):
        flipped = bytearray(data)
        flipped[at] ^= int(rng.integers(1, 256))
        path.write_bytes(flipped)
        args = ["decompress", str(path), "-o", str(out / "x.ply")]
        assert_fails_with_one_line(args, "flipped.fpz", capsys)
    assert list(out.iterdir()) == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["one", "no_sh", "far", "line", "some_lost"])
def test_odd_scenes_compress(
    kind: str,
    splat_ply: Ply,
    tiny_model: Model,
    out: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = tiny_model(60)
    if kind == "far":
        model = replace(model, means=model.means + 1e6)
    elif kind == "line":
        model = replace(model, means=model.means * torch.tensor([1.0, 0, 0]))
    elif kind == "some_lost":
        model.means[:7] = float("nan")
    model = {"one": tiny_model(1), "no_sh": tiny_model(60, sh_degree=0)}.get(kind, model)
    report = run_json([*FAST, str(splat_ply(model)), "-o", str(out / "x.fpz")], capsys)
    assert report["count_in"] == len(model)
    assert 1 <= report["count_out"] <= len(model)
    assert report["sanitised"]["non_finite"] == (7 if kind == "some_lost" else 0)
    assert report["output_bytes"] == (out / "x.fpz").stat().st_size
    decoded = models.load(out / "x.fpz")
    assert len(decoded) == report["count_out"]
    assert bool(decoded.means.isfinite().all())


# Misuse


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["shrink"],
        ["compress"],
        ["compress", "a.ply"],
        ["compress", "a.ply", "-o"],
        ["compress", "a.ply", "-o", "b.fpz", "--target-mb", "3", "--target-db", "40"],
        ["compress", "a.ply", "-o", "b.fpz", "--target-mb", "3", "--preset", "small"],
        ["compress", "a.ply", "-o", "b.fpz", "--target-mb", "0"],
        ["compress", "a.ply", "-o", "b.fpz", "--target-mb", "-1"],
        ["compress", "a.ply", "-o", "b.fpz", "--target-mb", "nan"],
        ["compress", "a.ply", "-o", "b.fpz", "--target-mb", "much"],
        ["compress", "a.ply", "-o", "b.fpz", "--target-db", "-3"],
        ["compress", "a.ply", "-o", "b.fpz", "--preset", "tiny"],
        ["compress", "a.ply", "-o", "b.fpz", "--effort", "utmost"],
        ["compress", "a.ply", "-o", "b.fpz", "--finetune", "many"],
        ["fit"],
        ["fit", "gaussians"],
        ["fit", "hologram", "photos", "-o", "b.fpz"],
        ["compress", "a.ply", "-o", "-", "--json"],
        ["compress", "a.ply", "b.ply", "-o", "b.fpz"],
        ["decompress", "a.fpz"],
        ["convert", "a.ply"],
        ["convert", "a.ply", "b.fpz"],
        ["render", "a.ply", "-o", "frames"],
        ["render", "a.ply", "-o", "frames", "--orbit", "0"],
        ["render", "a.ply", "-o", "frames", "--orbit", "3", "--scene", "s"],
        ["render", "a.ply", "-o", "-", "--orbit", "3"],
        ["info"],
        ["demo", "now"],
    ],
)
def test_misuse_exits_with_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err != ""


def test_every_verb_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    flags = {
        "compress": "--target-mb --target-db --preset --effort --scene --overwrite --json "
        "--seed -o --method --finetune --self-distil --downscale",
        "decompress": "-o --overwrite --json",
        "convert": "OUT --overwrite --json",
        "fit": "gaussians",
        "bench": "-o --resume --json",
        "batch": "-o --jobs --ray --retries --timeout --layout --resume --json",
        "render": "--cameras --scene --orbit -o --overwrite --json",
        "eval": "--scene --reference -o --overwrite --json",
        "view": "--scene --host --port --token --json",
        "info": "--json",
        "demo": "-o --overwrite --json",
    }
    assert set(flags) == set(VERBS)
    for verb, names in flags.items():
        assert main([verb, "--help"]) == 0
        text = capsys.readouterr().out
        assert [name for name in names.split() if name not in text] == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fieldpress {__version__}\n"


# Reports


@pytest.mark.usefixtures("quick")
def test_compress_reports_what_it_did(
    scene: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run_json(["compress", str(scene), "-o", str(out / "x.fpz"), "--seed", "3"], capsys)
    assert set(report) >= REPORT_KEYS
    assert report["input_bytes"] == scene.stat().st_size
    assert report["output_bytes"] == (out / "x.fpz").stat().st_size
    assert report["ratio"] == pytest.approx(120 * 248 / report["output_bytes"])
    assert sum(report["bytes_by_section"].values()) == report["output_bytes"]
    assert report["psnr"] is report["ssim"] is None
    assert report["psnr_self"] > 20
    assert report["render_size"] == [64, 48]
    assert (report["seed"], report["device"], report["version"]) == (3, "cpu", __version__)
    assert [path.name for path in out.iterdir()] == ["x.fpz"]


@pytest.mark.usefixtures("quick")
def test_the_same_seed_gives_the_same_file(scene: Path, out: Path) -> None:
    for name in "ab":
        assert main(["compress", str(scene), "-o", str(out / name)]) == 0
    assert (out / "a").read_bytes() == (out / "b").read_bytes()


@pytest.mark.usefixtures("quick")
def test_a_target_size_is_kept(scene: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["compress", str(scene), "-o", str(out / "x.fpz"), "--target-mb", "0.004"]
    assert run_json(args, capsys)["output_bytes"] <= 4000
    args[-1] = "0.00001"
    line = assert_fails_with_one_line([*args, "--overwrite"], "scene.ply", capsys)
    assert "10 bytes" in line


def test_info_says_what_is_inside(
    scene: Path, pressed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run_json(["info", str(pressed)], capsys)
    assert report["input_bytes"] == sum(report["bytes_by_attribute"].values())
    assert report["input_bytes"] == pressed.stat().st_size
    assert report["count"] == len(models.load(pressed))
    assert report["sections"]
    report = run_json(["info", str(scene)], capsys)
    assert (report["count"], report["sh_degree"]) == (120, 3)
    assert report["bytes_by_attribute"]["shN"] == 120 * 45 * 4


def test_decompress_and_convert(
    scene: Path, pressed: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run_json(["decompress", str(pressed), "-o", str(out / "a.ply")], capsys)
    decoded, written = models.load(pressed), models.load(out / "a.ply")
    for name, tensor in decoded.tensors().items():
        assert torch.equal(tensor, written.tensors()[name]), name
    assert report["output_bytes"] == (out / "a.ply").stat().st_size
    report = run_json(["convert", str(scene), str(out / "b.spz")], capsys)
    assert report["count_in"] == report["count_out"] == len(models.load(out / "b.spz")) == 120
    assert_fails_with_one_line(["decompress", str(scene), "-o", str(out / "c.ply")], "ply", capsys)
    assert_fails_with_one_line(["convert", str(scene), str(out / "c.obj")], "c.obj", capsys)
    assert {path.name for path in out.iterdir()} == {"a.ply", "b.spz"}


@pytest.mark.usefixtures("quick")
def test_eval_against_a_reference(
    scene: Path, pressed: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["eval", str(pressed), "--reference", str(scene), "-o", str(out / "r.json")]
    report = run_json(args, capsys)
    assert json.loads((out / "r.json").read_text()) == report
    assert 30 < report["psnr_self"] < 100
    assert report["psnr"] is None
    assert len(report["per_view"]) == report["views"]
    assert report["bytes_by_section"]["pos"] > 0
    assert main([*args[:-1], str(out / "r.html")]) == 0
    capsys.readouterr()
    assert (out / "r.html").read_text().count("class='stage'") == min(3, report["views"])
    assert report["output_bytes"] == pressed.stat().st_size
    assert report["input_bytes"] == scene.stat().st_size
    same = run_json(["eval", str(scene), "--reference", str(scene)], capsys)
    assert same["psnr_self"] >= 100
    assert same["ssim_self"] == pytest.approx(1)


@pytest.fixture
def photos(scene: Path, tmp_path: Path) -> Path:
    """A folder of posed photographs of the scene: its own render."""
    image = pytest.importorskip("PIL.Image", reason="photographs need pillow")
    folder = tmp_path / "photos"
    folder.mkdir()
    cameras = orbit((0, 0, 0), 4.0, 9, width=48, height=36)
    names = [f"{i}.png" for i in range(9)]
    for name, picture in zip(names, models.load(scene).render(cameras), strict=True):
        pixels = (255 * picture.clamp(0, 1)).round().byte().numpy()
        image.fromarray(pixels).save(folder / name)
    write_transforms(folder / "transforms.json", cameras, names)
    return folder


def test_photographs_are_measured(
    scene: Path, photos: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run_json(["eval", str(scene), "--scene", str(photos)], capsys)
    assert report["psnr"] > 50  # Eight bits.
    assert report["views"] == 2
    args = [*FAST, str(scene), "-o", str(out / "x.fpz"), "--scene", str(photos)]
    report = run_json(args, capsys)
    assert report["render_size"] == [48, 36]
    assert 20 < report["psnr"] <= report["psnr_self"] + 1


@pytest.mark.usefixtures("quick")
def test_render_writes_frames(
    scene: Path, photos: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = out / "frames"
    args = ["render", str(scene), "-o", str(frames)]
    assert run_json([*args, "--orbit", "3"], capsys)["views"] == 3
    (frames / "notes.txt").write_text("kept")
    assert_fails_with_one_line([*args, "--orbit", "2"], "--overwrite", capsys)
    report = run_json([*args, "--scene", str(photos), "--overwrite"], capsys)
    assert (report["views"], report["render_size"]) == (9, [48, 36])
    assert run_json([*args, "--orbit", "2", "--overwrite"], capsys)["views"] == 2
    names = sorted(path.name for path in frames.iterdir())
    assert names == ["frame_00000.png", "frame_00001.png", "notes.txt"]
    assert [path.name for path in out.iterdir()] == ["frames"]


@pytest.mark.usefixtures("quick")
def test_render_from_cameras_without_photographs(
    scene: Path, tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cameras = orbit((0, 0, 0), 4.0, 2, width=48, height=36)
    write_transforms(tmp_path / "path.json", cameras, ["a.png", "b.png"])
    args = ["render", str(scene), "--cameras", str(tmp_path / "path.json")]
    report = run_json([*args, "-o", str(out / "frames")], capsys)
    assert (report["views"], report["render_size"]) == (2, [48, 36])
    image = pytest.importorskip("PIL.Image", reason="reading frames needs pillow")
    written = torch.from_numpy(np.array(image.open(out / "frames" / "frame_00001.png")))
    expected = 255 * models.load(scene).render(cameras)[1].clamp(0, 1)
    assert float((written - expected).abs().max()) < 0.51
    text = (tmp_path / "path.json").read_text()
    for old, new in (('"w": 48', '"w": 0'), ('"w": 48', '"w": 1e9'), ("[", "{"), ("0", "NaN")):
        (tmp_path / "path.json").write_text(text.replace(old, new))
        assert_fails_with_one_line([*args, "-o", str(out / "x")], "path.json", capsys)


@pytest.mark.usefixtures("quick")
def test_render_writes_a_video_or_names_the_extra(
    scene: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["render", str(scene), "-o", str(out / "o.mp4"), "--orbit", "3"]
    try:
        import av
    except ImportError:
        assert "fieldpress[video]" in assert_fails_with_one_line(args, "o.mp4", capsys)
        assert list(out.iterdir()) == []
        return
    assert main(args) == 0
    with av.open(str(out / "o.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 3


# Whole outputs


@pytest.mark.usefixtures("quick")
def test_existing_outputs_need_overwrite(
    scene: Path, pressed: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = out / "here"
    here.write_bytes(b"mine")
    for args in (
        ["compress", str(scene), "-o", str(here)],
        ["decompress", str(pressed), "-o", str(here)],
        ["convert", str(scene), str(here)],
        ["eval", str(scene), "-o", str(here)],
    ):
        assert "--overwrite" in assert_fails_with_one_line(args, str(here), capsys)
        assert here.read_bytes() == b"mine"
    assert main([*FAST, str(scene), "-o", str(here), "--overwrite"]) == 0
    assert len(models.load(here)) > 0


def test_a_folder_or_device_is_never_overwritten_by_a_file(
    scene: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (out / "folder").mkdir()
    (out / "folder" / "photo.jpg").write_bytes(b"mine")
    for place in (str(out / "folder"), "/dev/null"):
        args = [*FAST, str(scene), "-o", place, "--overwrite"]
        assert "regular file" in assert_fails_with_one_line(args, place, capsys)
    (out / "file").write_bytes(b"mine")
    args = ["render", str(scene), "--orbit", "1", "-o", str(out / "file"), "--overwrite"]
    assert "folder" in assert_fails_with_one_line(args, "file", capsys)
    assert (out / "folder" / "photo.jpg").read_bytes() == b"mine"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (ValueError("section 'dc': damaged"), 1),
        (OSError(28, "No space left on device"), 1),
        (MemoryError(), 1),
        (RuntimeError("a bug\nof two lines"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_a_failure_at_the_end_leaves_nothing(
    fault: BaseException,
    code: int,
    scene: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The file is written and then does not decode: neither it nor a temporary one stays."""

    def fail(*args: Any, **named: Any) -> None:
        assert [p for p in out.rglob("*") if p.is_file() and p.name == "new.fpz"]
        raise fault

    monkeypatch.setattr(press, "decode", fail)
    assert main([*FAST, str(scene), "-o", str(out / "new.fpz")]) == code
    assert list(out.iterdir()) == []
    old = out / "old.fpz"
    old.write_bytes(b"before")
    (old.rename(out / "new.fpz"))
    capsys.readouterr()
    assert main([*FAST, str(scene), "-o", str(out / "new.fpz"), "--overwrite"]) == code
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in out.iterdir()] == ["new.fpz"]
    assert (out / "new.fpz").read_bytes() == b"before"


@pytest.mark.usefixtures("quick")
def test_bytes_that_changed_on_disk_are_no_success(
    scene: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path)[:-1])
    args = [*FAST, str(scene), "-o", str(out / "x.fpz")]
    assert "read back" in assert_fails_with_one_line(args, "x.fpz", capsys)
    assert list(out.iterdir()) == []


def test_frames_that_fail_half_way_leave_nothing(
    scene: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    def fail_at_third(self: SplatModel, cameras: Any) -> torch.Tensor:
        seen.append(cameras)
        if len(seen) == 3:
            raise ValueError("render: no more")
        return torch.zeros(1, cameras.height, cameras.width, 3)

    monkeypatch.setattr(SplatModel, "render", fail_at_third)
    args = ["render", str(scene), "--orbit", "5", "-o", str(out / "frames")]
    assert_fails_with_one_line(args, "no more", capsys)
    assert list(out.iterdir()) == []


def test_debug_shows_where(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        main(["info", str(tmp_path / "gone"), "--debug"])


def test_json_keeps_to_json() -> None:
    text = console.to_json(
        {"a": float("nan"), "b": [np.float32(2), torch.tensor(3)], "c": {1: Path()}}
    )
    assert json.loads(text) == {"a": None, "b": [2.0, 3], "c": {"1": "."}}


def test_what_libraries_print_stays_off_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with console.quiet_stdout() as true:
        print("chatter")
        console.print_json({"a": 1}, true)
    assert capsys.readouterr().out == '{"a": 1}\n'


def test_progress_says_how_long_it_will_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 5.0, 30.0, 31.0, 60.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with console.Progress() as progress:
        progress.part(0.0, 0.5)("encoding", 0.2)  # After 5 seconds: too early to say.
        progress("encoding", 1.0)
        progress.part(0.5, 1.0)("measuring", 0.1)  # A second later: just said.
        progress("measuring", 0.5)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "fieldpress: encoding: 50 % done, about 31 s left",
        "fieldpress: measuring: 75 % done, about 21 s left",
    ]


def test_progress_of_a_resumed_job_counts_from_where_it_resumed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 10.0, 40.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with console.Progress() as progress:
        progress("fit", 0.6)
        progress("fit", 0.7)  # A tenth in 30 seconds.
    assert capsys.readouterr().err == "fieldpress: fit: 70 % done, about 90 s left\n"


def test_progress_on_a_terminal_stays_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with console.Progress() as progress:
        progress("encoding", 0.5)
        progress("measuring", 1.0)
    said = capsys.readouterr()
    assert said.out == ""
    assert "measuring" in said.err


@pytest.mark.slow
def test_demo_makes_its_folder(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"views": 9, "width": 64, "height": 48, "samples": 1500}
    monkeypatch.setattr(demo, "run_demo", functools.partial(demo.run_demo, **small))
    args = ["demo", "-o", str(out / "made")]
    report = run_json(args, capsys)
    assert set(report) >= REPORT_KEYS
    assert report["output_bytes"] == (out / "made" / "scene.fpz").stat().st_size
    assert (out / "made" / "report.html").is_file()
    assert_fails_with_one_line(args, "--overwrite", capsys)
    assert [path.name for path in out.iterdir()] == ["made"]


# As a process


def command(*args: str, **named: Any) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "fieldpress", *args]
    return subprocess.run(line, capture_output=True, env=environment, timeout=300, **named)


@pytest.mark.wheel
def test_pipes_from_another_folder(tmp_path: Path, splat_ply: Ply, tiny_model: Model) -> None:
    """PLY on stdin, .fpz through a pipe, PLY on stdout, in a folder that holds no fieldpress."""
    ply = splat_ply(tiny_model(1)).read_bytes()
    made = command(*FAST, "-", "-o", "-", input=ply, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    back = command("decompress", "-", "-o", "-", input=made.stdout, cwd=tmp_path)
    assert back.returncode == 0, back.stderr
    info = command("info", "-", "--json", input=back.stdout, cwd=tmp_path)
    assert json.loads(info.stdout)["count"] == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.wheel
def test_a_process_fails_with_one_line(tmp_path: Path) -> None:
    done = command("compress", "gone.ply", "-o", "x.fpz", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"fieldpress: error: gone.ply: no such file\n"
    assert command("compress", cwd=tmp_path).returncode == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_half_written(
    number: signal.Signals, tmp_path: Path, splat_ply: Ply, tiny_model: Model
) -> None:
    scene = splat_ply(tiny_model(20_000))
    process = subprocess.Popen(
        [sys.executable, "-m", "fieldpress", "compress", str(scene), "-o", "x.fpz", "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A background job ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    patience = time.monotonic() + 120
    while not list(tmp_path.iterdir()) and process.poll() is None:
        assert time.monotonic() < patience
        time.sleep(0.02)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout) == (130, b""), stderr
    assert stderr.splitlines()[-1] == b"fieldpress: interrupted"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_behind_stdout_ends_in_one_line(scene: Path) -> None:
    for args in (["info", str(scene)], ["convert", str(scene), "-"]):
        line = [sys.executable, "-m", "fieldpress", *args]
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, timeout=120)
        said = b"fieldpress: error: stdout: cannot write: No space left on device\n"
        assert (done.returncode, done.stderr) == (1, said)


def test_a_closed_pipe_is_no_traceback(scene: Path) -> None:
    line = f"{sys.executable} -m fieldpress info {scene} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, timeout=120)
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr

"""Videos as groups: files, random access, damage, and what an interruption leaves behind."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fieldpress import models, video_jobs
from fieldpress.__main__ import main
from fieldpress.console import Progress
from fieldpress.fields import video, weight_stream
from fieldpress.fields.video import Group, Layout, VideoField
from fieldpress.fields.weight_stream import Quantised, quantise
from fieldpress.quant import container
from fieldpress.scenes.video import read_clip
from fieldpress.video_jobs import VideoJob, fit_video_file

FRAMES, HEIGHT, WIDTH = 7, 20, 28
LAYOUT = Layout(2, 2)


class Difference:
    """A codec that says what it is given: raw key groups, and differences after them."""

    name = "raw"

    def encode(self, frames, state, *, progress=None):
        if progress is not None:
            progress("coding", 1.0)
        last = frames[-1].copy()
        if state is not None:
            frames = frames - state
        return frames.tobytes(), last

    def decode(self, payload, shape, state):
        if len(payload) != 3 * np.prod(shape):
            raise ValueError(f"expected {3 * np.prod(shape)} bytes, got {len(payload)}")
        frames = np.frombuffer(payload, np.uint8).reshape(*shape, 3)
        frames = frames if state is None else frames + state
        return frames, frames[-1].copy()


@pytest.fixture
def difference(monkeypatch: pytest.MonkeyPatch) -> Difference:
    codec = Difference()
    monkeypatch.setattr(video, "codec_of", lambda *_: codec)
    return codec


def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)


def coded(codec: Difference) -> VideoField:
    groups = video.encode_groups(frames(), codec, LAYOUT)
    return VideoField("nirvana", WIDTH, HEIGHT, Fraction(30000, 1001), "bt601", tuple(groups))


def test_a_file_gives_back_its_frames(difference):
    data = video.write(coded(difference), {"seed": 3})
    found = video.read(data)
    assert np.array_equal(found.clip().frames, frames())
    assert found.fps == Fraction(30000, 1001)
    assert found.extra == {"seed": 3}
    assert [g.key for g in found.groups] == [True, False, True, False]
    assert [g.count for g in found.groups] == [2, 2, 2, 1]
    assert found.starts == [0, 2, 4, 6]


@pytest.mark.parametrize("wanted", [slice(0, 1), slice(3, 6), slice(5, 6), slice(0, 7, 3)])
def test_any_frames_from_the_key_group_before_them(difference, monkeypatch, wanted):
    data = video.write(coded(difference))
    asked = []
    decode = Difference.decode
    monkeypatch.setattr(
        Difference, "decode", lambda self, *a: (asked.append(a[0]), decode(self, *a))[1]
    )
    found = video.decode(data, wanted)
    assert np.array_equal(found.frames, frames()[wanted])
    numbers = range(FRAMES)[wanted]
    key = max(k for k in (0, 2) if LAYOUT.spans(FRAMES)[k][0].start <= numbers[0])
    assert len(asked) == numbers[-1] // LAYOUT.group - key + 1


def test_no_frames_are_refused(difference):
    data = video.write(coded(difference))
    with pytest.raises(ValueError, match="frames: expected some of 0 to 6, got none"):
        video.decode(data, slice(7, 9))
    with pytest.raises(ValueError, match="step"):
        video.decode(data, slice(6, 0, -1))


def test_a_flipped_byte_is_the_group_that_it_is_in(difference):
    data = video.write(coded(difference))
    _, entries = container.locate(data)
    for entry, at in entries:
        for place in (at, at + entry.coded_size - 1):
            bad = bytearray(data)
            bad[place] ^= 4
            with pytest.raises(ValueError, match=rf"a\.fpz: section '{entry.name}'") as error:
                video.read(bytes(bad), name="a.fpz")
            assert "\n" not in str(error.value)


def test_a_group_that_does_not_decode_is_named(difference):
    good = coded(difference)
    groups = (*good.groups[:2], Group(2, True, b"short"), good.groups[3])
    bad = VideoField("nirvana", WIDTH, HEIGHT, Fraction(25), "bt601", groups)
    assert len(bad.clip(slice(0, 4))) == 4
    with pytest.raises(ValueError, match="section 'group/2': expected"):
        bad.clip()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "mpeg"}, "method"),
        ({"size": [WIDTH, 0]}, "size"),
        ({"size": [1 << 15, 9]}, "size"),
        ({"size": [16384, 16384]}, "section 'group/0': expected at most .* pixels"),
        ({"fps": [0, 1]}, "fps"),
        ({"fps": [30.0, 1]}, "fps"),
        ({"matrix": None}, "matrix"),
        ({"frames": 8}, "frames: expected 7, got 8"),
        ({"counts": [2, 2, 2, 2]}, "frames"),
        ({"counts": []}, "counts"),
        ({"counts": [1 << 20, 2, 2, 1]}, "counts"),
        ({"keys": [0, 0, 1, 0]}, "a key group first"),
        ({"keys": [1, 0]}, "keys"),
        ({"counts": [2, 2, 2], "keys": [1, 0, 1], "frames": 6}, "expected sections"),
    ],
)
def test_bad_headers_are_refused(difference, change, message):
    found = container.read(video.write(coded(difference)))
    layout = found.header["layout"] | change
    bad = container.write({**found.header, "layout": layout}, found.sections)
    with pytest.raises(ValueError, match=message) as error:
        video.read(bad, name="a.fpz")
    assert str(error.value).startswith("a.fpz: ")


def test_other_methods_are_one_line():
    with pytest.raises(ValueError, match="method: expected one of"):
        video.codec_of("mpeg", "medium", 1e-3, 0)


@pytest.mark.parametrize("done", [0, 1, 2, 3, 4])
def test_an_interrupted_encoding_ends_in_the_same_bytes(difference, done):
    kept: list[list[Group]] = []
    video.encode_groups(frames(), difference, LAYOUT, keep=lambda g: kept.append(list(g)))
    assert [len(groups) for groups in kept] == [1, 2, 3, 4]
    before = kept[done - 1] if done else []
    again = video.encode_groups(frames(), difference, LAYOUT, done=before)
    assert again == kept[-1]


# Weights


SHAPES = ((6, 3), (6,), (2, 4, 3, 3), (1,))


def network(seed: int, before: Quantised | None = None, spread: float = 0.2) -> Quantised:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, spread, weight_stream.count(SHAPES))
    if before is not None:
        values = before.values().numpy() + values
    return quantise(values, [-30, -40, -28, -60], SHAPES, before)


def test_weights_are_the_same_again():
    first = network(0)
    second = network(1, first, 0.02)
    data = weight_stream.encode(first, None), weight_stream.encode(second, first)
    assert len(data[1]) < len(data[0])
    found = weight_stream.decode(data[0], SHAPES, None)
    again = weight_stream.decode(data[1], SHAPES, found)
    for one, other in ((first, found), (second, again)):
        assert np.array_equal(one.symbols, other.symbols)
        assert np.array_equal(one.moved, other.moved)
        assert one.steps == other.steps
        assert [tuple(t.shape) for t in other.tensors()] == list(SHAPES)
    errors = [np.abs(x.values().numpy()) for x in (first,)]
    assert all(np.isfinite(e).all() for e in errors)


def test_weights_beside_another_network_are_the_smaller_of_both():
    far, alone = network(5, None, 30.0), network(6)
    near = quantise(alone.values().double().numpy(), alone.steps, SHAPES, far)
    data = weight_stream.encode(near, far)
    assert data == weight_stream.encode(near, None)
    found = weight_stream.decode(data, SHAPES, far)  # It has moved, though it is coded by itself.
    assert np.array_equal(found.moved, near.moved)
    assert near.moved.any()


def test_damaged_weights_are_one_line_or_other_weights():
    first = network(0)
    data = weight_stream.encode(network(1, first, 0.02), first)
    said: list[str] = []
    for place in range(0, 8 * len(data), 3):
        bad = bytearray(data)
        bad[place // 8] ^= 1 << place % 8
        try:
            weight_stream.decode(bytes(bad), SHAPES, first)
        except ValueError as error:
            said.append(str(error))
    assert len(said) > 2 * len(data)
    assert not any("\n" in line for line in said)
    size = 3 + int.from_bytes(data[1:3], "little")
    for cut in range(size):  # Behind it a checksum tells: nothing at all is "as before".
        with pytest.raises(ValueError, match=r"expected|stream"):
            weight_stream.decode(data[:cut], SHAPES, first)
    with pytest.raises(ValueError, match="of no network of this shape"):
        weight_stream.decode(data, SHAPES, None)


def test_more_weights_than_bytes_are_refused():
    with pytest.raises(ValueError, match="expected at most"):
        weight_stream.decode(bytes(40), ((1 << 14, 1 << 12),), None)


# The command


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Four frames of 64x48 that move."""
    t, y, x = np.meshgrid(range(4), range(48), range(64), indexing="ij")
    waves = np.stack([np.sin(x / 9 + t / 3), np.cos(y / 8 - t / 4), np.sin((x + y) / 11)], -1)
    path = tmp_path_factory.mktemp("clip") / "clip.npy"
    np.save(path, np.rint(127 + 90 * waves).astype(np.uint8))
    return path


@pytest.fixture(scope="module")
def quick(clip) -> pytest.MonkeyPatch:
    """Few steps: the least that learns something."""
    from fieldpress.fields import nervpp, nirvana

    patch = pytest.MonkeyPatch()
    patch.setitem(nirvana.STEPS, "ultrafast", (100, 20))
    patch.setitem(nervpp.STEPS, "ultrafast", 50)
    yield patch
    patch.undo()


def run(*argv: object) -> int:
    return main([str(a) for a in argv])


@pytest.mark.parametrize("method", ["nirvana", "nervpp"])
def test_fit_decompress_eval_info(clip, quick, tmp_path, capsys, method):
    out = tmp_path / "a.fpz"
    fit = ["fit", "video", clip, "-o", out, "--method", method, "--preset", "ultrafast"]
    assert run(*fit, "--group", 2, "--key-every", 2, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["output_bytes"] == out.stat().st_size == sum(report["bytes_by_section"].values())
    assert report["bits_per_pixel"] == pytest.approx(8 * report["output_bytes"] / (4 * 48 * 64))
    assert (report["frames"], report["groups"], report["key_groups"]) == (4, 2, 1)
    assert report["psnr"] > 13  # Grey has 12.
    assert not out.with_name("a.fpz.checkpoint").exists()

    assert run("decompress", out, "-o", tmp_path / "a.y4m", "--json") == 0
    capsys.readouterr()
    decoded = models.load(out).clip()
    assert np.abs(read_clip(tmp_path / "a.y4m").frames.astype(int) - decoded.frames).max() <= 1
    assert run("decompress", out, "-o", tmp_path / "frames", "--json") == 0
    capsys.readouterr()
    assert np.array_equal(read_clip(tmp_path / "frames").frames, decoded.frames)
    part = video.decode(out.read_bytes(), slice(3, 4))
    assert np.array_equal(part.frames, decoded.frames[3:4])

    assert run("eval", out, "--reference", clip, "--json") == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["psnr"] == pytest.approx(report["psnr"], abs=1e-6)
    assert run("info", out, "--json") == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["kind"], about["method"], about["frames"]) == ("video", method, 4)
    assert about["provenance"]["settings"]["preset"] == "ultrafast"


def test_a_killed_fit_resumes_to_the_same_bytes(clip, quick, tmp_path, monkeypatch):
    job = VideoJob("nirvana", "ultrafast", group=1, key_every=3)
    whole, cut = tmp_path / "whole.fpz", tmp_path / "cut.fpz"
    with Progress() as progress:
        fit_video_file(str(clip), str(whole), job, progress=progress)
    save, saved = video_jobs.save_checkpoint, []

    def die(path, state, about):
        save(path, state, about)
        saved.append(len(state["payloads"]))
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(video_jobs, "save_checkpoint", die)
    with Progress() as progress, pytest.raises(KeyboardInterrupt):
        fit_video_file(str(clip), str(cut), job, progress=progress)
    assert [p.name for p in tmp_path.iterdir() if "cut" in p.name] == ["cut.fpz.checkpoint"]
    with Progress() as progress:
        fit_video_file(str(clip), str(cut), job, resume=True, progress=progress)
    assert saved == [1, 2, 3, 4]
    assert cut.read_bytes() == whole.read_bytes()
    with Progress() as progress, pytest.raises(ValueError, match="no such checkpoint"):
        fit_video_file(str(clip), str(cut), job, resume=True, progress=progress)


def test_a_checkpoint_of_another_job_is_refused(clip, quick, tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    out = str(tmp_path / "a.fpz")
    job = VideoJob("nirvana", "ultrafast", group=4)
    save = video_jobs.save_checkpoint
    monkeypatch.setattr(video_jobs, "save_checkpoint", lambda *a: (save(*a), die()))
    with Progress() as progress, pytest.raises(KeyboardInterrupt):
        fit_video_file(str(clip), out, job, progress=progress)
    other = VideoJob("nirvana", "ultrafast", lmbda=2e-3, group=4)
    with Progress() as progress, pytest.raises(ValueError, match="another fit: lambda was"):
        fit_video_file(str(clip), out, other, resume=True, progress=progress)


def test_a_target_is_met(clip, difference, monkeypatch):
    """Of a codec whose rate is a known function of lambda."""

    class Sized:
        name = "sized"

        def __init__(self, lmbda):
            self.size = round(4 / lmbda**0.5)

        def encode(self, frames, state, *, progress=None):
            return bytes(self.size), state

    monkeypatch.setattr(video, "codec_of", lambda method, preset, lmbda, seed: Sized(lmbda))
    for bpp in (0.1, 0.5):
        job = VideoJob("nirvana", target_bpp=bpp, group=2)
        lmbda = video_jobs._lambda(read_clip(clip), job, lambda *_: None)
        assert 8 * 2 * Sized(lmbda).size / (4 * 48 * 64) == pytest.approx(bpp, rel=0.15)


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--group", "0"], 2, "group: expected 1 to"),
        (["--key-every", "0"], 2, "key-every"),
        (["--lambda", "7"], 2, "lambda: expected"),
        (["--target-bpp", "-1"], 2, "target-bpp"),
        (["--frames", "3"], 2, "frames: expected A:B, got '3'"),
        (["--frames", "9:"], 1, "no frame in 9:"),
        (["--resume"], 1, "no such checkpoint"),
    ],
)
def test_misuse_is_one_line(clip, tmp_path, capsys, more, code, message):
    out = tmp_path / "a.fpz"
    assert run("fit", "video", clip, "-o", out, "--method", "nirvana", *more) == code
    lines = [x for x in capsys.readouterr().err.splitlines() if "error:" in x]
    assert len(lines) == 1
    assert message in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_hold_no_video(clip, quick, tmp_path, capsys):
    out = tmp_path / "a.fpz"
    fit = ["fit", "video", clip, "-o", out, "--method", "nirvana", "--preset", "ultrafast"]
    assert run(*fit, "--frames", "0:1") == 0
    for argv in (
        ["decompress", out, "-o", tmp_path / "a.ply"],
        ["decompress", out, "-o", out],
        ["eval", out],
        ["eval", out, "--reference", clip.with_name("none.npy")],
        ["render", out, "--orbit", "3", "-o", tmp_path / "r"],
        ["fit", "video", clip, "-o", tmp_path / "a.mp4", "--method", "nirvana"],
    ):
        capsys.readouterr()
        assert run(*argv) == 1
        assert len([x for x in capsys.readouterr().err.splitlines() if "error:" in x]) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.fpz"]

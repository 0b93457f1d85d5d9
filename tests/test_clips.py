"""Clips in and out: every format gives back what was written, and refuses what it cannot read."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldpress.scenes import metrics, video_metrics
from fieldpress.scenes.video import Clip, read_clip, write_clip
from fieldpress.scenes.yuv import frames_of, planes_of, rgb_from_yuv, yuv_from_rgb


def smooth(frames: int = 5, height: int = 36, width: int = 52) -> Clip:
    """Waves that move."""
    t, y, x = np.meshgrid(*map(np.arange, (frames, height, width)), indexing="ij")
    waves = [np.sin(x / 7 + t / 3), np.cos(y / 6 - t / 4), np.sin((x + y) / 9)]
    pictures = np.rint(127 + 100 * np.stack(waves, -1)).astype(np.uint8)
    return Clip(pictures, Fraction(30000, 1001), "waves")


@pytest.mark.parametrize(
    ("name", "most", "keeps_rate"), [("a.y4m", 1, True), ("a.mp4", 6, True), ("a", 0, False)]
)
@pytest.mark.parametrize("size", [(36, 52), (35, 51)])
def test_what_is_written_is_read(tmp_path: Path, name, most, keeps_rate, size):
    pytest.importorskip("PIL" if name == "a" else "av" if name == "a.mp4" else "numpy")
    clip = smooth(5, *size)
    assert write_clip(iter(clip.frames), tmp_path / name, clip, name) == 5
    found = read_clip(tmp_path / name)
    assert found.frames.shape == clip.frames.shape
    # Chroma of half the size costs most of it in an mp4.
    assert np.abs(found.frames.astype(int) - clip.frames).mean() <= most / 2
    assert not keeps_rate or found.fps == clip.fps


@pytest.mark.parametrize("wanted", [slice(1, 3), slice(3, None), slice(0, 5, 2), slice(4, 99)])
def test_some_frames_are_those_of_the_whole(tmp_path: Path, wanted):
    clip = smooth()
    for name in ("a.y4m", "a.npy"):
        if name == "a.npy":
            np.save(tmp_path / name, clip.frames)
        else:
            write_clip(iter(clip.frames), tmp_path / name, clip, name)
        whole, part = read_clip(tmp_path / name), read_clip(tmp_path / name, wanted)
        assert np.array_equal(part.frames, whole.frames[wanted])


def test_an_mp4_is_read_in_part(tmp_path: Path):
    pytest.importorskip("av")
    clip = smooth()
    write_clip(iter(clip.frames), tmp_path / "a.mp4", clip, "a.mp4")
    whole = read_clip(tmp_path / "a.mp4")
    assert np.array_equal(read_clip(tmp_path / "a.mp4", slice(2, 4)).frames, whole.frames[2:4])


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("full", [True, False])
def test_yuv_and_back(matrix, full):
    rgb = torch.rand(7, 5, 3, dtype=torch.float64)
    assert torch.allclose(rgb_from_yuv(yuv_from_rgb(rgb, matrix), matrix), rgb)
    grey = torch.full((1, 3), 0.25, dtype=torch.float64)
    assert torch.allclose(yuv_from_rgb(grey, matrix)[0], torch.tensor([0.25, 0, 0]).double())
    frames = smooth(2).frames
    back = frames_of(*planes_of(frames, matrix, full=full, subsample=False), matrix, full=full)
    assert np.abs(back.astype(int) - frames).max() <= 3


def test_the_matrix_is_that_of_ffmpeg():
    av = pytest.importorskip("av")
    frames = smooth(1, 32, 48).frames
    planes = planes_of(frames, "bt601", full=False, subsample=False)
    theirs = av.VideoFrame.from_ndarray(frames[0], format="rgb24").to_ndarray(format="yuv444p")
    ours = torch.stack(planes)[:, 0].numpy()
    assert np.abs(ours.astype(int) - theirs.reshape(ours.shape)).mean() < 0.6


def y4m(head: bytes = b"YUV4MPEG2 W4 H2 F30:1 Ip C420", body: bytes = bytes(12)) -> bytes:
    return head + b"\nFRAME\n" + body


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a line of at most"),
        (b"RIFF\n", "not a Y4M file"),
        (y4m()[:-1], "frame 0: cut or damaged"),
        (y4m() + b"FRAME\n", "frame 1: cut or damaged"),
        (y4m(b"YUV4MPEG2 W0 H2"), "header W: expected a number above 0, got '0'"),
        (y4m(b"YUV4MPEG2 W4"), "header H"),
        (y4m(b"YUV4MPEG2 W4 H2 C420p10"), "expected sampling of"),
        (y4m(b"YUV4MPEG2 W4 H2 It"), "progressive"),
        (y4m(b"YUV4MPEG2 W4 H2 F0:7"), "header F"),
        (y4m(b"YUV4MPEG2 W99999 H99999"), "cut or damaged"),
    ],
)
def test_a_bad_y4m_is_one_line(tmp_path: Path, data, message):
    path = tmp_path / "a.y4m"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        read_clip(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_grey_y4m(tmp_path: Path):
    path = tmp_path / "a.y4m"
    path.write_bytes(y4m(b"YUV4MPEG2 W3 H1 Cmono XCOLORRANGE=FULL", bytes([0, 128, 255])))
    assert read_clip(path).frames[0, 0].tolist() == [[0] * 3, [128] * 3, [255] * 3]


def test_what_is_no_clip(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4), np.uint8))
    (tmp_path / "b.npy").write_bytes(b"no array")
    (tmp_path / "d").mkdir()
    for name, message in (("a.npy", "expected"), ("b.npy", "not an array"), ("d", "got none")):
        with pytest.raises(ValueError, match=message):
            read_clip(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_clip(tmp_path / "none.mp4")
    clip = smooth()
    np.save(tmp_path / "c.npy", clip.frames)
    with pytest.raises(ValueError, match="no frame in 9:"):
        read_clip(tmp_path / "c.npy", slice(9, None))


def test_metrics_of_equal_clips_and_of_noise():
    clip = smooth(2, 64, 80)
    same = video_metrics.compare(clip.frames, clip.frames, "bt601")
    assert same["psnr"] == same["psnr_yuv"] == metrics.PSNR_CAP
    assert same["ssim"] == pytest.approx(1)
    assert same["ms_ssim"] == pytest.approx(1)
    noisy = clip.frames.astype(int) + np.random.default_rng(0).integers(-9, 10, clip.frames.shape)
    found = video_metrics.compare(noisy.clip(0, 255).astype(np.uint8), clip.frames, "bt601")
    mse = np.square(noisy.clip(0, 255) - clip.frames.astype(float)).mean((1, 2, 3))
    assert found["psnr"] == pytest.approx((-10 * np.log10(mse / 255**2)).mean(), abs=1e-3)
    assert found["psnr_y"] > found["psnr"]  # Luma averages three noises.
    assert found["psnr_yuv"] > found["psnr_y"]  # Chroma averages twelve.
    assert 0.3 < found["ssim"] < found["ms_ssim"] < 1


def test_ms_ssim_is_that_of_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.image")
    rng = torch.Generator().manual_seed(0)
    truth = torch.nn.functional.interpolate(torch.rand(1, 3, 24, 24, generator=rng), size=200)
    found = (truth + 0.1 * torch.randn(truth.shape, generator=rng)).clamp(0, 1)
    theirs = functional.multiscale_structural_similarity_index_measure(found, truth, data_range=1.0)
    ours = video_metrics.ms_ssim(found.permute(0, 2, 3, 1), truth.permute(0, 2, 3, 1))
    assert ours == pytest.approx(float(theirs), abs=2e-3)


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_a_clip_that_a_phone_turned_is_read_upright(tmp_path: Path, degrees: int):
    av = pytest.importorskip("av")
    lying = smooth(2, 32, 64).frames
    with av.open(str(tmp_path / "turned.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_rotation(degrees)
        for picture in lying:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    upright = np.rot90(lying, degrees // 90, axes=(1, 2))  # Counterclockwise.
    found = read_clip(tmp_path / "turned.mp4").frames
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 5


def test_a_header_that_numpy_would_parse_for_seconds_is_refused(tmp_path: Path):
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1, 4, 9, 3), " + b" " * 4000
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(999)
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.npy: not an array: Header info length"):
        read_clip(tmp_path / "a.npy")

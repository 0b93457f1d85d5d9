"""Pictures that are not in memory: the same pixels in buckets, and as good a field from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldpress import large_pictures
from fieldpress.__main__ import main
from fieldpress.fields import pixels as module
from fieldpress.fields.fit_image import ImageSettings, encoding_for, fit_image
from fieldpress.fields.pixels import FiledPixels, HeldPixels, rows_of_npy
from fieldpress.quant import budget


def picture(width: int = 150, height: int = 70) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9) + np.cos(y / 7), np.sin(y / 5), np.cos((x + y) / 11)]
    return (127.5 + 60 * np.stack(waves, -1)).clip(0, 255).astype(np.uint8)


@pytest.fixture
def filed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A .npy of several bands and buckets, of which one is in memory."""
    for name, value in (("BUCKET", 4000), ("TURNS", 2), ("BAND", 32)):
        monkeypatch.setattr(module, name, value)
    np.save(tmp_path / "a.npy", picture())
    return tmp_path / "a.npy"


def test_every_pixel_comes_with_its_colour(filed: Path) -> None:
    truth = picture()
    seen = np.zeros(truth.shape[:2], bool)
    with large_pictures.opened(str(filed)) as pixels:
        assert isinstance(pixels, FiledPixels)
        assert (pixels.width, pixels.height) == (150, 70)
        rng = torch.Generator().manual_seed(0)
        for _ in range(60):
            points, target = pixels.draw(4096, rng)
            x, y = (points * 150 - 0.5).round().long().T.numpy()
            assert np.array_equal((255 * target.T).round().byte().numpy(), truth[y, x])
            seen[y, x] = True
    assert seen.mean() > 0.98  # All buckets took turns.


def test_bands_are_the_picture(filed: Path) -> None:
    with large_pictures.opened(str(filed)) as pixels:
        parts = [(y, rows.numpy()) for y, rows in pixels.bands()]
    assert [y for y, _ in parts] == [0, 32, 64]
    assert np.array_equal(np.concatenate([rows for _, rows in parts]), picture())


def test_a_fit_from_a_file_is_as_good(filed: Path) -> None:
    truth = torch.from_numpy(picture())
    settings = ImageSettings(encoding_for(150, 70), 16, steps=150, batch=2048)
    held = fit_image(truth, settings)
    with large_pictures.opened(str(filed)) as pixels:
        far = fit_image(pixels, settings)
        quality = large_pictures.compare_bands(far.model, pixels)
    whole = large_pictures.compare_bands(held.model, HeldPixels(truth))
    assert whole["psnr"] - quality["psnr"] < 2.0
    assert whole["psnr"] > 24
    error = (held.model.picture().clamp(0, 1) - truth / 255).double().square().mean()
    assert whole["psnr"] == pytest.approx(-10 * float(torch.log10(error)), abs=1e-3)


def test_the_command_sets_a_large_picture_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(picture()).save(tmp_path / "a.png")
    monkeypatch.setattr(large_pictures.opened.__wrapped__, "__defaults__", (1000,))  # pyright: ignore
    given = ["fit", "image", str(tmp_path / "a.png"), "-o", str(tmp_path / "a.fpz"), "--json"]
    assert main([*given, "--steps", "60", "--batch", "1024", "--neurons", "16"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["render_size"] == [150, 70]
    assert report["peak_memory_bytes"] is None or report["peak_memory_bytes"] > 10**6
    assert report["psnr"] > 15
    with large_pictures.opened(str(tmp_path / "a.png"), 1000) as pixels:
        parts = [rows.numpy() for _, rows in pixels.bands()]
    assert np.array_equal(np.concatenate(parts), picture())


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 5), np.uint8), np.zeros((4, 5, 4), np.uint8), np.zeros((4, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8), np.asfortranarray(np.zeros((4, 5, 3), np.uint8)),
    ],
)  # fmt: skip
def test_another_array_is_told_in_one_line(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=r"a.npy: (expected|not a)") as caught:
        rows_of_npy(tmp_path / "a.npy")
    assert "\n" not in str(caught.value)


def test_a_cut_array_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", picture())
    whole = (tmp_path / "a.npy").read_bytes()
    for size in (10, 100, len(whole) // 2):
        (tmp_path / "a.npy").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"a.npy: "):
            rows_of_npy(tmp_path / "a.npy")


def test_decoding_asks_for_its_memory(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("L", (2000, 1500)).save(tmp_path / "a.png")
    with (
        budget.limited(10**7),
        pytest.raises(ValueError, match=r"a.png: needs 12 MB"),
        large_pictures.opened(str(tmp_path / "a.png"), 1000),
    ):
        pass


def test_a_header_that_numpy_would_parse_for_seconds_is_refused(tmp_path: Path) -> None:
    text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (4, 9, 3), " + b" " * 4000
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(999)
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(ValueError, match="Header info length"):
        rows_of_npy(tmp_path / "a.npy")
    with pytest.raises(FileNotFoundError):
        rows_of_npy(tmp_path / "none.npy")

"""Pictures are read as they are meant to be seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fieldpress import large_pictures
from fieldpress.field_jobs import read_picture
from fieldpress.scenes.upright import ORIENTATION
from fieldpress.scenes.video import read_clip

Image = pytest.importorskip("PIL.Image")
SHOWN = {1: lambda x: x, 3: lambda x: x[::-1, ::-1], 6: lambda x: np.rot90(x, -1), 8: np.rot90}


def photograph(path: Path, orientation: int) -> np.ndarray:
    """A PNG with EXIF, and how it is to be seen."""
    y, x = np.mgrid[:12, :20]
    pixels = np.stack([9 * y, 12 * x, 5 * (x + y)], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return SHOWN.get(orientation, lambda x: x)(pixels)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8, 77])
def test_a_turned_photograph_is_read_upright(tmp_path: Path, orientation: int) -> None:
    shown = photograph(tmp_path / "a.png", orientation)
    assert np.array_equal(read_picture(str(tmp_path / "a.png")), shown)
    assert np.array_equal(read_clip(tmp_path).frames[0], shown)
    with large_pictures.opened(str(tmp_path / "a.png"), held=0) as pixels:  # From a scratch file.
        assert (pixels.height, pixels.width) == shown.shape[:2]
        assert np.array_equal(np.concatenate([rows for _, rows in pixels.bands()]).ravel(),
                              shown.ravel())  # fmt: skip


def test_damaged_exif_leaves_a_photograph_as_it_lies(tmp_path: Path) -> None:
    shown = photograph(tmp_path / "a.png", 1)
    Image.fromarray(shown).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xf0")
    assert np.array_equal(read_picture(str(tmp_path / "a.png")), shown)


def test_greys_of_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 77).astype(np.uint16).reshape(7, 11)
    Image.fromarray(grey).save(tmp_path / "a.png")
    found = read_picture(str(tmp_path / "a.png"))[..., 0].numpy()
    assert np.abs(found - grey / 257.0).max() <= 0.5
    Image.fromarray(grey.astype(np.int32)).save(tmp_path / "b.tif")
    with pytest.raises(ValueError, match=r"b\.tif: expected 8 or 16 bits a channel, got 32"):
        read_picture(str(tmp_path / "b.tif"))

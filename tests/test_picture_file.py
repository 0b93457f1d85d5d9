"""Pictures that claim more than they have, or are none."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldpress import field_jobs
from fieldpress.scenes.photos import photo_size
from fieldpress.scenes.picture_file import open_picture
from fieldpress.scenes.video import read_clip
from fieldpress.viewer.png import encode_png

pytest.importorskip("PIL", reason="pictures need Pillow")
CLAIMED = 1 << 30
PIXELS = torch.rand(6, 8, 3, generator=torch.Generator().manual_seed(0))


def claiming(kind: bytes) -> bytes:
    """A PNG whose second chunk, of a kind, has a length far beyond the file's."""
    data = encode_png(PIXELS)
    chunk = struct.pack(">I", CLAIMED) + kind + b"x" * 8
    return data[:33] + chunk + struct.pack(">I", zlib.crc32(kind)) + data[33:]


@pytest.mark.parametrize("kind", [b"tEXt", b"iCCP", b"eXIf", b"IDAT"])
def test_a_chunk_that_claims_too_much_takes_no_memory(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(claiming(kind))
    for read in (lambda: field_jobs.read_picture(str(path)), lambda: photo_size(path),
                 lambda: read_clip(tmp_path)):  # fmt: skip
        said = ""
        tracemalloc.start()
        try:
            read()
        except ValueError as error:
            said = str(error)
        finally:
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert most < CLAIMED // 16
        assert not said or (said.startswith(str(path)) and "\n" not in said)


def test_a_good_one_is_read_and_other_files_are_named(tmp_path: Path) -> None:
    path, none = tmp_path / "a.png", tmp_path / "none.png"
    path.write_bytes(encode_png(PIXELS))
    with open_picture(path) as picture:
        assert np.array(picture.convert("RGB")).shape == (6, 8, 3)
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        field_jobs.read_picture(str(none))
    with pytest.raises(ValueError, match=r"^\S*none\.png: not readable: No such file"):
        photo_size(none)
    none.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"^\S*none\.png: not a picture that Pillow reads$"):
        photo_size(none)


@pytest.mark.parametrize("kind", [TypeError, SyntaxError, KeyError, struct.error, OverflowError])
def test_whatever_pillow_fails_with_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """Its decoders were seen to raise TypeError for headers that do not fit their pixels."""
    (tmp_path / "a.png").write_bytes(encode_png(PIXELS))

    def fail(*_: object) -> None:
        raise kind("function takes at most 3 arguments (4 given)")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(ValueError, match=r"a\.png: not readable: .*takes at most 3"):
        field_jobs.read_picture(str(tmp_path / "a.png"))

"""Every reader with damaged and hostile files: a model or one line, nothing allocated or followed.

bench/fuzz.py does so as long as one likes; here are a few of each.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import struct
import zipfile

import pytest

from fieldpress import models
from fieldpress.gaussians import sog_write
from fieldpress.gaussians.limits import within
from fieldpress.gaussians.sog import read_sog

WRITTEN = [found for found in models.FORMATS if found.writer and found.suffix[0] == "."]


def written(model, found: models.Format, **options: int) -> bytes:
    if found.suffix == ".sog":
        pytest.importorskip("PIL.Image", reason="SOG needs Pillow")
    made = models.encoded(within(model, found.limits())[0], found, **options)
    assert not isinstance(made, dict)
    return b"".join(made)


def damaged(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out))
        if rng.random() < 0.4:
            out[at] ^= 1 << rng.randrange(8)
        elif rng.random() < 0.5:  # Sizes are 4 or 8 bytes somewhere near the beginning.
            at = rng.randrange(min(len(out), 80))
            out[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 1 << 31, (1 << 32) - 1)))
        elif rng.random() < 0.5:
            del out[at : at + rng.randint(1, 16)]
        else:
            out[at:at] = rng.randbytes(rng.randint(1, 16))
        if not out:
            break
    return bytes(out)


def refusal(data: bytes, name: str, most: int = 1 << 30) -> str | None:
    """What is said of a file, or None where it is read, as a model of at most so many Gaussians."""
    try:
        model = models.load_bytes(data, name)
    except ValueError as error:
        return str(error)
    assert len(model) <= most
    return None


@pytest.mark.parametrize("found", WRITTEN, ids=lambda found: found.name)
def test_damage_is_one_line(tiny_model, found):
    rng = random.Random(7)
    data = written(tiny_model(20, 2), found)
    refused = 0
    for number in range(120):
        bad = data[: rng.randrange(len(data))] if number % 5 == 0 else damaged(data, rng)
        message = refusal(bad, f"bad{found.suffix}")
        assert message is None or re.fullmatch(rf"bad{found.suffix}: [^\n]{{1,400}}", message)
        refused += message is not None
    assert refused >= 24  # At least what was cut short, where that can be seen.


def bundle(files: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


@pytest.fixture
def files(tiny_model) -> dict[str, bytes]:
    pytest.importorskip("PIL.Image", reason="SOG needs Pillow")
    return sog_write.write_sog(tiny_model(20, 1))


def test_a_zip_bomb_is_not_inflated(files, monkeypatch):
    from fieldpress.gaussians import sog

    monkeypatch.setattr(sog, "ENTRY_FLOOR", 1 << 20)
    bomb = bundle(files | {"means_l.webp": bytes(64 << 20)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(
        ValueError, match=r"means_l\.webp: expected at most \d+ bytes, claims 67108"
    ):
        read_sog(bomb, name="a.sog")


@pytest.mark.parametrize(
    "path", ["../out.webp", "/etc/passwd", "..\\out.webp", "a\0b", "x/../../o"]
)
def test_no_path_leads_outside(files, tmp_path, path):
    """Neither of a folder nor of a bundle: the second knows its own entries only."""
    meta = json.loads(files["meta.json"])
    meta["means"]["files"][0] = path
    changed = files | {"meta.json": json.dumps(meta).encode()}
    scene = tmp_path / "scene"
    scene.mkdir()
    for name, content in changed.items():
        (scene / name).write_bytes(content)
    (tmp_path / "out.webp").write_bytes(files["means_l.webp"])
    with pytest.raises(ValueError, match="names a file outside its folder"):
        read_sog(scene)
    with pytest.raises(ValueError, match="has no entry"):
        read_sog(bundle(changed), name="a.sog")


def test_nothing_is_written_beside_an_archive(files, tmp_path):
    """Entries named to lead outside are read by name, never extracted."""
    path = tmp_path / "in" / "a.sog"
    path.parent.mkdir()
    path.write_bytes(bundle(files | {"../../evil.webp": b"x"}))
    assert len(read_sog(path)) == 20
    assert {p.name for p in tmp_path.rglob("*")} == {"in", "a.sog"}


def test_an_image_that_is_larger_than_its_bytes_allow(files):
    image = pytest.importorskip("PIL.Image", reason="SOG needs Pillow")
    wide = io.BytesIO()
    image.new("RGBA", (16000, 4000)).save(wide, "WEBP", lossless=True, method=0)
    with pytest.raises(ValueError, match="64000000 texels from"):
        read_sog(bundle(files | {"means_u.webp": wide.getvalue()}), name="a.sog")


@pytest.mark.parametrize("found", WRITTEN, ids=lambda found: found.name)
def test_huge_counts_are_not_believed(tiny_model, found):
    """Every 32-bit word of the beginning set to the largest value: memory stays small."""
    data = written(tiny_model(20, 1), found)
    inner = gzip.decompress(data) if found.suffix == ".spz" else data
    for at in range(0, min(len(inner) - 4, 64), 4):
        changed = inner[:at] + b"\xff\xff\xff\x7f" + inner[at + 4 :]
        bad = gzip.compress(changed, 1) if found.suffix == ".spz" else changed
        message = refusal(bad, f"bad{found.suffix}", most=1000)
        assert message is None or "\n" not in message

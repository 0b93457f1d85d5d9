"""--max-memory, disks that are full and folders that may not be written: one line each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from fieldpress import fitting, models
from fieldpress.__main__ import main
from fieldpress.gaussians import codec
from fieldpress.gaussians.limits import within
from fieldpress.gaussians.model import SplatModel
from fieldpress.quant import budget
from fieldpress.scenes.datasets import read_scene
from fieldpress.viewer.png import encode_png

Model = Callable[..., SplatModel]
WRITTEN = [found for found in models.FORMATS if found.writer and found.suffix[0] == "."]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    budget.set_limit(None)
    os.environ.pop(budget.VARIABLE, None)


@pytest.mark.parametrize("found", WRITTEN, ids=lambda found: found.name)
def test_every_reader_asks_before_it_takes(tiny_model: Model, found: models.Format) -> None:
    if found.suffix == ".sog":
        pytest.importorskip("PIL.Image", reason="SOG needs Pillow")
    model = within(tiny_model(9000, 3), found.limits())[0]
    pieces = models.encoded(model, found)
    assert not isinstance(pieces, dict)
    data = b"".join(pieces)
    name = f"big{found.suffix}"
    with budget.limited(model.float_bytes // 2):
        if found.suffix != ".safetensors":  # Its arrays are those of the file, not a claim.
            with pytest.raises(ValueError, match=rf"{name}.*MB of memory, more than .*max-memory"):
                models.load_bytes(data, name)
    with budget.limited(64 << 20):
        assert len(models.load_bytes(data, name)) == 9000


def test_a_compressed_scene_and_a_folder_are_asked_too(
    tiny_model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model(9000, 3)
    path = tmp_path / "a.fpz"
    path.write_bytes(
        codec.encode(model, torch.zeros(9000, dtype=torch.int32).numpy(), codec.Steps())
    )
    assert main(["--max-memory", "1", "decompress", str(path), "-o", f"{tmp_path}/b.ply"]) == 1
    said = capsys.readouterr().err
    assert "a.fpz: 9000 Gaussians: needs 2 MB of memory, more than the limit of 1 MB" in said
    assert said.count("\n") == 1
    assert os.environ[budget.VARIABLE] == "1"  # Workers keep to it as well.
    assert not (tmp_path / "b.ply").exists()
    assert main(["decompress", str(path), "-o", f"{tmp_path}/b.ply", "--max-memory=64"]) == 0
    large = tmp_path / "a.spz"
    large.write_bytes(b"\x1f\x8b" + bytes(2_000_000))
    assert main(["--max-memory", "1", "info", str(large)]) == 1
    assert "a.spz: needs 2 MB of memory" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["x", "0", "-5", "nan", "", "1e400"])
def test_a_limit_that_is_none_is_misuse(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "x.fpz", f"--max-memory={value}"]) == 2
    assert "--max-memory: expected a number of MB" in capsys.readouterr().err


def test_the_default_is_what_the_machine_has() -> None:
    assert 1 << 28 < budget.limit() < 1 << 50


def test_photographs_are_counted_before_they_are_read(tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image", reason="photographs need Pillow")
    _capture(tmp_path)
    assert len(read_scene(tmp_path, most_bytes=1 << 20).train) == 3
    with pytest.raises(ValueError, match=r"transforms.json: its photographs need .*--downscale"):
        read_scene(tmp_path, most_bytes=1 << 12)


def _capture(folder: Path) -> None:
    from fieldpress.scenes.orbit import orbit
    from fieldpress.scenes.transforms_json import write_transforms

    (folder / "images").mkdir()
    names = [f"images/{i}.png" for i in range(4)]
    for name in names:
        (folder / name).write_bytes(encode_png(torch.rand(16, 16, 3)))
    views = orbit([0.0, 0.0, 0.0], 3.0, 4, width=16, height=16)
    write_transforms(folder / "transforms.json", views, names)


def test_a_checkpoint_that_inflates_is_refused(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "x.checkpoint"
    fitting.save_checkpoint(path, {"x": torch.zeros(3)}, {"steps": 1})
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, bytes(64 << 20) if name.endswith("/0") else data)
    with budget.limited(1 << 20), pytest.raises(ValueError, match=r"x\.checkpoint: "):
        fitting.load_checkpoint(path, {"steps": 1})


# Where nothing can be written


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_finds_no_room_is_one_line(tmp_path: Path) -> None:
    state = {"x": torch.zeros(100_000)}
    with full_disk(64), pytest.raises(ValueError, match=r"x\.checkpoint: cannot write: [^\n]*$"):
        fitting.save_checkpoint(tmp_path / "x.checkpoint", state, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["b.ply", "b.spz", "b.glb", "b.splat", "sog/meta.json", "b.fpz"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    name: str, tmp_path: Path, tiny_model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    if "sog" in name:
        pytest.importorskip("PIL.Image", reason="SOG needs Pillow")
    source = tmp_path / "a.ply"
    models.save(tiny_model(300, 1), source)
    verb = ["compress", str(source), "-o"] if name == "b.fpz" else ["convert", str(source)]
    options = ["--effort", "fast"] if name == "b.fpz" else []
    with full_disk(64):
        assert main([*verb, str(tmp_path / name), *options]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert "cannot write: File too large" in said[-1]
    assert sum("error" in line for line in said) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]

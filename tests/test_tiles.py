"""Scenes of tiles: cut without loss, one file read tile by tile, chosen by view, never trusted."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldpress import models, press, tile_parts, tiling
from fieldpress.console import Progress
from fieldpress.converting import Wanted, convert
from fieldpress.gaussians import codec, cut, ply
from fieldpress.gaussians import compress as pressing
from fieldpress.gaussians.codec import Steps, encode
from fieldpress.gaussians.compress import CompressSettings
from fieldpress.gaussians.cut import Rows, grow
from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.tiled import TiledModel
from fieldpress.gaussians.tiles import Tile, TiledFile, file_blocks, joined
from fieldpress.jobs import Outcome, attempt
from fieldpress.quant import container
from fieldpress.scenes import synthesise
from fieldpress.scenes.cameras import Cameras
from fieldpress.scenes.orbit import orbit
from fieldpress.tile_parts import Parts

# Cutting


def sorted_rows(tables: list[np.ndarray]) -> np.ndarray:
    rows = np.concatenate(tables)
    return np.sort(rows.view(np.dtype((np.void, rows.dtype.itemsize))), axis=0)


@pytest.mark.parametrize("strip", [7, 1 << 16])
def test_tiles_hold_every_row_once_unchanged(
    strip: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, splat_ply, tiny_model
) -> None:
    monkeypatch.setattr(cut, "STRIP", strip)
    model = tiny_model(500, 1)
    model.means[3] = torch.nan
    rows = Rows.open(splat_ply(model))
    parts = cut.cut(rows, tmp_path, 100)
    assert all(count == Rows.open(path).count for path, count in parts)
    assert sum(count for _, count in parts) == 500
    assert max(count for _, count in parts) <= 101
    tables = [table for path, _ in parts for table in Rows.open(path).strips()]
    whole = list(rows.strips())
    np.testing.assert_array_equal(sorted_rows(tables).view("V1"), sorted_rows(whole).view("V1"))
    boxes = [ply.read_ply(path).means for path, _ in parts]
    for i, one in enumerate(boxes):  # A plane lies between any two.
        for other in boxes[:i]:
            a, b = one[one.isfinite().all(1)], other[other.isfinite().all(1)]
            assert bool(((a.amax(0) < b.amin(0)) | (b.amax(0) < a.amin(0))).any())


def test_a_sample_lays_the_cuts_of_a_large_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, splat_ply, tiny_model
) -> None:
    monkeypatch.setattr(cut, "SAMPLES", 200)
    monkeypatch.setattr(cut, "STRIP", 333)
    parts = cut.cut(Rows.open(splat_ply(tiny_model(2000, 0))), tmp_path, 300)
    assert sum(count for _, count in parts) == 2000
    assert max(count for _, count in parts) < 450


def test_equal_points_stay_together() -> None:
    same = np.ones((50, 3), np.float32)
    assert grow(same, 10).tiles == 1
    mixed = np.concatenate([same, np.float32(2) * same[:5]])
    tree = grow(mixed, 10)
    assert tree.tiles == 2
    found = tree.find(mixed)
    assert len(set(found[:50])) == 1
    assert set(found[:50]) != set(found[50:])
    assert grow(np.empty((0, 3), np.float32), 10).find(same).tolist() == [0] * 50


def test_other_byte_orders_columns_and_elements(tmp_path: Path, tiny_model) -> None:
    model = tiny_model(30, 0)
    names = [name for group in ply.COLUMNS.values() for name in group]
    dtype = np.dtype([("confidence", "u1"), *((name, ">f8") for name in names)])
    rows = np.zeros(30, dtype)
    for group, value in model.tensors().items():
        for i, name in enumerate(ply.COLUMNS.get(group, ())):
            rows[name] = value.reshape(30, -1)[:, i].numpy()
    head = "ply\nformat binary_big_endian 1.0\nelement camera 2\nproperty int id\n"
    head += "element vertex 30\nproperty uchar confidence\n"
    head += "".join(f"property double {name}\n" for name in names) + "end_header\n"
    path = tmp_path / "odd.ply"
    path.write_bytes(head.encode() + bytes(8) + rows.tobytes())
    parts = cut.cut(Rows.open(path), tmp_path, 10)
    found = torch.cat([ply.read_ply(part).means for part, _ in parts])
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, model.means.tolist()))


def test_what_cannot_be_cut_is_refused_in_one_line(tmp_path: Path, splat_ply, tiny_model) -> None:
    path = splat_ply(tiny_model(20))
    text = splat_ply(tiny_model(20), "text.ply", text=True)
    (tmp_path / "short.ply").write_bytes(path.read_bytes()[:-1])
    (tmp_path / "none.ply").write_bytes(b"")
    for bad, said in (
        (text, "text.ply: cut into tiles: expected a binary PLY"),
        (tmp_path / "short.ply", "short.ply: truncated PLY"),
        (tmp_path / "none.ply", "none.ply: not a PLY file"),
        (tmp_path / "gone.ply", "gone.ply: not readable: no such file"),
    ):
        with pytest.raises(ValueError, match=said):
            Rows.open(bad)


# The file


def coded(model: SplatModel) -> bytes:
    return encode(model, np.zeros(len(model), np.int64), Steps())


@pytest.fixture(scope="module")
def parts(tiny_model: Callable[..., SplatModel]) -> list[list[bytes]]:
    """Three tiles side by side, the streams of two levels each."""
    found = []
    for number in range(3):
        model = tiny_model(60, 1, seed=number)
        model.means[:, 0] += 6.0 * number
        found.append([coded(model), coded(model[:9])])
    return found


def assemble(folder: Path, parts: list[list[bytes]], **changes) -> bytes:
    streams, records = {}, []
    for number, levels in enumerate(parts):
        records.append(Tile.of([codec.decode(level) for level in levels]))
        for level, data in enumerate(levels):
            streams[number, level] = folder / f"{number}-{level}"
            streams[number, level].write_bytes(data)
    return b"".join(file_blocks({"seed": 0}, changes.get("records", records), streams))


def test_what_is_read_by_tile_is_what_was_coded(tmp_path: Path, parts) -> None:
    data = assemble(tmp_path, parts)
    file = TiledFile.of(data, "f.fpz")
    for number, levels in enumerate(parts):
        for level, stream in enumerate(levels):
            assert file.stream(number, level) == stream
            model, alone = file.read(number, level), codec.decode(stream)
            for name, value in alone.tensors().items():
                assert torch.equal(model.tensors()[name], value)
    assert file.count == 180
    assert len(codec.decode(data)) == 180
    (tmp_path / "f.fpz").write_bytes(data)
    opened = TiledFile.open(tmp_path / "f.fpz")
    assert opened is not None
    assert opened.tiles == file.tiles
    (tmp_path / "g.fpz").write_bytes(parts[0][0])
    assert TiledFile.open(tmp_path / "g.fpz") is None
    assert TiledFile.open(tmp_path / "none") is None


def test_every_prefix_is_a_coarser_scene(tmp_path: Path, parts) -> None:
    data = assemble(tmp_path, parts)
    ends = [offset + entry.coded_size for entry, offset in container.locate(data)[1]]
    counts = [len(codec.decode(data[:end], partial=True)) for end in ends]
    assert counts == [0, 9, 18, 27, 27 + 51, 27 + 102, 180]
    assert len(codec.decode(data[: ends[1] + 1], partial=True)) == 9


def test_a_damaged_file_is_refused_wherever_it_is_damaged(tmp_path: Path, parts, refusal) -> None:
    data = assemble(tmp_path, parts)
    assert refusal(data) is None
    for at in range(0, len(data), 97):
        bad = bytearray(data)
        bad[at] ^= 0x10
        assert refusal(bytes(bad)) is not None
    for cut_at in (*range(0, 200, 7), len(data) - 1):
        assert refusal(data[:cut_at]) is not None
    assert refusal(data + b"\0") is not None


def rewritten(data: bytes, header=None, change=None) -> bytes:
    """The file with another header, or with what `change` makes of its (name, payload) pairs."""
    found = container.read(data)
    pairs = [(section.name, section.payload) for section in found.sections]
    pairs = change(pairs) if change else pairs
    sections = [container.Section(name, "raw", x, len(x)) for name, x in pairs]
    return container.write({**found.header, **(header or {})}, sections)


def test_an_index_that_lies_is_refused(tmp_path: Path, parts, refusal) -> None:
    data = assemble(tmp_path, parts)

    def index(edit: Callable[[bytearray], object]):
        def change(pairs):
            box = bytearray(pairs[0][1])
            edit(box)
            return [("index", bytes(box)), *pairs[1:]]

        return rewritten(data, change=change)

    lies = {
        "count": index(lambda b: struct.pack_into("<I", b, 28, 61)),
        "large": index(lambda b: struct.pack_into("<I", b, 28, 2**32 - 1)),
        "nan": index(lambda b: struct.pack_into("<f", b, 0, float("nan"))),
        "turned": index(lambda b: struct.pack_into("<f", b, 0, 1e9)),
        "small": index(lambda b: struct.pack_into("<f", b, 12, -1.0)),
        "reach": index(lambda b: struct.pack_into("<f", b, 24, -1.0)),
        "short": index(lambda b: b.pop()),
        "empty": index(lambda b: b.clear()),
        "levels": rewritten(data, {"levels": 3}),
        "many levels": rewritten(data, {"levels": 2**60}),
        "no levels": rewritten(data, {"levels": None}),
        "true": rewritten(data, {"levels": True}),
        "swapped": rewritten(data, change=lambda p: [p[0], p[2], p[1], *p[3:]]),
        "missing": rewritten(data, change=lambda p: p[:-1]),
        "bare": rewritten(data, change=lambda p: []),
        "nested": rewritten(data, change=lambda p: [*p[:-1], (p[-1][0], data)]),
        "stream": rewritten(data, change=lambda p: [*p[:-1], (p[-1][0], b"x" * 50)]),
    }
    for name, bad in lies.items():
        assert refusal(bad) is not None, name
    assert "expected kind 'gaussians', got 'tiles'" in str(refusal(lies["nested"]))
    assert "tile 0: expected 61 Gaussians, got 60" in str(refusal(lies["count"])).replace("of ", "")


# Seen


def views(model: SplatModel, distance: float = 12.0, count: int = 4) -> Cameras:
    middle = model.means.mean(0).tolist()
    return orbit(middle, distance, count, width=48, height=36, up=[0, -1, 0])


def test_what_is_out_of_sight_is_not_decoded_and_not_missed(tmp_path: Path, parts) -> None:
    file = TiledFile.of(assemble(tmp_path, parts), "f.fpz")
    whole = joined(list(file.finest()))
    seen = TiledModel(file, detail=1e9)  # Always the finest level.
    cameras = [*(views(whole, d) for d in (0.5, 3.0, 12.0)), views(file.read(0), 1.0)]
    chosen = set()
    for camera in cameras:
        assert torch.allclose(seen.render(camera), whole.render(camera), atol=2e-6)
        for i in range(len(camera)):
            chosen.add(len(seen.select(camera[i : i + 1])))
    assert min(chosen) < 3  # Else nothing was left out.


def test_far_tiles_are_coarse(tmp_path: Path, parts) -> None:
    file = TiledFile.of(assemble(tmp_path, parts), "f.fpz")
    whole = joined(list(file.finest()))
    levels = [
        [level for _, level in TiledModel(file, detail=d).select(views(whole, 40.0))]
        for d in (1e-3, 1e9)
    ]
    assert levels == [[1, 1, 1], [0, 0, 0]]
    near = TiledModel(file, detail=1e-3).select(views(file.read(1), 0.1, 1))
    assert dict(near)[1] == 0  # The camera stands in it.


def test_decoded_tiles_wait_within_their_budget(
    tmp_path: Path, parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = TiledFile.of(assemble(tmp_path, parts), "f.fpz")
    reads = []
    read = TiledFile.read
    monkeypatch.setattr(TiledFile, "read", lambda self, *key: reads.append(key) or read(self, *key))
    camera = views(joined(list(file.finest())), 12.0, 1)
    held = TiledModel(file)
    reads.clear()
    held.render(camera)
    first = len(reads)
    held.render(camera)
    assert len(reads) == first > 0
    tight = TiledModel(file, held_bytes=0)
    tight.gather(camera)
    tight.gather(views(file.read(0), 1.0, 1))
    assert len(tight._held) <= 3


# The job


class Here:
    """A pool of this process."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, Outcome]] = []

    def room(self) -> int:
        return 3

    def start(self, task, place: Path) -> None:
        self.ended.insert(0, (task.key, attempt(task, place)))

    def wait(self, seconds: float) -> list[tuple[str, Outcome]]:
        return [self.ended.pop()] if self.ended else []

    def stop(self, key: str) -> None:
        self.ended = [item for item in self.ended if item[0] != key]

    def close(self) -> None: ...


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressing, "VIEWS", 4)
    monkeypatch.setattr(pressing, "VIEW_SIZE", (64, 48))
    monkeypatch.setattr(synthesise, "MIN_CANDIDATES", 8)
    monkeypatch.setattr(synthesise, "CANDIDATES", 1)


def test_a_scene_is_pressed_by_tile_and_read_back(
    tmp_path: Path, quick: None, splat_ply, shell
) -> None:
    model = shell(1600)
    source, output = splat_ply(model), tmp_path / "out.fpz"
    settings = CompressSettings(target_db=30.0, effort="fast")
    report = tiling.compress_tiles(str(source), str(output), settings, 900, Here())
    assert report["tiles"] == 2
    assert report["psnr_self_worst_tile"] >= 29.9
    assert report["output_bytes"] == output.stat().st_size
    file = TiledFile.open(output)
    assert file is not None
    assert report["count_out"] == file.count == len(codec.decode(output.read_bytes()))
    for tile in file.tiles:
        assert tile.counts[1] <= max(tile.counts[0] // tiling.COARSER, tiling.FEWEST)
    with Progress() as progress:
        done = convert(
            str(output), str(tmp_path / "back.ply"), Wanted(), overwrite=False, progress=progress
        )
    back = ply.read_ply(tmp_path / "back.ply")
    assert done["count_out"] == len(back) == file.count
    again = codec.decode(output.read_bytes())
    assert all(torch.equal(back.tensors()[k], v) for k, v in again.tensors().items())
    said = press.describe(str(output))
    assert (said["kind"], said["tiles"], said["count"]) == ("tiles", 2, file.count)
    other = tmp_path / "again.fpz"
    tiling.compress_tiles(str(source), str(other), settings, 900, Here())
    assert other.read_bytes() == output.read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"out.fpz", "again.fpz", "back.ply"}


def test_a_tile_that_fails_leaves_the_others(tmp_path: Path, quick: None, splat_ply, shell) -> None:
    class Failing(Here):
        def start(self, task, place: Path) -> None:
            (place / "0.fpz").write_bytes(b"half")
            self.ended.append((task.key, Outcome(None, "the process was killed by signal 9")))

    source, output = splat_ply(shell(1600)), tmp_path / "out.fpz"
    settings = CompressSettings(target_db=30.0, effort="fast")
    said = r"tile 00000[01]: the process was killed by signal 9 \(0 of 2 are finished: --resume"
    with pytest.raises(ValueError, match=said):
        tiling.compress_tiles(str(source), str(output), settings, 900, Failing())
    assert [p.name for p in tmp_path.iterdir()] == ["out.fpz.parts"]
    with pytest.raises(ValueError, match=r"out.fpz.parts: these tiles are of another job: tiles"):
        tiling.compress_tiles(str(source), str(output), settings, 800, Here(), resume=True)
    tiling.compress_tiles(str(source), str(output), settings, 900, Here(), resume=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out.fpz"]


@pytest.mark.parametrize("when", ["pressed", "kept", "written"])
def test_resume_repeats_no_tile_and_gives_the_same_file(
    tmp_path: Path, quick: None, splat_ply, shell, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    source = str(splat_ply(shell(1600)))
    settings = CompressSettings(target_db=30.0, effort="fast")
    tiling.compress_tiles(source, str(tmp_path / "whole.fpz"), settings, 900, Here())
    output, kept, write = tmp_path / "out.fpz", Parts.keep, models.write_atomic

    def keep(self, key, place, result) -> None:
        if when == "pressed":
            raise KeyboardInterrupt
        kept(self, key, place, result)
        if when == "kept":
            raise KeyboardInterrupt

    def write_atomic(path, blocks) -> int:
        if path == output:
            raise KeyboardInterrupt
        return write(path, blocks)

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "keep", keep)
        patch.setattr(models, "write_atomic", write_atomic)
        with pytest.raises(KeyboardInterrupt):
            tiling.compress_tiles(source, str(output), settings, 900, Here())
    assert not output.exists()
    report = tiling.compress_tiles(source, str(output), settings, 900, Here(), resume=True)
    assert report["resumed"] == {"pressed": 0, "kept": 1, "written": 2}[when]
    assert output.read_bytes() == (tmp_path / "whole.fpz").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"out.fpz", "whole.fpz"}
    with pytest.raises(ValueError, match="no tiles to resume from"):
        tiling.compress_tiles(source, str(output), settings, 900, Here(), resume=True)


def test_no_seam_shows_where_tiles_meet(tmp_path: Path, quick: None, splat_ply, shell) -> None:
    """Beside the cut the error is that of any other place, and all at once is tile by tile."""
    model, output = shell(1600), tmp_path / "out.fpz"
    settings = CompressSettings(target_db=32.0, effort="fast")
    tiling.compress_tiles(str(splat_ply(model)), str(output), settings, 900, Here())
    file = TiledFile.open(output)
    assert file is not None
    one, other = file.tiles
    gaps = [max(b - c, a - d) for a, d, b, c in zip(
        one.low, other.high, other.low, one.high, strict=True)]  # fmt: skip
    axis = int(np.argmax(gaps))
    low, high = (one, other) if one.high[axis] <= other.low[axis] else (other, one)
    place = torch.zeros(3)
    place[axis] = (low.high[axis] + high.low[axis]) / 2
    # Cameras in the plane of the cut look along it: it is a line in the picture.
    eye = torch.zeros(3)
    eye[(axis + 1) % 3] = 3.0
    up = [0.0, 0.0, 0.0]
    up[(axis + 2) % 3] = 1.0
    views = orbit((0.0, 0.0, 0.0), 3.0, 12, width=96, height=96, up=up)
    distance = views.positions @ (place / place.norm() if place.norm() else eye)
    views = views[distance.abs().argsort()[:2]]
    truth, got = model.render(views), codec.decode(output.read_bytes()).render(views)
    rows, columns = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    for view, picture, wanted in zip(range(2), got, truth, strict=True):
        K, pose = views.Ks[view], views.viewmats[view]
        rays = torch.stack([(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1],
                            torch.ones_like(rows)], -1) @ pose[:3, :3]  # fmt: skip
        middle = views.positions[view] + 3.0 * rays  # Where rays are in the middle of the scene.
        near = (middle[..., axis] - place[axis]).abs() < 0.12
        seen = wanted.sum(-1) > 0.05
        error = (picture - wanted).square().mean(-1)
        assert (near & seen).sum() > 100
        assert error[near & seen].mean() < 2 * error[~near & seen].mean()
    torch.testing.assert_close(TiledModel(file, detail=1e9).render(views), got, atol=2e-5, rtol=0)


def test_a_size_is_shared_among_tiles() -> None:
    whole = CompressSettings(target_bytes=1_000_000)
    goals = [tiling._goals(whole, share) for share in (0.25, 0.75)]
    assert sum(goal.target_bytes or 0 for pair in goals for goal in pair) <= 980_000
    assert (goals[1][0].target_bytes or 0) == pytest.approx(645_000, abs=1)


@pytest.mark.parametrize("whole", [True, False])
def test_a_full_disk_leaves_no_tiles_that_are_not_told(
    tmp_path: Path, quick: None, splat_ply, shell, monkeypatch, whole: bool
) -> None:
    """Where nothing is finished the folder goes; what is finished stays and is named."""
    source, output = str(splat_ply(shell(300))), tmp_path / "a.fpz"
    parts = output.with_name("a.fpz.parts")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def no_room(*args: object) -> int:
        if not whole:
            raise full
        if Path(str(args[0])) == output:
            raise ValueError(f"{output}: cannot write: {full.strerror}")
        return write(*args)  # type: ignore[arg-type]

    write = models.write_atomic
    monkeypatch.setattr(
        models if whole else tile_parts, "write_atomic" if whole else "cut", no_room
    )
    with pytest.raises(ValueError, match=r"^\S*a.fpz: cannot write: No space left") as told:
        tiling.compress_tiles(source, str(output), CompressSettings(effort="fast"), 900, Here())
    assert parts.exists() == whole
    assert ("--resume goes on from a.fpz.parts" in str(told.value)) == whole

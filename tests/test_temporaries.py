"""Temporaries: what a kill left goes at the next start, what is at work or another's stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fieldpress import models, temporaries
from fieldpress.console import check_output, whole
from fieldpress.temporaries import folder_beside, sweep

GONE = 4194305  # Beyond Linux's largest process id.

pytestmark = pytest.mark.skipif(temporaries.fcntl is None, reason="needs file locks")

CHILD = """
import os, signal, sys
from pathlib import Path
from fieldpress import models
from fieldpress.temporaries import folder_beside
what, path = sys.argv[1], Path(sys.argv[2])
if what == "file":
    def blocks():
        yield b"half"
        os.kill(os.getpid(), signal.SIGKILL)
    models.write_atomic(path, blocks())
elif what == "folder":
    with folder_beside(path) as place:
        (place / "x").mkdir()
        (place / "x" / "y").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
else:
    moves, done, replace = int(what), [], os.replace
    def counted(source, target):
        if len(done) == moves:
            os.kill(os.getpid(), signal.SIGKILL)
        done.append(target)
        replace(source, target)
    os.replace = counted
    models.write_folder(path, {"b": b"new", "c": b"new", "meta.json": b"new"}, ["a"])
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(what: str, path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, what, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_a_killed_process_left_goes_at_the_next_start(tmp_path: Path, what: str) -> None:
    out = tmp_path / "scene.fpz"
    out.write_bytes(b"old")
    (tmp_path / ".mine.tmp").write_bytes(b"mine")
    killed(what, out)
    assert len(list(tmp_path.iterdir())) == 3
    assert out.read_bytes() == b"old"
    check_output(str(tmp_path / "other.fpz"), overwrite=False)
    assert {p.name for p in tmp_path.iterdir()} == {"scene.fpz", ".mine.tmp"}


@pytest.mark.parametrize("moves", range(9))
def test_a_folder_that_was_being_replaced_is_the_old_or_the_new(tmp_path: Path, moves: int) -> None:
    folder = tmp_path / "scene"
    old = {"a": b"old", "b": b"old", "meta.json": b"old", "notes": b"mine"}
    folder.mkdir()
    for name, data in old.items():
        (folder / name).write_bytes(data)
    killed(str(moves), folder)
    if 1 <= moves < 6:  # Three moved aside, three into their place: in between it is no scene.
        assert not (folder / "meta.json").exists()
    sweep(folder)
    found = {p.name: p.read_bytes() for p in folder.iterdir()}
    if moves >= 7:
        assert found == {"b": b"new", "c": b"new", "meta.json": b"new", "notes": b"mine"}
    else:
        assert {name: found[name] for name in old} == old
        assert set(found) <= {*old, "c"}


def test_what_is_at_work_or_anothers_stays(tmp_path: Path) -> None:
    with folder_beside(tmp_path / "a") as place:
        sweep(tmp_path)
        assert place.is_dir()
        # As another machine's process would name it: its number says nothing, its lock does.
        other = place.with_name(place.name.replace(str(os.getpid()), str(GONE)))
        place.rename(other)
        sweep(tmp_path)
        assert other.is_dir()
    sweep(tmp_path)
    assert not list(tmp_path.iterdir())


def test_links_are_not_followed(tmp_path: Path) -> None:
    treasure, folder = tmp_path / "treasure", tmp_path / "out"
    treasure.mkdir()
    (treasure / "x").write_bytes(b"x")
    folder.mkdir()
    (folder / f".a.fieldpress-{GONE}-0123abcd.tmp").symlink_to(treasure)
    sweep(folder)
    assert not list(folder.iterdir())
    assert (treasure / "x").read_bytes() == b"x"


def test_only_names_of_this_form_are_swept(tmp_path: Path) -> None:
    kept = [
        f".a.fieldpress-{GONE}-0123abcd.tmp.txt", f".a.fieldpress-{GONE}-0123.tmp",
        f"a.fieldpress-{GONE}-0123abcd.tmp", ".a.tmp", f".a.fieldpress-{os.getpid()}-0123abcd.tmp",
    ]  # fmt: skip
    for name in kept:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / f".é {'x' * 90}.fieldpress-{GONE}-0123abcd.tmp").write_bytes(b"")
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(kept)


def test_the_longest_names_can_be_written(tmp_path: Path) -> None:
    name = "ü" * 125 + ".ply"
    models.write_atomic(tmp_path / name, [b"1"])
    with whole(tmp_path / name) as new:
        new.write_bytes(b"2")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(name, b"2")]


@pytest.mark.parametrize("beside", [temporaries.file_beside, temporaries.folder_beside])
def test_a_signal_before_the_lock_leaves_nothing(beside, tmp_path: Path, monkeypatch) -> None:
    def interrupted(place: Path) -> int:
        assert place.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(temporaries, "_locked", interrupted)
    with pytest.raises(KeyboardInterrupt), beside(tmp_path / "x.fpz"):
        pass
    assert list(tmp_path.iterdir()) == []

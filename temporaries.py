"""Files and folders that are not finished: made beside what they are to become, swept if abandoned.

A temporary is named `.NAME.fieldpress-PID-XXXXXXXX.tmp` and locked while its process lives. One
whose process is gone and whose lock is free was left by a kill: the next start in its folder takes
it away, and puts back what it had set aside.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is swept there, as nothing says whose it is.
    fcntl = None

OURS = re.compile(r"\..*\.fieldpress-(\d{1,10})-[0-9a-f]{8}\.tmp", re.DOTALL)
ASIDE = "replaced"  # In a temporary folder: files that are to come back if it is not finished.
DONE = "done"  # What that is called once they are not.
MOST_NAME = 100  # Bytes of a name that are kept in the temporary's: file systems end at 255.


def _named(path: Path) -> Path:
    name = path.name.encode()[:MOST_NAME].decode("utf-8", "ignore")
    return path.parent / f".{name}.fieldpress-{os.getpid()}-{secrets.token_hex(4)}.tmp"


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` for the time of the block. Raises OSError."""
    sweep(path.parent)
    place, lock = _named(path), None
    try:  # From before it is there on: a signal may come between any two lines.
        place.mkdir(mode=0o700)
        lock = _locked(place)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """An empty folder where the system keeps temporary files, for the time of the block."""
    with folder_beside(Path(tempfile.gettempdir()) / purpose) as place:
        yield place


@contextmanager
def file_beside(path: Path) -> Iterator[Path]:
    """The name of a new file beside `path`; what is there when the block ends goes.

    Raises OSError.
    """
    sweep(path.parent)
    place, lock = _named(path), None
    try:
        os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # As umask has it.
        lock = _locked(place)
        yield place
    finally:
        with contextlib.suppress(OSError):
            place.unlink()
        if lock is not None:
            os.close(lock)


def sweep(folder: Path) -> None:
    """Take away what processes that are gone left in a folder; what cannot be taken stays."""
    if fcntl is None:
        return
    with contextlib.suppress(OSError):
        for entry in sorted(os.listdir(folder)):
            found, place = OURS.fullmatch(entry), folder / entry
            if not found or place.lstat().st_uid != os.geteuid():  # Folders may be shared.
                continue
            if _is_gone(int(found[1])) and _is_free(place):
                _remove(place)


def _remove(place: Path) -> None:
    if place.is_symlink() or not place.is_dir():
        place.unlink(missing_ok=True)
        return
    if (place / ASIDE).is_dir():
        for kept in sorted((place / ASIDE).iterdir()):
            os.replace(kept, place.parent / kept.name)
    shutil.rmtree(place, ignore_errors=True)


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # It is there, and another's.
        return False
    return False


def _locked(place: Path) -> int | None:
    """A descriptor that holds a lock on a temporary; None where there are no locks."""
    if fcntl is None:
        return None
    descriptor = os.open(place, os.O_RDONLY)
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _is_free(place: Path) -> bool:
    """Whether no process, here or on another machine that sees the folder, is at work in it."""
    if place.is_symlink():
        return True
    descriptor = _locked(place)
    if descriptor is None or fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True

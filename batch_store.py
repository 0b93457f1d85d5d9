"""Where the results of a batch lie, whole, and what content they are of."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import models, remote
from .manifest import SPLAT_JSON
from .temporaries import scratch, sweep

CHUNK = 1 << 20
WORK = ".work"  # Below the output: what is not finished.


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            digest.update(data)
    return digest.hexdigest()


def content_hash(path: Path | str) -> str:
    """sha256 of a file, a URL's bytes, or all files of a folder with their names.

    Raises ValueError or FileNotFoundError, one line.
    """
    if remote.is_url(path):
        return hashlib.sha256(remote.read(str(path))).hexdigest()
    path = Path(path)
    try:
        if path.name in SPLAT_JSON:
            path = path.parent
        if path.is_file():
            return sha256_of(path)
        digest = hashlib.sha256()
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()}\n{sha256_of(file)}\n".encode())
        return digest.hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: not readable: {error.strerror}") from None


@dataclass(frozen=True)
class Store:
    """The folder or URL of a batch; what is in it is whole."""

    root: str

    @property
    def remote(self) -> bool:
        return remote.is_url(self.root)

    def read(self, name: str) -> bytes | None:
        """None where there is none."""
        try:
            if self.remote:
                return remote.read(str(self._at(name)))
            return models.read_bytes(self._at(name))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        if self.remote:
            remote.write(str(self._at(name)), [data])
            return
        Path(self._at(name)).parent.mkdir(parents=True, exist_ok=True)
        models.write_atomic(self._at(name), [data])

    def take(self, name: str, path: Path) -> None:
        """Move a finished file here."""
        if self.remote:
            return self.write(name, path.read_bytes())
        target = Path(self._at(name))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        except OSError as error:
            raise ValueError(f"{target}: cannot write: {error.strerror}") from None

    def _at(self, name: str) -> Path | str:
        return f"{self.root.rstrip('/')}/{name}" if self.remote else Path(self.root) / name

    @contextmanager
    def work(self) -> Iterator[Path]:
        """A folder for what is not finished; what a killed run left in it goes first.

        Raises ValueError where another run is at work in the same folder.
        """
        if self.remote:
            with scratch("fieldpress-batch") as place:
                yield place
            return
        folder = Path(self.root)
        try:
            folder.mkdir(exist_ok=True)
            lock = (folder / ".lock").open("w")
        except OSError as error:
            raise ValueError(f"{folder}: cannot write: {error.strerror}") from None
        with lock:
            if not _locked(lock.fileno()):
                raise ValueError(f"{folder}: another batch is at work here")
            shutil.rmtree(folder / WORK, ignore_errors=True)
            for place in [folder, *filter(Path.is_dir, folder.rglob("*"))]:
                sweep(place)
            (folder / WORK).mkdir()
            try:
                yield folder / WORK
            finally:
                shutil.rmtree(folder / WORK, ignore_errors=True)
                (folder / ".lock").unlink(missing_ok=True)


def _locked(descriptor: int) -> bool:
    """Take a lock that ends with this process."""
    try:
        import fcntl
    except ImportError:  # Windows: two batches in one folder are the user's own doing there.
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

"""The one module that knows every kind of model: load and save by what a file is."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .quant.container import MAGIC

READABLE = ".ply, .compressed.ply, .spz, .sog, meta.json, lod-meta.json, .fpz"
WRITABLE = ".ply, .spz"


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file, or of stdin for "-". Raises FileNotFoundError or ValueError."""
    if str(path) == "-":
        return sys.stdin.buffer.read()
    _check_exists(Path(path))
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: not readable: {error.strerror}") from None


def load(path: str | Path, *, frame: str | None = None) -> Any:
    """Read a model from a file, a folder or stdin ("-"), by its content before its extension.

    `frame` overrides the axes an SPZ file is taken to be in ("rub" or "rdf").
    Raises FileNotFoundError or ValueError, one line naming the file and the problem.
    """
    if str(path) == "-":
        return load_bytes(read_bytes(path), "stdin", frame)
    path = Path(path)
    _check_exists(path)
    try:
        if path.is_dir():
            return _load_folder(path, frame)
        with path.open("rb") as file:
            magic = file.read(8)
        if magic.startswith(b"ply"):  # Memory-mapped: large files are not read twice.
            from .gaussians.ply import read_ply

            return read_ply(path)
        if path.suffix == ".json":
            from .gaussians.sog import read_sog

            return read_sog(path)
        return load_bytes(read_bytes(path), str(path), frame)
    except OSError as error:
        raise ValueError(f"{path}: not readable: {error.strerror or error}") from None


def load_bytes(data: bytes, name: str, frame: str | None = None) -> Any:
    """Decode a model by its first bytes: every format has a mark of its own.

    `name` stands for the file in messages. Raises ValueError, one line.
    """
    if data.startswith(b"ply"):
        from .gaussians.ply import read_ply

        return read_ply(data, name=name)
    if data.startswith((b"NGSP", b"\x1f\x8b")):
        from .gaussians.spz import read_spz

        return read_spz(data, frame=frame, name=name)
    if data.startswith(b"PK"):
        from .gaussians.sog import read_sog

        return read_sog(data, name=name)
    if data.startswith(MAGIC):
        from .gaussians.codec import decode

        return decode(data, name=name)
    suffix = Path(name).suffix.lower()
    if suffix in (".ply", ".spz", ".sog", ".fpz"):
        raise ValueError(f"{name}: not a {suffix} file: it begins with {data[:4]!r}")
    raise ValueError(f"{name}: unknown kind of model; expected one of {READABLE}")


_load_bytes = load_bytes  # The old name; press.py still calls it.


def save(model: Any, path: str | Path, *, frame: str = "rub") -> None:
    """Write a model by extension (.ply, .spz), whole or not at all.

    `frame` is the axes an SPZ file is written in. Raises ValueError naming the path.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith(".ply") and not name.endswith(".compressed.ply"):
        from .gaussians.ply import ply_blocks

        write_atomic(path, ply_blocks(model))
    elif name.endswith(".spz"):
        from .gaussians.spz import write_spz

        try:
            data = write_spz(model, frame=frame)
        except ValueError as error:  # The writer knows no paths.
            raise ValueError(f"{path}: {error}") from None
        write_atomic(path, [data])
    else:
        raise ValueError(f"{path}: cannot write this kind of file; expected one of {WRITABLE}")


def write_atomic(path: str | Path, blocks: Iterable[bytes]) -> None:
    """Write blocks to a temporary file beside `path` and rename it; removed on any error."""
    path = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
        )
    except OSError as error:
        raise ValueError(f"{path}: cannot write: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            for block in blocks:
                file.write(block)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 is not what a plain open gives.
        os.replace(temporary, path)
    except BaseException as error:  # Ctrl-C as well: nothing half written stays behind.
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ValueError(f"{path}: cannot write: {error.strerror}") from None
        raise


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")


def _load_folder(path: Path, frame: str | None) -> Any:
    """A loose SOG, or a training output folder (its latest iteration)."""
    if (path / "meta.json").exists() or (path / "lod-meta.json").exists():
        from .gaussians.sog import read_sog

        return read_sog(path)
    plys = [p for p in (path / "point_cloud").glob("iteration_*/point_cloud.ply")]
    plys.sort(key=lambda p: int("".join(filter(str.isdecimal, p.parent.name)) or 0))
    if (path / "point_cloud.ply").exists():
        plys.append(path / "point_cloud.ply")
    if plys:
        return load(plys[-1], frame=frame)
    raise ValueError(
        f"{path}: expected a folder with meta.json, lod-meta.json or point_cloud.ply in it"
    )

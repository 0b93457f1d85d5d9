"""The one module that knows every kind of model: load and save by what a file is."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .quant.container import MAGIC, kind_of

READABLE = ".ply, .compressed.ply, .spz, .sog, meta.json, lod-meta.json, .fpz"
WRITABLE = ".ply, .compressed.ply, .spz, .sog, meta.json"
SOG_META = "meta.json"  # Names a folder of textures.


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
        return decode_fpz(data, name)
    suffix = Path(name).suffix.lower()
    if suffix in (".ply", ".spz", ".sog", ".fpz"):
        raise ValueError(f"{name}: not a {suffix} file: it begins with {data[:4]!r}")
    raise ValueError(f"{name}: unknown kind of model; expected one of {READABLE}")


def decode_fpz(data: bytes, name: str) -> Any:
    """The model of a .fpz file, of whatever kind. Raises ValueError, one line."""
    from .fields import codec as fields
    from .gaussians import codec as gaussians

    is_field = kind_of(data, name=name) in fields.KINDS
    return (fields if is_field else gaussians).decode(data, name=name)


_load_bytes = load_bytes  # The old name; press.py still calls it.


def save(model: Any, path: str | Path, *, frame: str = "rub") -> int:
    """Write a model by extension, whole or not at all; the bytes written.

    .ply is INRIA's layout, .compressed.ply PlayCanvas's; .sog is a bundle, and a path that ends in
    meta.json a SOG folder, made if its parent is there. `frame` is the axes an SPZ file is written
    in. Raises ValueError naming the path.
    """
    path = Path(path)
    try:
        if path.name == SOG_META and model.kind == "gaussians":
            from .gaussians.sog_write import write_sog

            files, blocks = write_sog(model), []
        else:
            files, blocks = {}, _encoded(model, path.name.lower(), frame)
    except ValueError as error:  # The writers know no paths.
        raise ValueError(f"{path}: {error}") from None
    if files:
        return write_folder(path.parent, files, [file.name for file in outputs(path)])
    if blocks is None:
        raise ValueError(f"{path}: cannot write this kind of file; expected one of {WRITABLE}")
    return write_atomic(path, blocks)


def outputs(path: str | Path) -> list[Path]:
    """The files that `save` may write for a path: eight for a SOG folder, else one."""
    path = Path(path)
    if path.name != SOG_META:
        return [path]
    from .gaussians.sog_write import FILES

    return [path.parent / name for name in FILES]


def _encoded(model: Any, name: str, frame: str) -> Iterable[bytes] | None:
    """The bytes of a file in pieces, by its name in lower case; None for an unknown kind."""
    if model.kind != "gaussians":
        return _encoded_field(model, name)
    if name.endswith(".compressed.ply"):
        from .gaussians.compressed_ply_write import write_compressed

        return [write_compressed(model)]
    if name.endswith(".ply"):
        from .gaussians.ply import ply_blocks

        return ply_blocks(model)
    if name.endswith(".spz"):
        from .gaussians.spz import write_spz

        return [write_spz(model, frame=frame)]
    if name.endswith(".sog"):
        from .gaussians.sog_write import bundle, write_sog

        return [bundle(write_sog(model))]
    return None


def _encoded_field(model: Any, name: str) -> Iterable[bytes]:
    """A field in the open format of its kind. Raises ValueError for any other."""
    if model.kind == "image" and name.endswith(".png"):
        from .viewer.png import encode_png

        return [encode_png(model.picture())]
    if model.kind == "sdf" and name.endswith(".ply"):
        from .fields.mesh_ply import mesh_ply

        return [mesh_ply(*model.mesh())]
    wanted = {"image": ".png", "sdf": ".ply"}.get(model.kind)
    if wanted is None:
        raise ValueError("no open format holds this kind of model; fieldpress render shows it")
    raise ValueError(f"expected a name ending in {wanted} for this kind of model, {model.kind}")


def write_atomic(path: str | Path, blocks: Iterable[bytes]) -> int:
    """Write blocks to a temporary file beside `path` and rename it; removed on any error.

    Returns the bytes written.
    """
    path, size = Path(path), 0
    try:
        handle, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"
        )
    except OSError as error:
        raise ValueError(f"{path}: cannot write: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            for block in blocks:
                size += file.write(block)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 is not what a plain open gives.
        os.replace(temporary, path)
    except BaseException as error:  # Ctrl-C as well: nothing half written stays behind.
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ValueError(f"{path}: cannot write: {error.strerror}") from None
        raise
    return size


def write_folder(folder: str | Path, files: Mapping[str, bytes], old: Sequence[str] = ()) -> int:
    """Write all of the files into a folder or none: what they replaced comes back on any error.

    The folder is made where it is missing; files named `old` go, all others stay. Returns the bytes
    written.
    """
    folder, made = Path(folder), False
    replaced = sorted({*old, *files})
    taken = next((folder / name for name in replaced if (folder / name).is_dir()), None)
    if taken is not None:
        raise ValueError(f"{taken}: cannot write: expected a file there, got a folder")
    try:
        if not folder.is_dir():
            folder.mkdir()
            made = True
        with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".tmp") as stage:
            for name, data in files.items():
                (Path(stage) / name).write_bytes(data)
            _swap(Path(stage), folder, replaced, [*files])
    except BaseException as error:
        if made:
            folder.rmdir()
        if isinstance(error, OSError):
            raise ValueError(f"{folder}: cannot write: {error.strerror}") from None
        raise
    return sum(len(data) for data in files.values())


def _swap(stage: Path, folder: Path, old: list[str], new: list[str]) -> None:
    """Put the new files of `stage` where the old ones were; on any error all is as before."""
    aside = stage / "replaced"
    aside.mkdir()
    try:
        for name in old:
            if (folder / name).exists():
                os.replace(folder / name, aside / name)
        for name in new:
            os.replace(stage / name, folder / name)
    except BaseException:
        for name in new:
            if not (stage / name).exists():
                (folder / name).unlink(missing_ok=True)
        for kept in aside.iterdir():
            os.replace(kept, folder / kept.name)
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

"""Files of any kind: read, and described without rendering them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import __version__, field_jobs, models, remote, video_jobs
from .gaussians.model import SplatModel
from .gaussians.tiles import TiledFile
from .quant import container

SOG_SUFFIXES = {".webp", ".json"}


@dataclass(frozen=True)
class Source:
    """What was read.

    Attributes:
        model: the scene as it stands in the file.
        input_bytes: its size on disk, or None where one cannot say.
        data: the bytes of the file if it is a .fpz file, else None.
    """

    model: SplatModel
    input_bytes: int | None
    data: bytes | None = None


def read_source(path: str, *, frame: str | None = None, kind: str | None = None) -> Source:
    """Read any scene file, folder, URL or stdin ("-"). Raises ValueError or OSError.

    `frame` and `kind` as of `models.load`.
    """
    if path != "-" and not remote.is_url(path) and not _is_compressed(Path(path)):
        model = models.load(path, frame=frame, kind=kind)
        return Source(model, _size_on_disk(Path(path), model))
    data = models.read_bytes(path)
    if data.startswith(container.MAGIC):
        return Source(models.decode_fpz(data, name_of(path)), len(data), data)
    return Source(models.load_bytes(data, name_of(path), frame, kind), len(data))


def read_compressed(path: str) -> Source:
    """Read a .fpz file, or one from stdin. Raises ValueError for any other kind."""
    given = read_source(path)
    if given.data is None:
        raise ValueError(
            f"{name_of(path)}: not a .fpz file; fieldpress convert takes other formats"
        )
    return given


def read_gaussians(path: str) -> Source:
    """Read a scene of Gaussians. Raises ValueError for a field, which has verbs of its own."""
    given = read_source(path)
    check_gaussians(given.model, path)
    return given


def check_gaussians(model: Any, path: str) -> None:
    """Raises ValueError for a field, which has verbs of its own."""
    if model.kind != "gaussians":
        raise ValueError(
            f"{name_of(path)}: expected Gaussians, got a field of kind {model.kind!r}; "
            "decompress, eval and info take fields"
        )


def name_of(path: str) -> str:
    """What messages call an input."""
    return "stdin" if path == "-" else path


def _is_compressed(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(container.MAGIC)) == container.MAGIC


def _size_on_disk(path: Path, model: SplatModel) -> int | None:
    """Bytes of a file, or of all files of a loose SOG; None for a training folder."""
    if path.is_file() and path.suffix != ".json":
        return path.stat().st_size
    folder = path if path.is_dir() else path.parent
    metas = [folder / name for name in str(model.extra.get("lod_files", "meta.json")).split()]
    if not all(meta.is_file() for meta in metas):
        return None
    files = {file for meta in metas for file in meta.parent.iterdir()}
    return sum(file.stat().st_size for file in files if file.suffix in SOG_SUFFIXES)


@contextmanager
def naming(source: str) -> Iterator[None]:
    """Put the file's name before what is wrong with it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name_of(source)}: {error}") from None


# Description


def describe(source: str) -> dict[str, Any]:
    """What is in a file, without rendering it."""
    file = TiledFile.open(source)
    if file is not None:
        return _describe_tiles(file)
    clip = video_jobs.opened(source)
    if clip is not None:
        return video_jobs.describe(clip, source)
    given = read_source(source)
    is_field = given.model.kind != "gaussians"
    report = (field_jobs.describe if is_field else _describe_model)(given.model)
    if given.data is not None:
        report |= _describe_sections(given.data, name_of(source))
    if given.input_bytes:
        report["ratio"] = given.model.float_bytes / given.input_bytes
    return {**report, "input_bytes": given.input_bytes, "version": __version__}


def _describe_tiles(file: TiledFile) -> dict[str, Any]:
    """What the index says, nothing decoded."""
    lows, highs = zip(*((tile.low, tile.high) for tile in file.tiles), strict=True)
    bounds = [[min(x) for x in zip(*lows, strict=True)], [max(x) for x in zip(*highs, strict=True)]]
    sizes = {f"{entry.name}": entry.coded_size for entry, _ in file.streams.values()}
    counts = zip(*(tile.counts for tile in file.tiles), strict=True)
    return {
        "kind": "tiles",
        "count": file.count,
        "tiles": len(file.tiles),
        "counts_by_level": [sum(level) for level in counts],
        "bounding_box": bounds,
        "bytes_by_attribute": container.by_attribute(sizes),
        "provenance": {key: value for key, value in file.header.items() if key != "kind"},
        "input_bytes": len(file.data),
        "version": __version__,
    }


def _describe_sections(data: bytes, name: str) -> dict[str, Any]:
    found = container.read(data, name=name)
    sections = {
        section.name: {"codec": section.codec, "bytes": len(section.payload)}
        for section in found.sections
    }
    sizes = container.sizes(data, name=name)
    return {"bytes_by_attribute": container.by_attribute(sizes), "sections": sections}


def _describe_model(model: SplatModel) -> dict[str, Any]:
    finite = model.means[model.means.isfinite().all(1)]
    bounds = [finite.amin(0).tolist(), finite.amax(0).tolist()] if len(finite) else None
    return {
        "kind": model.kind,
        "count": len(model),
        "sh_degree": model.sh_degree,
        "antialiased": model.antialiased,
        "bounding_box": bounds,
        "float_bytes": model.float_bytes,
        "bytes_by_attribute": {name: 4 * x.numel() for name, x in model.tensors().items()},
        "provenance": dict(model.extra),
    }

"""The one module that knows every kind of model: load and save by what a file is."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import remote
from .quant import budget
from .quant.container import MAGIC, kind_of
from .temporaries import ASIDE, DONE, file_beside, folder_beside

if TYPE_CHECKING:
    from .gaussians.limits import Limits

PIECE = 1 << 22  # Bytes of stdin that are read at once.
SOG_META = "meta.json"  # Names a folder of textures.


@dataclass(frozen=True)
class Format:
    """An interchange format: what its files are called and begin with, and who knows it.

    Attributes:
        suffix: of its files' names; without a dot it is all of the name.
        marks: what its files begin with; none where a name alone can tell.
        reader: module and function in `gaussians`, or in the root: (source, *, name) -> model.
        writer: likewise (model, **options) -> bytes, their pieces, or a folder's files by name, in
            a module that has the format's LIMITS; or None.
        by_path: reads a path as well as bytes: maps it, or finds other files beside it.
        frame: the axes that its files are in unless one is told otherwise.
        options: of the writer.
    """

    suffix: str
    marks: tuple[bytes, ...]
    reader: str
    writer: str | None
    by_path: bool = False
    frame: str = "rdf"
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What --from and --to call it."""
        return self.suffix.removeprefix(".")

    def named(self, path: str | Path) -> bool:
        """Whether a file's name says that it is of this format."""
        name = Path(path).name.lower()
        return name.endswith(self.suffix) if self.suffix[0] == "." else name == self.suffix

    def limits(self) -> Limits:
        """What the format can hold."""
        return _imported(f"{str(self.writer).partition('.')[0]}.LIMITS")


def _imported(place: str) -> Any:
    module, _, name = place.partition(".")
    folder = "" if place == CHECKPOINT else ".gaussians"
    return getattr(import_module(f"{folder}.{module}", __package__), name)


CHECKPOINTS, CHECKPOINT = (".ckpt", ".pt", ".pth"), "checkpoints.read_checkpoint"
SPZ_OPTIONS = ("frame", "version", "sh_bits")
FORMATS = (
    Format(".ply", (b"ply",), "ply.read_ply", "ply.ply_blocks", by_path=True),
    Format(".compressed.ply", (b"ply",), "ply.read_ply", "compressed_ply_write.write_compressed",
           by_path=True),
    Format(".spz", (b"NGSP", b"\x1f\x8b"), "spz.read_spz", "spz.write_spz", frame="rub",
           options=SPZ_OPTIONS),
    Format(".sog", (b"PK",), "sog.read_sog", "sog_write.sog_bundle", options=("palette",)),
    Format(SOG_META, (), "sog.read_sog", "sog_write.write_sog", by_path=True,
           options=("palette",)),
    Format(".splat", (), "splat.read_splat", "splat.write_splat"),
    Format(".ksplat", (), "ksplat.read_ksplat", "ksplat.write_ksplat", options=("level",)),
    Format(".glb", (b"glTF",), "gltf.read_gltf", "gltf.glb_blocks", by_path=True, frame="luf"),
    Format(".gltf", (), "gltf.read_gltf", "gltf.gltf_blocks", by_path=True, frame="luf"),
    Format(".safetensors", (), "safetensors.read_safetensors", "safetensors.write_safetensors"),
    Format(".fpz", (MAGIC,), "codec.decode", None),
    *(Format(suffix, (b"PK",), CHECKPOINT, None, by_path=True) for suffix in CHECKPOINTS),
    Format(".ingp", (b"\x1f\x8b",), CHECKPOINT, None, by_path=True),
    Format(".msgpack", (), CHECKPOINT, None, by_path=True),
)  # fmt: skip
READABLE = ", ".join(f.suffix for f in FORMATS) + ", lod-meta.json"
WRITABLE = ", ".join(f.suffix for f in FORMATS if f.writer)


def format_of(path: str | Path) -> Format | None:
    """The format that a file's name says, by the longest suffix."""
    named = [found for found in FORMATS if found.named(path)]
    return max(named, key=lambda found: len(found.suffix)) if named else None


def is_picture(path: str | Path) -> bool:
    """Whether a name is one of what image fields are exported to."""
    return Path(path).suffix.lower() == ".png"


def is_nerfstudios(path: str | Path) -> bool:
    """Whether a name is one of what fields of nerfstudio's are written back to."""
    return Path(path).suffix.lower() == ".ckpt"


def format_named(name: str) -> Format:
    """The format that --from and --to name. Raises ValueError."""
    for found in FORMATS:
        if found.name == name.lower().removeprefix("."):
            return found
    raise ValueError(f"format: expected one of {', '.join(f.name for f in FORMATS)}, got {name!r}")


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file, a URL or stdin ("-"). Raises FileNotFoundError or ValueError."""
    if str(path) == "-":
        return _all_of_stdin()
    if remote.is_url(path):
        return remote.read(str(path))
    _check_exists(Path(path))
    try:
        budget.check(Path(path).stat().st_size, str(path))
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: not readable: {error.strerror}") from None


def _all_of_stdin() -> bytes:
    parts, size = [], 0
    while part := sys.stdin.buffer.read(PIECE):
        parts.append(part)
        size += len(part)
        budget.check(size, "stdin")
    return b"".join(parts)


def load(path: str | Path, *, frame: str | None = None, kind: str | None = None) -> Any:
    """Read a model from a file, a folder, a URL or stdin ("-"), by its content before its name.

    `frame` overrides the axes that the file is taken to be in (see `gaussians.unpack.FRAMES`),
    `kind` says which format it is, where neither content nor name does.
    Raises FileNotFoundError or ValueError, one line naming the file and the problem.
    """
    if str(path) == "-" or remote.is_url(path):
        data = read_bytes(path)
        return load_bytes(data, "stdin" if str(path) == "-" else str(path), frame, kind)
    path = Path(path)
    _check_exists(path)
    try:
        if path.is_dir():
            return _load_folder(path, frame)
        with path.open("rb") as file:
            found = _recognised(file.read(16), str(path), kind)
        if found.by_path:  # Memory-mapped: large files are not read twice.
            return _read(found, path, str(path), frame)
        return _read(found, read_bytes(path), str(path), frame)
    except OSError as error:
        raise ValueError(f"{path}: not readable: {error.strerror or error}") from None


def load_bytes(data: bytes, name: str, frame: str | None = None, kind: str | None = None) -> Any:
    """Decode a model by its first bytes, else by the name that stands for the file in messages.

    Raises ValueError, one line.
    """
    return _read(_recognised(data[:16], name, kind), data, name, frame)


def _recognised(head: bytes, name: str, kind: str | None) -> Format:
    """The format of a file that begins with `head`. Raises ValueError."""
    if kind is not None:
        return format_named(kind)
    named = format_of(name)
    if named is not None and named.marks and head.startswith(named.marks):
        return named  # A zip archive, say, is a SOG or a checkpoint.
    for found in FORMATS:
        if head.startswith(found.marks):
            return found
    found = named
    if found is None and Path(name).suffix.lower() == ".json":  # lod-meta.json, or any other name.
        return format_named(SOG_META)
    if found is not None and not found.marks:
        return found
    if found is not None:
        raise ValueError(f"{name}: not a {found.suffix} file: it begins with {head[:4]!r}")
    if head[8:10] == b'{"':  # Only these have a number before the text.
        return format_named("safetensors")
    raise ValueError(f"{name}: unknown kind of model; expected one of {READABLE}")


def decode_fpz(data: bytes, name: str) -> Any:
    """The model of a .fpz file, of whatever kind. Raises ValueError, one line."""
    from .fields import bayes_codec
    from .fields import codec as fields
    from .gaussians import codec as gaussians

    kind = kind_of(data, name=name)
    if kind == "video":
        from .fields import video

        return video.read(data, name=name)
    if kind == "nerfacto":
        from .fields import nerfacto_codec

        return nerfacto_codec.decode(data, name=name)
    if kind in bayes_codec.KINDS:
        return bayes_codec.decode(data, name=name)
    return (fields if kind in fields.KINDS else gaussians).decode(data, name=name)


def _read(found: Format, source: Path | bytes, name: str, frame: str | None) -> Any:
    """Call a format's reader, its axes as `frame` says."""
    if isinstance(source, bytes) and source.startswith(MAGIC) and frame is None:
        return decode_fpz(source, name)
    reader: Callable[..., Any] = _imported(found.reader)
    if found.suffix == SOG_META and isinstance(source, bytes):
        reader = _far_folder
    if frame is None:
        return reader(source, name=name)
    if "frame" in found.options:  # Its files may say their own, which is not to count then.
        return reader(source, name=name, frame=frame)
    from .gaussians.unpack import flip_axes, frame_signs

    return flip_axes(reader(source, name=name), frame_signs(frame, found.frame))


def _far_folder(meta: bytes, *, name: str) -> Any:
    """Read a SOG folder by the URL of its meta.json."""
    from .gaussians.sog import read_sog_files

    if not remote.is_url(name):
        raise ValueError(f"{name}: a meta.json names other files: expected a path or a URL of it")
    folder = name.rpartition("/")[0]
    return read_sog_files(meta, lambda entry: remote.read(f"{folder}/{entry}"), name)


def save(model: Any, path: str | Path, **options: Any) -> int:
    """Write a model by the name of the file, whole or not at all; the bytes written.

    A path that ends in meta.json is a SOG folder, made if its parent is there. `frame` is the axes
    it is written in, each format's usual ones unless given; other options are the writer's: for SPZ
    version and sh_bits, for .ksplat level, for SOG palette. Raises ValueError naming the path.
    """
    found = format_of(path)
    splats = model.kind == "gaussians"
    if splats and (found is None or found.writer is None):
        raise ValueError(f"{path}: cannot write this kind of file; expected one of {WRITABLE}")
    try:
        if found is None or not splats:
            made = iter(_encoded_field(model, Path(path).name.lower()))
        else:
            made = encoded(model, found, **options)
    except ValueError as error:  # The writers know no paths.
        raise ValueError(f"{path}: {error}") from None
    if isinstance(made, dict):
        folder = Path(path).parent
        return write_folder(folder, made, [file.name for file in outputs(path)])
    return write_atomic(path, made)


def encoded(
    model: Any, found: Format, *, frame: str | None = None, **options: Any
) -> dict[str, bytes] | Iterator[bytes]:
    """A file of a format in pieces, or the files of a folder by name.

    Raises ValueError for an option that the format does not have, and what its writer refuses.
    """
    for key in options:
        if key not in found.options:
            raise ValueError(f"{key}: {found.suffix} has no such option")
    if frame is not None and "frame" in found.options:
        options["frame"] = frame
    elif frame is not None and frame != found.frame:
        from .gaussians.unpack import flip_axes, frame_signs

        model = flip_axes(model, frame_signs(frame, found.frame))
    made = _imported(str(found.writer))(model, **options)
    if isinstance(made, dict):
        return made
    return iter([made] if isinstance(made, bytes) else made)


def outputs(path: str | Path) -> list[Path]:
    """The files that `save` may write for a path: eight for a SOG folder, else one."""
    path = Path(path)
    if path.name != SOG_META:
        return [path]
    from .gaussians.sog_write import FILES

    return [path.parent / name for name in FILES]


def _encoded_field(model: Any, name: str) -> Iterable[bytes]:
    """A field in the open format of its kind. Raises ValueError for any other."""
    if model.kind == "image" and name.endswith(".png"):
        from .viewer.png import encode_png

        return [encode_png(model.picture())]
    if model.kind == "sdf" and name.endswith(".ply"):
        from .fields.mesh_ply import mesh_ply

        return [mesh_ply(*model.mesh())]
    if model.kind == "nerfacto" and name.endswith(".ckpt"):
        return [model.checkpoint()]
    wanted = {"image": ".png", "sdf": ".ply", "nerfacto": ".ckpt"}.get(model.kind)
    if wanted is None:
        raise ValueError("no open format holds this kind of model; fieldpress render shows it")
    raise ValueError(f"expected a name ending in {wanted} for this kind of model, {model.kind}")


def write_atomic(path: str | Path, blocks: Iterable[bytes]) -> int:
    """Write blocks to a temporary file beside `path` and rename it; removed on any error.

    A URL is written when all blocks are there. Returns the bytes written.
    """
    if remote.is_url(path):
        return remote.write(str(path), blocks)
    path, size = Path(path), 0
    try:
        with file_beside(path) as temporary:
            with temporary.open("wb") as file:
                for block in blocks:
                    size += file.write(block)
                file.flush()
                os.fsync(file.fileno())  # Else a crash of the machine may leave the name alone.
            os.replace(temporary, path)
    except OSError as error:
        raise ValueError(f"{path}: cannot write: {error.strerror}") from None
    return size


def write_folder(folder: str | Path, files: Mapping[str, bytes], old: Sequence[str] = ()) -> int:
    """Write all of the files into a folder or none: what they replaced comes back on any error.

    The folder is made where it is missing; files named `old` go, all others stay. After a kill the
    next start puts back what was replaced. Returns the bytes written.
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
        with folder_beside(folder / SOG_META) as stage:
            for name, data in files.items():
                (stage / name).write_bytes(data)
            _swap(stage, folder, replaced, [*files])
    except BaseException as error:
        if made:
            folder.rmdir()
        if isinstance(error, OSError):
            raise ValueError(f"{folder}: cannot write: {error.strerror}") from None
        raise
    return sum(len(data) for data in files.values())


def _swap(stage: Path, folder: Path, old: list[str], new: list[str]) -> None:
    """Put the new files of `stage` where the old ones were; on any error all is as before.

    meta.json goes first and comes last: without it the others are no scene, whoever looks.
    """
    aside = stage / ASIDE
    aside.mkdir()
    try:
        for name in sorted(old, key=lambda name: name != SOG_META):
            if (folder / name).exists():
                os.replace(folder / name, aside / name)
        for name in sorted(new, key=lambda name: name == SOG_META):
            os.replace(stage / name, folder / name)
        os.replace(aside, stage / DONE)
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

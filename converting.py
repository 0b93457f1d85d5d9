"""The job behind `convert` and `decompress`: inputs, outputs, what a format could not hold."""

from __future__ import annotations

import glob
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import __version__, models, remote, video_jobs
from .console import Misuse, Progress, check_output, say, sink
from .gaussians.limits import within
from .gaussians.model import SplatModel
from .gaussians.optimise import Aim, optimised
from .gaussians.ply import ply_head, ply_rows
from .gaussians.tiles import TiledFile
from .quant import budget
from .scenes.datasets import read_scene
from .sources import Source, naming, read_compressed, read_source

STEM, PARENT = "{stem}", "{parent}"
WILD = frozenset("*?[")
PAGE = ".html"
LUF = "luf"  # The axes of glTF; other files are in ours unless they say so themselves.


@dataclass(frozen=True)
class Wanted:
    """How files are read and written.

    Attributes:
        input_format, output_format: by name, where neither file names nor contents say.
        input_frame, frame: axes, where they are not the formats' usual ones.
        options: of the output format's writer.
        aim: what to optimise the output for, or None to write what there is.
        scene: a folder of posed photographs whose views count, instead of synthesised ones.
    """

    input_format: str | None = None
    output_format: str | None = None
    input_frame: str | None = None
    frame: str | None = None
    options: Mapping[str, int] = field(default_factory=dict)
    aim: Aim | None = None
    scene: str | None = None
    compressed_only: bool = False

    @property
    def as_it_is(self) -> bool:
        """Whether nothing but the format is to change."""
        return self.aim is None and self.frame is None and self.input_frame is None

    def read(self, source: str) -> Source:
        if self.compressed_only:
            return read_compressed(source)
        return read_source(source, frame=self.input_frame, kind=self.input_format)

    def writer(self, output: str) -> models.Format:
        """The format of an output. Raises Misuse for one that there is not."""
        found = models.format_of(output)
        if self.output_format is not None:
            try:
                found = models.format_named(self.output_format)
            except ValueError as error:
                raise Misuse(str(error)) from None
        elif output == "-":
            found = models.format_named("ply")
        if found is None:
            raise ValueError(
                f"{output}: cannot write this kind of file; expected one of {models.WRITABLE}"
            )
        if found.writer is None:
            raise Misuse(f"{output}: fieldpress compress is the verb that writes {found.suffix}")
        for key in self.options:
            if key not in found.options:
                raise Misuse(f"{output}: {found.suffix} has no {key.replace('_', ' ')}")
        if found.suffix == models.SOG_META and Path(output).name != models.SOG_META:
            raise Misuse(f"{output}: a folder's textures need a name that ends in meta.json")
        return found


def convert(
    source: str, output: str, wanted: Wanted, *, overwrite: bool, progress: Progress
) -> dict[str, Any]:
    """Convert a file, or all that a pattern matches: then OUT has {stem} in it, and {parent}.

    The report of one file, or {"files": [...], "converted", "failed"}: one that fails is reported
    and does not keep the others. Raises Misuse, ValueError or OSError.
    """
    sources = _expanded(source)
    if sources is None:
        return _convert_one(source, named(output, source), wanted, overwrite, progress)
    outputs = [named(output, one) for one in sources]
    if len(set(outputs)) < len(outputs):
        raise Misuse(f"{output}: {len(outputs)} files would become {len(set(outputs))}: use {STEM}")
    files = []
    for index, (one, its) in enumerate(zip(sources, outputs, strict=True)):
        share = progress.part(index / len(sources), (index + 1) / len(sources))
        try:
            files.append(_convert_one(one, its, wanted, overwrite, share))
        except (ValueError, OSError) as error:
            say(f"error: {' '.join(str(error).split())}")
            files.append({"input": one, "output": its, "error": str(error)})
    failed = sum("error" in file for file in files)
    return {"files": files, "converted": len(files) - failed, "failed": failed}


def _expanded(source: str) -> list[str] | None:
    """The files that a pattern matches, in order; None for one file by its own name."""
    if not WILD & set(source) or (not remote.is_url(source) and Path(source).exists()):
        return None
    url = remote.is_url(source)
    found = remote.matches(source) if url else sorted(glob.glob(source, recursive=True))
    if not found:
        raise FileNotFoundError(f"{source}: no file matches")
    return found


def named(output: str, source: str) -> str:
    """The output's name, {stem} and {parent} being the input's."""
    found = models.format_of(source)
    name = Path(source).name
    if found is not None and found.suffix.startswith("."):
        stem = name[: -len(found.suffix)]
    else:  # A folder's name says more than that of the meta.json in it.
        stem = Path(source).parent.name if found else Path(source).stem
    return output.replace(STEM, stem).replace(PARENT, str(Path(source).parent))


def _convert_one(
    source: str, output: str, wanted: Wanted, overwrite: bool, progress: Progress
) -> dict[str, Any]:
    start = time.perf_counter()
    clip = video_jobs.opened(source)
    if clip is not None:
        return video_jobs.export(clip, source, output, overwrite=overwrite)
    _check(output, overwrite)
    if output.lower().endswith(PAGE):
        return _paged(source, output, wanted)
    of_fields = models.is_picture(output) or models.is_nerfstudios(output)
    writer = None if of_fields else wanted.writer(output)
    file = None if remote.is_url(source) else TiledFile.open(source)
    local = output != "-" and not remote.is_url(output)
    if file and writer and local and wanted.as_it_is and writer.suffix == ".ply":
        return _unpacked(file, source, output)
    given = wanted.read(source)
    came = given.model
    if came.kind != "gaussians":
        return {**_export_field(given, source, output), "seconds": time.perf_counter() - start}
    writer = writer or wanted.writer(output)  # Which says that a picture holds no splats.
    with naming(source):
        model, found = within(came, writer.limits())
        _remark(source, writer, came.sh_degree, found)
        made, remarks, count = _made(model, writer, wanted, progress)
    output_bytes = _stored(made if isinstance(made, dict) else _named(made, source), output)
    return {
        "input": source,
        "output": output,
        "input_bytes": given.input_bytes,
        "output_bytes": output_bytes,
        "count_in": len(came),
        "count_out": count,
        "sh_degree_in": came.sh_degree,
        **found,
        **remarks,
        "input_format": came.extra.get("source_format"),
        "input_frame": wanted.input_frame or _frame(came.extra),
        "frame": wanted.frame or writer.frame,
        "seconds": time.perf_counter() - start,
        "version": __version__,
    }


def _paged(source: str, output: str, wanted: Wanted) -> dict[str, Any]:
    """Write the page that shows a scene offline: it is not a format that anything reads."""
    from . import viewing  # Which most conversions do without.

    if wanted.options or wanted.aim or wanted.frame or wanted.output_format:
        raise Misuse(f"{output}: a page takes no options of formats")
    return viewing.export_page(wanted.read, source, output)


def _unpacked(file: TiledFile, source: str, output: str) -> dict[str, Any]:
    """Write a PLY tile by tile, in the memory of one."""
    start = time.perf_counter()
    file.verify()
    first = file.read(0)

    def blocks() -> Iterator[bytes]:
        yield ply_head(file.count, first.shN.shape[1], first.antialiased)
        for model in file.finest():
            if (model.sh_degree, model.antialiased) != (first.sh_degree, first.antialiased):
                raise ValueError(f"{source}: expected one SH degree and one filter, got several")
            yield from ply_rows(model)

    output_bytes = models.write_atomic(output, blocks())
    return {
        "input": source,
        "output": output,
        "input_bytes": len(file.data),
        "output_bytes": output_bytes,
        "count_in": file.count,
        "count_out": file.count,
        "sh_degree": first.sh_degree,
        "tiles": len(file.tiles),
        "seconds": time.perf_counter() - start,
        "version": __version__,
    }


def _export_field(given: Source, source: str, output: str) -> dict[str, Any]:
    if output == "-":
        raise ValueError("stdout: expected the name of a file for a field, got -")
    return {
        "input": source,
        "output": output,
        "input_bytes": given.input_bytes,
        "output_bytes": models.save(given.model, output),
        "kind": given.model.kind,
        "version": __version__,
    }


def _made(
    model: SplatModel, writer: models.Format, wanted: Wanted, progress: Progress
) -> tuple[dict[str, bytes] | Iterator[bytes] | list[bytes], dict[str, Any], int]:
    """A file in pieces or a folder's files, what optimising says of it, and its Gaussians."""
    if wanted.aim is None:
        made = models.encoded(model, writer, frame=wanted.frame, **wanted.options)
        return made, {}, len(model)
    scene = None if wanted.scene is None else read_scene(wanted.scene, most_bytes=budget.limit())
    best = optimised(model, writer.name, wanted.aim, scene, progress)
    return best.made, best.report, best.count


def _named(blocks: Iterable[bytes], source: str) -> Iterator[bytes]:
    """The same blocks; what is wrong in making them is the source's fault, not the output's."""
    with naming(source):
        yield from blocks


def _stored(made: dict[str, bytes] | Iterator[bytes] | list[bytes], output: str) -> int:
    """Write a file, or a folder's files, or to stdout; the bytes written."""
    if isinstance(made, dict) and not remote.is_url(output):
        names = [file.name for file in models.outputs(output)]
        return models.write_folder(Path(output).parent, made, names)
    if isinstance(made, dict):
        folder = output.rpartition("/")[0]
        return sum(remote.write(f"{folder}/{name}", [data]) for name, data in made.items())
    if output != "-":
        return models.write_atomic(output, made)
    with sink(output) as write:
        return len(write(b"".join(made)))


def _check(output: str, overwrite: bool) -> None:
    """Refuse before any work what could not be written at its end."""
    if remote.is_url(output):
        if not overwrite and remote.exists(output):
            raise ValueError(f"{output}: exists already; --overwrite replaces it")
        return
    files = models.outputs(output)
    if len(files) > 1 and not files[0].parent.exists():
        check_output(str(files[0].parent), overwrite=overwrite, folder=True)
        return
    for file in files:
        check_output(str(file), overwrite=overwrite)


def _frame(extra: Mapping[str, Any]) -> str:
    """The axes that a file was in: as it says, or as its format has them."""
    usual = LUF if extra.get("source_format") == "gltf" else "rdf"
    return str(extra.get("source_frame", usual))


def _remark(source: str, writer: models.Format, degree: int, found: Mapping[str, Any]) -> None:
    """Say on stderr what the format has no room for."""
    lost = [f"{n} Gaussians ({reason.replace('_', ' ')})" for reason, n in found["removed"].items()]
    if found["sh_degree"] < degree:
        lost.append(f"SH above degree {found['sh_degree']}")
    if lost:
        say(f"{source}: {writer.suffix} cannot hold {', '.join(lost)}: left out")
    clamped = [f"{count} values of {name}" for name, count in found["clamped"].items()]
    if clamped:
        say(f"{source}: out of the range of {writer.suffix}: {', '.join(clamped)}: clamped")

"""The job behind `compress --tiles`: cut out of core, press tiles as tasks, write one file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import __version__, models
from .console import Progress
from .gaussians import reduce
from .gaussians.codec import decode
from .gaussians.compress import CompressSettings, encode_to_goal, prepare, scene_views, set_aside
from .gaussians.cut import Rows
from .gaussians.memory import be_frugal, give_back
from .gaussians.model import FLOATS_WITHOUT_COLOR, SplatModel
from .gaussians.ply import read_ply
from .gaussians.sanitize import sanitize
from .gaussians.tiles import Tile, TiledFile, file_blocks
from .jobs import Policy, Pool, run_all
from .tile_parts import Parts, about

COARSER = 8  # Gaussians of a level for one of the next.
ROUNDS = 4  # Of merging, which halves at most.
FEWEST = 64  # A tile of fewer Gaussians than this has its finest level twice.
# Of a size: what goes to the finest level, to the coarse one; the rest is for the table.
SHARES = (0.86, 0.12)


@dataclass(frozen=True)
class TileTask:
    """A tile to be pressed at two levels of detail.

    Attributes:
        key: six digits, its place among all.
        path: its PLY, which a node must see.
        goals: of the finest level and the coarse one.
    """

    key: str
    path: Path
    goals: tuple[CompressSettings, CompressSettings]

    def run(self, place: Path) -> dict[str, Any]:
        """Write the levels, decode them again, say what is in them."""
        start = time.perf_counter()
        given = read_ply(self.path)
        be_frugal(given.float_bytes)
        model = set_aside(sanitize(given, consume=True)[0])
        del given
        if not len(model):
            return {"empty": True, "files": []}
        prepared = prepare(model, self.goals[0])
        del model  # Its trials need the room.
        made = encode_to_goal(prepared, self.goals[0])
        del prepared
        finest = decode(made.data)
        coarse_data = _coarse(finest, self.goals[1])
        coarse = finest if coarse_data is None else decode(coarse_data)
        (place / "0.fpz").write_bytes(made.data)
        (place / "1.fpz").write_bytes(made.data if coarse_data is None else coarse_data)
        give_back(finest.float_bytes)
        tile = Tile.of((finest, coarse))
        return {
            "tile": vars(tile),
            "psnr_self": made.report["psnr_self"],
            "sh_degree": finest.sh_degree,
            "antialiased": finest.antialiased,
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time(),
            "peak_bytes": _peak(),
            "files": ["0.fpz", "1.fpz"],
        }


def _coarse(model: SplatModel, goal: CompressSettings) -> bytes | None:
    """A stream of an eighth of the Gaussians, merged where the model is not large."""
    count = len(model) // COARSER
    if count < FEWEST:
        return None
    views, holdout = scene_views(model, goal.seed)
    fewer = model
    for number in range(ROUNDS):
        measured = reduce.Measured.of(fewer, views, goal.seed, frugal=True)
        last = number == ROUNDS - 1
        wanted = count if last else max(count, len(fewer) // 2)
        fewer = reduce.reduced(fewer, measured, wanted, merging=not last)
        if len(fewer) <= count:
            break
    prepared = prepare(fewer, goal, views=views, holdout=holdout)
    del fewer
    return encode_to_goal(prepared, goal).data


def _peak() -> int | None:
    """Bytes that this process held at most, where the system says."""
    try:
        import resource
    except ImportError:
        return None
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def compress_tiles(
    source: str,
    output: str,
    settings: CompressSettings,
    most: int,
    pool: Pool,
    *,
    policy: Policy | None = None,
    progress: Progress | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Compress a PLY of any size to one file of tiles, which appears when it is complete.

    Tiles that are finished wait in OUT.parts, which stays where the job does not come to its end.

    Args:
        source: a binary PLY.
        output: the file to write.
        settings: the goal of every tile; a size is shared among them by their Gaussians.
        most: Gaussians in a tile, about.
        pool: where tiles are pressed; its machines see the output's folder, where tiles wait.
        policy: when one is tried again.
        progress: is told how far it is.
        resume: go on from OUT.parts, which must be of the same input, settings and version.

    Raises:
        ValueError: for an input that cannot be cut, a goal that cannot be met, a tile that failed.
    """
    began = time.perf_counter()
    rows, path = Rows.open(source), Path(output)
    parts = Parts(path.with_name(path.name + ".parts"))
    try:
        parts.begin(about(rows, settings, most), resume)
        cuts = parts.cuts(rows, most)
    except (OSError, ValueError) as error:
        if not resume:  # Nothing is finished yet.
            parts.end()
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"{output}: cannot write: {error.strerror}") from None
    cut_seconds = time.perf_counter() - began
    tasks = [
        TileTask(part.stem, part, _goals(settings, count / rows.count)) for part, count in cuts
    ]
    known = parts.finished([task.key for task in tasks])
    done = _press(tasks, pool, parts, known, policy, progress)
    tiles = [_tile(result["tile"]) for result in done.values()]
    if not tiles:
        parts.end()
        raise ValueError(f"{source}: none of its {rows.count} Gaussians is finite and visible")
    streams = {
        (number, level): parts.stream(key, level)
        for number, key in enumerate(done)
        for level in range(2)
    }
    header = {
        "count_in": rows.count,
        "seed": settings.seed,
        "sh_degree": next(iter(done.values()))["sh_degree"],
    }
    try:
        models.write_atomic(path, file_blocks(header, tiles, streams))
    except ValueError as error:
        raise ValueError(f"{error} ({parts.left()})") from None
    parts.end()
    return {
        "resumed": len(known),
        **_sizes(rows, path),
        **_figures(list(done.values())),
        "cut_seconds": cut_seconds,
        "encode_seconds": time.perf_counter() - began,
        "seed": settings.seed,
        "version": __version__,
        "input": source,
        "output": output,
    }


def _goals(settings: CompressSettings, share: float) -> tuple[CompressSettings, CompressSettings]:
    """Those of a tile with such a share of all Gaussians."""
    if settings.target_bytes is None:
        coarse = CompressSettings("small", seed=settings.seed, effort="fast")
        return settings, coarse
    fine, coarse = (max(1, int(settings.target_bytes * share * part)) for part in SHARES)
    return (
        replace(settings, target_bytes=fine),
        replace(settings, target_bytes=coarse, effort="fast"),
    )


def _press(
    tasks: list[TileTask],
    pool: Pool,
    parts: Parts,
    known: Mapping[str, Mapping[str, Any]],
    policy: Policy | None,
    progress: Progress | None,
) -> dict[str, Mapping[str, Any]]:
    """What tasks found, in their order, those that are known among them."""
    found: dict[str, Mapping[str, Any]] = dict(known)
    left = [task for task in tasks if task.key not in known]
    for done in run_all(left, pool, parts.folder, policy):
        task, result = done.task, done.outcome.result
        assert isinstance(task, TileTask)
        if result is None:
            raise ValueError(
                f"tile {task.key}: {done.outcome.reason} ({len(found)} of {len(tasks)} are "
                f"finished: {parts.left()})"
            )
        parts.keep(task.key, done.place, result)
        task.path.unlink(missing_ok=True)  # Disk is what a large scene lacks first.
        found[task.key] = result
        if progress is not None:
            progress("tiles", len(found) / len(tasks))
    return {key: found[key] for key in sorted(found) if "tile" in found[key]}


def _tile(found: Mapping[str, Any]) -> Tile:
    low, high = tuple(found["low"]), tuple(found["high"])
    return Tile(low, high, found["reach"], tuple(found["counts"]))


def _sizes(rows: Rows, path: Path) -> dict[str, Any]:
    """Counts and bytes of the file as it stands on the disk, every stream's checksum verified."""
    file = TiledFile.open(path)
    assert file is not None
    file.verify()
    levels: dict[str, int] = {}
    for (_, level), (entry, _) in file.streams.items():
        levels[f"level{level}"] = levels.get(f"level{level}", 0) + entry.coded_size
    size, given = path.stat().st_size, rows.path.stat().st_size
    floats = 4 * rows.count * (FLOATS_WITHOUT_COLOR + 3 + rows.n_rest)
    return {
        "input_bytes": given,
        "output_bytes": size,
        "ratio": floats / size,
        "ratio_to_input": given / size,
        "count_in": rows.count,
        "count_out": file.count,
        "tiles": len(file.tiles),
        "bytes_by_section": levels,
    }


def _figures(results: list[Mapping[str, Any]]) -> dict[str, Any]:
    psnr = [result["psnr_self"] for result in results]
    peaks = [result["peak_bytes"] for result in results if result["peak_bytes"] is not None]
    return {
        "psnr_self": sum(psnr) / len(psnr),
        "psnr_self_worst_tile": min(psnr),
        "tile_seconds": [result["seconds"] for result in results],
        "tile_cpu_seconds": [result["cpu_seconds"] for result in results],
        "peak_bytes_of_a_process": max([*peaks, _peak() or 0]),
    }

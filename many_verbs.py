"""The verbs for many scenes: bench and batch. Torch is imported inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from . import console
from .arguments import (
    WHERE,
    Json,
    finish,
    output_as,
    pool_of,
)
from .console import Misuse, Progress, check_output, say


def bench(
    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MANIFEST|IN")],
    output: Annotated[str, output_as("DIR")],
    keep: bool = False,
    resume: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    json_: Json = False,
) -> None:
    """Sweep rates: our codec and the formats of others over scenes, as curves and BD-rates.

    Every point is a row of DIR/results.jsonl as soon as it is measured: after Ctrl-C or a crash,
    --resume goes on from there.

    Args:
        sources: A manifest (.json, .toml) of scenes, methods and their settings, or scene files.
        output: The folder for results.json, curves.svg and index.html.
        keep: Leave the file of every point in DIR/files.
        resume: Take the points that DIR/results.jsonl has, measure the others.
        seed: Of every random choice; the same seed gives the same files.
        overwrite: Measure all anew in a folder that exists.
        json_: Print one JSON object on stdout.
    """
    from . import manifest, sweep

    if not sources:
        raise Misuse("bench: expected a manifest or scene files, got nothing")
    wanted = manifest.gather(sources)
    check_output(output, overwrite=overwrite or resume, folder=True)
    if output == "-":
        raise Misuse("-o: expected a folder, got stdout")
    with console.quiet_stdout() as out, Progress() as progress:
        report = sweep.run_sweep(
            wanted, output, seed=seed, resume=resume and not overwrite, keep=keep,
            progress=progress,
        )  # fmt: skip
    say(f"the report is {Path(output) / 'index.html'}")
    finish(report, json_, out)


def batch(
    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MANIFEST|IN")],
    output: Annotated[str, output_as("DIR")],
    jobs: Annotated[int, WHERE, tyro.conf.arg(metavar="N")] = 1,
    ray: Annotated[str | None, WHERE, tyro.conf.arg(metavar="ADDRESS|local")] = None,
    gpus: float = 0.0,
    retries: int = 2,
    timeout: Annotated[float | None, tyro.conf.arg(metavar="SECONDS")] = None,
    layout: tuple[Literal["nerfstudio", "3dgs"], ...] = (),
    resume: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    json_: Json = False,
) -> int:
    """Compress and measure many scenes, on this machine or a Ray cluster, and report on all.

    A task that fails is tried again and then recorded; the others go on, and the exit code is 1.
    Every file in DIR/files is whole, whatever happens; --resume repeats nothing that is complete.

    Args:
        sources: A manifest (.json, .toml, .yaml) of scenes, methods and settings, or scene files,
            patterns with *, or URLs.
        output: The folder, or a URL, for files and the report.
        jobs: Tasks at once, a process each; of one thread each where there are several.
        ray: A Ray cluster to run the tasks on, or local to start one here.
        gpus: Of the cluster's, that each task claims.
        retries: Of a task whose process died, ran too long or lacked something.
        timeout: What one try may take.
        layout: Write the figures also as ns-eval (nerfstudio) or metrics.py (3dgs) would.
        resume: Take what DIR has of the same content, settings and version.
        seed: Of every random choice; the same seed gives the same files.
        overwrite: Do all anew in a folder that exists.
        json_: Print one JSON object on stdout.
    """
    from . import batch as batches
    from . import manifest
    from .batch_store import Store
    from .jobs import Policy

    if not sources:
        raise Misuse("batch: expected a manifest or scene files, got nothing")
    if output == "-":
        raise Misuse("-o: expected a folder, got stdout")
    if retries < 0 or gpus < 0 or (timeout is not None and timeout <= 0):
        raise Misuse("--retries, --gpus, --timeout: expected no less than 0")
    wanted = manifest.gather(sources, batches.METHODS)
    if not Store(output).remote:
        check_output(output, overwrite=overwrite or resume, folder=True)
    with console.quiet_stdout() as out, Progress() as progress, pool_of(jobs, ray, gpus) as pool:
        report = batches.run_batch(
            wanted, output, pool, policy=Policy(retries, timeout=timeout), seed=seed,
            resume=resume and not overwrite, wanted_layouts=layout, progress=progress,
        )  # fmt: skip
    say(f"the report is {output.rstrip('/')}/index.html")
    finish(report, json_, out)
    return console.FAILURE if report["failed"] else 0

"""`fieldpress fit prior`, and `fit image` with a Bayesian method. Torch is imported inside."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import tyro

from . import console
from .console import Misuse, Progress, check_output

Json = Annotated[bool, tyro.conf.arg(name="json")]
OUTPUT: Any = tyro.conf.arg(name="output", aliases=["-o"], metavar="PRIOR.fpz")


def fit_prior(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")],
    output: Annotated[str, OUTPUT],
    method: Literal["recombiner", "combiner"] = "recombiner",
    kl_bits: float = 1024.0,
    crops: int = 256,
    grid: int = 1,
    steps: int = 600,
    seed: int = 0,
    overwrite: bool = False,
    json_: Json = False,
) -> None:
    """Learn a prior from pictures, for `fit image --method recombiner` and its plain mode.

    Args:
        source: A folder of pictures, or one picture.
        output: The .fpz file to write.
        method: Recombiner has mixed weights and positional latents, combiner neither.
        kl_bits: Bits that a crop is to cost, on average; pictures cost about a sixth more.
        crops: Random crops to learn from.
        grid: Patches of 32 pixels a side of a crop; above 1 they share weights.
        steps: Training steps.
        seed: Of every random choice.
        overwrite: Replace an output that exists.
        json_: Print one JSON object on stdout.
    """
    from . import bayes_jobs

    check_output(output, overwrite=overwrite)
    try:
        job = bayes_jobs.PriorJob(method, kl_bits, crops, grid, steps, seed)
    except ValueError as error:
        raise Misuse(str(error)) from None
    with console.quiet_stdout() as out, Progress() as progress:
        report = bayes_jobs.fit_prior(source, output, job, progress=progress)
    (console.print_json if json_ else console.print_table)(report, out)


def fit_image(
    source: str, output: str, method: str, prior: str | None, steps: int, seed: int,
    overwrite: bool, json_: bool,
) -> None:  # fmt: skip
    """`fit image` by a Bayesian method: `steps` before any block, as many between blocks."""
    from . import bayes_jobs
    from .fields.bayes_encode import EncodeSettings

    check_output(output, overwrite=overwrite)
    if prior is None:
        raise Misuse(
            f"--method {method}: expected --prior PRIOR.fpz; fieldpress fit prior makes one"
        )
    try:
        settings = EncodeSettings(steps, steps, seed=seed)
    except ValueError as error:
        raise Misuse(str(error)) from None
    with console.quiet_stdout() as out, Progress() as progress:
        report = bayes_jobs.fit_image_file(
            source, output, prior, method, settings, progress=progress
        )
    (console.print_json if json_ else console.print_table)(report, out)

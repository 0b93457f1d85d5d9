"""`fieldpress fit video`. Torch is imported inside it."""

from __future__ import annotations

from typing import Annotated, Literal

import tyro

from . import console
from .arguments import Json, finish, output_as
from .console import Misuse, Progress, check_output

TARGET = tyro.conf.create_mutex_group(required=False)


def fit_video(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CLIP")],
    output: Annotated[str, output_as("OUT.fpz")],
    method: Literal["nirvana", "nervpp", "latent"] = "latent",
    preset: Literal[
        "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower",
        "veryslow", "placebo",
    ] = "medium",
    lambda_: Annotated[float | None, TARGET, tyro.conf.arg(name="lambda", metavar="L")] = None,
    target_bpp: Annotated[float | None, TARGET, tyro.conf.arg(metavar="BITS")] = None,
    target_psnr: Annotated[float | None, TARGET, tyro.conf.arg(metavar="DB")] = None,
    group: Annotated[int | None, tyro.conf.arg(metavar="FRAMES")] = None,
    key_every: Annotated[int, tyro.conf.arg(metavar="GROUPS")] = 8,
    frames: Annotated[str | None, tyro.conf.arg(metavar="A:B")] = None,
    resume: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    json_: Json = False,
) -> None:  # fmt: skip
    """Fit networks to a video, group by group; the written bytes are decoded and measured.

    Ctrl-C or a crash loses one group at most: OUT.checkpoint stays, and --resume goes on from it
    to the same bytes.

    Args:
        source: A video that PyAV reads, .y4m, a folder of pictures in the order of their names, or
            .npy of [T, H, W, 3] bytes.
        output: The .fpz file to write.
        method: Our group-latent codec, or one of two published ones to compare with.
        preset: How long to search; slower ones give smaller files of the same quality.
        lambda_: What a bit a pixel may cost, as squared error of colours in [0, 1]: 0.001 unless
            another is given.
        target_bpp: Bits a pixel that the first groups should take, instead of --lambda.
        target_psnr: PSNR that the first groups should have, in dB, instead of --lambda.
        group: Frames coded together; by default as the method likes it.
        key_every: Groups from one that decodes by itself to the next: random access.
        frames: Only these frames of the clip, as in 0:16.
        resume: Go on from OUT.checkpoint.
        seed: Of every random choice; the same seed gives the same file.
        overwrite: Replace an output that exists.
        json_: Print one JSON object on stdout.
    """
    from . import video_jobs

    check_output(output, overwrite=overwrite)
    try:
        wanted = video_jobs.VideoJob(
            method, preset, 1e-3 if lambda_ is None else lambda_, target_bpp, target_psnr, group,
            key_every, seed,
        )  # fmt: skip
        which = video_jobs.parse_frames(frames)
    except ValueError as error:
        raise Misuse(str(error)) from None
    with console.quiet_stdout() as out, Progress() as progress:
        report = video_jobs.fit_video_file(
            source, output, wanted, frames=which, resume=resume, progress=progress
        )
    finish(report, json_, out)

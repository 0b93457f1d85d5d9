"""The verbs that write scenes: compress, decompress, convert. Torch is imported inside them."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import tyro

from . import console
from .arguments import (
    GOAL,
    WHERE,
    Device,
    Frame,
    Input,
    Json,
    Kind,
    Scene,
    finish,
    need_room,
    output_as,
    pool_of,
)
from .console import Misuse, Progress, check_output


def compress(
    source: Input,
    output: Annotated[str, output_as("OUT.fpz")],
    target_mb: Annotated[float | None, GOAL, tyro.conf.arg(metavar="MB")] = None,
    target_db: Annotated[float | None, GOAL, tyro.conf.arg(metavar="DB")] = None,
    preset: Annotated[Literal["small", "balanced", "high"], GOAL] = "balanced",
    effort: Literal["draft", "fast", "normal", "high"] = "normal",
    method: Literal["fieldpress", "lightgaussian"] = "fieldpress",
    scene: Scene = None,
    downscale: float = 1.0,
    finetune: Annotated[int, tyro.conf.arg(metavar="STEPS")] = 0,
    self_distil: Annotated[int, tyro.conf.arg(metavar="STEPS")] = 0,
    tiles: Annotated[int, tyro.conf.arg(metavar="GAUSSIANS")] = 0,
    resume: bool = False,
    jobs: Annotated[int, WHERE, tyro.conf.arg(metavar="N")] = 1,
    ray: Annotated[str | None, WHERE, tyro.conf.arg(metavar="ADDRESS|local")] = None,
    device: Device = "cpu",
    seed: int = 0,
    overwrite: bool = False,
    json_: Json = False,
) -> None:
    """Compress a scene to .fpz; the written bytes are decoded and measured before success.

    Args:
        source: The scene: .ply, .spz, .sog, a folder of one, or - for stdin.
        output: The .fpz file to write, or - for stdout.
        target_mb: The largest size that will do, in MB of 10^6 bytes.
        target_db: The PSNR to keep against the uncompressed render, in dB.
        preset: How much to keep where no target is given.
        effort: Draft takes a preset's steps as they are, for scenes of many millions; fast prunes
            and quantises to the goal; normal also merges Gaussians and re-fits colours; high does
            so in finer rounds.
        method: Our codec, or LightGaussian as published (needs --scene; has no target).
        scene: Posed photographs to measure on as well: COLMAP, transforms.json or LLFF.
        downscale: Make those photographs this many times smaller, each way.
        finetune: Train on the photographs for so many steps, with the codec in the loop.
        self_distil: Train on renders of the scene itself instead, no photographs needed.
        tiles: Cut a binary PLY of any size into spatial tiles of about so many Gaussians, each
            compressed by itself, in one file that is decoded by tile; 500000 is a good number.
        resume: Go on from OUT.parts, which an interrupted --tiles leaves.
        jobs: Tiles at once, a process each.
        ray: A Ray cluster to press tiles on, or local to start one here.
        device: Where views are drawn; the rest of the work is the CPU's.
        seed: Of every random choice; the same seed gives the same file.
        overwrite: Replace an output that exists.
        json_: Print one JSON object on stdout.
    """
    from . import press, recipes

    need_room(output, json_)
    if target_mb is not None and not 1e-6 <= target_mb <= 1e9:
        raise Misuse(f"--target-mb: expected 0.000001 to 1e9, got {target_mb:g}")
    check_output(output, overwrite=overwrite)
    target_bytes = None if target_mb is None else int(1e6 * target_mb)
    try:
        settings = recipes.CompressSettings(preset, target_bytes, target_db, seed, effort)
        recipe = recipes.Recipe(settings, method, finetune, self_distil)
    except ValueError as error:
        raise Misuse(str(error)) from None
    if resume and not tiles:
        raise Misuse("--resume: goes with --tiles")
    if tiles:
        plain = recipe.plain and not scene and device == "cpu"
        if tiles < 1000 or output == "-" or source == "-" or not plain:
            raise Misuse(
                "--tiles: expected 1000 or more, files, and neither --scene, --device nor training"
            )
        from .tiling import compress_tiles

        with console.quiet_stdout() as out, Progress() as progress, pool_of(jobs, ray) as pool:
            report = compress_tiles(
                source, output, settings, tiles, pool, progress=progress, resume=resume
            )
        return finish(report, json_, out)
    with console.quiet_stdout() as out, Progress() as progress:
        report = press.compress_file(
            source, output, recipe, scene=scene, downscale=downscale, device=device,
            progress=progress,
        )  # fmt: skip
    finish(report, json_, out if output != "-" else sys.stderr)


def decompress(
    source: Input,
    output: Annotated[str, output_as("OUT")],
    to: Kind = None,
    frame: Frame = None,
    overwrite: bool = False,
    json_: Json = False,
) -> int:
    """Write a .fpz file in an open format, by the extension of the output.

    Args:
        source: The .fpz file, or - for stdin; or a pattern as of convert.
        output: The file to write, in any format of convert; .html for a page that shows the scene
            offline; or - for a PLY on stdout.
        to: The format, where the output's name does not say it.
        frame: The axes to write, where not the format's usual ones.
        overwrite: Replace an output that exists.
        json_: Print one JSON object on stdout.
    """
    from .converting import Wanted

    wanted = Wanted(output_format=to, frame=frame, compressed_only=True)
    return _convert(source, output, wanted, overwrite, json_)


def convert(
    source: Input,
    output: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    from_: Annotated[Kind, tyro.conf.arg(name="from")] = None,
    to: Kind = None,
    input_frame: Frame = None,
    frame: Frame = None,
    spz_version: Literal[2, 3, 4] | None = None,
    sh_bits: Annotated[int | None, tyro.conf.arg(metavar="BITS")] = None,
    ksplat_level: Literal[0, 1, 2] | None = None,
    palette: Annotated[int | None, tyro.conf.arg(metavar="ENTRIES")] = None,
    optimize: bool = False,
    target_mb: Annotated[float | None, tyro.conf.arg(metavar="MB")] = None,
    scene: Scene = None,
    seed: int = 0,
    overwrite: bool = False,
    json_: Json = False,
) -> int:
    """Write any scene file in another format; `compress` is the verb that makes .fpz.

    Formats go by the names of files: .ply, .compressed.ply, .spz, .sog, .splat, .ksplat, .glb,
    .gltf, .safetensors, and meta.json for a folder of SOG's textures. What a format cannot hold is
    clamped or left out, and reported.

    Args:
        source: The scene: a file, a folder of one, a URL, or - for stdin. A pattern in quotes
            ('*.ply') stands for all that match it; OUT then has {stem} in it, or {parent}.
        output: The file or URL to write; .html for a page that shows the scene offline; or - for
            stdout: a PLY unless --to says otherwise.
        from_: The input's format, where neither its content nor its name says it.
        to: The output's format, where its name does not say it.
        input_frame: The axes that the input is in, such as rub: right, up, back.
        frame: The axes to write: rub for SPZ, luf for glTF, rdf for others, unless given.
        spz_version: Of SPZ; version 3 is what most viewers read.
        sh_bits: Of SPZ's colours of degree 1, 1 to 8; those above get one less.
        ksplat_level: 0 keeps floats, 1 has 16 bits, 2 has 8 for colours.
        palette: Entries of SOG's colour palette, at most.
        optimize: Make a better SOG or SPZ of about as many bytes, by what views show.
        target_mb: The size for --optimize, in MB of 10^6 bytes, instead of that of plain writing.
        scene: Posed photographs whose views --optimize is to use.
        seed: Of every random choice; the same seed gives the same file.
        overwrite: Replace an output that exists.
        json_: Print one JSON object on stdout.
    """
    from .converting import Wanted
    from .gaussians.optimise import Aim

    if target_mb is not None and not (optimize and 1e-6 <= target_mb <= 1e9):
        raise Misuse("--target-mb: expected 0.000001 to 1e9, and --optimize with it")
    given = {
        "version": spz_version, "sh_bits": sh_bits, "level": ksplat_level, "palette": palette,
    }  # fmt: skip
    options = {key: value for key, value in given.items() if value is not None}
    if optimize and (options or frame):
        raise Misuse("--optimize: chooses the writer's options itself, and keeps usual axes")
    target = None if target_mb is None else int(1e6 * target_mb)
    aim = Aim(target, seed) if optimize else None
    wanted = Wanted(from_, to, input_frame, frame, options, aim, scene)
    return _convert(source, output, wanted, overwrite, json_)


def _convert(source: str, output: str, wanted: Any, overwrite: bool, json_: bool) -> int:
    from . import converting

    need_room(output, json_)
    with console.quiet_stdout() as out, Progress() as progress:
        report = converting.convert(source, output, wanted, overwrite=overwrite, progress=progress)
    finish(report, json_, out if output != "-" else sys.stderr)
    return console.FAILURE if report.get("failed") else 0

"""The command: one typed function per verb. Torch is imported inside them, so --help is fast."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from . import __version__, console, field_verbs
from .console import Misuse, Progress, check_output, say

DESCRIPTION = """Compress captured scenes, prove what was lost, look at them.

Every verb takes --debug, which shows the traceback of a failure. "-" is stdin or stdout wherever
one file is meant. Exit codes: 0 success, 1 failure, 2 misuse, 130 interrupted."""

Input = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
Scene = Annotated[str | None, tyro.conf.arg(metavar="DIR")]
Device = Annotated[str, tyro.conf.arg(metavar="cpu|cuda|cuda:N")]
Json = Annotated[bool, tyro.conf.arg(name="json")]
Kind = Annotated[str | None, tyro.conf.arg(metavar="FORMAT")]
Frame = Annotated[
    Literal["rdf", "rub", "luf", "ruf", "ldb", "rdb", "lub", "ldf"] | None, tyro.conf.arg()
]


def _output(metavar: str) -> Any:
    return tyro.conf.arg(name="output", aliases=["-o"], metavar=metavar)


_goal = tyro.conf.create_mutex_group(required=False)
_path = tyro.conf.create_mutex_group(required=True)
_where = tyro.conf.create_mutex_group(required=False)


def compress(
    source: Input,
    output: Annotated[str, _output("OUT.fpz")],
    target_mb: Annotated[float | None, _goal, tyro.conf.arg(metavar="MB")] = None,
    target_db: Annotated[float | None, _goal, tyro.conf.arg(metavar="DB")] = None,
    preset: Annotated[Literal["small", "balanced", "high"], _goal] = "balanced",
    effort: Literal["fast", "normal", "high"] = "normal",
    method: Literal["fieldpress", "lightgaussian"] = "fieldpress",
    scene: Scene = None,
    downscale: float = 1.0,
    finetune: Annotated[int, tyro.conf.arg(metavar="STEPS")] = 0,
    self_distil: Annotated[int, tyro.conf.arg(metavar="STEPS")] = 0,
    tiles: Annotated[int, tyro.conf.arg(metavar="GAUSSIANS")] = 0,
    jobs: Annotated[int, _where, tyro.conf.arg(metavar="N")] = 1,
    ray: Annotated[str | None, _where, tyro.conf.arg(metavar="ADDRESS|local")] = None,
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
        effort: Fast prunes and quantises; normal also merges Gaussians and re-fits colours; high
            does so in finer rounds, and on models of 96 MiB and more too, in their memory tenfold.
        method: Our codec, or LightGaussian as published (needs --scene; has no target).
        scene: Posed photographs to measure on as well: COLMAP, transforms.json or LLFF.
        downscale: Make those photographs this many times smaller, each way.
        finetune: Train on the photographs for so many steps, with the codec in the loop.
        self_distil: Train on renders of the scene itself instead, no photographs needed.
        tiles: Cut a binary PLY of any size into spatial tiles of about so many Gaussians, each
            compressed by itself, in one file that is decoded by tile; 500000 is a good number.
        jobs: Tiles at once, a process each.
        ray: A Ray cluster to press tiles on, or local to start one here.
        seed: Of every random choice; the same seed gives the same file.
        overwrite: Replace an output that exists.
        json_: Print one JSON object on stdout.
    """
    from . import press, recipes

    _need_room(output, json_)
    if target_mb is not None and not 1e-6 <= target_mb <= 1e9:
        raise Misuse(f"--target-mb: expected 0.000001 to 1e9, got {target_mb:g}")
    check_output(output, overwrite=overwrite)
    target_bytes = None if target_mb is None else int(1e6 * target_mb)
    try:
        settings = recipes.CompressSettings(preset, target_bytes, target_db, seed, effort)
        recipe = recipes.Recipe(settings, method, finetune, self_distil)
    except ValueError as error:
        raise Misuse(str(error)) from None
    if tiles:
        if tiles < 1000 or output == "-" or source == "-" or scene or not recipe.plain:
            raise Misuse("--tiles: expected 1000 or more, files, and neither --scene nor training")
        from .tiling import compress_tiles

        with console.quiet_stdout() as out, Progress() as progress, _pool(jobs, ray) as pool:
            report = compress_tiles(source, output, settings, tiles, pool, progress=progress)
        return _finish(report, json_, out)
    with console.quiet_stdout() as out, Progress() as progress:
        report = press.compress_file(
            source, output, recipe, scene=scene, downscale=downscale, progress=progress
        )
    _finish(report, json_, out if output != "-" else sys.stderr)


def fit_gaussians(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")],
    output: Annotated[str, _output("OUT")],
    budget: int = 100_000,
    steps: int = 10_000,
    init: Literal["auto", "points", "random"] = "auto",
    sh_degree: Literal[0, 1, 2, 3, 4] = 3,
    downscale: float = 1.0,
    exposure: bool = False,
    preset: Literal["small", "balanced", "high"] = "high",
    resume: bool = False,
    device: Device = "cpu",
    seed: int = 0,
    overwrite: bool = False,
    json_: Json = False,
) -> None:
    """Fit Gaussians to a folder of posed photographs; every eighth is held out and measured.

    Ctrl-C or a crash loses half a minute at most: OUT.checkpoint stays, and --resume goes on from
    it to the same result.

    Args:
        source: A COLMAP model with images, transforms.json, Blender or LLFF.
        output: The .ply to write, or a .fpz, compressed.
        budget: Gaussians, at most.
        steps: Training steps, one photograph each.
        init: Start from SfM points or from random ones; auto takes points where there should be.
        sh_degree: Of the colours.
        downscale: Make photographs this many times smaller, each way.
        exposure: Learn a colour change per photograph.
        preset: How much of the fit a .fpz keeps.
        resume: Go on from OUT.checkpoint.
        device: Where to train.
        seed: Of every random choice; the same seed gives the same splats.
        overwrite: Replace an output that exists.
        json_: Print one JSON object on stdout.
    """
    from . import fitting

    check_output(output, overwrite=overwrite)
    try:
        settings = fitting.FitSettings(
            budget=budget, steps=steps, sh_degree=sh_degree, exposure=exposure, seed=seed
        )
    except ValueError as error:
        raise Misuse(str(error)) from None
    with console.quiet_stdout() as out, Progress() as progress:
        report = fitting.fit_gaussians(
            source, output, settings, init=init, downscale=downscale, resume=resume, device=device,
            pressing=fitting.CompressSettings(preset, seed=seed), progress=progress,
        )  # fmt: skip
    _finish(report, json_, out)


def fit() -> None:
    """Fit a model: `fit gaussians` or `fit nerf` to photographs, `fit image`, `fit sdf`."""
    raise Misuse(f"fit: expected one of {', '.join(FITS)} next; see fieldpress fit --help")


def decompress(
    source: Input,
    output: Annotated[str, _output("OUT")],
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
        optimize: Make a better SOG or SPZ of no more bytes, by what views of the scene show.
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

    _need_room(output, json_)
    with console.quiet_stdout() as out, Progress() as progress:
        if output.lower().endswith(".html"):
            from . import viewing

            check_output(output, overwrite=overwrite)
            report = viewing.export_page(wanted.read, source, output)
        else:
            report = converting.convert(
                source, output, wanted, overwrite=overwrite, progress=progress
            )
    _finish(report, json_, out if output != "-" else sys.stderr)
    return console.FAILURE if report.get("failed") else 0


def render(
    source: Input,
    output: Annotated[str, _output("DIR|OUT.mp4")],
    cameras: Annotated[str | None, _path, tyro.conf.arg(metavar="FILE")] = None,
    scene: Annotated[str | None, _path, tyro.conf.arg(metavar="DIR")] = None,
    orbit: Annotated[int | None, _path, tyro.conf.arg(metavar="N")] = None,
    device: Device = "cpu",
    overwrite: bool = False,
    json_: Json = False,
) -> None:
    """Render pictures: PNG frames into a folder, or one mp4 at 30 frames per second.

    Args:
        source: The scene: .fpz, .ply, .spz, .sog, a folder of one, or - for stdin.
        output: The folder of frames, or a name that ends in .mp4.
        cameras: A transforms.json, COLMAP model or poses_bounds.npy whose cameras to render;
            photographs are not needed.
        scene: A folder of posed photographs, all of whose views to render.
        orbit: This many views around the dense core of the scene.
        device: Where to render.
        overwrite: Replace an output that exists.
        json_: Print one JSON object on stdout.
    """
    from . import pictures, press

    if orbit is not None and orbit < 1:
        raise Misuse(f"--orbit: expected at least 1 view, got {orbit}")
    if output == "-":
        raise Misuse("-o: expected a folder or a name that ends in .mp4, got stdout")
    check_output(output, overwrite=overwrite, folder=not pictures.is_video(output))
    with console.quiet_stdout() as out, Progress() as progress:
        model, views = press.model_and_views(source, cameras, scene, orbit, device)
        report = pictures.render_file(model, views, Path(output), progress)
    _finish({"input": source, "output": output, **report}, json_, out)


def evaluate(
    source: Input,
    scene: Scene = None,
    reference: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None,
    output: Annotated[str | None, _output("REPORT.json|.html")] = None,
    device: Device = "cpu",
    overwrite: bool = False,
    json_: Json = False,
) -> None:
    """Measure a file: against photographs, against another file, or both.

    Args:
        source: The scene: .fpz, .ply, .spz, .sog, a folder of one, or - for stdin.
        scene: Posed photographs (COLMAP, transforms.json, LLFF); the test views are measured.
        reference: The uncompressed scene, to whose render this one's is compared.
        output: Where to write the report: as JSON, or as a page if the name ends in .html.
        device: Where to render; pictures are compared on the CPU.
        overwrite: Replace an output that exists.
        json_: Print one JSON object on stdout.
    """
    from . import pictures, press

    if output is not None:
        check_output(output, overwrite=overwrite)
    with console.quiet_stdout() as out, Progress() as progress:
        found = press.evaluate_file(source, scene, reference, device=device, progress=progress)
        report = found if isinstance(found, dict) else found.report
        if output is not None and output != "-":
            text = console.to_json(report) + "\n"
            if output.lower().endswith((".html", ".htm")):
                if isinstance(found, dict):
                    raise Misuse(f"{output}: a field has no page; expected a name ending in .json")
                text = pictures.report_page(found)
            with console.sink(output) as write:
                write(text.encode())
    _finish(report, json_ or output == "-", out)


def bench(
    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MANIFEST|IN")],
    output: Annotated[str, _output("DIR")],
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
    _finish(report, json_, out)


def view(
    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IN")],
    scene: Scene = None,
    downscale: float = 1.0,
    host: str = "127.0.0.1",
    port: int = 8650,
    token: str | None = None,
    json_: Json = False,
) -> None:
    """Look at scenes in the browser, two side by side: swipe, error map, live quality. Ctrl-C ends.

    Args:
        sources: Scene files; the first is what the others are compared with.
        scene: Posed photographs to jump to and compare with.
        downscale: Make those photographs this many times smaller, each way.
        host: Address to listen at; any but this machine's own asks browsers for a token.
        port: Where to listen; 0 takes a free one.
        token: The token to ask for; made where one is needed.
        json_: Print one JSON object with the address on stdout, once the viewer is ready.
    """
    from . import viewing

    if not sources:
        raise Misuse("view: expected scene files, got nothing")
    if not 0 <= port <= 65535:
        raise Misuse(f"--port: expected 0 to 65535, got {port}")
    with console.quiet_stdout() as out:
        show = viewing.gather(sources, scene, downscale)

        def ready(url: str) -> None:
            say(f"open {url} in a browser; Ctrl-C ends")
            if json_:
                console.print_json({"url": url, "version": __version__}, out)

        viewing.view(show, host=host, port=port, token=token, log=say, ready=ready)


def batch(
    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MANIFEST|IN")],
    output: Annotated[str, _output("DIR")],
    jobs: Annotated[int, _where, tyro.conf.arg(metavar="N")] = 1,
    ray: Annotated[str | None, _where, tyro.conf.arg(metavar="ADDRESS|local")] = None,
    gpus: float = 0.0,
    retries: int = 2,
    timeout: Annotated[float | None, tyro.conf.arg(metavar="SECONDS")] = None,
    layout: tuple[Literal["nerfstudio", "3dgs"], ...] = (),
    resume: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    json_: Json = False,
) -> None:
    """Compress and measure many scenes, on this machine or a Ray cluster, and report on all.

    A task that fails is tried again and then recorded; the others go on. Every file in DIR/files is
    whole, whatever happens; --resume repeats nothing that is complete.

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
    from .jobs import Policy

    if not sources:
        raise Misuse("batch: expected a manifest or scene files, got nothing")
    if output == "-":
        raise Misuse("-o: expected a folder, got stdout")
    if retries < 0 or gpus < 0 or (timeout is not None and timeout <= 0):
        raise Misuse("--retries, --gpus, --timeout: expected no less than 0")
    wanted = manifest.gather(sources, batches.METHODS)
    if not batches.Store(output).remote:
        check_output(output, overwrite=overwrite or resume, folder=True)
    with console.quiet_stdout() as out, Progress() as progress, _pool(jobs, ray, gpus) as pool:
        report = batches.run_batch(
            wanted, output, pool, policy=Policy(retries, timeout=timeout), seed=seed,
            resume=resume and not overwrite, wanted_layouts=layout, progress=progress,
        )  # fmt: skip
    say(f"the report is {output.rstrip('/')}/index.html")
    _finish(report, json_, out)


@contextmanager
def _pool(jobs: int, ray: str | None, gpus: float = 0) -> Iterator[Any]:
    """Where tasks run: so many processes here, or a cluster; ended with the block."""
    from .jobs import Processes

    if jobs < 1:
        raise Misuse(f"--jobs: expected at least 1, got {jobs}")
    if ray is None and gpus:
        raise Misuse("--gpus: only a cluster hands them out; give --ray")
    if ray is None:
        pool = Processes(jobs)
    else:
        from .ray_jobs import RayPool

        pool = RayPool(ray, gpus=gpus)
    try:
        yield pool
    finally:
        pool.close()


def info(source: Input, json_: Json = False) -> None:
    """Say what is in a file: sections, counts, bytes by attribute, provenance.

    Args:
        source: The file: .fpz, .ply, .spz, .sog, a folder of one, or - for stdin.
        json_: Print one JSON object on stdout.
    """
    from . import press

    with console.quiet_stdout() as out:
        report = press.describe(source)
    _finish(report, json_, out)


def demo(
    output: Annotated[str, _output("DIR")] = "demo-out",
    overwrite: bool = False,
    json_: Json = False,
) -> None:
    """Make a small posed capture, compress it, measure it, write a report: no download.

    Args:
        output: The folder to write.
        overwrite: Replace an output that exists.
        json_: Print one JSON object on stdout.
    """
    from .demo import run_demo

    check_output(output, overwrite=overwrite, folder=True)
    place = console.whole(Path(output))
    with console.quiet_stdout() as out, Progress() as progress, place as folder:
        report = run_demo(folder, progress=progress)
    say(f"the report is {Path(output) / 'report.html'}")
    _finish({"output": output, **report}, json_, out)


VERBS: dict[str, Callable[..., int | None]] = {
    "compress": compress,
    "decompress": decompress,
    "convert": convert,
    "fit": fit,
    "render": render,
    "eval": evaluate,
    "bench": bench,
    "view": view,
    "batch": batch,
    "info": info,
    "demo": demo,
}


FITS: dict[str, Callable[..., int | None]] = {  # fieldpress fit KIND
    "gaussians": fit_gaussians, **field_verbs.FITS,
}  # fmt: skip


def _need_room(output: str, json_: bool) -> None:
    if output == "-" and json_:
        raise Misuse("--json: stdout already carries the output; write that to a file")


def _finish(report: Mapping[str, Any], json_: bool, out: Any) -> None:
    if json_:
        console.print_json(report, out)
    else:
        console.print_table(report, out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    # torch's OpenMP threads spin while they wait: on a busy machine that costs ten times the
    # work itself. Read when torch is first imported, so only the command may set it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    if args in (["--version"], ["-V"]):
        print(f"fieldpress {__version__}")
        return 0

    fits = args[:1] == ["fit"] and len(args) > 1

    def verb() -> int | None:
        return tyro.extras.subcommand_cli_from_dict(
            FITS if fits else VERBS,
            prog="fieldpress fit" if fits else "fieldpress",
            description=DESCRIPTION,
            args=args[1:] if fits else args,
            config=(tyro.conf.FlagCreatePairsOff,),
        )

    try:
        return console.run(verb, debug=debug)
    except SystemExit as error:  # tyro's: 0 after --help, 2 after a misuse that it explained.
        return error.code if isinstance(error.code, int) else 2


if __name__ == "__main__":
    sys.exit(main())

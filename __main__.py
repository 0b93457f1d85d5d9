"""The command: one typed function per verb. Torch is imported inside them, so --help is fast."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from . import __version__, console, field_verbs
from .arguments import PATH, Device, Input, Json, Scene, finish, output_as
from .console import Misuse, Progress, check_output, say
from .many_verbs import batch, bench
from .press_verbs import compress, convert, decompress
from .quant import budget
from .video_verbs import fit_video

DESCRIPTION = """Compress captured scenes, prove what was lost, look at them.

Every verb takes --debug, which shows the traceback of a failure, and --max-memory MB: files that
need more to be read are refused (default: what the machine has). "-" is stdin or stdout wherever
one file is meant. Exit codes: 0 success, 1 failure, 2 misuse, 130 interrupted."""


def fit_gaussians(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")],
    output: Annotated[str, output_as("OUT")],
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
    finish(report, json_, out)


def fit() -> None:
    """Fit a model to photographs (gaussians, nerf), a picture, a mesh (sdf) or a video."""
    raise Misuse(f"fit: expected one of {', '.join(FITS)} next; see fieldpress fit --help")


def render(
    source: Input,
    output: Annotated[str, output_as("DIR|OUT.mp4")],
    cameras: Annotated[str | None, PATH, tyro.conf.arg(metavar="FILE")] = None,
    scene: Annotated[str | None, PATH, tyro.conf.arg(metavar="DIR")] = None,
    orbit: Annotated[int | None, PATH, tyro.conf.arg(metavar="N")] = None,
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
    finish({"input": source, "output": output, **report}, json_, out)


def evaluate(
    source: Input,
    scene: Scene = None,
    reference: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None,
    output: Annotated[str | None, output_as("REPORT.json|.html")] = None,
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
    finish(report, json_ or output == "-", out)


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
        sources: Scene files; the first is what the others are compared with. Or .fpz videos, and
            beside them the clip that they were made of.
        scene: Posed photographs to jump to and compare with.
        downscale: Make those photographs this many times smaller, each way.
        host: Address to listen at; any but this machine's own asks browsers for a token.
        port: Where to listen; 0 takes a free one.
        token: The token to ask for; made where one is needed.
        json_: Print one JSON object with the address on stdout, once the viewer is ready.
    """
    from . import clip_viewing, viewing

    if not sources:
        raise Misuse("view: expected scene files, got nothing")
    if not 0 <= port <= 65535:
        raise Misuse(f"--port: expected 0 to 65535, got {port}")
    with console.quiet_stdout() as out:
        clips = clip_viewing.gather(sources)
        show = None if clips else viewing.gather(sources, scene, downscale)

        def ready(url: str) -> None:
            say(f"open {url} in a browser; Ctrl-C ends")
            if json_:
                console.print_json({"url": url, "version": __version__}, out)

        if clips is not None:
            return clip_viewing.view(clips, host=host, port=port, ready=ready)
        assert show is not None
        viewing.view(show, host=host, port=port, token=token, log=say, ready=ready)


def info(source: Input, json_: Json = False) -> None:
    """Say what is in a file: sections, counts, bytes by attribute, provenance.

    Args:
        source: The file: .fpz, .ply, .spz, .sog, a folder of one, or - for stdin.
        json_: Print one JSON object on stdout.
    """
    from . import sources

    with console.quiet_stdout() as out:
        report = sources.describe(source)
    finish(report, json_, out)


def demo(
    output: Annotated[str, output_as("DIR")] = "demo-out",
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
    finish({"output": output, **report}, json_, out)


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
    "gaussians": fit_gaussians, **field_verbs.FITS, "video": fit_video,
}  # fmt: skip


def _without_limit(args: list[str]) -> list[str]:
    """The arguments that are left after --max-memory MB, which the environment then says.

    Raises ValueError for what is no number.
    """
    for at, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name == "--max-memory":
            if not equals:
                value = args[at + 1] if at + 1 < len(args) else ""
            budget.parse(value)
            os.environ[budget.VARIABLE] = value
            budget.set_limit(None)
            return args[:at] + args[at + 1 + (not equals) :]
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    # torch's OpenMP threads spin while they wait: on a busy machine that costs ten times the
    # work itself. Read when torch is first imported, so only the command may set it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # numpy's BLAS keeps buffers for each thread, and has only small matrices to do here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    try:
        args = _without_limit(args)
    except ValueError as error:
        say(f"error: --{error}")
        return console.MISUSE
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

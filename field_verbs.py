"""`fieldpress fit` of neural fields: one typed function a kind. Torch is imported inside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import tyro

from . import bayes_verbs, console
from .arguments import Device
from .console import Misuse, Progress, check_output

Json = Annotated[bool, tyro.conf.arg(name="json")]
OUTPUT: Any = tyro.conf.arg(name="output", aliases=["-o"], metavar="OUT.fpz")
Lattice = Literal["HashGrid", "KuhnGrid", "SimplexGrid", "PermutoGrid"]


def fit_image(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PICTURE")],
    output: Annotated[str, OUTPUT],
    otype: Lattice = "SimplexGrid",
    log2_hashmap_size: int | None = None,
    neurons: int = 64,
    steps: int = 1500,
    batch: int = 32768,
    preset: str = "balanced",
    method: Literal["grid", "latent", "recombiner", "combiner"] = "grid",
    lmbda: Annotated[float | None, tyro.conf.arg(name="lambda")] = None,
    target_bpp: float | None = None,
    prior: Annotated[str | None, tyro.conf.arg(metavar="PRIOR.fpz")] = None,
    seed: int = 0,
    device: Device = "cpu",
    overwrite: bool = False,
    json_: Json = False,
) -> None:
    """Fit a neural field to a picture, compressed; the written bytes are decoded and measured.

    Args:
        source: A picture: PNG, JPEG and what else Pillow reads.
        output: The .fpz file to write.
        otype: The lattice of the encoding.
        log2_hashmap_size: Rows of a level at most, as a power of two; by default by the pixels.
        neurons: Of each of the two hidden layers.
        steps: Training steps.
        batch: Pixels of a step.
        preset: Of a grid, how much rounding may lose: small, balanced, or high, 0.05 dB and no
            training through it. Of latents, how long to fit: ultrafast to placebo.
        method: A function of the place on a lattice of features; latent, for the smallest file; or
            indices into samples of a prior, which takes --prior and of the options above --steps.
        lmbda: Of latents, what a bit a pixel is worth in squared error: 1e-4 good, 1e-2 small.
        target_bpp: Of latents, bits a pixel to come near to, instead of lambda.
        prior: Of `fit prior`; decoding needs it too, beside the file or in FIELDPRESS_PRIORS.
        seed: Of every random choice.
        device: Where to train and to measure.
        overwrite: Replace an output that exists.
        json_: Print one JSON object on stdout.
    """
    from . import field_jobs

    if method != "grid" and device != "cpu":
        raise Misuse(f"device: expected cpu with --method {method}, got {device}")
    if method in ("recombiner", "combiner"):
        return bayes_verbs.fit_image(source, output, method, prior, steps, seed, overwrite, json_)
    check_output(output, overwrite=overwrite)
    if method == "latent":
        return _fit_latents(source, output, preset, lmbda, target_bpp, seed, json_)
    if lmbda is not None or target_bpp is not None:
        raise Misuse("--lambda, --target-bpp: only with --method latent")
    try:
        if preset not in field_jobs.LOSS_DB:
            raise ValueError(f"preset: expected small, balanced or high, got {preset!r:.40}")
        wanted = field_jobs.ImageJob(
            otype, log2_hashmap_size, neurons, steps, batch, preset, seed, device
        )
    except ValueError as error:
        raise Misuse(str(error)) from None
    with console.quiet_stdout() as out, Progress() as progress:
        report = field_jobs.fit_image_file(source, output, wanted, progress=progress)
    (console.print_json if json_ else console.print_table)(report, out)


def _fit_latents(
    source: str,
    output: str,
    preset: str,
    lmbda: float | None,
    target_bpp: float | None,
    seed: int,
    json_: bool,
) -> None:
    from . import latent_jobs
    from .fields.latent_codec import LatentCodec

    preset = "medium" if preset == "balanced" else preset  # The default of the other method.
    try:
        LatentCodec(preset, latent_jobs.LMBDA if lmbda is None else lmbda, seed)
        if lmbda is not None and target_bpp is not None:
            raise ValueError("expected --lambda or --target-bpp, got both")
        if target_bpp is not None and not target_bpp > 0:
            raise ValueError(f"target_bpp: expected more than 0, got {target_bpp}")
    except ValueError as error:
        raise Misuse(str(error)) from None
    with console.quiet_stdout() as out, Progress() as progress:
        report = latent_jobs.fit_latent_image(
            source, output, preset=preset, lmbda=lmbda, target_bpp=target_bpp, seed=seed,
            progress=progress,
        )  # fmt: skip
    (console.print_json if json_ else console.print_table)(report, out)


def fit_sdf(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MESH")],
    output: Annotated[str, OUTPUT],
    otype: Lattice = "SimplexGrid",
    log2_hashmap_size: int = 14,
    steps: int = 2000,
    quantise: float = 5e-4,
    eikonal: float = 0.0,
    seed: int = 0,
    device: Device = "cpu",
    overwrite: bool = False,
    json_: Json = False,
) -> None:
    """Fit a neural signed distance to a closed mesh, compressed, decoded and measured.

    Args:
        source: A mesh: OBJ, PLY, STL and what else Open3D reads.
        output: The .fpz file to write.
        otype: The lattice of the encoding.
        log2_hashmap_size: Rows of a level at most, as a power of two.
        steps: Training steps.
        quantise: How coarsely tables are rounded; larger gives smaller files.
        eikonal: Weight of a loss that wants distances to grow by one an edge, on the CPU.
        seed: Of every random choice.
        device: Where to train and to measure.
        overwrite: Replace an output that exists.
        json_: Print one JSON object on stdout.
    """
    from . import field_jobs

    check_output(output, overwrite=overwrite)
    try:
        wanted = field_jobs.SdfJob(otype, log2_hashmap_size, steps, quantise, eikonal, seed, device)
    except ValueError as error:
        raise Misuse(str(error)) from None
    with console.quiet_stdout() as out, Progress() as progress:
        report = field_jobs.fit_sdf_file(source, output, wanted, progress=progress)
    (console.print_json if json_ else console.print_table)(report, out)


def fit_nerf(
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")],
    output: Annotated[str, OUTPUT],
    otype: Lattice = "SimplexGrid",
    log2_hashmap_size: int = 16,
    steps: int = 2000,
    rays: int = 1024,
    loss_db: float = 0.1,
    rate_db: float | None = None,
    downscale: float = 1.0,
    method: Literal["direct", "vqnerf"] = "direct",
    upscale: Literal[2, 4, 8] = 4,
    background: Literal["auto", "black", "white", "random", "learned"] = "auto",
    exposure: bool = False,
    seed: int = 0,
    device: Device = "cpu",
    overwrite: bool = False,
    json_: Json = False,
) -> None:
    """Fit a radiance field to a folder of posed photographs, compressed, decoded and measured.

    Args:
        source: A COLMAP model with images, transforms.json, Blender or LLFF.
        output: The .fpz file to write.
        otype: The lattice of the encoding.
        log2_hashmap_size: Rows of a level at most, as a power of two.
        steps: Training steps.
        rays: Of a step.
        loss_db: What rounding may cost on training views, in dB.
        rate_db: Train all but the first steps through the rounding, a kilobyte worth so many dB:
            0.02 to 0.5.
        downscale: Make photographs this many times smaller, each way.
        method: A ray a pixel, or vqnerf: a ray for each block of pixels, which a decoder that is
            trained with the field fills in; our reconstruction of arXiv 2310.14487.
        upscale: With vqnerf, sides of a block in pixels.
        background: What lies behind the cube, and behind transparent photographs. Random makes
            what photographs show opaque, but for their alpha; auto is random, or black or white
            where that is what photographs without alpha show at their borders.
        exposure: Learn how brightly each photograph was exposed, and show their mean.
        seed: Of every random choice.
        device: Where to train and to measure.
        overwrite: Replace an output that exists.
        json_: Print one JSON object on stdout.
    """
    from . import field_jobs

    check_output(output, overwrite=overwrite)
    try:
        given = (
            otype, log2_hashmap_size, steps, rays, loss_db, rate_db, seed, device, background,
            exposure,
        )  # fmt: skip
        direct = method == "direct"
        wanted = field_jobs.NerfJob(*given) if direct else field_jobs.VqNerfJob(*given, upscale)
    except ValueError as error:
        raise Misuse(str(error)) from None
    with console.quiet_stdout() as out, Progress() as progress:
        report = field_jobs.fit_nerf_file(
            source, output, wanted, downscale=downscale, progress=progress
        )
    (console.print_json if json_ else console.print_table)(report, out)


FITS: dict[str, Callable[..., None]] = {
    "image": fit_image, "sdf": fit_sdf, "nerf": fit_nerf, "prior": bayes_verbs.fit_prior,
}  # fmt: skip

"""The job behind `fit image --method latent`: a picture as latent grids, to a rate or a quality."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__
from .console import Progress, sink
from .field_jobs import read_picture
from .fields import latent_image
from .fields.latent_codec import LatentCodec
from .quant import container
from .scenes import metrics

LMBDA = 1e-3
TRIAL_PRESET = "superfast"  # Tries Lagrangians for a target; the last encode has its own preset.
TRIALS = 6
SLOPE = 1.0  # log(rate) falls about as log(lambda) / SLOPE at first guess.


def fit_latent_image(
    source: str,
    output: str,
    *,
    preset: str,
    lmbda: float | None,
    target_bpp: float | None,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Code a picture and write it; the written bytes are decoded and measured."""
    if Path(output).suffix.lower() != ".fpz":
        raise ValueError(f"{output}: expected a name ending in .fpz")
    picture = read_picture(source)
    height, width = picture.shape[:2]
    frames, start = picture.numpy()[None], time.perf_counter()
    if target_bpp is not None:
        lmbda = lagrangian_for(frames, target_bpp, seed)
    lmbda = LMBDA if lmbda is None else lmbda
    coder = LatentCodec(preset, lmbda, seed)
    payload, _ = coder.encode(frames, None, progress=progress)
    header = {"seed": seed, "preset": preset, "lambda": lmbda, "version": __version__}
    with sink(output) as write:
        data = write(latent_image.write(payload, width, height, header))
        encode_seconds, start = time.perf_counter() - start, time.perf_counter()
        model = latent_image.read(container.read(data, name=output), output)
        decode_seconds = time.perf_counter() - start
        found, truth = model.picture(), picture.float() / 255
        quality = {
            "psnr": float(metrics.psnr(found, truth)),
            "ssim": float(metrics.ssim(found, truth)),
        }
    return {
        "input_bytes": Path(source).stat().st_size,
        "output_bytes": len(data),
        "ratio": 3 * width * height / len(data),
        **quality,
        "bits_per_pixel": 8 * len(data) / (width * height),
        "bytes_by_section": container.by_attribute(container.sizes(data)),
        "lambda": lmbda,
        "preset": preset,
        "encode_seconds": encode_seconds,
        "decode_seconds": decode_seconds,
        "fps": 1 / decode_seconds,
        "render_size": [width, height],
        "device": "cpu",
        "seed": seed,
        "version": __version__,
        "input": source,
        "output": output,
    }


def lagrangian_for(frames: np.ndarray, target_bpp: float, seed: int) -> float:
    """The Lagrangian at which quick trials take so many bits a pixel, by secants of logarithms."""
    pixels = frames.shape[1] * frames.shape[2]
    at, tried = float(np.log(LMBDA)), []
    for _ in range(TRIALS):
        payload, _ = LatentCodec(TRIAL_PRESET, float(np.exp(at)), seed).encode(frames)
        miss = float(np.log(8 * len(payload) / pixels / target_bpp))
        tried.append((miss, at))
        if abs(miss) < 0.03:
            break
        slope = SLOPE
        if len(tried) > 1 and tried[-1][0] != tried[-2][0]:
            (m0, a0), (m1, a1) = tried[-2:]
            slope = float(np.clip((a0 - a1) / (m1 - m0), 0.5, 3))
        at = float(np.clip(at + slope * miss, np.log(1e-5), np.log(0.3)))
    return float(np.exp(min(tried, key=lambda pair: abs(pair[0]))[1]))

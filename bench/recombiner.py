"""Bayesian fields on held-out crops: rates beside peers, ablations, and clips.

    python bench/recombiner.py [--only recombiner combiner peers ablation hierarchy ...]

Priors are learned on random crops of some of the shared pictures, halved, and used on crops of two
others. Every point is files: written, decoded again from their bytes, measured; sizes with and
without headers. Each part is stored in bench/results/recombiner.json as it ends, beside those of
earlier runs. One thread.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from record import DATA, RESULTS, machine
from torch import Tensor

from fieldpress.bayes_jobs import centred, random_crops
from fieldpress.fields import bayes_codec
from fieldpress.fields.bayes_blocks import packed
from fieldpress.fields.bayes_codec import BayesField
from fieldpress.fields.bayes_encode import EncodeSettings, encode_signals
from fieldpress.fields.bayes_learn import Learner, learn
from fieldpress.fields.bayes_prior import Prior, read_prior
from fieldpress.fields.bayes_shape import Shape
from fieldpress.scenes.rate_distortion import bd_rate

TRAIN = ("kodim05", "kodim07", "kodim15", "kodim19", "astronaut", "chelsea")
TEST = ("kodim03", "kodim23")
RATES = (1600, 800, 400, 200)  # KL bits of a crop.
MIDDLE = 800  # Of pictures in patches.
RECOMBINER, COMBINER = Shape(), Shape(latents=0, mixing=False)
SETTINGS = EncodeSettings(steps=150, tuning=250, rate=0.03)  # Of pictures in patches.
MEDIUM = EncodeSettings(steps=300, tuning=300, rate=0.03)  # Of ablations.
LONG = EncodeSettings(steps=400, tuning=400, rate=0.03)  # Of rates.
CROPS, STEPS, MORE_STEPS, TESTED = 64, 200, 80, 10
MORE_CROPS = 96  # Of rates.
SOUND_HZ, SOUND_LONG, SOUND_BITS = 16_000, 4800, 2400
SMALL = Shape(patch=(16, 16), width=12)
RIFF_BYTES = 20  # RIFF and chunk headers of a WebP file.


def pictures(names: tuple[str, ...]) -> list[Tensor]:
    found = []
    for name in names:
        halved = Image.open(DATA / "images" / f"{name}.png").convert("RGB").reduce(2)
        found.append(torch.from_numpy(np.array(halved)))
    return found


def psnr(found: np.ndarray, truth: np.ndarray) -> float:
    error = np.square(found.astype(float) - truth.astype(float)).mean() / 255**2
    return -10 * math.log10(max(error, 1e-10))


def measured(prior: Prior, signals: Tensor, settings: EncodeSettings = SETTINGS) -> dict[str, Any]:
    """Files of all signals, decoded from their bytes."""
    start = time.process_time()
    index = encode_signals(prior, signals, settings)
    seconds = (time.process_time() - start) / len(signals)
    again = read_prior(prior.data)
    sizes, payloads, levels, decoding = [], [], [], []
    for signal, one in zip(signals, index, strict=True):
        data = bayes_codec.encode(BayesField(prior, tuple(signal.shape[:-1]), one))
        start = time.process_time()
        field = bayes_codec.decode(data, prior=again)
        assert isinstance(field, BayesField)
        found = field.bytes()
        decoding.append(time.process_time() - start)
        sizes.append(len(data))
        payloads.append(len(packed([*one.values()], prior.index_bits)))
        levels.append(psnr(found, ((signal + 0.5) * 255).round().numpy()))
    samples = signals[0, ..., 0].numel()
    return {
        "bytes": float(np.mean(sizes)),
        "bytes_without_headers": float(np.mean(payloads)),
        "bpp": 8 * float(np.mean(sizes)) / samples,
        "bpp_without_headers": 8 * float(np.mean(payloads)) / samples,
        "psnr": float(np.mean(levels)),
        "psnr_each": levels,
        "encode_cpu_seconds": seconds,
        "decode_cpu_ms": 1000 * float(np.median(decoding)),
        "prior_bytes": len(prior.data),
        "blocks": {level: len(blocks.ends) for level, blocks in prior.blocks.items()},
    }


def crops(names: tuple[str, ...], count: int, side: int = 32, seed: int = 0) -> Tensor:
    return random_crops(pictures(names), side, count, seed)


def chain(shape: Shape) -> list[dict[str, Any]]:
    """A point a rate: the prior of each is learned on from that of the one above it."""
    learner = Learner.new(shape, crops(TRAIN, MORE_CROPS))
    tested, points = crops(TEST, TESTED, seed=5), []
    for number, bits in enumerate(RATES):
        start = time.process_time()
        learner = learn(learner, bits, MORE_STEPS if number else STEPS, seed=number)
        spent = time.process_time() - start
        row = {
            "kl_bits": bits, "train_kl_bits": learner.history[-1][0],
            "train_psnr": -10 * math.log10(learner.history[-1][1]), "train_cpu_seconds": spent,
        }  # fmt: skip
        points.append(row | measured(Prior.of(learner), tested, LONG))
        print(summary(points[-1]), flush=True)
    return points


def summary(row: dict[str, Any]) -> str:
    return " ".join(
        f"{key} {value:.5g}" for key, value in row.items() if isinstance(value, (int, float))
    )


def peers() -> dict[str, list[dict[str, float]]]:
    """JPEG and WebP of the same crops, means at each quality."""
    tested = ((crops(TEST, TESTED, seed=5) + 0.5) * 255).round().byte().numpy()
    found: dict[str, list[dict[str, float]]] = {}
    for kind, core in {"JPEG": scan_bytes, "WebP": lambda data: len(data) - RIFF_BYTES}.items():
        for quality in (1, 5, 10, 20, 30, 50, 70, 85, 95):
            rows = []
            for crop in tested:
                buffer = io.BytesIO()
                options = {"optimize": True} if kind == "JPEG" else {"method": 6}
                Image.fromarray(crop).save(buffer, kind, quality=quality, **options)
                data = buffer.getvalue()
                back = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
                rows.append((len(data), core(data), psnr(back, crop)))
            size, without, level = np.mean(rows, 0)
            found.setdefault(kind, []).append(
                {
                    "quality": quality, "bytes": size, "bpp": size / 128,
                    "bpp_without_headers": without / 128, "psnr": level,
                }
            )  # fmt: skip
            print(kind, summary(found[kind][-1]), flush=True)
    return found


def latent() -> list[dict[str, float]]:
    """Our codec of larger pictures on the same crops, where this build has it."""
    try:
        codec = import_module("fieldpress.fields.latent_codec").LatentCodec
        write = import_module("fieldpress.fields.latent_image").write
    except ImportError:
        print("fields.latent_codec is not here: skipped")
        return []
    tested, found = ((crops(TEST, TESTED, seed=5) + 0.5) * 255).round().byte().numpy(), []
    for lmbda in (3e-2, 3e-3, 3e-4):
        rows = []
        for crop in tested:
            coder = codec("veryfast", lmbda, 0)
            payload, _ = coder.encode(crop[None])
            back, _ = coder.decode(payload, (1, *crop.shape[:2]))
            rows.append((len(write(payload, 32, 32, {})), len(payload), psnr(back[0], crop)))
        size, without, level = np.mean(rows, 0)
        found.append(
            {
                "lambda": lmbda, "bytes": size, "bpp": size / 128,
                "bpp_without_headers": without / 128, "psnr": level,
            }
        )  # fmt: skip
        print("latent", summary(found[-1]), flush=True)
    return found


def scan_bytes(data: bytes) -> int:
    """Of a baseline JPEG, the coded coefficients alone: no tables, no header."""
    at = data.rindex(b"\xff\xda")
    return len(data) - at - 2 - int.from_bytes(data[at + 2 : at + 4], "big") - 2


def ablation() -> dict[str, Any]:
    """What each part gives at one rate on single patches."""
    cases = {
        "all": RECOMBINER,
        "no mixing": replace(RECOMBINER, mixing=False),
        "no positional latents": replace(RECOMBINER, latents=0),
        "neither": COMBINER,
    }
    data, tested, found = crops(TRAIN, CROPS), crops(TEST, TESTED, seed=5), {}
    for name, shape in cases.items():
        learner = learn(Learner.new(shape, data), MIDDLE, 150)
        row = {"train_psnr": -10 * math.log10(learner.history[-1][1])}
        found[name] = row | measured(Prior.of(learner), tested, MEDIUM)
        print(name, summary(found[name]), flush=True)
    return found


def hierarchy() -> dict[str, Any]:
    """What groups and the order across patches give: 64x64 pixels in patches of 16x16."""
    grouped = replace(SMALL, group=2)
    cases = {
        "all": (grouped, True),
        "no permutation across patches": (grouped, False),
        "no hierarchy": (SMALL, True),
        "neither": (SMALL, False),
        "hierarchy, no positional latents": (replace(grouped, latents=0), True),
    }
    data, tested = crops(TRAIN, CROPS // 4, 64), crops(TEST, 4, 64, seed=5)
    learners: dict[Shape, Learner] = {}
    found = {}
    for name, (shape, shuffled) in cases.items():
        if shape not in learners:
            learners[shape] = learn(Learner.new(shape, data), 4 * MIDDLE, STEPS)
        learner = learners[shape]
        row = {"train_psnr": -10 * math.log10(learner.history[-1][1])}
        prior = Prior.of(replace(learner, shape=replace(shape, shuffled=shuffled)))
        found[name] = row | measured(prior, tested)
        print(name, summary(found[name]), flush=True)
    return found


def video() -> dict[str, Any]:
    """Patches of 8 frames of 16x16 pixels of a clip, learned on its first part."""
    import av

    with av.open(str(DATA / "video" / "carphone_pristine.mp4")) as clip:
        frames = np.stack([f.to_ndarray(format="rgb24") for f in clip.decode(video=0)])
    generator, parts = np.random.default_rng(0), []
    for number in range(36):
        first, last = (0, 72) if number < 32 else (80, len(frames))
        t, y, x = (
            generator.integers(low, high)
            for low, high in ((first, last - 8), (0, 144 - 16), (0, 176 - 16))
        )
        parts.append(frames[t : t + 8, y : y + 16, x : x + 16])
    signals = centred(torch.from_numpy(np.stack(parts)))
    shape = Shape(patch=(8, 16, 16), frequencies=3)
    learner = learn(Learner.new(shape, signals[:32]), MIDDLE, STEPS // 2)
    found = measured(Prior.of(learner), signals[32:])
    print("video", summary(found))
    return found


def sound() -> dict[str, Any]:
    """0.3 seconds of running water at 16 kHz, six patches each, learned on its first part."""
    import av

    resampler, pieces = av.AudioResampler("flt", "mono", SOUND_HZ), []
    with av.open(str(DATA / "video" / "stream-of-water.mp4")) as clip:
        for frame in clip.decode(audio=0):
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
    wave = np.concatenate(pieces)
    wave = wave / (2 * np.abs(wave).max())
    generator, split = np.random.default_rng(0), 2 * len(wave) // 3
    starts = [*generator.integers(0, split - SOUND_LONG, 32)]
    starts += [*range(split, len(wave) - SOUND_LONG + 1, SOUND_LONG)]
    signals = torch.from_numpy(np.stack([wave[a : a + SOUND_LONG, None] for a in starts])).float()
    shape = Shape(patch=(800,), channels=1, width=12, frequencies=10, latents=12, features=8)
    learner = learn(Learner.new(shape, signals[:32]), SOUND_BITS, STEPS)
    found = measured(Prior.of(learner), signals[32:])
    found["snr"] = found["psnr"] + 10 * math.log10(float(signals[32:].square().mean()))
    print("sound", summary(found), f"{found['snr']:.2f} dB of the signal")
    return found


def bd_rates() -> dict[str, Any]:
    """Percent that RECOMBINER takes more than each other, of the rows that are stored."""
    kept = json.loads((RESULTS / "recombiner.json").read_text())
    others = {"COMBINER": kept["combiner"]["result"], **kept["peers"]["result"]}
    found: dict[str, Any] = {}
    for key in ("bpp_without_headers", "bpp"):
        ours = [(row[key], row["psnr"]) for row in kept["recombiner"]["result"]]
        for name, rows in others.items():
            rate = bd_rate([(row[key], row["psnr"]) for row in rows], ours)
            found[f"{name} {key}"] = vars(rate)
            print(f"{name} {key}: {rate.percent} % over {rate.overlap} dB")
    return found


PARTS: dict[str, Callable[[], Any]] = {
    "recombiner": lambda: chain(RECOMBINER),
    "combiner": lambda: chain(COMBINER),
    "peers": peers,
    "latent": latent,
    "ablation": ablation,
    "hierarchy": hierarchy,
    "video": video,
    "sound": sound,
    "bd_rates": bd_rates,
}


def store(part: str, result: Any) -> None:
    """Replace one part of the results, with the machine it ran on."""
    path: Path = RESULTS / "recombiner.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    before[part] = {"result": result, **machine()}
    path.write_text(json.dumps(before, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    torch.set_num_threads(1)
    for part in parser.parse_args().only:
        store(part, PARTS[part]())


if __name__ == "__main__":
    main()

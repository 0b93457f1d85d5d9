"""Latent grids beside AVIF, WebP, JPEG and x265 intra on Kodak images: curves and BD-rates.

    python bench/image_codec.py [--side 256] [--steps 1500] [--only kodim23 ...]

Pictures are square crops of the shared Kodak images (--side 0: all of them). Ours are payloads
that were decoded again; peers are AVIF (Pillow, speed 2, 4:4:4), WebP (method 6), JPEG (4:4:4) and
x265 intra (veryslow, tune psnr, 4:4:4, without its remarks). Bytes are those of the coded picture
only: our payload, AVIF's `mdat`, x265's packets; JPEG and WebP count as files, their headers are
small. PSNR is of RGB. Rates are compared by pchip BD-rates; negative: we take fewer bits. Writes
bench/results/image_codec.json, of whole pictures image_codec_whole.json.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import bjontegaard
import numpy as np
import torch
from PIL import Image
from record import DATA, RESULTS, commit, write

from fieldpress.fields import latent_codec
from fieldpress.fields.latent_codec import LatentCodec
from fieldpress.fields.latent_frame import Pixels, psnr

KODAK = ("kodim23", "kodim03", "kodim15", "kodim07", "kodim19", "kodim05")
LMBDAS = (2e-4, 7e-4, 2e-3, 6e-3)
ORIGIN = 192, 128  # Left and top of a crop.
AVIF_QUALITIES = (20, 30, 40, 50, 60, 70, 80)
WEBP_QUALITIES = JPEG_QUALITIES = (10, 25, 45, 65, 80, 92)
CRFS = (14, 19, 24, 29, 34, 39)
Point = dict[str, float]


def picture(name: str, side: int) -> Pixels:
    image = Image.open(DATA / "images" / f"{name}.png").convert("RGB")
    left, top = ORIGIN
    return np.array(image.crop((left, top, left + side, top + side)) if side else image)


def ours(pixels: Pixels, lmbda: float) -> Point:
    codec = LatentCodec("medium", lmbda)
    start = time.process_time()
    payload, _ = codec.encode(pixels[None])
    between = time.process_time()
    (found,), _ = codec.decode(payload, (1, *pixels.shape[:2]))
    end = time.process_time()
    return {"bpp": bpp(payload, pixels), "psnr": psnr(found, pixels), "lambda": lmbda,
            "encode_seconds": between - start, "decode_seconds": end - between}  # fmt: skip


def bpp(data: bytes, pixels: Pixels) -> float:
    return 8 * len(data) / (pixels.shape[0] * pixels.shape[1])


def pillow(pixels: Pixels, kind: str, **options: Any) -> Point:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    found = np.array(Image.open(buffer).convert("RGB"))
    data = buffer.getvalue()
    if kind == "AVIF":
        data = box(data, b"mdat")
    return {"bpp": bpp(data, pixels), "psnr": psnr(found, pixels)}


def box(data: bytes, kind: bytes) -> bytes:
    """What is in the first box of a kind at the top of an ISO file."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == kind:
            return data[at + 8 : at + size]
        at += size
    raise ValueError(f"no {kind!r} box")


def x265(pixels: Pixels, crf: int) -> Point:
    height, width = pixels.shape[:2]
    context = av.CodecContext.create("libx265", "w")
    context.width, context.height, context.pix_fmt = width, height, "yuv444p"
    context.time_base = Fraction(1, 25)
    context.options = {
        "preset": "veryslow", "tune": "psnr", "crf": str(crf),
        "x265-params": "log-level=none:info=0:keyint=1:range=full:pools=1",
    }  # fmt: skip
    frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(
        format="yuv444p", src_colorspace="ITU709", dst_colorspace="ITU709",
        src_color_range="JPEG", dst_color_range="JPEG",
    )  # fmt: skip
    packets = [*context.encode(frame), *context.encode(None)]
    decoder = av.CodecContext.create("hevc", "r")
    frames = [f for p in [*packets, None] for f in decoder.decode(p)]
    found = frames[0].reformat(
        format="rgb24", src_colorspace="ITU709", dst_colorspace="ITU709",
        src_color_range="JPEG", dst_color_range="JPEG",
    ).to_ndarray()  # fmt: skip
    data = b"".join(bytes(p) for p in packets)
    return {"bpp": bpp(data, pixels), "psnr": psnr(found, pixels)}


PEERS: dict[str, Callable[[Pixels], list[Point]]] = {
    "AVIF": lambda x: [
        pillow(x, "AVIF", quality=q, speed=2, subsampling="4:4:4") for q in AVIF_QUALITIES
    ],
    "WebP": lambda x: [pillow(x, "WEBP", quality=q, method=6) for q in WEBP_QUALITIES],
    "JPEG": lambda x: [
        pillow(x, "JPEG", quality=q, subsampling=0, optimize=True) for q in JPEG_QUALITIES
    ],
    "x265": lambda x: [x265(x, crf) for crf in CRFS],
}


def compare(mine: list[Point], peer: list[Point]) -> dict[str, Any]:
    """BD-rate in percent of ours against a peer, and over how much of the quality."""
    a, b = (sorted((p["psnr"], p["bpp"]) for p in points) for points in (peer, mine))
    low, high = max(a[0][0], b[0][0]), min(a[-1][0], b[-1][0])
    span = max(a[-1][0], b[-1][0]) - min(a[0][0], b[0][0])
    if high <= low:
        return {"bd_rate": None, "overlap": 0.0, "points": [len(b), len(a)]}
    rate = bjontegaard.bd_rate(
        [r for _, r in a], [d for d, _ in a], [r for _, r in b], [d for d, _ in b],
        method="pchip", require_matching_points=False, min_overlap=0,
    )  # fmt: skip
    return {"bd_rate": float(rate), "overlap": (high - low) / span, "points": [len(b), len(a)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--only", nargs="*", default=list(KODAK))
    given = parser.parse_args()
    torch.set_num_threads(1)
    latent_codec.STEPS["medium"] = given.steps
    rows = [row for row in earlier(given.side, given.steps) if row["picture"] not in given.only]
    for name in given.only:
        pixels = picture(name, given.side)
        curves = {"latent": []} | {peer: run(pixels) for peer, run in PEERS.items()}
        for lmbda in LMBDAS:
            point = ours(pixels, lmbda)
            curves["latent"].append(point)
            print(f"{name} {point}", flush=True)
        found = {peer: compare(curves["latent"], curves[peer]) for peer in PEERS}
        rows.append({"picture": name, "size": pixels.shape[1::-1], "commit": commit(),
                     "curves": curves, "bd": found})  # fmt: skip
        rows.sort(key=lambda row: row["picture"])
        for peer, row in found.items():
            print(f"{name} against {peer}: {row}", flush=True)
        write(name_of(given.side), {"steps": given.steps, "rows": rows, "mean": mean(rows)})
    print(mean(rows))


def name_of(side: int) -> str:
    return "image_codec" if side else "image_codec_whole"


def earlier(side: int, steps: int) -> list[dict[str, Any]]:
    """Pictures of earlier runs of the same size and steps: each says of which commit."""
    path = RESULTS / f"{name_of(side)}.json"
    kept = json.loads(path.read_text()) if path.exists() else {"steps": None}
    rows = kept["rows"] if kept["steps"] == steps else []
    return [row for row in rows if not side or max(row["size"]) == side]


def mean(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Mean BD-rate over pictures, where curves overlap."""
    found = {}
    for peer in PEERS:
        rates = [row["bd"][peer]["bd_rate"] for row in rows]
        found[peer] = float(np.mean([r for r in rates if r is not None] or [np.nan]))
    return found


if __name__ == "__main__":
    main()

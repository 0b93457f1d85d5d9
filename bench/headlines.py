"""The short table of README.md: what was measured, beside what; losses as well as wins.

table.py puts it there, from the same files as docs/results.md. A row whose file is missing, or
lacks what it tells, is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

Load = Callable[[str], dict[str, Any] | None]
Row = tuple[str, str, str]  # What, what came out, the bench.


def gaussians(found: dict[str, Any]) -> Iterable[Row]:
    for goal in ("44", "36.5"):
        row = found["medians"][f"normal {goal} dB"]
        yield (
            f"Gaussians from the scene file alone, {goal} dB against the input, "
            f"median of {row['scenes']} degree-3 scenes",
            f"**{row['ratio']:.0f}x** smaller, {row['fps_ratio']:.2f}x the FPS",
            "frontier",
        )


def formats(found: dict[str, Any]) -> Iterable[Row]:
    for key, name in (("spz", "SPZ v3"), ("sog", "SOG")):
        shares = [row["share"] for row in found["rows"] if row["peer"] == key]
        if shares:
            yield (
                f"the same beside {name} at its quality, median of {len(shares)} scenes",
                f"**{100 * median(shares):.0f} %** of its bytes",
                "peers",
            )


def finetune(found: dict[str, Any]) -> Iterable[Row]:
    scenes = sorted({row["scene"] for row in found["rows"]})
    for ratio in (60.0, 100.0):
        told = []
        for scene in scenes:
            rows = {
                row["method"]: row["psnr"]
                for row in found["rows"]
                if row["scene"] == scene and row["ratio_wanted"] in (ratio, 1.0)
            }
            told.append(f"{rows['finetune'] - rows['input']:+.2f} dB ({scene})")
        yield (
            f"trained on the photographs, {ratio:.0f}x, test photographs against the input's",
            ", ".join(told),
            "finetune",
        )


def lightgaussian(found: dict[str, Any]) -> Iterable[Row]:
    for scene in found["scenes"]:
        stages = scene["stages"]
        last, ours = stages[-2], stages[-1]
        yield (
            f"LightGaussian ({scene['scene']}, {last['ratio']:.0f}x), ours at its size without "
            "photographs",
            f"{-last['loss_db']:+.2f} dB against the input's, ours {-ours['loss_db']:+.2f} dB",
            "lightgaussian",
        )


def fits(found: dict[str, Any]) -> Iterable[Row]:
    for row in found["scenes"]:
        if row["plain"]:
            yield (
                f"fitting Gaussians on two cores, {row['scene']}, test photographs",
                f"{row['psnr']:.2f} dB in {row['fit_seconds'] / 60:.1f} minutes, a plain trainer's "
                f"model {row['plain']['psnr']:.2f} dB",
                "fit",
            )


def large(found: dict[str, Any]) -> Iterable[Row]:
    for row in found["rows"]:
        yield (
            f"{row['count_in']:,} Gaussians of degree 3, two cores, {row['psnr_self']:.1f} dB",
            f"{row['ratio']:.1f}x, encoded in {row['encode_seconds']:.0f} s, decoded in "
            f"{row['decode_seconds']:.1f} s",
            "large",
        )


def nerf(found: dict[str, Any]) -> Iterable[Row]:
    rows = [row for row in found["rows"] if row["kind"] == "nerf"]
    plain = {row["name"]: row["psnr_unrounded"] for row in rows}
    for row in rows:
        loss = row["psnr"] - plain[row["name"].removesuffix(", trained").removesuffix(", fine")]
        yield (
            f"NeRF on a hashed simplex grid, {row['name']}: file beside its tables in fp16",
            f"{row['psnr']:.2f} dB, {row['fp16_table_bytes'] / row['output_bytes']:.1f}x smaller, "
            f"{loss:+.2f} dB against the plain fit unrounded",
            "neural_fields",
        )


def encodings(found: dict[str, Any]) -> Iterable[Row]:
    case = next(case for case in found["cases"] if case["dims"] == 3)
    ratios = {key: value for key, value in case["ratios"].items() if key.endswith("forward")}
    slow = next(value for key, value in ratios.items() if key.startswith("grid / torch"))
    yield (
        "hash grid in 3D, one core, beside torch and Dr.Jit",
        f"{slow:.0f}x and {ratios['grid / Dr.Jit grid, forward']:.1f}x as fast",
        "encode",
    )


def vq_nerf(found: dict[str, Any]) -> Iterable[Row]:
    direct, *others = [row for row in found["rows"] if "stretched" not in row["name"]]
    told = [
        f"{row['times_as_fast']:.1f}x as fast at {row['psnr'] - direct['psnr']:+.2f} dB"
        for row in others
    ]
    yield "VQ-NeRF, our reconstruction, beside its own field", "; ".join(told), "vq_nerf"


def video(found: dict[str, Any]) -> Iterable[Row]:
    anchors = ("nirvana", "x264 medium 4:4:4", "x265 medium 4:4:4", "SVT-AV1 p4 4:2:0")
    names = ("NIRVANA", "x264", "x265", "SVT-AV1")
    frames = {row["clip"]: row["frames"] for row in found["rows"]}
    for clip in sorted(frames):
        rates = {
            row["anchor"]: row["percent"]
            for row in found["bd_rate"]
            if (row["clip"], row["method"], row["metric"]) == (clip, "latent", "psnr")
            and row["percent"] is not None
        }
        told = [
            f"{rates[anchor]:+.0f} % {name}"
            for anchor, name in zip(anchors, names, strict=True)
            if anchor in rates
        ]
        if told:
            count = frames[clip]
            name = clip.removesuffix(f" {count}")
            what = f"video, {name}, {count} frames: bytes at equal RGB PSNR"
            yield what, ", ".join(told), "video"
        points = {
            row["method"]: sorted((p["psnr"], p["bytes"]) for p in row["points"])
            for row in found["rows"]
            if row["clip"] == clip
        }
        if points.get("nirvana") and points.get("latent"):
            best, size = points["nirvana"][-1]
            ours = [point for point in points["latent"] if point[0] >= best]
            if ours:
                yield (
                    f"video, {clip}: the best of our NIRVANA, and ours above it",
                    f"{size:,} bytes for {best:.2f} dB; **{ours[0][1]:,}** for {ours[0][0]:.2f} dB",
                    "video",
                )


def images(found: dict[str, Any]) -> Iterable[Row]:
    yield _pictures(found, "of " + "x".join(map(str, found["rows"][0]["size"])), "image_codec")


def whole_images(found: dict[str, Any]) -> Iterable[Row]:
    yield _pictures(found, "whole ones of Kodak", "image_codec_whole")


def _pictures(found: dict[str, Any], which: str, name: str) -> Row:
    told = [f"{percent:+.0f} % {peer}" for peer, percent in found["mean"].items()]
    what = f"{found['steps']:,} steps, {len(found['rows'])} {which}: bytes at equal PSNR"
    return f"pictures, `--method latent`, {what}", ", ".join(told), name


def recombiner(found: dict[str, Any]) -> Iterable[Row]:
    rates = found["bd_rates"]["result"]
    told = [
        f"{rates[f'{name} bpp_without_headers']['percent']:+.0f} % {name}"
        for name in ("COMBINER", "JPEG", "WebP")
    ]
    yield "RECOMBINER, 32x32 crops: bits without headers", ", ".join(told), "recombiner"


def fuzz(found: dict[str, Any]) -> Iterable[Row]:
    failures = found["crashes"] + found["hangs"] + found["allocations"]
    yield (
        f"damaged inputs to {len(found['targets'])} readers",
        f"{found['inputs']:,} tried, {failures} crashes, hangs or wild allocations",
        "fuzz",
    )


def kills(found: dict[str, Any]) -> Iterable[Row]:
    yield (
        f"{found['kills']} kills of writing commands",
        f"{found['damaged']} damaged outputs, {found['lost']} lost results",
        "kills",
    )


ROWS: tuple[tuple[str, Callable[[dict[str, Any]], Iterable[Row]]], ...] = (
    ("frontier", gaussians), ("peers", formats), ("finetune", finetune),
    ("lightgaussian-fox-published", lightgaussian), ("lightgaussian-fits", lightgaussian),
    ("fit", fits), ("large", large), ("neural_fields", nerf), ("vq_nerf", vq_nerf),
    ("encode", encodings), ("video", video), ("image_codec", images),
    ("image_codec_whole", whole_images), ("recombiner", recombiner), ("fuzz", fuzz),
    ("kills", kills),
)  # fmt: skip


def table(load: Load) -> list[str]:
    """The lines of the table."""
    lines = ["| measured | result | bench |", "| --- | --- | --- |"]
    for name, rows in ROWS:
        found = load(name)
        if found is not None:
            lines += [f"| {what} | {got} | `{bench}` |" for what, got, bench in rows(found)]
    return lines

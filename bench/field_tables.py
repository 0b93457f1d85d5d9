"""The parts of the results table that are about neural fields; table.py puts them together."""

from __future__ import annotations

PEERS = {
    "grid / Dr.Jit grid": "grid beside Dr.Jit's hash grid",
    "kuhn / Dr.Jit permuto": "Kuhn beside Dr.Jit's permutohedral, the same lattice",
    "simplex / Dr.Jit permuto": "simplex beside Dr.Jit's permutohedral",
    "grid / torch": "grid beside torch",
    "simplex / torch": "simplex beside torch",
    "simplex / grid": "simplex beside our grid",
    "simplex at equal vertices / grid": "the same at as many vertices",
    "grid of halves / grid": "grid of 16-bit rows beside our grid",
    "grid of bytes / grid": "grid of 8-bit rows beside our grid",
    "simplex of halves / simplex": "simplex of 16-bit rows beside our simplex",
    "simplex of bytes / simplex": "simplex of 8-bit rows beside our simplex",
}


SHOWN = (1, 10, 30, 70)  # Qualities of JPEG and WebP beside Bayesian fields.


def encodings(result: dict) -> list[str]:
    """Times as fast; "torch" stands for whatever the peer was called."""
    tables = [
        {
            key.replace(f"torch ({result['torch_peer']})", "torch"): value
            for key, value in case["ratios"].items()
        }
        for case in result["cases"]
    ]
    dims = " | ".join(f"{case['dims']}D forward | {case['dims']}D step" for case in result["cases"])
    lines = [
        "Encodings of neural fields on one core, times as fast as a peer "
        f"(`python bench/encode.py`; {result['points']:,} points, 16 levels, 2^19 rows; torch "
        f"is {result['torch_peer']}; a step is forward, gradient and optimiser). "
        f"Commit {result['commit']}, {result['cpu']}, {result['fields_isa']}, "
        f"Dr.Jit {result['drjit']}, torch {result['torch']}.",
        "",
        f"| | {dims} |",
        "| --- |" + " ---: |" * (2 * len(tables)),
    ]
    for key, label in PEERS.items():
        cells = [
            f"{table[f'{key}, {what}']:.2f}" if f"{key}, {what}" in table else ""
            for table in tables
            for what in ("forward", "step")
        ]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def images(result: dict) -> list[str]:
    lines = [
        "Image fields, whole pictures (`python bench/image_field.py`): a simplex's time to the "
        "grid's PSNR less 0.05 dB over the grid's, each fitted by so many steps, and files of "
        "`fit image`, by steps of their own, beside the smallest JPEG and AVIF that are as good. "
        f"Commit {result['commit']}.",
        "",
        "| picture | steps | grid | simplex | time | at as many vertices | bytes | PSNR | JPEG "
        "| AVIF |",
        "| --- |" + " ---: |" * 9,
    ]
    for case in result["cases"]:
        race = case["race"]
        times = [
            "never" if race[k]["time_ratio"] is None else f"{race[k]['time_ratio']:.2f}"
            for k in ("simplex", "simplex at equal vertices")
        ]
        for i, row in enumerate(case["files"]):
            fit = [f"{race[k]['psnr']:.2f}" for k in ("grid", "simplex")] + times
            cells = [case["picture"], str(case["steps"]), *fit] if i == 0 else [""] * 6
            others = [f"{row[k]['bytes']:,}" if row[k] else "" for k in ("JPEG", "AVIF")]
            cells += [f"{row['bytes']:,}", f"{row['psnr']:.2f}", *others]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def fields(result: dict) -> list[str]:
    lines = [
        "`fit sdf` and `fit nerf`, decoded files (`python bench/neural_fields.py`); times of "
        "fitting are of a machine that others used. "
        f"Commit {result['commit']}.",
        "",
    ]
    named = {row["name"]: row for row in result["rows"]}
    for row in result["rows"]:
        size = f"- {row['name']}: {row['output_bytes']:,} bytes, {row['ratio']:.1f}x its floats, "
        if row["kind"] == "sdf":
            draco = row["draco"]
            beside = f"; Draco {draco['bytes']:,} and {draco['chamfer']:.5f}" if draco else ""
            size += f"IoU {row['iou']:.4f}, Chamfer {row['chamfer']:.5f} edges{beside}; "
        else:
            width, height = row["render_size"]
            plain = named.get(row["name"].removesuffix(", trained").removesuffix(", fine"), row)
            tables = row.get("fp16_table_bytes", row["ratio"] * row["output_bytes"] / 2)
            size += (
                f"{tables / row['output_bytes']:.1f}x its tables at 16 bits, "
                f"{row['psnr']:.2f} dB on test views of {width}x{height} "
                f"({plain['psnr_unrounded']:.2f} before rounding), {row['fps']:.1f} FPS; "
            )
        seconds = row.get("fit_seconds")
        lines.append(f"{size}fitted in {seconds:.0f} s." if seconds else f"{size[:-2]}.")
    return lines


def recombiner(result: dict) -> list[str]:
    """Rates of Bayesian fields beside JPEG and WebP, then what a block is like."""
    machine = result["recombiner"]
    lines = [
        "Bayesian fields on held-out crops of 32x32 pixels, means (`python bench/recombiner.py`): "
        "whole files, and without headers. Priors learned for about a minute each. Commit "
        f"{machine['commit']}, {machine['cpu']}.",
        "",
        "| method | bytes | bpp | bpp without headers | PSNR | encode CPU s | decode CPU ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = [
        (name, row)
        for name in ("recombiner", "combiner")
        for row in result.get(name, {"result": []})["result"]
    ]
    for kind, found in result["peers"]["result"].items():
        rows += [(f"{kind} {row['quality']}", row) for row in found if row["quality"] in SHOWN]
    for name, row in rows:
        times = ("", "")
        if "encode_cpu_seconds" in row:
            times = (f"{row['encode_cpu_seconds']:.2f}", f"{row['decode_cpu_ms']:.0f}")
        lines.append(
            f"| {name} | {row['bytes']:.0f} | {row['bpp']:.2f} | {row['bpp_without_headers']:.2f} "
            f"| {row['psnr']:.2f} | {times[0]} | {times[1]} |"
        )
    speed = result["speed"]["result"]
    lines += [
        "",
        f"A block of 64 dimensions and 2^16 candidates takes {speed['ours']['ms']:.1f} ms to "
        f"choose, {speed['straightforward']['ms']:.0f} ms by Sobol points and quantiles: "
        f"{speed['ours']['times_cheaper']:.0f} times as much.",
    ]
    return lines


def latent_fields(result: dict) -> list[str]:
    lines = [
        f"VQ-NeRF, our reconstruction, on {result['scene'].split('/')[-1]} "
        "(`python bench/vq_nerf.py`): decoded files on the same test views and the same path, "
        "processor seconds of a frame. Stretched: the direct field at 1 / r of the size, bicubic. "
        f"Commit {result['commit']}.",
        "",
        "| | bytes | PSNR | SSIM | times as fast | march / quantise / decode | flicker of 255 |",
        "| --- | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for row in result["rows"]:
        size = "" if row["bytes"] is None else f"{row['bytes']:,}"
        stages = row.get("seconds_by_stage", {})
        total = sum(stages.values())
        shares = " / ".join(f"{100 * part / total:.0f} %" for part in stages.values())
        lines.append(
            f"| {row['name']} | {size} | {row['psnr']:.2f} | {row['ssim']:.4f} | "
            f"{row['times_as_fast']:.2f} | {shares} | {row['flicker']:.2f} |"
        )
    return lines

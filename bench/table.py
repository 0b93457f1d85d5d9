"""Results from bench/results/*.json: a short table in README.md, all of them in docs/results.md.

python bench/table.py [--check]     --check fails where either is not up to date
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import field_tables
import headlines

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
PREFACE = """# Results

Printed by `python bench/table.py` from `bench/results/*.json`, which have every figure, the
machine and the spread. Each table names the command that measures it, and the commit that it was
measured at: rows are not all of one commit.
"""


def load(name: str) -> dict | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def provenance(result: dict) -> str:
    return (
        f"Commit {result['commit']}, {result['cores']} cores ({result['cpu']}, {result['isa']}), "
        f"torch {result['torch']}."
    )


def scenes(result: dict) -> list[str]:
    lines = [
        f"`fieldpress compress --preset {result['preset']}` (`python bench/scenes.py`). "
        + provenance(result),
        "",
        "| scene | SH | Gaussians in → out | bytes | ratio | psnr_self | ssim_self | encode s "
        "| decode s | FPS before → after |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    lines += [
        f"| {row['scene']} | {row['sh_degree']} | {row['count_in']:,} → {row['count_out']:,} "
        f"| {row['output_bytes']:,} | {row['ratio']:.1f} | {row['psnr_self']:.2f} "
        f"| {row['ssim_self']:.4f} | {row['encode_seconds']:.0f} | {row['decode_seconds']:.2f} "
        f"| {row['fps_reference']:.0f} → {row['fps']:.0f} |"
        for row in result["scenes"]
    ]
    return lines


def peers(result: dict) -> list[str]:
    lines = [
        "Against today's formats at the same psnr_self or more, on the same views "
        "(`python bench/peers.py`); for scenes that were born as SOG the peer is the original. "
        + provenance(result),
        "",
        "| scene | peer | peer bytes | peer psnr_self | our bytes | our psnr_self | ours / peer "
        "| commit |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in result["rows"]:
        theirs = "original" if row["peer_psnr_self"] is None else f"{row['peer_psnr_self']:.2f}"
        kind = {"spz": "SPZ v3", "sog": "SOG", "sog-born": "its own SOG"}[row["peer"]]
        lines.append(
            f"| {row['scene']} | {kind} | {row['peer_bytes']:,} | {theirs} | {row['our_bytes']:,} "
            f"| {row['our_psnr_self']:.2f} | {row['share']:.2f} "
            f"| {row.get('commit', result['commit'])} |"
        )
    return lines


def raster(result: dict) -> list[str]:
    lines = [
        "The CPU rasteriser on seeded scenes (`python bench/raster_cpu.py`). " + provenance(result),
        "",
        "| Gaussians | size | threads | median ms (quartiles) | FPS |",
        "| ---: | --- | ---: | --- | ---: |",
    ]
    for row in result["cases"]:
        low, high = row["quartiles_ms"]
        lines.append(
            f"| {row['gaussians']:,} | {row['width']}x{row['height']} | {row['threads']} "
            f"| {row['median_ms']:.1f} ({low:.1f} to {high:.1f}) | {row['fps']:.0f} |"
        )
    lines += [
        "",
        "| Gaussians | size | threads | forward ms | backward ms | backward / forward |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['gaussians']:,} | {row['width']}x{row['height']} | {row['threads']} "
        f"| {row['forward_ms']:.1f} | {row['backward_ms']:.1f} | {row['ratio']:.2f} |"
        for row in result["backward"]
    ]
    return lines


def large(result: dict) -> list[str]:
    lines = [
        "Memory and time on seeded scenes (`python bench/large.py`). "
        + provenance(result)
        + f" Load average {result['load_average']:.1f}: more than 2 means that others had a share.",
        "",
    ]
    for row in result["rows"]:
        peak = f"{row['peak_rss_bytes'] / 1e6:.0f} MB, {row['peak_over_model']:.1f} times the model"
        lines.append(
            f"- {row['count_in']:,} Gaussians: encode {row['encode_seconds']:.0f} s, decode "
            f"{row['decode_seconds']:.1f} s, {row['ratio']:.1f}x at {row['psnr_self']:.1f} dB, "
            f"peak memory {peak}."
        )
    return lines


def fits(result: dict) -> list[str]:
    lines = [
        "`fieldpress fit gaussians` from photographs on the CPU, measured on every eighth, which "
        "it never saw (`python bench/fit.py`). The plain trainer's models lie in the shared data, "
        "measured by the same renderer. " + provenance(result),
        "",
        "| scene | size | PSNR | SSIM | Gaussians | steps | minutes | steps/s | plain trainer |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in result["scenes"]:
        plain, (width, height) = row["plain"], row["render_size"]
        other = f"{plain['psnr']:.2f} dB with {plain['count']:,}" if plain else ""
        lines.append(
            f"| {row['scene']} | {width}x{height} | {row['psnr']:.2f} | {row['ssim']:.4f} "
            f"| {row['count_out']:,} | {row['steps']:,} | {row['fit_seconds'] / 60:.1f} "
            f"| {row['steps_per_second']:.1f} | {other} |"
        )
    return lines


def lightgaussian(result: dict) -> list[str]:
    form, steps = (result["scenes"][0]["settings"][key] for key in ("form", "recovery_steps"))
    lines = [
        f"LightGaussian, stage by stage, on the same models and photographs, its {form} form with "
        f"{steps:,} steps a fine-tuning (`python bench/lightgaussian.py`); the last row of each "
        "scene is our codec at the same size, without photographs. " + provenance(result),
        "",
        "| scene | stage | Gaussians | bytes | ratio | PSNR | SSIM | FPS, times the input's |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for scene in result["scenes"]:
        lines += [
            f"| {scene['scene']} | {row['name']} | {row['count']:,} | {row['size_bytes']:,} "
            f"| {row['ratio']:.1f} | {row['psnr']:.2f} | {row['ssim']:.4f} "
            f"| {row['fps_ratio']:.2f} |"
            for row in scene["stages"]
        ]
    return lines


def finetune(result: dict) -> list[str]:
    lines = [
        "Compression with training (`--finetune`), PSNR on test photographs of the decoded file "
        "(`python bench/finetune.py`; curves in bench/results/finetune.svg). " + provenance(result),
        "",
        "| scene | method | steps | bytes | ratio | PSNR | SSIM | Gaussians | seconds |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        if "failed" in row:
            continue
        lines.append(
            f"| {row['scene']} | {row['method']} | {row['steps']:,} | {row['bytes']:,} "
            f"| {row['ratio']:.1f} | {row['psnr']:.2f} | {row['ssim']:.4f} | {row['count']:,} "
            f"| {row['seconds']:.0f} |"
        )
    return lines


def _earlier(result: dict) -> str:
    """What is said of rows that are older than the rest."""
    old = [row for row in result["scenes"] if row["commit"] != result["commit"]]
    rows = ", ".join(sorted({f"{row['scene']} ({row['views']} views)" for row in old}))
    commits = ", ".join(sorted({row["commit"] for row in old}))
    return f" Older, of commit {commits}: {rows}." if old else ""


def frontier(result: dict) -> list[str]:
    lines = [
        "At two losses, default effort unless said (`python bench/frontier.py`): `fresh` is the "
        "PSNR against the input on views that nothing was tuned on, `photographs` what is lost on "
        "the capture's test photographs. With the capture's views its poses are used, no pixels. "
        + provenance(result)
        + _earlier(result),
        "",
        "| scene | effort | views | goal | ratio | Gaussians in → out | fresh | photographs "
        "| FPS ratio | seconds |",
        "| --- | --- | --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in sorted(result["scenes"], key=lambda r: (r["goal"], r["scene"], r["views"])):
        lost = f"{-row['loss_db']:+.2f} dB" if "loss_db" in row else ""
        lines.append(
            f"| {row['scene']} | {row['effort']} | {row['views']} | {row['goal']:g} dB "
            f"| {row['ratio']:.1f} | {row['count_in']:,} → {row['count_out']:,} "
            f"| {row['psnr_self_fresh_views']:.2f} | {lost} | {row['fps_ratio']:.2f} "
            f"| {row['seconds']:.0f} |"
        )
    lines += [""] + [
        f"- Median of {m['scenes']} degree-3 scenes, {name}: {m['ratio']:.1f}x, "
        f"FPS {m['fps_ratio']:.2f}x."
        for name, m in result["medians"].items()
    ]
    if result["ablation"]:
        commits = sorted({row["commit"] for row in result["ablation"] if "commit" in row})
        said = f" Commit {', '.join(commits)}." if commits else ""
        lines += ["", f"What each ingredient gives, at the same psnr_self.{said}", ""]
        lines += [
            "| scene | ingredients | goal | ratio | bits a Gaussian kept | Gaussians | seconds |"
        ]
        lines += ["| --- | --- | ---: | ---: | ---: | ---: | ---: |"]
        for row in sorted(result["ablation"], key=lambda r: (r["scene"], r["number"])):
            lines.append(
                f"| {row['scene']} | {row['ingredients']} | {row['goal']:g} dB "
                f"| {row['ratio']:.1f} "
                f"| {sum(row['bits_per_gaussian'].values()):.1f} | {row['count_out']:,} "
                f"| {row['seconds']:.0f} |"
            )
    return lines


def rate_control(result: dict) -> list[str]:
    worst = max(abs(row["deviation"]) for row in result["rows"])
    scenes = len({row["scene"] for row in result["rows"]})
    return [
        f"Sizes asked for (`python bench/rate_control.py`): {len(result['rows'])} files of "
        f"{scenes} scenes, none larger than asked, at most {100 * worst:.2f} % smaller. "
        + provenance(result)
    ]


def sweep(result: dict) -> list[str]:
    lines = [
        "Bits that other methods take at equal psnr_self beside ours, all without training "
        "(BD-rate, `python bench/sweep.py`; curves in bench/results/sweep.svg). "
        + provenance(result),
        "",
        "| scene | method | bits | between |",
        "| --- | --- | ---: | --- |",
    ]
    for row in result["bd_rate"]:
        bits, between = "not comparable", row["reason"]
        if row["percent"] is not None:
            bits = f"{1 + row['percent'] / 100:.1f}x ours"
            between = "{:.0f} and {:.0f} dB".format(*row["overlap_db"])
        lines.append(f"| {row['scene']} | {row['method']} | {bits} | {between} |")
    return lines


def vector_quantiser(result: dict) -> list[str]:
    times = [row["times_the_codec"] for row in result["rows"] if row.get("times_the_codec")]
    return [
        "Vector quantisation of view-dependent colour (`python bench/vector_quantiser.py`), its "
        f"index entropy and codebook alone: {min(times):.1f} to {max(times):.1f} times the "
        "codec's bits at equal psnr_self, at every rate tried, so the codec has scalars only. "
        + provenance(result)
    ]


def fuzz(result: dict) -> list[str]:
    rows = result["targets"].values()
    read = sum(row["outcomes"].get("read", 0) for row in rows)
    refused = sum(row["outcomes"].get("refused", 0) for row in rows)
    return [
        f"Mutated inputs (`make fuzz`), checksums made right again: {result['inputs']:,} for "
        f"{len(rows)} readers, {read:,} read, {refused:,} refused in one line; "
        f"{result['crashes']} crashes, {result['hangs']} of more than "
        f"{result['seconds_per_input']:g} s (slowest {result['slowest_seconds']:.2f} s), "
        f"{result['allocations']} allocations beyond twice the limit of "
        f"{result['limit_bytes'] / 2**20:.0f} MiB. " + provenance(result)
    ]


def kills(result: dict) -> list[str]:
    return [
        f"SIGKILL (`make kills`): {result['kills']} at random moments of {len(result['jobs'])} "
        f"verbs: {result['damaged']} damaged outputs, {result['lost']} finished results lost, "
        f"{result['left']} temporaries left behind by the next start; {len(result['disks'])} runs "
        f"on full or read-only disks, {result['disks_told_in_one_line']} told in one line. "
        + provenance(result)
    ]


def viewer(result: dict) -> list[str]:
    lines = [
        f"`fieldpress view` at {result['size'][0]}x{result['size'][1]}, a turn of 30 s, headless "
        "Chromium on the same cores (`python bench/viewer.py`). "
        + provenance(result)
        + f" Load average {result['load_average']:.1f}.",
        "",
        "| scene | Gaussians | mode | frames/s | columns while moving "
        "| ms from a move to its picture | ms to the full one |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['scene']} | {row['count']:,} | {row['mode']} | {row['fps']:.1f} "
        f"| {row['width_moving']:.0f} | {row['latency_ms']:.0f} "
        f"({row['latency_ms_spread'][0]:.0f} to {row['latency_ms_spread'][1]:.0f}) "
        f"| {row['full_picture_ms']:.0f} |"
        for row in result["rows"]
    ]
    return lines


def render() -> str:
    parts = []
    for name, write in (
        ("frontier", frontier),
        ("scenes", scenes),
        ("peers", peers),
        ("sweep", sweep),
        ("vector_quantiser", vector_quantiser),
        ("finetune", finetune),
        ("lightgaussian", lightgaussian),
        ("lightgaussian-fox-published", lightgaussian),
        ("lightgaussian-fits", lightgaussian),
        ("fit", fits),
        ("raster_cpu", raster),
        ("viewer", viewer),
        ("large", large),
        ("rate_control", rate_control),
        ("fuzz", fuzz),
        ("kills", kills),
        ("encode", field_tables.encodings),
        ("image_field", field_tables.images),
        ("neural_fields", field_tables.fields),
        ("recombiner", field_tables.recombiner),
        ("vq_nerf", field_tables.latent_fields),
    ):
        result = load(name)
        if result is not None:
            parts.append("\n".join(write(result)))
    return "\n\n".join(parts) or "Not measured yet."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    readme, everything = ROOT / "README.md", ROOT / "docs" / "results.md"
    before, rest = readme.read_text().split(BEGIN)
    short = "\n".join(headlines.table(load))
    texts = {
        readme: f"{before}{BEGIN}\n{short}\n{END}{rest.split(END)[1]}",
        everything: f"{PREFACE}\n{render()}\n",
    }
    for path, text in texts.items():
        if arguments.check and (not path.exists() or path.read_text() != text):
            raise SystemExit(f"{path.name}: not up to date: run python bench/table.py")
        path.write_text(text)
    print(short)


if __name__ == "__main__":
    main()

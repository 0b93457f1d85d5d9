"""Rate-distortion of our video methods beside x264, x265 and SVT-AV1, with BD-rates.

    python bench/video.py [--only CLIP ...] [--methods NAME ...] [--preset fast] [--lambdas L ...]

Rates are the bytes of packets of the peers and of the whole .fpz file of ours; every file is
decoded before it is measured. The peers run on one thread, tuned for PSNR, with one key frame, as
ours have, and without the options that they write into their streams: in 4:2:0, for figures in
YUV, and in 4:4:4, for figures in RGB. Their frames come from and go to RGB by `scenes/yuv.py`.
What was measured before of other clips and methods is kept; --more adds points of the same
commit, so that a long run can be made in parts.
Writes bench/results/video.json, video.svg and video_compressai.json (CompressAI's layout).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import video_peers
from record import DATA, RESULTS, machine, write
from video_peers import PEERS

from fieldpress.console import Progress
from fieldpress.fields.video import CODECS, codec_of
from fieldpress.scenes.rate_distortion import bd_rate
from fieldpress.scenes.video import Clip, read_clip
from fieldpress.scenes.video_metrics import compare
from fieldpress.video_jobs import VideoJob, fit_video_file
from fieldpress.viewer.curves import Curve, Panel, Point, draw


@dataclass(frozen=True)
class Source:
    """A shared clip: its path below video/, how many frames, and how many times smaller."""

    path: str
    frames: int
    shrink: int = 1


CLIPS = {
    "bunny 320x180": Source("bunny_640x360", 16, 2),
    "carphone": Source("carphone_pristine.mp4", 16),
    "bunny 640x360": Source("bunny_640x360", 32),
    "bunny 640x360 16": Source("bunny_640x360", 16),
    "stream": Source("stream-of-water.mp4", 16),
}
LAMBDAS = {
    "nirvana": (1e-2, 3e-3, 1e-3, 3e-4),
    "nervpp": (1e-2, 3e-3, 1e-3, 3e-4),
    "latent": (1e-2, 4e-3, 1.5e-3, 6e-4),
}
ANCHORS = ("x264 medium 4:2:0", "x265 medium 4:2:0", "x265 veryslow 4:2:0", "x264 medium 4:4:4",
           "x265 medium 4:4:4", "x265 veryslow 4:4:4", "SVT-AV1 p4 4:2:0", "nirvana",
           "nervpp")  # fmt: skip
METRICS = {"psnr": "psnr-rgb", "psnr_yuv": "psnr-yuv", "psnr_y": "psnr-y", "ssim": "ssim-rgb",
           "ms_ssim": "ms-ssim-rgb"}  # fmt: skip
DRAWN = ("latent", "nirvana", "nervpp", "x264 medium 4:4:4", "x265 medium 4:4:4",
         "x265 veryslow 4:4:4", "x265 medium 4:2:0", "SVT-AV1 p4 4:2:0")  # fmt: skip


def read(name: str) -> Clip:
    source = CLIPS[name]
    clip = read_clip(DATA / "video" / source.path, slice(0, source.frames))
    if source.shrink == 1:
        return clip
    n, (t, h, w, _) = source.shrink, clip.frames.shape
    boxes = clip.frames[:, : h // n * n, : w // n * n].reshape(t, h // n, n, w // n, n, 3)
    small = np.rint(boxes.mean((2, 4), dtype=np.float32)).astype(np.uint8)
    return Clip(small, clip.fps, clip.name, clip.matrix)


def peer_points(name: str, clip: Clip) -> list[dict[str, Any]]:
    peer, points = PEERS[name], []
    for crf in peer.crf:
        decoded, found = video_peers.run(peer, crf, clip.frames, clip.fps, clip.matrix)
        points.append({"setting": f"crf {crf}", **found,
                       **compare(decoded, clip.frames, clip.matrix)})  # fmt: skip
    return points


def our_points(method: str, clip: Clip, preset: str, lambdas: list[float]) -> list[dict[str, Any]]:
    points = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "clip.npy"
        np.save(source, clip.frames)
        for lmbda in lambdas:
            output = str(Path(folder) / f"{lmbda:g}.fpz")
            job = VideoJob(method, preset, lmbda, key_every=len(clip))
            with Progress() as progress:
                report = fit_video_file(str(source), output, job, progress=progress)
            kept = ("psnr", "psnr_y", "psnr_yuv", "ssim", "ms_ssim", "psnr_pooled", "fps",
                    "encode_seconds", "encode_cpu_seconds", "groups")  # fmt: skip
            assert report["output_bytes"] == Path(output).stat().st_size
            points.append({"setting": f"{preset}, lambda {lmbda:g}",
                           "bytes": report["output_bytes"],
                           **{key: report[key] for key in kept}})  # fmt: skip
            print(method, points[-1], flush=True)
    return points


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """BD-rates of every method against the anchors of its clip, in RGB and in YUV."""
    found = []
    for row in rows:
        for anchor in (r for r in rows if r["clip"] == row["clip"] and r["method"] in ANCHORS):
            if anchor is row:
                continue
            for metric in ("psnr", "psnr_yuv"):
                curves = [[(p["bytes"], p[metric]) for p in r["points"]] for r in (anchor, row)]
                bd = bd_rate(*curves)
                found.append({
                    "clip": row["clip"], "method": row["method"], "anchor": anchor["method"],
                    "metric": metric, "percent": bd.percent, "overlap_db": bd.overlap,
                    "points": [len(c) for c in curves], "reason": bd.reason,
                })  # fmt: skip
    return found


def compressai(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same points in the layout of CompressAI's result files."""
    found = []
    for row in rows:
        points = sorted(row["points"], key=lambda p: p["bytes"])
        samples = row["frames"] * row["size"][0] * row["size"][1]
        results = {"bpp": [8 * p["bytes"] / samples for p in points]}
        results |= {name: [p[key] for p in points] for key, name in METRICS.items()}
        results["encoding_time"] = [p["encode_cpu_seconds"] for p in points]
        results["decoding_time"] = [row["frames"] / p["fps"] for p in points]
        found.append({"name": f"{row['method']}, {row['clip']}",
                      "description": f"{row['frames']} frames, commit {row['commit']}",
                      "results": results})  # fmt: skip
    return found


def drawing(rows: list[dict[str, Any]]) -> str:
    panels = []
    for clip in dict.fromkeys(row["clip"] for row in rows):
        its = {row["method"]: row for row in rows if row["clip"] == clip}
        curves = tuple(
            Curve(name, tuple(Point(p["bytes"], p["psnr"], p["setting"])
                              for p in sorted(its[name]["points"], key=lambda p: p["bytes"])))
            for name in DRAWN if name in its
        )  # fmt: skip
        panels.append(Panel(clip, curves))
    return draw(panels, "PSNR of RGB, dB", "bytes of the clip")


def store(rows: list[dict[str, Any]]) -> None:
    order = list(CLIPS)
    rows.sort(key=lambda row: (order.index(row["clip"]), row["method"]))
    write("video", {"rows": rows, "bd_rate": compared(rows)})
    (RESULTS / "video.svg").write_text(drawing(rows))
    (RESULTS / "video_compressai.json").write_text(json.dumps(compressai(rows), indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=["bunny 320x180"], choices=list(CLIPS))
    parser.add_argument("--methods", nargs="*", default=[*PEERS, *CODECS])
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--lambdas", nargs="*", type=float)
    parser.add_argument("--more", action="store_true", help="points beside those of this commit")
    given = parser.parse_args()
    torch.set_num_threads(1)
    path, here = RESULTS / "video.json", machine()
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for name in given.only:
        clip = read(name)
        for method in given.methods:
            if method in PEERS:
                points = peer_points(method, clip)
            else:
                try:
                    codec_of(method, given.preset, 1e-3, 0)
                except ValueError as error:
                    print(f"{name}, {method}: left out: {error}")
                    continue
                lambdas = given.lambdas or list(LAMBDAS[method])
                points = our_points(method, clip, given.preset, lambdas)
            old = [r for r in rows if (r["clip"], r["method"]) == (name, method)]
            commits = [
                c.removesuffix("-dirty") for c in (here["commit"], *(r["commit"] for r in old))
            ]
            if given.more and commits[1:] == commits[:1]:  # Results themselves make a tree dirty.
                points = old[0]["points"] + points
            rows = [r for r in rows if (r["clip"], r["method"]) != (name, method)]
            rows.append({
                "clip": name, "method": method, "frames": len(clip),
                "size": [clip.width, clip.height], "commit": here["commit"],
                "cpu": here["cpu"], "points": points,
            })  # fmt: skip
            store(rows)
            line = ", ".join(f"{p['bytes']} B {p['psnr']:.2f} dB" for p in points)
            print(f"{name}, {method}: {line}", flush=True)
    for bd in compared(rows):
        if bd["clip"] in given.only and bd["percent"] is not None:
            print(bd)


if __name__ == "__main__":
    main()

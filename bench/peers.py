"""Bytes against today's formats at equal quality, in the same run and on the same views.

Float-born scenes: the peer's file (SPZ v3, SOG; written by the peer's own tool, or lying beside
the scene) is decoded and rendered on held-out views against the original; then ours is made to
reach the same psnr_self, or more. SOG-born scenes: ours at 45 dB against the .sog itself.

    python bench/peers.py [--written DIR] [--only NAME ...] (with --only, other rows stay)

DIR holds NAME.spz and NAME.sog made from the PLYs, e.g. by `splat-transform NAME.ply NAME.sog`.
With `fieldpress demo -o DIR/demo` and DIR/demo.spz, DIR/demo.sog made from its PLY, the demo's
capture is measured as well: on synthesised views and on the views of the capture itself.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from record import DATA, RESULTS, machine, write

from fieldpress import models
from fieldpress.gaussians.codec import decode
from fieldpress.gaussians.compress import CompressSettings, compress, scene_views
from fieldpress.gaussians.sanitize import sanitize
from fieldpress.scenes.cameras import Scene
from fieldpress.scenes.evaluate import evaluate
from fieldpress.scenes.transforms_json import read_transforms

FLOAT_BORN = {
    "fox": "fox-trained/point_cloud.ply",
    "snowmiku": "snowmiku-trained/point_cloud.ply",
    "leica": "leica-sofort/leica-sofort-top8192.ply",
    "fruit": "fruit-drops/fruit_drops_minimal.ply",
}
BESIDE = {("leica", "sog"): "leica-sofort/leica-sofort-top8192.sog"}
SOG_BORN = {
    "skull": "skull/skull.sog",
    "st-peter": "statues/st-peter.sog",
    "angel": "angel/angel.sog",
    "playbot": "playbot/0_0/meta.json",
}
WANTED = {"sog": 0.60, "spz": 0.35, "sog-born": 0.65}
SOG_DB = 45.0


def file_bytes(path: Path) -> int:
    """A bundle's size, or that of all files of an unbundled scene."""
    if path.name != "meta.json":
        return path.stat().st_size
    return sum(f.stat().st_size for f in path.parent.iterdir() if f.suffix in (".webp", ".json"))


def ours_at(model, db: float, views, holdout) -> dict:
    start = time.perf_counter()
    made = compress(model, CompressSettings(target_db=db), views=views, holdout=holdout)
    seconds = time.perf_counter() - start
    found = evaluate(decode(made.data).renderer(), holdout, reference=model.renderer())
    return {
        "our_bytes": len(made.data),
        "our_psnr_self": found.psnr_self,
        "our_ssim_self": found.ssim_self,
        "our_seconds": seconds,
    }


def against(name: str, source: Path, peer: Path, kind: str, scene: Scene | None = None) -> dict:
    model, _ = sanitize(models.load(source))
    views, holdout = scene_views(model, 0) if scene is None else (scene.train, scene.test)
    theirs = evaluate(models.load(peer).renderer(), holdout, reference=model.renderer())
    ours = ours_at(model, theirs.psnr_self, views, holdout)
    return row(name, kind, file_bytes(peer), theirs.psnr_self, theirs.ssim_self, ours)


def row(
    name: str, kind: str, size: int, psnr: float | None, ssim: float | None, ours: dict
) -> dict:
    found = {
        "scene": name,
        "peer": kind,
        "peer_bytes": size,
        "peer_psnr_self": psnr,
        "peer_ssim_self": ssim,
        **ours,
        "share": ours["our_bytes"] / size,
        "share_wanted": WANTED[kind],
        "commit": machine()["commit"],
    }
    print(
        f"{name:15s} {kind:8s} {size:9d} B {psnr or 0:6.2f} dB | ours {ours['our_bytes']:9d} B"
        f" {ours['our_psnr_self']:6.2f} dB | {found['share']:.3f}x (want <= {WANTED[kind]})",
        flush=True,
    )
    return found


def demo_rows(demo: Path) -> list[dict]:
    """The demo's capture against each peer's file that lies beside its folder."""
    rows = []
    for kind in ("spz", "sog"):
        peer = demo.with_suffix(f".{kind}")
        if demo.exists() and peer.exists():
            rows.append(against("demo", demo / "scene.ply", peer, kind))
            scene = read_transforms(demo / "capture")
            rows.append(against("demo, own views", demo / "scene.ply", peer, kind, scene))
    return rows


def stored(only: list[str]) -> list[dict]:
    """Rows of the last run that this one does not make again."""
    file = RESULTS / "peers.json"
    last = json.loads(file.read_text()) if file.exists() else {"rows": []}
    rows = [{"commit": last["commit"], **row} for row in last["rows"]]
    return [row for row in rows if row["scene"].split(",")[0] not in only]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--written", type=Path, default=None, help="folder of the peers' files")
    parser.add_argument("--only", nargs="*", default=[*FLOAT_BORN, "demo", *SOG_BORN])
    arguments = parser.parse_args()
    folder, rows = DATA / "gaussians", []
    for name, source in FLOAT_BORN.items():
        for kind in ("spz", "sog"):
            beside = BESIDE.get((name, kind))
            peer = folder / beside if beside else (arguments.written or folder) / f"{name}.{kind}"
            if name in arguments.only and peer.exists():
                rows.append(against(name, folder / source, peer, kind))
    if "demo" in arguments.only:
        rows += demo_rows((arguments.written or folder) / "demo")
    for name, source in SOG_BORN.items():
        if name in arguments.only:
            model, _ = sanitize(models.load(folder / source))
            ours = ours_at(model, SOG_DB, *scene_views(model, 0))
            rows.append(row(name, "sog-born", file_bytes(folder / source), None, None, ours))
    order = [*FLOAT_BORN, "demo", *SOG_BORN]
    rows += stored(arguments.only)
    rows.sort(key=lambda r: order.index(r["scene"].split(",")[0]))
    print("wrote", write("peers", {"rows": rows}))


if __name__ == "__main__":
    main()

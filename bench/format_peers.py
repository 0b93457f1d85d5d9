"""Files of ours in other people's readers, and theirs in ours: do both sides hold the same values?

splat-transform and mkkellogg's GaussianSplats3D (npm, by node), Open3D and gsply (pip), each where
it is installed: FIELDPRESS_PEERS names the folder whose node_modules has the first two. A file is
decoded by both, and the values compared; what a peer writes comes from a PLY of ours.
Writes bench/results/format_peers.json.

    python bench/format_peers.py
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import DATA, write

from fieldpress import models
from fieldpress.gaussians.frames import rotations
from fieldpress.gaussians.limits import within
from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.unpack import SH_C0, logit

PEERS = Path(os.environ.get("FIELDPRESS_PEERS", "/tmp/peers")) / "node_modules"
SCENE, EVERY = "fox-trained/point_cloud.ply", 16  # Degree 3, from float.
# Two float32 decoders of one file may differ in the last bits.
TOLERANCE = {
    "means": 2e-5, "scales": 1e-5, "opacities": 5e-5, "sh0": 2e-5, "shN": 1e-5, "quats": 2e-6,
}  # fmt: skip
# splat-transform takes a byte b of a .splat rotation for 2 b / 255 - 1, not b / 128 - 1.
LOOSER = {("splat-transform", "splat"): {"quats": 3e-4}}
RAW_SPZ = ("Open3D", "gsply")  # They write and read SPZ without a change of axes.
SUFFIX = {"spz 2": ".spz", "spz 3": ".spz", "spz 4": ".spz"}
SUFFIX |= {f"ksplat {level}": ".ksplat" for level in range(3)}


@dataclass(frozen=True)
class Peer:
    """A tool: what it reads, what it writes, and how.

    `read` takes a file and gives a model in our axes; `write` takes a PLY, a kind and a path.
    """

    name: str
    version: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    read: Callable[[Path], SplatModel]
    write: Callable[[Path, str, Path], None]


def run(*command: str | Path) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=280)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip()[-300:])
    return done.stdout


def node_version(package: str) -> str:
    return json.loads((PEERS / package / "package.json").read_text())["version"]


def splat_transform() -> Peer:
    tool = PEERS / "@playcanvas" / "splat-transform"
    program = PEERS / ".bin" / "splat-transform"

    def read(path: Path) -> SplatModel:
        out = path.with_suffix(".read.ply")
        run("node", program, "-q", "-w", "-g", "cpu", path, out)
        return models.load(out)

    def save(ply: Path, kind: str, out: Path) -> None:
        extra = ["--spz-version", kind[4:]] if kind.startswith("spz") else []
        run("node", program, "-q", "-w", "-g", "cpu", *extra, "-i", "1", ply, out)

    return Peer(
        "splat-transform", node_version(str(tool.relative_to(PEERS))),
        ("ply", "compressed.ply", "spz 2", "spz 3", "spz 4", "sog", "splat",
         "ksplat 0", "ksplat 1", "ksplat 2"),
        ("ply", "compressed.ply", "spz 3", "spz 4", "sog", "glb"),
        read, save,
    )  # fmt: skip


KSPLAT = """
globalThis.self = globalThis; globalThis.window = globalThis;
globalThis.navigator ??= {userAgent: 'node'};
const fs = await import('fs');
const G = await import('PEERS/@mkkellogg/gaussian-splats-3d/build/gaussian-splats-3d.module.js');
const THREE = await import('PEERS/three/build/three.module.js');
const [what, source, target, level] = process.argv.slice(2);
const bytes = fs.readFileSync(source);
const data = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
if (what === 'write') {
  const array = G.PlyParser.parseToUncompressedSplatArray(data, 2);
  const maker = G.SplatBufferGenerator.getStandardGenerator(0, Number(level));
  fs.writeFileSync(target, Buffer.from(maker.generateFromUncompressedSplatArray(array).bufferData));
} else {
  const buffer = await G.KSplatLoader.loadFromFileData(data);
  const n = buffer.getSplatCount(), out = new Float32Array(n * 38);
  const degree = buffer.getMinSphericalHarmonicsDegree();
  const k = [0, 9, 24][degree], rest = new Float32Array(n * k);
  if (k) buffer.fillSphericalHarmonicsArray(rest, degree, null, 0, n - 1, 0, 0);
  if (buffer.compressionLevel === 2) {  // Bytes, which its shader turns into numbers.
    const low = buffer.minSphericalHarmonicsCoeff, high = buffer.maxSphericalHarmonicsCoeff;
    for (let i = 0; i < rest.length; i++) rest[i] = low + rest[i] / 255 * (high - low);
  }
  const c = new THREE.Vector3(), s = new THREE.Vector3(), q = new THREE.Quaternion();
  const rgba = new THREE.Vector4();
  for (let i = 0; i < n; i++) {
    buffer.getSplatCenter(i, c); buffer.getSplatScaleAndRotation(i, s, q);
    buffer.getSplatColor(i, rgba);
    out.set([c.x, c.y, c.z, s.x, s.y, s.z, q.w, q.x, q.y, q.z,
             rgba.x, rgba.y, rgba.z, rgba.w, ...rest.subarray(i * k, i * k + k)], i * 38);
  }
  fs.writeFileSync(target, Buffer.from(out.buffer));
  console.log(k / 3);
}
"""


def mkkellogg() -> Peer:
    version = node_version("@mkkellogg/gaussian-splats-3d")

    def node(folder: Path, *arguments: str | Path) -> str:
        script = folder / "ksplat.mjs"
        script.write_text(KSPLAT.replace("PEERS", str(PEERS)))
        return run("node", script, *arguments)

    def read(path: Path) -> SplatModel:
        out = path.with_suffix(".raw")
        k = int(float(node(path.parent, "read", path, out).split()[-1]))
        rows = torch.from_numpy(np.fromfile(out, np.float32).reshape(-1, 38))
        return SplatModel(
            means=rows[:, :3], scales=rows[:, 3:6].log(), quats=rows[:, 6:10],
            sh0=((rows[:, None, 10:13] / 255 - 0.5) / SH_C0),
            opacities=torch.from_numpy(logit(rows[:, 13].numpy() / 255)),
            shN=rows[:, 14 : 14 + 3 * k].reshape(-1, k, 3),
        )  # fmt: skip

    def save(ply: Path, kind: str, out: Path) -> None:
        node(out.parent, "write", ply, out, kind[7:])

    kinds = ("ksplat 0", "ksplat 1", "ksplat 2")
    return Peer("GaussianSplats3D", version, kinds, kinds, read, save)


def open3d() -> Peer:
    import open3d

    def read(path: Path) -> SplatModel:
        cloud = open3d.t.io.read_point_cloud(str(path))
        point = {k: torch.from_numpy(v.numpy().astype(np.float32)) for k, v in cloud.point.items()}
        n = len(point["positions"])
        rest = point.get("f_rest", torch.zeros(n, 0, 3))
        return SplatModel(
            means=point["positions"], quats=point["rot"], scales=point["scale"].log(),
            opacities=point["opacity"].reshape(n), sh0=point["f_dc"].reshape(n, 1, 3),
            shN=rest.reshape(n, -1, 3),
        )  # fmt: skip

    def save(ply: Path, kind: str, out: Path) -> None:
        open3d.t.io.write_point_cloud(str(out), open3d.t.io.read_point_cloud(str(ply)))

    return Peer(
        "Open3D", open3d.__version__, ("ply", "spz 2", "spz 3", "spz 4", "splat"),
        ("ply", "spz 4", "splat"), read, save,
    )  # fmt: skip


def gsply() -> Peer:
    import gsply

    def model(found: Any) -> SplatModel:
        def tensor(value: Any, *shape: int) -> torch.Tensor:
            return torch.from_numpy(np.array(value, np.float32)).reshape(len(found.means), *shape)

        rest = tensor(found.shN, -1, 3) if found.shN is not None and np.size(found.shN) else None
        return SplatModel(
            means=tensor(found.means, 3), quats=tensor(found.quats, 4),
            scales=tensor(found.scales, 3), opacities=tensor(found.opacities),
            sh0=tensor(found.sh0, 1, 3),
            shN=torch.zeros(len(found.means), 0, 3) if rest is None else rest,
        )  # fmt: skip

    def read(path: Path) -> SplatModel:
        return model((gsply.read_spz if path.suffix == ".spz" else gsply.plyread)(str(path)))

    def save(ply: Path, kind: str, out: Path) -> None:
        found = gsply.plyread(str(ply))
        if kind.startswith("spz"):
            gsply.write_spz(str(out), found, version=int(kind[4:]))
        else:
            gsply.plywrite(str(out), found, compressed=kind == "compressed.ply")

    return Peer(
        "gsply", importlib.metadata.version("gsply"),
        ("ply", "compressed.ply", "spz 2", "spz 3", "spz 4"),
        ("ply", "compressed.ply", "spz 3", "spz 4"), read, save,
    )  # fmt: skip


def differences(one: SplatModel, other: SplatModel) -> dict[str, float]:
    """Tensor -> the largest difference: opacities in [0, 1], rotations as 1 - |cos| of axes."""
    if len(one) != len(other) or one.sh_degree != other.sh_degree:
        raise ValueError(f"{len(one)} of degree {one.sh_degree}, "
                         f"{len(other)} of degree {other.sh_degree}")  # fmt: skip
    if float((one.means - other.means).abs().max()) > 1e-2:  # In another order: that of places.
        one, other = (m[torch.from_numpy(np.lexsort(m.means.numpy().round(3).T))]
                      for m in (one, other))  # fmt: skip
    found = {name: float((one.tensors()[name] - value).abs().max()) if value.numel() else 0.0
             for name, value in other.tensors().items()}  # fmt: skip
    found["opacities"] = float((one.opacities.sigmoid() - other.opacities.sigmoid()).abs().max())
    # Axes up to their signs: a half turn about one of its own axes leaves a Gaussian as it is.
    axes = (rotations(one.quats.double()) * rotations(other.quats.double())).sum(1)
    found["quats"] = float(1 - axes.abs().min())
    return found


def ours(kind: str, model: SplatModel, path: Path) -> None:
    name, _, number = kind.partition(" ")
    option = {"spz": "version", "ksplat": "level"}.get(name)
    given, _ = within(model, models.format_named(name).limits())
    models.save(given, path, **({option: int(number)} if option else {}))


def compared(peer: Peer, model: SplatModel, folder: Path) -> Iterator[dict]:
    ply = folder / "source.ply"
    models.save(model, ply)
    for by, kinds in (("ours", peer.reads), (peer.name, peer.writes)):
        for kind in kinds:
            suffix = SUFFIX.get(kind, f".{kind}")
            path = folder / f"{by}-{kind.replace(' ', '')}{suffix}"
            row = {"peer": peer.name, "version": peer.version, "format": kind, "written_by": by}
            try:
                if by == "ours":
                    ours(kind, model, path)
                else:
                    peer.write(ply, kind, path)
                readable = kind in peer.reads
                # A format that the peer only writes is compared with what it was made from.
                theirs = peer.read(path) if readable else model
                # Axes as they lie in the file, where the peer does not turn them.
                frame = "rdf" if peer.name in RAW_SPZ and kind.startswith("spz") else None
                found = differences(models.load(path, frame=frame), theirs)
                allowed = TOLERANCE | LOOSER.get((peer.name, kind), {})
                bad = [name for name, value in found.items() if value > allowed[name]]
                row |= {"largest_differences": found, "beyond_tolerance": bad}
            except (
                Exception
            ) as error:  # Tools of others fail in their own ways: a row all the same.
                row["error"] = f"{type(error).__name__}: {error}"[:300]
            print({k: v for k, v in row.items() if k != "version"}, flush=True)
            yield row


def main() -> None:
    torch.set_num_threads(1)
    model = models.load(DATA / "gaussians" / SCENE)[::EVERY]
    model, _ = within(model, models.format_named("glb").limits())
    rows = []
    for make in (splat_transform, mkkellogg, open3d, gsply):
        with tempfile.TemporaryDirectory() as folder:
            try:
                peer = make()
            except (ImportError, FileNotFoundError) as error:
                print(f"{make.__name__}: not installed: {error}")
                continue
            rows += list(compared(peer, model, Path(folder)))
    print("wrote", write("format_peers", {"scene": SCENE, "count": len(model), "rows": rows,
                                          "tolerance": TOLERANCE}))  # fmt: skip


if __name__ == "__main__":
    main()

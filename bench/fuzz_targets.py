"""All readers and decoders that take what others made, and small files to begin from.

TARGETS is the one place to name a new one: a line with its seeds, what reads them, and what changes
them from within. A kind of .fpz needs none: every file below tests/golden is a target of its own.
"""

from __future__ import annotations

import functools
import io
import json
import random
import shutil
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fuzz_bytes as change
import numpy as np
import torch
from record import ROOT

from fieldpress import field_jobs, fitting, manifest, models
from fieldpress.gaussians import tiles
from fieldpress.gaussians.limits import within
from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.sog import read_sog
from fieldpress.gaussians.sog_write import write_sog
from fieldpress.scenes.camera_file import read_cameras
from fieldpress.scenes.cameras import Cameras
from fieldpress.scenes.datasets import read_scene
from fieldpress.scenes.orbit import orbit
from fieldpress.scenes.transforms_json import write_transforms
from fieldpress.viewer.exhibit import Exhibit, Exhibition, Knob, Shown
from fieldpress.viewer.messages import parse
from fieldpress.viewer.png import encode_png
from fieldpress.viewing import rendered

GAUSSIANS = 40
GOLDEN = ROOT / "tests" / "golden"
SNAPSHOT = GOLDEN / "foreign" / "small.ingp"  # As tests/test_ingp.py writes them.
SCRATCH = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
VIEWS, SIDE = 4, 12
BATTERY = 64  # One model in so many that was read is rendered as well.

Seed = Any  # bytes, or for folders their files by name
Mutate = Callable[[Any, random.Random], Any]


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        name: of the row in the results.
        seeds: makes what is to be changed; all of it must be read.
        read: takes a seed or what became of it: a result, or one ValueError of one line.
        mutations: of which one is taken at a time; `fuzz_bytes.raw` besides, for bytes.
    """

    name: str
    seeds: Callable[[], Sequence[Seed]]
    read: Callable[[Any], Any]
    mutations: tuple[Mutate, ...] = ()


# What is read


def load(name: str) -> Callable[[bytes], Any]:
    """Reads a model by its content and this name."""
    return lambda data: models.load_bytes(data, name)


def load_partly(data: bytes) -> Any:
    """As a viewer does with a .fpz of which not all has come; else as a whole."""
    from fieldpress.fields import bayes_codec, video
    from fieldpress.fields import codec as fields
    from fieldpress.gaussians import codec as gaussians
    from fieldpress.quant.container import kind_of

    kind = kind_of(data, name="a.fpz")
    if kind == video.KIND:
        return sum(1 for _ in video.read(data, name="a.fpz").pictures())
    if kind in bayes_codec.KINDS:  # Nothing to see in parts; priors lie beside.
        return models.decode_fpz(data, str(FPZ_TILES.with_name("a.fpz")))
    if len(data) % 4:
        return models.decode_fpz(data, "a.fpz")
    decode = fields.decode if kind in fields.KINDS else gaussians.decode
    return decode(data, partial=True, name="a.fpz")


def in_files(read: Callable[[Path], Any]) -> Callable[[dict[str, bytes]], Any]:
    """Reads a folder of these files; what lies outside it is never asked for."""

    def read_folder(files: dict[str, bytes]) -> Any:
        with tempfile.TemporaryDirectory(dir=SCRATCH, prefix="fieldpress-fuzz-") as name:
            folder = Path(name) / "scene"
            for place, content in files.items():
                path = (folder / place.lstrip("/")).resolve()
                if Path(name) not in path.parents or "\0" in place:
                    continue  # The harness itself writes nowhere else.
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            if not folder.is_dir():
                raise ValueError("nothing left")
            return read(folder)

    return read_folder


def as_file(name: str, read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
    """Reads a file of this name."""
    return lambda data: in_files(lambda folder: read(folder / name))({name: data})


def exercised(model: Any) -> Any:
    """Render what was read in one case of many: kernels must bear any numbers that files hold."""
    kind = getattr(model, "kind", None)
    if kind in (None, "image") or not hasattr(model, "render"):
        return model
    from fieldpress.gaussians.sanitize import sanitize

    if kind == "gaussians":
        model = sanitize(model)[0] if len(model) else model
    return model.render(views(1))


# What they begin from


@functools.cache
def small(rest: int = 8, count: int = GAUSSIANS) -> SplatModel:
    rng = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    return SplatModel(
        normal(count, 3), normal(count, 4), normal(count, 3) - 3, normal(count),
        normal(count, 1, 3), 0.1 * normal(count, rest, 3),
    )  # fmt: skip


def made(name: str, rest: int = 8, **options: int) -> bytes:
    """A file of a format that we write."""
    found = models.format_named(name)
    pieces = models.encoded(within(small(rest), found.limits())[0], found, **options)
    assert not isinstance(pieces, dict)
    return b"".join(pieces)


def all_made(name: str, *options: dict[str, int]) -> Callable[[], list[bytes]]:
    return lambda: [made(name, rest, **o) for o in options or ({},) for rest in (0, 8)]


def plys() -> list[bytes]:
    import plyfile

    found = plyfile.PlyData.read(io.BytesIO(made("ply")))
    out = io.BytesIO()
    plyfile.PlyData(list(found.elements), text=True).write(out)
    return [made("ply"), made("ply", 0), out.getvalue()]


def old_spz() -> list[bytes]:
    """Version 1, which nobody writes any more: positions are halves."""
    import gzip

    rows = GAUSSIANS
    head = struct.pack("<4sIIBBBB", b"NGSP", 1, rows, 1, 12, 0, 0)
    body = np.random.default_rng(0).integers(0, 60, rows * (6 + 1 + 3 + 3 + 3 + 9), np.uint8)
    return [gzip.compress(head + body.tobytes(), 1, mtime=0)]


def sog_folders() -> list[dict[str, bytes]]:
    """A loose scene, and two of them as levels of detail."""
    files = write_sog(small())
    tree = {"children": [{"lods": {"0": {"file": 0}, "1": {"file": 1}}}]}
    lod = {"lodLevels": 2, "filenames": ["a/meta.json", "b/meta.json"], "tree": tree}
    levels = {f"{part}/{name}": data for part in "ab" for name, data in files.items()}
    return [dict(files), {"lod-meta.json": json.dumps(lod).encode(), **levels}]


@functools.cache
def views(count: int = VIEWS) -> Cameras:
    return orbit([0.0, 0.0, 0.0], 4.0, count, width=SIDE, height=SIDE)


@functools.cache
def photographs() -> dict[str, bytes]:
    rng = torch.Generator().manual_seed(2)
    return {f"{i}.png": encode_png(torch.rand(SIDE, SIDE, 3, generator=rng)) for i in range(VIEWS)}


def transforms() -> list[dict[str, bytes]]:
    """As nerfstudio has it, and as Blender's three files."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.json"
        write_transforms(path, views(), [f"images/{i}.png" for i in range(VIEWS)])
        meta = json.loads(path.read_text())
    photos = {f"images/{name}": data for name, data in photographs().items()}
    lens = {"k1": 0.01, "p1": 0.001, "ply_file_path": "points.ply"}
    points = cloud()
    whole = {"transforms.json": json.dumps({**meta, **lens}).encode(), "points.ply": points}
    frames = [{"file_path": f["file_path"].removesuffix(".png"), "rotation": 0.1,
               "transform_matrix": f["transform_matrix"]} for f in meta["frames"]]  # fmt: skip
    split = {"train": frames[:2], "test": frames[2:]}
    blender = {f"transforms_{part}.json": json.dumps({"camera_angle_x": 0.9, "frames": rows})
               .encode() for part, rows in split.items()}  # fmt: skip
    return [{**whole, **photos}, {**blender, **photos}]


def cloud() -> bytes:
    import plyfile

    kinds = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    table = np.zeros(9, kinds)
    out = io.BytesIO()
    plyfile.PlyData([plyfile.PlyElement.describe(table, "vertex")]).write(out)
    return out.getvalue()


def llff() -> list[dict[str, bytes]]:
    rows = np.zeros((VIEWS, 17))
    for i in range(VIEWS):
        pose = np.zeros((3, 5))
        pose[:, 0], pose[:, 1], pose[:, 2] = (0, -1, 0), (1, 0, 0), (0, 0, 1)
        pose[:, 3], pose[:, 4] = (i, 0, 0), (SIDE, SIDE, 15)
        rows[i, :15], rows[i, 15:] = pose.ravel(), (1, 9)
    out = io.BytesIO()
    np.save(out, rows)
    photos = {f"images/{name}": data for name, data in photographs().items()}
    return [{"poses_bounds.npy": out.getvalue(), **photos}]


def colmap(text: bool) -> Callable[[], list[dict[str, bytes]]]:
    models_of = (("PINHOLE", 1, (15.0, 15, 6, 6)), ("OPENCV", 4, (15.0, 15, 6, 6, 0.01, 0, 0, 0)))

    def folders() -> list[dict[str, bytes]]:
        photos = {f"images/{name}": data for name, data in photographs().items()}
        model = _colmap_text if text else _colmap_binary
        return [{**{f"sparse/0/{k}": v for k, v in model(*one).items()}, **photos}
                for one in models_of]  # fmt: skip

    return folders


def _colmap_text(name: str, _: int, numbers: tuple[float, ...]) -> dict[str, bytes]:
    cameras = f"# made\n1 {name} {SIDE} {SIDE} {' '.join(map(str, numbers))}\n"
    images = "".join(f"{i + 1} 1 0 0 0 {i} 0 4 1 {i}.png\n1 2 -1\n" for i in range(VIEWS))
    points = "".join(f"{i} {i} 0.5 -1e-3 {i} 20 30 0.1 1 0 2 0\n" for i in range(5))
    files = {"cameras.txt": cameras, "images.txt": images, "points3D.txt": points}
    return {key: value.encode() for key, value in files.items()}


def _colmap_binary(_: str, number: int, numbers: tuple[float, ...]) -> dict[str, bytes]:
    cameras = struct.pack(f"<QiiQQ{len(numbers)}d", 1, 1, number, SIDE, SIDE, *numbers)
    images = struct.pack("<Q", VIEWS)
    for i in range(VIEWS):
        images += struct.pack("<i7di", i + 1, 1, 0, 0, 0, i, 0, 4, 1) + f"{i}.png\0".encode()
        images += struct.pack("<Qddq", 1, 1.5, 2.5, -1)
    points = struct.pack("<Q", 5)
    for i in range(5):
        points += struct.pack("<Q3d3BdQ", i, i, 0.5, -1.0, 1, 2, 3, 0.1, 1) + struct.pack(
            "<ii", 1, 0
        )
    return {"cameras.bin": cameras, "images.bin": images, "points3D.bin": points}


MANIFEST = {
    "scenes": ["a.ply", {"path": "a.ply", "name": "b", "scene": "photos", "downscale": 2}],
    "methods": [{"name": "fieldpress", "target_db": [36, 40]}, "spz"],
}
YAML = b"""scenes:
  - a.ply
  - path: a.ply
    name: b
    scene: photos
    downscale: 2
methods:
  - {name: fieldpress, target_db: [36, 40]}
  - spz
"""
TOML = b"""scenes = ["a.ply", { path = "a.ply", name = "b", scene = "photos", downscale = 2 }]
methods = [{ name = "fieldpress", target_db = [36, 40] }, "spz"]
"""


def read_manifest(kind: str) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        files = {f"m.{kind}": data, "a.ply": b"", "photos/x": b""}
        return in_files(lambda folder: manifest.read_manifest(folder / f"m.{kind}"))(files)

    return read


ABOUT = {"steps": 3, "seed": 0}


def checkpoints() -> list[bytes]:
    state = {"number": 2, "means": torch.zeros(3, 3), "order": [1, 0], "nested": {"x": 1.5}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.checkpoint"
        fitting.save_checkpoint(path, state, ABOUT)
        return [path.read_bytes()]


def foreign_checkpoints() -> list[bytes]:
    """Of nerfstudio, of gsplat and of INRIA's code, with what else they hold."""
    t = {key: value for key, value in small().tensors().items()}
    dc, logits = t["sh0"][:, 0], t["opacities"][:, None]
    theirs = {"means": t["means"], "scales": t["scales"], "quats": t["quats"], "features_dc": dc,
              "features_rest": t["shN"], "opacities": logits}  # fmt: skip
    pipeline = {f"_model.gauss_params.{k}": torch.nn.Parameter(v) for k, v in theirs.items()}
    more = {"lr": np.float64(0.1), "state": {0: {"exp_avg": torch.zeros(3, 3)}}}
    captured = (3, t["means"], t["sh0"], t["shN"], t["scales"], t["quats"], logits,
                t["means"], t["means"], t["means"], more, 4.2)  # fmt: skip
    roots = {"pipeline": pipeline, "optimizers": more}, {"splats": t}, (captured, 7000)
    outs = [io.BytesIO() for _ in roots]
    for root, out in zip(roots, outs, strict=True):
        torch.save(root, out)
    return [out.getvalue() for out in outs]


@functools.cache
def show() -> Exhibition:
    knob = Knob("gain", "gain", 0, 1, 0.1, 0.9)
    dim = Exhibit("dim", lambda values, background: Shown(lambda c: c.Ks, {}), (knob,))
    plain = rendered("plain", lambda c: c.Ks, {})
    return Exhibition("x", (plain, dim), views(1), (0.0, 0.0, 0.0), (0.0, 0.0, 1.0), 3.0)


def messages() -> list[bytes]:
    pose = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3]
    view = {"type": "view", "seq": 3, "pose": pose, "fov": 0.8, "size": [96, 64],
            "left": {"exhibit": 0}, "right": {"exhibit": 1, "knobs": {"gain": 0.5}},
            "mode": "swipe", "swipe": 0.5, "error": False, "gain": 8, "background": [0, 0, 0],
            "moving": True, "photo": None, "time": 0}  # fmt: skip
    step = {"pose": pose, "fov": 0.5, "time": 0}
    found = [view, {**view, "type": "video", "path": [step] * 3, "fps": 30},
             {**view, "type": "place", "side": "left", "at": [0.5, 0.5]},
             {**view, "type": "picture"}, {"type": "cancel"}]  # fmt: skip
    return [json.dumps(message).encode() for message in found]


def read_message(data: bytes) -> Any:
    return parse(data.decode("utf-8", "replace"), show())


def golden(path: Path) -> Target:
    name = f"fpz {path.relative_to(GOLDEN).with_suffix('')}"
    inside = (change.in_fpz, change.in_fpz, change.in_fpz_front)
    return Target(name, lambda: [path.read_bytes()], load_partly, inside)


def tiled(data: bytes) -> Any:
    """A file of tiles as `view` and `render` read it: mapped, stream by stream."""
    found = tiles.TiledFile.of(data, "a.fpz", partial=len(data) % 2 == 0)
    return [found.read(tile, level) for tile, level in found.streams]


FPZ_TILES = GOLDEN / "kinds" / "tiles-1.fpz"
TARGETS: tuple[Target, ...] = (
    *(golden(path) for path in sorted(GOLDEN.rglob("*.fpz"))),
    Target("fpz by tile", lambda: [FPZ_TILES.read_bytes()], tiled,
           (change.in_fpz, change.in_fpz_front)),
    Target("ply", plys, load("a.ply"), (change.in_ply,)),
    Target("compressed.ply", all_made("compressed.ply"), load("a.ply"), (change.in_ply,)),
    Target("spz 1", old_spz, load("a.spz"), (change.in_gzip,)),
    Target("spz 2, 3", all_made("spz", {"version": 2}, {"version": 3}), load("a.spz"),
           (change.in_gzip,)),
    Target("spz 4", all_made("spz", {"version": 4}), load("a.spz"), (change.in_spz4,)),
    Target("sog", all_made("sog"), load("a.sog"), (change.in_zip,)),
    Target("sog folder", sog_folders, in_files(read_sog), (change.in_folder,)),
    Target("splat", all_made("splat"), load("a.splat")),
    Target("ksplat", all_made("ksplat", *({"level": i} for i in range(3))), load("a.ksplat")),
    Target("glb", all_made("glb"), load("a.glb"), (change.in_glb,)),
    Target("gltf", all_made("gltf"), load("a.gltf"), (change.as_json,)),
    Target("safetensors", all_made("safetensors"), load("a.safetensors"),
           (change.in_safetensors,)),
    Target("colmap bin", colmap(text=False), in_files(read_scene), (change.in_folder,)),
    Target("colmap txt", colmap(text=True), in_files(read_scene), (change.in_folder,)),
    Target("transforms.json", transforms, in_files(read_scene), (change.in_folder,)),
    Target("llff", llff, in_files(read_scene), (change.in_folder,)),
    Target("cameras", lambda: [*transforms()[:1], *llff(), *colmap(True)(), *colmap(False)()],
           in_files(read_cameras), (change.in_folder,)),
    Target("manifest json", lambda: [json.dumps(MANIFEST).encode()], read_manifest("json"),
           (change.as_json, change.as_words)),
    Target("manifest yaml", lambda: [YAML], read_manifest("yaml"), (change.as_words,)),
    Target("manifest toml", lambda: [TOML], read_manifest("toml"), (change.as_words,)),
    Target("picture", lambda: list(photographs().values())[:1],
           as_file("x.png", lambda path: field_jobs.read_picture(str(path))), (change.in_png,)),
    Target("checkpoint", checkpoints,
           as_file("x.checkpoint", lambda path: fitting.load_checkpoint(path, ABOUT)),
           (change.in_zip,)),
    Target("foreign checkpoint", foreign_checkpoints, load("a.ckpt"), (change.in_zip,)),
    Target("instant-ngp snapshot", lambda: [SNAPSHOT.read_bytes()], load("a.ingp"),
           (change.in_gzip,)),
    Target("viewer messages", messages, read_message, (change.as_json,)),
)  # fmt: skip


def named(name: str) -> Target:
    """The target of a name. Raises KeyError."""
    return {target.name: target for target in TARGETS}[name]


def mutated(target: Target, seeds: Sequence[Seed], seed: int, number: int) -> Seed:
    """Input `number` of a target: always the same; None where nothing could be made of it."""
    rng = random.Random(f"{target.name}/{seed}/{number}")
    data = seeds[number % len(seeds)]
    if isinstance(data, bytes) and rng.random() < 0.05:
        data = change.spliced(data, rng.choice(seeds), rng)
    within = not isinstance(data, bytes) or rng.random() < 0.75
    mutate = rng.choice(target.mutations) if target.mutations and within else change.raw
    try:
        return mutate(data, rng)
    except Exception:  # Packers and parsers of what is broken already have errors of any kind.
        return None


def tidy() -> None:
    """Remove folders that readers which crashed left behind."""
    for folder in SCRATCH.glob("fieldpress-fuzz-*"):
        shutil.rmtree(folder, ignore_errors=True)

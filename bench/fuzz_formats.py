"""Mutations of every format that we read: a model or one ValueError; no crash, hang or claim.

Small files of each format (our writers', and one of versions that we only read) are changed as they
lie, and from within: JSON leaves, the body of a gzip stream, entries of an archive whose checksums
are made right again. What must be refused whatever it holds (bombs, paths that lead outside) is
tried as well. Address space is bounded, and each read is timed.
Writes bench/results/fuzz_formats.json.

    python bench/fuzz_formats.py [--count 100000] [--seed 0] [--only FORMAT ...]
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import resource
import signal
import struct
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fuzz import ROOM, changed, hang, raw
from record import RESULTS, machine, write

from fieldpress import models
from fieldpress.gaussians.gltf import read_gltf
from fieldpress.gaussians.limits import within
from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.sog import read_sog

SECONDS = 20  # of the processor, for one read: the machine's other work does not count
GAUSSIANS = 40
Mutate = Callable[[bytes, random.Random], bytes]


def small(count: int = GAUSSIANS, rest: int = 8) -> SplatModel:
    rng = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    return SplatModel(
        normal(count, 3), normal(count, 4), normal(count, 3) - 3, normal(count),
        normal(count, 1, 3), 0.1 * normal(count, rest, 3),
    )  # fmt: skip


def made(name: str, **options: int) -> bytes:
    found = models.format_named(name)
    model, _ = within(small(), found.limits())
    pieces = models.encoded(model, found, **options)
    assert not isinstance(pieces, dict)
    return b"".join(pieces)


def ascii_ply() -> bytes:
    import plyfile

    found = plyfile.PlyData.read(io.BytesIO(made("ply")))
    out = io.BytesIO()
    plyfile.PlyData(list(found.elements), text=True).write(out)
    return out.getvalue()


# Mutations from within


def text_changed(data: bytes, rng: random.Random) -> bytes:
    return json.dumps(changed(json.loads(data), rng)).encode()


def glb_changed(data: bytes, rng: random.Random) -> bytes:
    size = struct.unpack_from("<I", data, 12)[0]
    text, rest = text_changed(data[20 : 20 + size], rng), data[20 + size :]
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sII", b"glTF", 2, 20 + len(text) + len(rest))
    return head + struct.pack("<I4s", len(text), b"JSON") + text + rest


def safetensors_changed(data: bytes, rng: random.Random) -> bytes:
    size = struct.unpack_from("<Q", data)[0]
    text = text_changed(data[8 : 8 + size], rng)
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def gzip_changed(data: bytes, rng: random.Random) -> bytes:
    return gzip.compress(raw(gzip.decompress(data), rng), 1)


def numbers_changed(data: bytes, rng: random.Random) -> bytes:
    """Header fields set to sizes that are too large, small or negative."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(min(len(out) - 4, 64 if rng.random() < 0.5 else 5200))
        struct.pack_into("<I", out, at, rng.choice((0, 1, 255, 1 << 16, 1 << 31, (1 << 32) - 1)))
    return bytes(out)


def header_changed(data: bytes, rng: random.Random) -> bytes:
    """Words of a PLY header swapped, doubled, or numbers in them changed."""
    head, end, body = data.partition(b"end_header\n")
    lines = head.split(b"\n")
    at = rng.randrange(1, len(lines))
    words = lines[at].split(b" ")
    numbers = (b"0", b"-1", b"7", b"4294967296", b"9" * 30, b"x", b"list", b"double", b"uchar")
    words[rng.randrange(len(words))] = rng.choice(numbers)
    lines[at : at + 1] = rng.choice(([b" ".join(words)], [lines[at]] * 2, []))
    return b"\n".join(lines) + end + body


def archive_changed(data: bytes, rng: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    at = rng.choice([*files, "meta.json", "meta.json"])
    files[at] = (text_changed if at == "meta.json" and rng.random() < 0.9 else raw)(files[at], rng)
    if rng.random() < 0.1:
        other = rng.choice(list(files))
        files[at], files[other] = files[other], files[at]
    out = io.BytesIO()
    with zipfile.ZipFile(
        out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as target:
        for name, content in files.items():
            target.writestr(name, content)
    return out.getvalue()


def seeds() -> dict[str, tuple[str, list[bytes], list[Mutate]]]:
    """Format -> the name that the reader is told, small files, and how to change them."""
    spz = [made("spz", version=v) for v in (2, 3)]
    return {
        "ply": ("a.ply", [made("ply"), ascii_ply()], [raw, header_changed]),
        "compressed.ply": ("a.ply", [made("compressed.ply")], [raw, header_changed]),
        "spz 2, 3": ("a.spz", spz, [raw, gzip_changed]),
        "spz 4": ("a.spz", [made("spz", version=4)], [raw, numbers_changed]),
        "sog": ("a.sog", [made("sog")], [raw, archive_changed]),
        "splat": ("a.splat", [made("splat")], [raw]),
        "ksplat": ("a.ksplat", [made("ksplat", level=i) for i in range(3)], [raw, numbers_changed]),
        "glb": ("a.glb", [made("glb")], [raw, glb_changed]),
        "gltf": ("a.gltf", [made("gltf")], [raw, text_changed]),
        "safetensors": ("a.safetensors", [made("safetensors")], [raw, safetensors_changed]),
    }


# Reading


def tried(read: Callable[[], Any]) -> str:
    """What came of a file: read, refused, or how it failed."""
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        read()
    except ValueError as error:
        return "refused" if "\n" not in str(error) else f"lines: {error!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return "read"


def fuzz(name: str, files: list[bytes], mutations: list[Mutate], count: int, seed: int) -> dict:
    rng = random.Random(seed)
    tally, failures, worst, start = {}, [], 0.0, time.perf_counter()
    for number in range(count):
        data = files[number % len(files)]
        try:
            data = mutations[number // len(files) % len(mutations)](data, rng)
        except (ValueError, TypeError, IndexError, OverflowError):
            continue  # Nothing can be written that says so.
        began = time.process_time()
        what = tried(lambda data=data: models.load_bytes(data, name))
        worst = max(worst, time.process_time() - began)
        if what not in ("read", "refused"):
            failures.append({"number": number, "what": what[:300]})
            what = "failed"
        tally[what] = tally.get(what, 0) + 1
    return {
        "count": count,
        "outcomes": tally,
        "failures": failures[:20],
        "slowest_seconds": worst,
        "seconds": time.perf_counter() - start,
    }


# What must be refused


def bundle_of(files: dict[str, bytes], deflated: bool = False) -> bytes:
    out = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def hostile() -> dict[str, Callable[[], Any]]:
    """Files that are traps, each with the call that must refuse it."""
    with zipfile.ZipFile(io.BytesIO(made("sog"))) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    meta = json.loads(files["meta.json"])
    paths = ("../secret.webp", "/etc/passwd", "..\\secret.webp", "a\0b")
    outside = [meta | {"means": meta["means"] | {"files": [p, "means_u.webp"]}} for p in paths]
    bomb = files | {"means_l.webp": bytes(1 << 28)}
    wide = io.BytesIO()
    from PIL import Image

    Image.new("RGBA", (16000, 16000)).save(wide, "WEBP", lossless=True, method=0)
    traps = {
        "zip bomb": lambda: read_sog(bundle_of(bomb, True)),
        "image bomb": lambda: read_sog(bundle_of(files | {"means_l.webp": wide.getvalue()})),
        "deep meta.json": lambda: read_sog(bundle_of(files | {"meta.json": b"[" * 1_000_000})),
        "gzip bomb": lambda: models.load_bytes(gzip.compress(
            struct.pack("<4sIIBBBB", b"NGSP", 3, 1 << 24, 3, 12, 0, 0) + bytes(1 << 28)), "a.spz"),
        "glTF outside": lambda: read_gltf(json.dumps(
            json.loads(made("gltf")) | {"buffers": [{"byteLength": 9, "uri": "../x.bin"}]}
        ).encode()),
    }  # fmt: skip
    for number, text in enumerate(outside):
        traps[f"SOG folder path {number}"] = lambda text=text: loose(text, files)
    return traps


def loose(meta: dict, files: dict[str, bytes]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        inner = Path(folder) / "scene"
        inner.mkdir()
        for name, content in files.items():
            (inner / name).write_bytes(content)
        (Path(folder) / "secret.webp").write_bytes(files["means_l.webp"])
        (inner / "meta.json").write_text(json.dumps(meta))
        return read_sog(inner)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    known, last = seeds(), RESULTS / "fuzz_formats.json"
    rows = json.loads(last.read_text())["formats"] if arguments.only and last.exists() else {}
    traps = hostile()
    for name, files, _ in known.values():
        for data in files:
            models.load_bytes(data, name)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    signal.signal(signal.SIGVTALRM, hang)
    for kind in arguments.only or known:
        found = fuzz(*known[kind], arguments.count, arguments.seed)
        rows[kind] = found | {"commit": machine()["commit"]}
        print(kind, {k: v for k, v in found.items() if k != "failures"}, found["failures"][:3],
              flush=True)  # fmt: skip
    trapped = {name: tried(read) for name, read in traps.items()}
    print(trapped)
    result = {
        "seed": arguments.seed,
        "formats": rows,
        "traps": trapped,
        "address_space_bytes": ROOM,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print("wrote", write("fuzz_formats", result))


if __name__ == "__main__":
    main()

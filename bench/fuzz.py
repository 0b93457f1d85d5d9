"""Mutations of .fpz files: every one decodes or ends in one ValueError; no crash, hang or claim.

Half of them change the bytes as they lie, which checksums mostly catch; the other half change
sections and layouts and seal the file again, so that damage reaches the decoders. Address space is
bounded, so that an allocation as large as a file merely claims fails, and each decode is timed.
Writes bench/results/fuzz.json.

    python bench/fuzz.py [--count 100000] [--seed 0]
"""

from __future__ import annotations

import argparse
import copy
import random
import resource
import signal
import time
from pathlib import Path
from typing import Any

import torch
from record import ROOT, write

from fieldpress.gaussians.codec import decode
from fieldpress.quant import container

FILES = ("plain", "color", "klt")
ROOM = 1 << 30  # bytes of address space beside what the process begins with
SECONDS = 20  # for one decode
NUMBERS = (0, 1, -1, 2, 255, 1 << 16, 1 << 31, (1 << 53) - 1, 1e300, -1e-300, None, "x", [], {})


def raw(data: bytes, rng: random.Random) -> bytes:
    """Some bytes flipped, cut, repeated or moved."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out)) if out else 0
        kind = rng.randrange(5)
        if kind == 0 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[at:]
        elif kind == 2:
            del out[at : at + rng.randint(1, 16)]
        elif kind == 3:
            out[at:at] = rng.randbytes(rng.randint(1, 16))
        elif out:
            end = at + rng.randint(1, 64)
            out[at:end] = rng.randbytes(len(out[at:end]))
    return bytes(out)


def changed(value: Any, rng: random.Random) -> Any:
    """A header with one leaf replaced by something it should not be."""
    value = copy.deepcopy(value)
    holder, key = {"": value}, ""
    while isinstance(holder[key], (dict, list)) and holder[key]:
        holder = holder[key]
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        if rng.random() < 0.15:
            break
    holder[key] = rng.choice(NUMBERS)
    return value


def sealed(data: bytes, rng: random.Random) -> bytes:
    """Sections or the layout changed, checksums right again."""
    found = container.read(data)
    header, sections = dict(found.header), list(found.sections)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(sections))
        name, codec = sections[at].name, sections[at].codec
        payload, size = sections[at].payload, sections[at].raw_size
        kind = rng.randrange(6)
        if kind == 0:
            payload = raw(payload, rng)
        elif kind == 1:
            size = rng.choice((0, 1, size + 4, 8 * size, 1 << 30, 1 << 40))
        elif kind == 2:
            codec = rng.choice(("ints", "bits", "octree", "zlib", "none", "x"))
        elif kind == 3:
            name = rng.choice([s.name for s in sections] + ["ac/9", "x"])
        elif kind == 4:
            header["layout"] = changed(header["layout"], rng)
        else:
            payload = rng.randbytes(len(payload))
        sections[at] = container.Section(name, codec, payload, size)
    return container.write(header, sections)


def tried(data: bytes, partial: bool) -> str:
    """What came of a file: decoded, refused, or how it failed."""
    signal.alarm(SECONDS)
    try:
        decode(data, partial=partial)
    except ValueError as error:
        return "refused" if "\n" not in str(error) else f"lines: {error!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    return "decoded"


def hang(*_: object) -> None:
    raise TimeoutError(f"longer than {SECONDS} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(arguments.seed)
    files = [(ROOT / "tests" / "golden" / f"{name}.fpz").read_bytes() for name in FILES]
    for data in files:
        decode(data)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    signal.signal(signal.SIGALRM, hang)
    tally, failures, unwritable, worst = {}, [], 0, 0.0
    start = time.perf_counter()
    for number in range(arguments.count):
        mutate = raw if number % 2 else sealed
        try:
            data = mutate(files[number // 2 % len(files)], rng)
        except (ValueError, TypeError, OverflowError):
            unwritable += 1  # The writer refuses to seal such a thing: nothing to decode.
            continue
        began = time.perf_counter()
        what = tried(data, partial=rng.random() < 0.25)
        worst = max(worst, time.perf_counter() - began)
        if what not in ("decoded", "refused"):
            failures.append({"number": number, "what": what[:300]})
            what = "failed"
        tally[what] = tally.get(what, 0) + 1
        if number % 10_000 == 9_999:
            print(number + 1, tally, f"worst {worst:.2f} s, failures {failures[:3]}", flush=True)
    result = {
        "count": arguments.count,
        "seed": arguments.seed,
        "unwritable": unwritable,
        "outcomes": tally,
        "failures": failures[:20],
        "slowest_decode_seconds": worst,
        "address_space_bytes": ROOM,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "seconds": time.perf_counter() - start,
    }
    print({k: v for k, v in result.items() if k != "failures"}, failures[:5])
    print("wrote", write("fuzz", result))


if __name__ == "__main__":
    main()

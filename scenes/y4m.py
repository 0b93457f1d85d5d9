"""YUV4MPEG2 streams of 8 bits: progressive 4:2:0, 4:4:4 and grey."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from .yuv import frames_of, planes_of

MAGIC = b"YUV4MPEG2"
MAX_LINE = 256  # Bytes of a header line.
SAMPLING = {"420": "420", "420jpeg": "420", "420mpeg2": "420", "420paldv": "420",
            "444": "444", "mono": "mono"}  # fmt: skip


@dataclass(frozen=True)
class Stream:
    """A parsed file; frames are read as they are asked for.

    Attributes:
        data: all bytes.
        starts: where the planes of each frame begin.
        sampling: "420", "444" or "mono". full: range of 0 to 255.
    """

    data: NDArray[np.uint8]
    starts: tuple[int, ...]
    width: int
    height: int
    fps: Fraction
    sampling: str
    full: bool

    def __len__(self) -> int:
        return len(self.starts)

    def frame(self, index: int, matrix: str) -> NDArray[np.uint8]:
        """[H, W, 3] uint8 RGB."""
        shapes = _shapes(self.width, self.height, self.sampling)
        planes, at = [], self.starts[index]
        for height, width in shapes:
            flat = np.array(self.data[at : at + height * width])
            planes.append(torch.from_numpy(flat.reshape(1, height, width)))
            at += height * width
        if len(planes) == 1:
            planes += [torch.full_like(planes[0], 128)] * 2
        return frames_of(planes[0], planes[1], planes[2], matrix, full=self.full)[0]


def _shapes(width: int, height: int, sampling: str) -> list[tuple[int, int]]:
    half = ((height + 1) // 2, (width + 1) // 2)
    chroma = {"420": [half] * 2, "444": [(height, width)] * 2, "mono": []}[sampling]
    return [(height, width), *chroma]


def parse(data: NDArray[np.uint8], name: str) -> Stream:
    """Find the frames of a file [N] uint8. Raises ValueError naming it."""
    line, at = _line(data, 0, name, "header")
    words = line.decode("ascii", "replace").split(" ")
    if words[0] != MAGIC.decode():
        raise ValueError(f"{name}: not a Y4M file: it begins with {line[:9]!r}")
    keys = {word[0]: word[1:] for word in words[1:] if word and word[0] != "X"}
    width, height = (_number(keys.get(key, ""), key, name) for key in "WH")
    sampling = SAMPLING.get(keys.get("C", "420"))
    if sampling is None:
        expected = ", ".join(SAMPLING)
        raise ValueError(f"{name}: expected sampling of {expected}, got {keys['C'][:20]!r}")
    if keys.get("I", "p") not in ("p", "?"):
        raise ValueError(f"{name}: expected progressive frames, got interlacing {keys['I'][:9]!r}")
    size = sum(h * w for h, w in _shapes(width, height, sampling))
    starts = []
    while at < len(data):
        mark, at = _line(data, at, name, f"frame {len(starts)}")
        if not mark.startswith(b"FRAME") or at + size > len(data):
            raise ValueError(f"{name}: frame {len(starts)}: cut or damaged")
        starts.append(at)
        at += size
    full = "XCOLORRANGE=FULL" in words
    return Stream(
        data, tuple(starts), width, height, _rate(keys.get("F", ""), name), sampling, full
    )


def head(width: int, height: int, fps: Fraction) -> bytes:
    """The first line of a file of 4:4:4 frames of full range."""
    rate = f"{fps.numerator}:{fps.denominator}"
    text = f"{MAGIC.decode()} W{width} H{height} F{rate} Ip A1:1 C444 XCOLORRANGE=FULL\n"
    return text.encode()


def frame_bytes(picture: NDArray[np.uint8], matrix: str) -> bytes:
    """A frame [H, W, 3] uint8 RGB as such a file holds it."""
    planes = planes_of(picture[None], matrix, full=True, subsample=False)
    return b"FRAME\n" + b"".join(plane.numpy().tobytes() for plane in planes)


def _line(data: NDArray[np.uint8], at: int, name: str, what: str) -> tuple[bytes, int]:
    window = data[at : at + MAX_LINE].tobytes()
    end = window.find(b"\n")
    if end < 0:
        raise ValueError(f"{name}: {what}: expected a line of at most {MAX_LINE} bytes")
    return window[:end], at + end + 1


def _number(text: str, key: str, name: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 1 << 20):
        raise ValueError(f"{name}: header {key}: expected a number above 0, got {text[:20]!r}")
    return int(text)


def _rate(text: str, name: str) -> Fraction:
    parts = text.split(":")
    if len(parts) == 2 and all(p.isascii() and p.isdecimal() and len(p) < 10 for p in parts):
        above, below = map(int, parts)
        if above and below:
            return Fraction(above, below)
    if text in ("", "0:0"):
        return Fraction(25)
    raise ValueError(f"{name}: header F: expected a rate like 30:1, got {text[:20]!r}")

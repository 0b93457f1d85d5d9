"""A page that plays clips beside each other, and the small server that hands it their frames."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import numpy as np
import torch

from ..scenes.video import Clip
from .png import encode_png

LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ShownClip:
    """A clip, what to call it, and the PSNR of each frame against the first clip, or None."""

    label: str
    clip: Clip
    psnr: tuple[float, ...] | None = None


def page(shown: Sequence[ShownClip]) -> str:
    """The page of clips of one size and length."""
    first = shown[0].clip
    about = {
        "frames": len(first),
        "size": [first.width, first.height],
        "fps": float(first.fps),
        "clips": [{"label": one.label, "psnr": one.psnr} for one in shown],
    }
    text = Path(__file__).with_name("clips.html").read_text(encoding="utf-8")
    title = escape(" | ".join(one.label for one in shown))
    data = json.dumps(about).replace("<", "\\u003c")  # No label may end the element it is in.
    return text.replace("TITLE", title, 1).replace("ABOUT", data, 1)


class ClipServer(ThreadingHTTPServer):
    """Serves the page and the frames of clips on this machine alone.

    Args:
        shown: clips of one size and length.
        host: a loopback address; there is no token that would let others in.
        port: to listen at; 0 takes a free one.

    Raises:
        ValueError: for another host, or a port that is taken.
    """

    daemon_threads = True

    def __init__(self, shown: Sequence[ShownClip], *, host: str, port: int) -> None:
        if host not in LOCAL:
            raise ValueError(f"host: clips are shown on this machine alone, got {host}")
        self.shown, self.page = tuple(shown), page(shown).encode()
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise ValueError(f"port {port}: cannot listen: {error.strerror}") from None
        self.url = f"http://{host}:{self.server_address[1]}/"

    def frame(self, path: str) -> bytes | None:
        """The PNG of /frame/CLIP/NUMBER.png, or None where there is none."""
        parts = path.removesuffix(".png").split("/")
        if len(parts) != 4 or parts[:2] != ["", "frame"] or not path.endswith(".png"):
            return None
        if not all(p.isascii() and p.isdecimal() and len(p) < 10 for p in parts[2:]):
            return None
        which, number = map(int, parts[2:])
        if which >= len(self.shown) or number >= len(self.shown[which].clip):
            return None
        return encode_png(torch.from_numpy(np.array(self.shown[which].clip.frames[number])))


class _Handler(BaseHTTPRequestHandler):
    log_message: Callable[..., None] = lambda *_: None

    def do_GET(self) -> None:
        server = cast(ClipServer, self.server)
        host = self.headers.get("Host", "").rpartition(":")[0].strip("[]")
        if host not in LOCAL:  # A page elsewhere whose name leads here must not read frames.
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"not for this host")
        elif self.path == "/":
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", server.page)
        elif (picture := server.frame(self.path)) is not None:
            self._answer(HTTPStatus.OK, "image/png", picture)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"nothing here")

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

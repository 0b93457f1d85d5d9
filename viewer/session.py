"""One browser at the viewer: it says what it looks at, and gets pictures of the newest wish."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from .exhibit import Exhibition
from .heat import HEAT
from .messages import (
    Cancel,
    Message,
    View,
    WantPhoto,
    WantPicture,
    WantPlace,
    WantVideo,
    parse,
)
from .mp4 import write_mp4
from .painter import Frame, Painter, encode_jpeg, to_bytes
from .png import encode_png

MOVING_SECONDS = 0.045  # What a frame may take while the camera moves.
WORTHWHILE = 0.25  # Of the time that no smaller picture saves: pixels may always take this much.
LEAST_SCALE = 0.25
PROGRESS_EVERY = 5  # Frames of a video.

T = TypeVar("T")
Send = Callable[[str | bytes], Awaitable[None]]


class Scale:
    """How large pictures may be while the camera moves, learnt from what frames took.

    A frame takes a times its renders and b times its pixels: the first part is work for each
    Gaussian, which no smaller picture saves. Both are learnt by normalised least mean squares;
    full frames at rest and small ones in motion tell them apart.
    """

    def __init__(self) -> None:
        self._render, self._pixels = 0.005, 0.05  # Seconds, and seconds a megapixel.

    def learn(self, work: tuple[int, float], seconds: float) -> None:
        """Take in what a frame of so many renders and megapixels took."""
        renders, pixels = work
        error = seconds - self._render * renders - self._pixels * pixels
        step = 0.6 * error / (renders**2 + pixels**2)
        self._render = max(self._render + step * renders, 0.0)
        self._pixels = max(self._pixels + step * pixels, 1e-4)

    def choose(self, work: tuple[int, float]) -> float:
        """The scale for a frame that at full size is this work."""
        renders, pixels = work
        fixed = self._render * renders
        spare = max(MOVING_SECONDS - fixed, WORTHWHILE * fixed)
        return min(max((spare / (self._pixels * pixels)) ** 0.5, LEAST_SCALE), 1.0)


class Session:
    """Serves one client until its connection ends.

    Wishes are not queued: a view that a newer one overtakes is never painted. Painting happens in
    `worker`, one thread for all clients; `turn` lets them take turns.
    """

    def __init__(
        self,
        painter: Painter,
        worker: Executor,
        turn: asyncio.Lock,
        send: Send,
        log: Callable[[str], None],
    ) -> None:
        self._painter, self._worker, self._turn = painter, worker, turn
        self._send, self._log = send, log
        self._view: View | None = None
        self._again: View | None = None  # That was painted before and is to be finer now.
        self._waiting = 0  # Parts of it that were still to come.
        self._wishes: list[Message] = []
        self._wake = asyncio.Event()
        self._cancelled = False
        self._export: asyncio.Task[None] | None = None
        self._scale = Scale()

    async def hello(self) -> None:
        """Tell the client what there is to see."""
        await self._send(json.dumps({"type": "hello", **describe(self._painter.show)}))

    async def take(self, text: str | bytes) -> None:
        """Note a client's wish; one that makes no sense is logged in one line and refused."""
        try:
            message = parse(text, self._painter.show)
        except ValueError as error:
            self._log(f"refused a message: {_line(error)}")
            await self._send(json.dumps({"type": "problem", "text": str(error)}))
            return
        if isinstance(message, View):
            self._view = message
        elif isinstance(message, Cancel):
            self._cancelled = True
        elif len(self._wishes) < 4:  # Nobody clicks faster than that.
            self._wishes.append(message)
        self._wake.set()

    async def paint(self) -> None:
        """Fulfil wishes, the newest view first, for as long as the connection lasts."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._view is not None or self._wishes:
                    await self._surviving(self._one)
        finally:
            if self._export is not None:
                self._export.cancel()

    async def _surviving(self, job: Callable[[], Awaitable[None]]) -> None:
        """Do a job; a renderer that cannot costs a line, and the next view may do."""
        try:
            await job()
        except ValueError as error:
            self._log(f"cannot paint: {_line(error)}")
            await self._send(json.dumps({"type": "problem", "text": _line(error)}))

    async def _one(self) -> None:
        view, self._view = self._view, None
        if view is not None:
            waiting = await self._frame(view)
            # Large scenes come in parts: the same view again while there is more, and no newer one.
            comes = waiting and (view is not self._again or waiting < self._waiting)
            if comes and not view.moving and self._view is None:
                self._view = self._again = view
                self._waiting = waiting
            return
        wish = self._wishes.pop(0)
        if isinstance(wish, WantPhoto):
            data = await self._work(lambda: self._photo(wish.index))
            await self._send(pack({"type": "photo", "index": wish.index}, data))
        elif isinstance(wish, WantPicture):
            view = replace(wish.view, moving=False)
            data = await self._work(lambda: encode_png(self._painter.composed(view)))
            await self._send(pack({"type": "file", "name": "view.png", "mime": "image/png"}, data))
        elif isinstance(wish, WantPlace):
            at = wish.side, wish.x, wish.y
            place = await self._work(lambda: self._painter.place(wish.view, *at))
            await self._send(json.dumps({"type": "place", "place": place}))
        elif isinstance(wish, WantVideo):
            if self._export is not None and not self._export.done():
                raise ValueError("a video is being made; cancel it first")
            # Beside the pictures: one can look around meanwhile.
            self._export = asyncio.ensure_future(self._surviving(lambda: self._video(wish)))

    async def _work(self, job: Callable[[], T]) -> T:
        """The result of a job in the worker. Raises ValueError whatever goes wrong there."""
        async with self._turn:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._worker, job)
            except Exception as error:
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                raise ValueError(f"{kind}{error}") from error

    async def _frame(self, view: View) -> int:
        """Paint and send a view; the parts of it that are still to come."""
        work = self._painter.work(view)
        scale = self._scale.choose(work) if view.moving else 1.0
        frame, images = await self._work(lambda: self._painted(view, scale))
        self._scale.learn((work[0], work[1] * scale**2), frame.seconds)
        header = {
            "type": "frame",
            "seq": view.seq,
            "size": [frame.width, frame.height],
            "scale": scale,
            "moving": view.moving,
            "mode": view.mode,
            "error": view.error,
            "photo": view.photo,
            "psnr": frame.psnr,
            "seconds": frame.seconds,
            "facts": frame.facts,
            "waiting": frame.waiting,
            "parts": [
                {"side": part.side, "x0": part.x0, "x1": part.x1, "bytes": len(image)}
                for part, image in zip(frame.parts, images, strict=True)
            ],
        }
        await self._send(pack(header, b"".join(images)))
        return frame.waiting

    def _painted(self, view: View, scale: float) -> tuple[Frame, list[bytes]]:
        frame = self._painter.frame(view, scale)
        return frame, [encode_jpeg(part.pixels, view.moving) for part in frame.parts]

    def _photo(self, index: int) -> bytes:
        return encode_jpeg(to_bytes(self._painter.photo(index)), moving=False)

    async def _tell(self, text: str) -> None:
        await self._send(text)

    async def _video(self, wish: WantVideo) -> None:
        """Render an mp4 and send it; other clients get their turns between frames."""
        self._cancelled = False
        loop = asyncio.get_running_loop()
        count = len(wish.views)

        def ask(view: View) -> Tensor:
            job = self._work(lambda: self._painter.composed(view))
            return asyncio.run_coroutine_threadsafe(job, loop).result()

        def frames() -> Iterator[Tensor]:
            for i, view in enumerate(wish.views):
                if self._cancelled:
                    return
                if i % PROGRESS_EVERY == 0:
                    text = json.dumps({"type": "progress", "done": i / count})
                    asyncio.run_coroutine_threadsafe(self._tell(text), loop).result()
                yield ask(view)

        def write() -> bytes:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "path.mp4"
                write_mp4(frames(), path, wish.fps, "video")
                return path.read_bytes()

        try:
            data = await asyncio.to_thread(write)
        except asyncio.CancelledError:
            self._cancelled = True
            raise
        done = json.dumps({"type": "progress", "done": 1, "cancelled": self._cancelled})
        await self._send(done)
        if not self._cancelled:
            await self._send(pack({"type": "file", "name": "path.mp4", "mime": "video/mp4"}, data))


def pack(header: dict[str, Any], data: bytes) -> bytes:
    """A binary message: length of the header (u32, little-endian), header as JSON, data."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(4, "little") + text + data


def describe(show: Exhibition) -> dict[str, Any]:
    """What the page must know of an exhibition, as plain JSON."""
    photos = show.photos
    cameras = []
    if photos is not None:
        for i, name in enumerate(photos.names):
            viewmat, K = photos.cameras.viewmats[i], photos.cameras.Ks[i]
            cameras.append(
                {"name": name, "pose": viewmat[:3].flatten().tolist(), "K": K.flatten().tolist()}
            )
    home = show.home
    fov = 2 * float((0.5 * home.height / home.Ks[0, 1, 1]).atan())
    return {
        "title": show.title,
        "exhibits": [
            {"name": e.name, "knobs": [vars(knob) for knob in e.knobs], "sizes": dict(e.sizes)}
            for e in show.exhibits
        ],
        "home": {"pose": home.viewmats[0, :3].flatten().tolist(), "fov": fov},
        "target": show.target,
        "up": show.up,
        "radius": show.radius,
        "duration": show.duration,
        "heat": HEAT,
        "photos": cameras,
        "photo_size": [photos.cameras.width, photos.cameras.height] if photos else None,
    }


def _line(error: BaseException) -> str:
    """One printable line, whatever a client put into it."""
    return ascii(" ".join(str(error).split()))[1:-1][:200]

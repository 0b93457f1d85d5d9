"""From a wanted view to pictures: cameras, crops, comparisons, JPEG."""

from __future__ import annotations

import io
import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..scenes.cameras import Cameras
from ..scenes.metrics import psnr
from .exhibit import Color, Exhibition, Ready, Shown
from .heat import heat_map
from .messages import PHOTO, Slot, View

QUALITY_MOVING, QUALITY_RESTING = 78, 93  # Of JPEG.
KEPT = 4  # Settings of exhibits that are ready to be shown again.
SOLID = 0.3  # Opacity from which a click hits something.
LINE = 2  # Pixels between the sides of a composed picture.


@dataclass(frozen=True)
class Part:
    """Columns x0 to x1 of one side's picture, [H, x1 - x0, 3] uint8."""

    side: str
    x0: int
    x1: int
    pixels: Tensor


@dataclass(frozen=True)
class Frame:
    """A view as it was painted.

    Attributes:
        width, height: of each side's whole picture, pixels.
        parts: what was painted of it.
        psnr: dB of right against left, where both were painted whole.
        facts: of each side.
        seconds: that it took.
        waiting: parts of what is shown that are still to come.
    """

    width: int
    height: int
    parts: tuple[Part, ...]
    psnr: float | None
    facts: dict[str, dict[str, Any]]
    seconds: float
    waiting: int = 0


class Painter:
    """Paints the views of one exhibition. Not for two threads at once."""

    def __init__(self, show: Exhibition) -> None:
        self.show = show
        self._ready: OrderedDict[tuple[Slot, Color], Shown] = OrderedDict()

    def frame(self, view: View, scale: float = 1.0) -> Frame:
        """The sides of a view, `scale` times as large as asked for.

        While the camera moves only what is seen is rendered: in a swipe each side to the line.
        """
        camera = self.camera(view, scale)
        spans = _spans(view, camera.width)
        seconds, waiting = 0.0, 0
        pictures, facts = {}, {}
        for side, span in spans.items():
            slot, seen = getattr(view, side), _cropped(camera, span)
            ready = self._ready_for(slot, view, seen)
            facts[side], waiting = dict(ready.facts), waiting + ready.waiting
            start = time.perf_counter()  # Now that all is ready to be rendered.
            pictures[side] = self._picture(slot, view, camera, span)
            seconds += time.perf_counter() - start
        start = time.perf_counter()
        score = None
        if "right" in pictures and pictures["right"].shape == pictures["left"].shape:
            score = float(psnr(pictures["right"], pictures["left"])) if not view.moving else None
        if view.error:
            low, high = spans["right"]
            truth = pictures["left"][:, low : high or None]
            pictures["right"] = heat_map(pictures["right"], truth, view.gain)
        return Frame(
            width=camera.width,
            height=camera.height,
            parts=tuple(Part(s, *spans[s], to_bytes(pictures[s])) for s in spans),
            psnr=score,
            facts=facts,
            seconds=seconds + time.perf_counter() - start,
            waiting=waiting,
        )

    def work(self, view: View) -> tuple[int, float]:
        """How many renders a view is at full size, and of how many megapixels in all."""
        camera = self.camera(view)
        columns = [high - low for low, high in _spans(view, camera.width).values()]
        return len(columns), sum(columns) * camera.height / 1e6

    def place(self, view: View, side: str, x: float, y: float) -> tuple[float, float, float] | None:
        """The point in the world that is seen at x, y (shares of the picture), if any is."""
        slot = getattr(view, side)
        depth = None if slot.exhibit == PHOTO else self._shown(slot, view.background).depth
        if depth is None:
            return None
        camera = self.camera(view)
        column, row = x * camera.width, y * camera.height
        K = camera.Ks.clone()
        K[0, :2, 2] += 0.5 - torch.tensor([column, row])  # One pixel, that one.
        pixel = Cameras(camera.viewmats, K, 1, 1, camera.times)
        with torch.no_grad():
            z, opacity = depth(pixel)[0, 0, 0].tolist()
        if opacity < SOLID or not math.isfinite(z):
            return None
        ray = torch.linalg.inv(pixel.Ks[0]) @ torch.tensor([0.5, 0.5, 1.0])
        turn, move = camera.viewmats[0, :3, :3], camera.viewmats[0, :3, 3]
        a, b, c = (turn.T @ (z * ray - move)).tolist()
        return a, b, c

    def composed(self, view: View) -> Tensor:
        """The one picture [H, W, 3] uint8 that the page shows of a resting view."""
        frame = self._whole(view)
        pictures = {part.side: part.pixels for part in frame.parts}
        if view.mode == "side":
            gap = torch.full((frame.height, LINE, 3), 255, dtype=torch.uint8)
            return torch.cat([pictures["left"], gap, pictures["right"]], dim=1)
        if view.mode == "one" or view.mode == "flicker":
            return pictures["right" if view.error else "left"]
        line = round(view.swipe * frame.width)
        picture = torch.cat([pictures["left"][:, :line], pictures["right"][:, line:]], dim=1)
        if 0 < line < frame.width:
            picture[:, max(0, line - LINE // 2) : line + LINE // 2] = 255
        return picture

    def camera(self, view: View, scale: float = 1.0) -> Cameras:
        """The camera of a side's picture; a photograph's own has its shape, fitted in."""
        width = (view.width - LINE) // 2 if view.mode == "side" else view.width
        if view.photo is not None and self.show.photos is not None:
            camera = self.show.photos.cameras[view.photo : view.photo + 1]
            scale *= min(width / camera.width, view.height / camera.height)
            return camera.resized(_side(camera.width * scale), _side(camera.height * scale))
        size = _side(width * scale), _side(view.height * scale)
        focal = 0.5 * size[1] / math.tan(0.5 * view.fov)
        K = torch.tensor([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]])
        pose = torch.tensor([*view.pose, (0.0, 0.0, 0.0, 1.0)])
        times = torch.tensor([view.time]) if self.show.duration else None
        return Cameras(pose[None].float(), K[None].float(), *size, times)

    def photo(self, index: int) -> Tensor:
        """[H, W, 3] float."""
        assert self.show.photos is not None
        picture = self.show.photos.load(index)
        return picture.float() / 255 if picture.dtype == torch.uint8 else picture

    def _picture(self, slot: Slot, view: View, camera: Cameras, span: tuple[int, int]) -> Tensor:
        low, high = span
        if slot.exhibit == PHOTO:
            assert view.photo is not None
            return _resampled(self.photo(view.photo), camera.width, camera.height)[:, low:high]
        with torch.no_grad():
            return self._shown(slot, view.background).render(_cropped(camera, span))[0]

    def _ready_for(self, slot: Slot, view: View, camera: Cameras) -> Ready:
        """What is waiting of a side, and what is to be said of it."""
        if slot.exhibit == PHOTO:
            return Ready(0, {})
        shown = self._shown(slot, view.background)
        if shown.prepare is None:
            return Ready(0, shown.facts)
        ready = shown.prepare(camera)
        return Ready(ready.waiting, {**shown.facts, **ready.facts})

    def _whole(self, view: View) -> Frame:
        """A frame of which nothing is waiting, or no less than before."""
        frame = self.frame(view)
        while frame.waiting:
            again = self.frame(view)
            if again.waiting >= frame.waiting:
                return again
            frame = again
        return frame

    def _shown(self, slot: Slot, background: Color) -> Shown:
        key = (slot, background)
        if key not in self._ready:
            exhibit = self.show.exhibits[slot.exhibit]
            self._ready[key] = exhibit.show(dict(slot.knobs), background)
        self._ready.move_to_end(key)
        while len(self._ready) > KEPT:
            self._ready.popitem(last=False)
        return self._ready[key]


def to_bytes(picture: Tensor) -> Tensor:
    """[H, W, 3] uint8 of a float picture, as a screen shows it."""
    if picture.dtype == torch.uint8:
        return picture.contiguous()
    # Adding a half and cutting off rounds faster than round() does.
    return (picture * 255).add_(0.5).clamp_(0, 255).byte().cpu()


def encode_jpeg(pixels: Tensor, moving: bool) -> bytes:
    """JPEG of [H, W, 3] uint8; a resting picture keeps all of its colour (4:4:4)."""
    from PIL import Image

    out = io.BytesIO()
    quality = QUALITY_MOVING if moving else QUALITY_RESTING
    image = Image.fromarray(pixels.numpy())
    image.save(out, "jpeg", quality=quality, subsampling=2 if moving else 0)
    return out.getvalue()


def _spans(view: View, width: int) -> dict[str, tuple[int, int]]:
    """The columns of each side that a view needs."""
    if view.mode == "one" and not view.error:
        return {"left": (0, width)}
    if view.moving and view.mode == "swipe":
        line = min(max(round(view.swipe * width), 8), width - 8)
        return {"left": (0, width if view.error else line), "right": (line, width)}
    return {"left": (0, width), "right": (0, width)}


def _cropped(camera: Cameras, span: tuple[int, int]) -> Cameras:
    """The camera of columns `span` of a picture."""
    low, high = span
    if (low, high) == (0, camera.width):
        return camera
    moved = camera.Ks.clone()
    moved[:, 0, 2] -= low
    return Cameras(camera.viewmats, moved, high - low, camera.height, camera.times)


def _side(length: float) -> int:
    return max(16, round(length))


def _resampled(picture: Tensor, width: int, height: int) -> Tensor:
    """A picture [H, W, 3] at another size, smoothed where it shrinks."""
    planes = picture.permute(2, 0, 1)[None]
    sized = torch.nn.functional.interpolate(
        planes, (height, width), mode="bilinear", antialias=True, align_corners=False
    )
    return sized[0].permute(1, 2, 0)

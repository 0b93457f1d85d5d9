"""What a browser may ask of the viewer: JSON that is checked, field by field, before any use."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from .exhibit import Color, Exhibition

MODES = ("one", "swipe", "side", "flicker")
MAX_SIDE = 4096  # Pixels of a picture.
MAX_FRAMES = 3600  # Of a video: two minutes.
MAX_VALUE = 1e9  # Of a coordinate; float32 still squares it.
PHOTO = -1  # The exhibit number of the photograph that one stands at.


@dataclass(frozen=True)
class Slot:
    """One side of the picture: an exhibit, or PHOTO, and its knobs."""

    exhibit: int
    knobs: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class View:
    """A wanted picture.

    Attributes:
        seq: the client's number, echoed.
        pose: world to camera, the upper three rows of a rigid matrix.
        fov: radians, along the picture's height.
        width, height: pixels of the whole canvas.
        left, right: what is compared. mode: how. swipe: where they meet, share of the width.
        error: the right side shows the error of right against left; gain: how much.
        background: behind both.
        moving: a quick coarse picture will do.
        photo: the photograph whose exact camera is meant (pose and fov are then not used), or None.
        time: seconds, of a scene that moves.
    """

    seq: int
    pose: tuple[tuple[float, ...], ...]
    fov: float
    width: int
    height: int
    left: Slot
    right: Slot
    mode: str
    swipe: float
    error: bool
    gain: float
    background: Color
    moving: bool
    photo: int | None
    time: float


@dataclass(frozen=True)
class WantPhoto:
    """The photograph of this index is wanted."""

    index: int


@dataclass(frozen=True)
class WantPicture:
    """A lossless picture is wanted."""

    view: View


@dataclass(frozen=True)
class WantVideo:
    """A video along these views is wanted."""

    views: tuple[View, ...]
    fps: int


@dataclass(frozen=True)
class WantPlace:
    """What is seen at x, y (shares of a side's picture) is to be found in the scene."""

    view: View
    side: str
    x: float
    y: float


@dataclass(frozen=True)
class Cancel:
    """Whatever long work goes on for this client is not wanted any more."""


Message = View | WantPhoto | WantPicture | WantVideo | WantPlace | Cancel


def parse(text: str | bytes, show: Exhibition) -> Message:
    """The message of a client. Raises ValueError, in one line, for anything that is not one."""
    if isinstance(text, bytes):
        _refuse("message", "text", "bytes")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        _refuse("message", "JSON", repr(text[:40]))
    if not isinstance(found, dict):
        _refuse("message", "an object", type(found).__name__)
    kind = found.get("type")
    readers: dict[Any, Callable[[], Message]] = {
        "view": lambda: _view(found, show),
        "photo": lambda: WantPhoto(_photo_index(found, "index", show)),
        "picture": lambda: WantPicture(_view(found, show)),
        "video": lambda: _video(found, show),
        "place": lambda: _place(found, show),
        "cancel": Cancel,
    }
    if not isinstance(kind, str) or kind not in readers:
        _refuse("type", f"one of {', '.join(readers)}", repr(kind)[:40])
    return readers[kind]()


def _refuse(where: str, expected: str, got: str) -> NoReturn:
    raise ValueError(f"{where}: expected {expected}, got {got}")


def _number(found: Mapping[str, Any], key: str, low: float, high: float) -> float:
    value = found.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        _refuse(key, "a number", type(value).__name__)
    if not low <= value <= high:  # False for NaN as well.
        _refuse(key, f"{low:g} to {high:g}", f"{value!r}"[:30])
    return float(value)


def _whole(found: Mapping[str, Any], key: str, low: int, high: int) -> int:
    value = _number(found, key, low, high)
    if value != int(value):
        _refuse(key, "a whole number", f"{value:g}")
    return int(value)


def _flag(found: Mapping[str, Any], key: str) -> bool:
    value = found.get(key, False)
    if not isinstance(value, bool):
        _refuse(key, "true or false", type(value).__name__)
    return value


def _numbers(value: Any, where: str, count: int, low: float, high: float) -> list[float]:
    if not isinstance(value, list) or len(value) != count:
        _refuse(where, f"{count} numbers", f"{type(value).__name__}")
    return [_number({where: item}, where, low, high) for item in value]


def _pose(value: Any) -> tuple[tuple[float, ...], ...]:
    """Rows of a rigid matrix from 12 numbers; rounding is forgiven, shear and scale are not."""
    numbers = np.array(_numbers(value, "pose", 12, -MAX_VALUE, MAX_VALUE)).reshape(3, 4)
    turn = numbers[:, :3]
    if np.abs(turn @ turn.T - np.eye(3)).max() > 1e-3 or np.linalg.det(turn) < 0:
        _refuse("pose", "a rotation in its first three columns", "none")
    return tuple(tuple(float(x) for x in row) for row in numbers)


def _photo_index(found: Mapping[str, Any], key: str, show: Exhibition) -> int:
    if show.photos is None:
        _refuse(key, "none, there are no photographs", "one")
    return _whole(found, key, 0, len(show.photos.cameras) - 1)


def _slot(value: Any, where: str, show: Exhibition, photo: int | None) -> Slot:
    if not isinstance(value, dict):
        _refuse(where, "an object", type(value).__name__)
    number = _whole(value, "exhibit", PHOTO, len(show.exhibits) - 1)
    if number == PHOTO:
        if photo is None:
            _refuse(where, "an exhibit, no photograph is chosen", "the photograph")
        return Slot(PHOTO, ())
    given = value.get("knobs", {})
    known = {knob.name: knob for knob in show.exhibits[number].knobs}
    if not isinstance(given, dict) or not set(given) <= set(known):
        _refuse(f"{where}: knobs", f"some of {', '.join(known) or 'none'}", str(given)[:40])
    values = {name: knob.value for name, knob in known.items()}
    for name in given:
        values[name] = _number(given, name, known[name].low, known[name].high)
    return Slot(number, tuple(values.items()))


def _view(found: Mapping[str, Any], show: Exhibition) -> View:
    size = [int(x) for x in _numbers(found.get("size"), "size", 2, 16, MAX_SIDE)]
    photo = None if found.get("photo") is None else _photo_index(found, "photo", show)
    red, green, blue = _numbers(found.get("background"), "background", 3, 0, 1)
    mode = found.get("mode")
    if mode not in MODES:
        _refuse("mode", f"one of {', '.join(MODES)}", repr(mode)[:40])
    return View(
        seq=_whole(found, "seq", 0, 2**53),
        pose=_pose(found.get("pose")),
        fov=_number(found, "fov", math.radians(2), math.radians(150)),
        width=size[0],
        height=size[1],
        left=_slot(found.get("left"), "left", show, photo),
        right=_slot(found.get("right"), "right", show, photo),
        mode=mode,
        swipe=_number(found, "swipe", 0, 1),
        error=_flag(found, "error"),
        gain=_number(found, "gain", 1, 1000),
        background=(red, green, blue),
        moving=_flag(found, "moving"),
        photo=photo,
        time=_number(found, "time", 0, show.duration),
    )


def _place(found: Mapping[str, Any], show: Exhibition) -> WantPlace:
    side = found.get("side")
    if side not in ("left", "right"):
        _refuse("side", "left or right", repr(side)[:40])
    at = _numbers(found.get("at"), "at", 2, 0, 1)
    return WantPlace(_view(found, show), side, *at)


def _video(found: Mapping[str, Any], show: Exhibition) -> WantVideo:
    base = dict(found)
    path = base.pop("path", None)
    if not isinstance(path, list) or not 1 <= len(path) <= MAX_FRAMES:
        got = len(path) if isinstance(path, Sequence) else type(path).__name__
        _refuse("path", f"1 to {MAX_FRAMES} cameras", str(got))
    base |= {"photo": None, "moving": False}
    fps = _whole(found, "fps", 1, 120)
    views = []
    for step in path:
        if not isinstance(step, dict):
            _refuse("path", "objects", type(step).__name__)
        own = {key: step[key] for key in ("pose", "fov", "time") if key in step}
        views.append(_view(base | own, show))
    return WantVideo(tuple(views), fps)

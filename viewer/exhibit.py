"""What the viewer is handed: things that can be rendered, the knobs that change them, photographs.

The viewer knows no model. Splats, neural fields and video all come as a `Render` behind an
`Exhibit`; what a knob means is known only to whoever made it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..scenes.cameras import Cameras
from ..scenes.evaluate import Render

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Knob:
    """A slider: `labels`, where there are any, name the values low, low + step, ..."""

    name: str
    label: str
    low: float
    high: float
    step: float
    value: float
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ready:
    """How far a large exhibit is prepared for a camera.

    Attributes:
        waiting: parts that are still to come, 0 where the picture will be all there is.
        facts: what the panel says of the picture, beside those of the exhibit.
    """

    waiting: int
    facts: Mapping[str, int | float | str]


@dataclass(frozen=True)
class Shown:
    """An exhibit at one setting of its knobs.

    Attributes:
        render: its pictures.
        facts: what the panel says of it.
        depth: C cameras to [C, H, W, 2], camera z and opacity, so that a click can find its place;
            None where there is no such thing.
        prepare: reads some of what one camera needs, in a short time; `render` of that camera then
            shows what has come. None where all is at hand.
    """

    render: Render
    facts: Mapping[str, int | float | str]
    depth: Render | None = None
    prepare: Callable[[Cameras], Ready] | None = None


@dataclass(frozen=True)
class Exhibit:
    """One thing to look at.

    Attributes:
        name: what the page calls it.
        show: knob values, all of them within their ranges, and a background [3] in [0, 1] to what
            is then to be seen. May be slow the first time; never called from two threads at once.
        knobs: what can be changed while one looks.
        sizes: bytes by attribute, for the panel; may be empty.
    """

    name: str
    show: Callable[[Mapping[str, float], Color], Shown]
    knobs: tuple[Knob, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Photos:
    """Posed photographs: C cameras, C names, and the picture [H, W, 3] in [0, 1] of an index."""

    cameras: Cameras
    names: tuple[str, ...]
    load: Callable[[int], Tensor]


@dataclass(frozen=True)
class Exhibition:
    """All that one page shows.

    Attributes:
        title: of the page.
        exhibits: at least one; the first two open side by side.
        home: one camera to begin with.
        target: what it circles, world units. up: [3] world direction. radius: size of the scene.
        photos: photographs to compare with, or None.
        duration: seconds that a moving scene lasts, 0 for a static one.
    """

    title: str
    exhibits: tuple[Exhibit, ...]
    home: Cameras
    target: Color
    up: Color
    radius: float
    photos: Photos | None = None
    duration: float = 0.0

    def __post_init__(self) -> None:
        if not self.exhibits:
            raise ValueError("exhibits: expected at least one, got none")
        if len(self.home) != 1:
            raise ValueError(f"home: expected one camera, got {len(self.home)}")

"""What every codec of video promises: groups of frames to bytes and back.

A clip is cut into groups. A key group stands for itself; a delta group is coded against what the
group before it left behind, its state. `fields/video.py` puts groups into a file and takes them
out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.uint8]  # [G, H, W, 3], RGB, full range.
State = Any  # Whatever a codec's next group needs: decoded weights. Never changed in place.
Progress = Callable[[str, float], None]  # A stage, and the share of the group that is done.

T = TypeVar("T")


def steps_of(preset: str, steps: Mapping[str, T]) -> T:
    """What a codec's preset stands for. Raises ValueError that names all of them."""
    if preset not in steps:
        raise ValueError(f"preset: expected one of {', '.join(steps)}, got {preset!r:.40}")
    return steps[preset]


class GroupCodec(Protocol):
    """One method at one setting, which holds no memory of the groups that it has seen.

    Constructed as `Codec(preset, lmbda, seed)`; the decoder needs none of the three to be those of
    the encoder: a payload says all that it takes to decode it.

    Attributes:
        name: "latent", "nirvana" or "nervpp".
    """

    name: str

    def encode(
        self, frames: Frames, state: State, *, progress: Progress | None = None
    ) -> tuple[bytes, State]:
        """The payload of a group, and the state that `decode` of it gives, bit for bit.

        Args:
            frames: [G, H, W, 3] uint8, RGB, full range.
            state: of the group before, or None for a key group.
            progress: told the stage and the share done.
        """
        ...

    def decode(
        self, payload: bytes, shape: tuple[int, int, int], state: State
    ) -> tuple[Frames, State]:
        """The frames [G, H, W, 3] uint8 of a payload, and the state for the group after it.

        Args:
            payload: the bytes that `encode` made.
            shape: G, H, W.
            state: of the group before, or None for a key group.

        Raises:
            ValueError: in one line that does not name the file, for a damaged payload, one of
                another method, or one whose claims do not fit `shape` (before allocating).
        """
        ...

"""H.264 in mp4, by PyAV."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor

VIDEO_CODECS = ("libx264", "libopenh264", "mpeg4")  # The first that this build of PyAV has.


def write_mp4(frames: Iterable[Tensor], path: Path, fps: int, name: str) -> None:
    """Write frames [H, W, 3] uint8, cut to even sides, to a file.

    Raises ValueError, which calls the file `name`, where PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise ValueError(f"{name}: mp4 needs PyAV: pip install 'fieldpress[video]'") from None
    codec = next(name for name in VIDEO_CODECS if name in av.codecs_available)
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = None
        for frame in frames:
            frame = frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]  # For 4:2:0.
            if stream is None:
                stream = container.add_stream(codec, rate=Fraction(fps))
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.options = {"crf": "16"} if codec == "libx264" else {"b": "20000000"}
            picture = av.VideoFrame.from_ndarray(frame.contiguous().numpy(), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())

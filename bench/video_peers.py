"""x264, x265 and SVT-AV1 by PyAV on one thread: what they make of frames, and how large it is."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray

from fieldpress.scenes.video import av_frame
from fieldpress.scenes.yuv import frames_of, planes_of


@dataclass(frozen=True)
class Peer:
    """An encoder at a preset; `crf` are its qualities, from the best."""

    encoder: str
    decoder: str
    preset: str
    pix_fmt: str
    crf: tuple[int, ...]

    def options(self, crf: int, frames: int) -> dict[str, str]:
        """One thread, tuned for PSNR, one key frame."""
        found = {"preset": self.preset, "crf": str(crf)}
        if self.encoder == "libx264":
            return {**found, "tune": "psnr", "threads": "1", "g": str(frames)}
        if self.encoder == "libx265":
            detail = f"pools=none:frame-threads=1:log-level=none:info=0:keyint={frames}"
            return {**found, "tune": "psnr", "x265-params": detail}
        return {**found, "svtav1-params": f"lp=1:tune=1:keyint={frames}"}


CRF, CRF_AV1 = (18, 23, 28, 33, 38), (16, 26, 36, 46, 56)
PEERS = {
    "x264 medium 4:2:0": Peer("libx264", "h264", "medium", "yuv420p", CRF),
    "x264 veryslow 4:2:0": Peer("libx264", "h264", "veryslow", "yuv420p", CRF),
    "x264 medium 4:4:4": Peer("libx264", "h264", "medium", "yuv444p", CRF),
    "x264 veryslow 4:4:4": Peer("libx264", "h264", "veryslow", "yuv444p", CRF),
    "x265 medium 4:2:0": Peer("libx265", "hevc", "medium", "yuv420p", CRF),
    "x265 veryslow 4:2:0": Peer("libx265", "hevc", "veryslow", "yuv420p", CRF),
    "x265 medium 4:4:4": Peer("libx265", "hevc", "medium", "yuv444p", CRF),
    "x265 veryslow 4:4:4": Peer("libx265", "hevc", "veryslow", "yuv444p", CRF),
    "SVT-AV1 p4 4:2:0": Peer("libsvtav1", "libdav1d", "4", "yuv420p", CRF_AV1),
}


def run(
    peer: Peer, crf: int, frames: NDArray[np.uint8], fps: Fraction, matrix: str
) -> tuple[NDArray[np.uint8], dict[str, float]]:
    """The decoded frames, and bytes of the packets, seconds and processor seconds."""
    spent, start = time.process_time(), time.perf_counter()
    packets = _encoded(peer, crf, frames, fps, matrix)
    seconds = {
        "encode_seconds": time.perf_counter() - start,
        "encode_cpu_seconds": time.process_time() - spent,
    }
    start = time.perf_counter()
    decoder: Any = av.CodecContext.create(peer.decoder, "r")
    decoder.thread_count = 1
    found = [frame for data in packets for frame in decoder.decode(av.Packet(data))]
    found += decoder.decode(None)
    decode_seconds = time.perf_counter() - start
    pictures = [_picture(frame, matrix) for frame in found]
    size = sum(len(data) for data in packets)
    if peer.encoder == "libx264":
        size -= sum(_remarks(data) for data in packets)
    return np.stack(pictures), {"bytes": size, "fps": len(frames) / decode_seconds, **seconds}


def _encoded(
    peer: Peer, crf: int, frames: NDArray[np.uint8], fps: Fraction, matrix: str
) -> list[bytes]:
    encoder: Any = av.CodecContext.create(peer.encoder, "w")
    encoder.height, encoder.width = frames.shape[1:3]
    encoder.pix_fmt, encoder.thread_count = peer.pix_fmt, 1
    encoder.framerate, encoder.time_base = fps, 1 / fps
    encoder.options = peer.options(crf, len(frames))
    packets: list[bytes] = []
    for number, picture in enumerate(frames):
        planes = planes_of(picture[None], matrix, full=False, subsample="420" in peer.pix_fmt)
        frame = av_frame(av, planes, peer.pix_fmt)
        frame.pts, frame.time_base = number, 1 / fps
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    return packets + [bytes(packet) for packet in encoder.encode(None)]


def _remarks(packet: bytes) -> int:
    """Bytes of the remarks (SEI) in H.264, where x264 writes its options: 700, of no use."""
    units = re.split(b"\0?\0\0\1", packet)[1:]
    return sum(len(unit) + 4 for unit in units if unit and unit[0] & 31 == 6)


def _picture(frame: Any, matrix: str) -> NDArray[np.uint8]:
    planes = [
        torch.from_numpy(
            np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width].copy()
        )[None]
        for plane in frame.planes
    ]
    return frames_of(planes[0], planes[1], planes[2], matrix, full=False)[0]

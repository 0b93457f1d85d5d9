"""Decoding a long video takes the memory of some groups, whatever is done with its frames."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fieldpress import clip_viewing, video_jobs
from fieldpress.fields import video
from fieldpress.fields.video import Group, VideoField
from fieldpress.quant import budget
from fieldpress.scenes.video import read_clip

HEIGHT, WIDTH, COUNT = 48, 64, 4
GROUP_BYTES = 3 * HEIGHT * WIDTH * COUNT


class Flat:
    """Frames of one grey."""

    def decode(self, payload: bytes, shape: tuple[int, int, int], state: object):
        return np.full((*shape, 3), payload[0], np.uint8), None


@pytest.fixture
def flat(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], VideoField]:
    monkeypatch.setattr(video, "codec_of", lambda *_: Flat())

    def of(groups: int) -> VideoField:
        parts = tuple(Group(COUNT, i == 0, bytes([i])) for i in range(groups))
        return VideoField("latent", WIDTH, HEIGHT, Fraction(25), "bt601", parts, name="a.fpz")

    return of


def peak(work: Callable[[], object]) -> int:
    work()  # What stays: caches, imports.
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("groups", [2, 40])
def test_frames_are_written_a_group_at_a_time(flat, tmp_path: Path, groups: int) -> None:
    path = tmp_path / "a.fpz"
    path.write_bytes(video.write(flat(groups)))
    out = str(tmp_path / "a.y4m")
    work = lambda: video_jobs.export(flat(groups), str(path), out, overwrite=True)  # noqa: E731
    assert peak(work) < 2 * GROUP_BYTES + 60 * HEIGHT * WIDTH + 100_000
    assert Path(out).stat().st_size > groups * GROUP_BYTES


def test_a_clip_that_is_looked_at_lies_on_the_disk(flat, tmp_path: Path) -> None:
    path = tmp_path / "a.fpz"
    path.write_bytes(video.write(flat(40)))
    assert peak(lambda: clip_viewing.gather([str(path)])) < 3 * GROUP_BYTES + 100_000
    shown = clip_viewing.gather([str(path)])
    assert shown is not None
    assert [int(frame.max()) for frame in shown[0].clip.frames] == [i // COUNT for i in range(160)]


def test_what_is_decoded_for_a_measurement_goes_again(flat, tmp_path: Path) -> None:
    path, truth = tmp_path / "a.fpz", tmp_path / "a.npy"
    path.write_bytes(video.write(flat(12)))
    np.save(truth, flat(12).clip().frames)
    report = video_jobs.evaluate_video(flat(12), str(path), str(truth))
    assert report["psnr_pooled"] == 100.0
    reading = peak(lambda: read_clip(truth))
    work = lambda: video_jobs.evaluate_video(flat(12), str(path), str(truth))  # noqa: E731
    assert peak(work) < reading + 2 * GROUP_BYTES + 200_000


def test_a_clip_or_a_group_beyond_the_limit_is_named(flat) -> None:
    whole, group = 40 * GROUP_BYTES, GROUP_BYTES + video.WORK_BYTES * HEIGHT * WIDTH
    with budget.limited(whole - 1), pytest.raises(ValueError, match=r"^a.fpz: needs"):
        flat(40).clip()
    with budget.limited(group - 1), pytest.raises(ValueError, match="'group/0': needs"):
        next(iter(flat(40).pictures()))
    with budget.limited(group):
        assert len(list(flat(40).pictures())) == 160
    assert replace(flat(2), width=1).tensors()["frames"].shape == (8, HEIGHT, 1, 3)

"""The page that plays clips: what is gathered, served and refused."""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fieldpress import clip_viewing
from fieldpress.fields import video
from fieldpress.fields.video import Group, VideoField
from fieldpress.scenes.video import Clip
from fieldpress.viewer.clips import ClipServer, ShownClip, page
from fieldpress.viewer.png import encode_png

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8)


class Raw:
    """A codec whose payload is its frames."""

    name = "raw"

    def decode(self, payload, shape, state):
        return np.frombuffer(payload, np.uint8).reshape(*shape, 3), None


@pytest.fixture
def served() -> Iterator[ClipServer]:
    clip = Clip(FRAMES, Fraction(25), "a")
    shown = [ShownClip("a.npy", clip), ShownClip("</script>.fpz", clip, (1.0, 2.0, 3.0))]
    with ClipServer(shown, host="127.0.0.1", port=0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server: ClipServer, path: str, **headers: str) -> bytes:
    request = urllib.request.Request(server.url + path, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def test_the_page_and_its_frames(served):
    import torch

    assert get(served, "") == served.page
    assert get(served, "frame/1/2.png") == encode_png(torch.from_numpy(FRAMES[2]))


@pytest.mark.parametrize(
    "path", ["frame/2/0.png", "frame/0/3.png", "frame/0/-1.png", "frame/0/1", "frame/../x", "x"]
)
def test_there_is_nothing_else(served, path):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(served, path)


def test_names_that_lead_here_are_refused(served):
    with pytest.raises(urllib.error.HTTPError, match="403"):
        get(served, "", Host="evil.example:80")
    with pytest.raises(ValueError, match="this machine alone"):
        ClipServer(served.shown, host="0.0.0.0", port=0)


def test_a_label_ends_no_element(served):
    text = page(served.shown)
    assert text.count("</script>") == 2
    about = re.search(r'id="about">(.*?)</script>', text, re.DOTALL)
    assert about is not None
    found = json.loads(about.group(1))
    assert found["clips"][1] == {"label": "</script>.fpz", "psnr": [1.0, 2.0, 3.0]}


def test_the_original_comes_first(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(video, "codec_of", lambda *_: Raw())
    noisy = (FRAMES // 2).copy()
    coded = VideoField("nirvana", 6, 4, Fraction(25), "bt601", (Group(3, True, noisy.tobytes()),))
    (tmp_path / "a.fpz").write_bytes(video.write(coded))
    np.save(tmp_path / "a.npy", np.concatenate([FRAMES, FRAMES]))
    sources = [str(tmp_path / "a.fpz"), str(tmp_path / "a.npy")]
    shown = clip_viewing.gather(sources)
    assert shown is not None
    assert [one.label for one in shown] == ["a.npy", "a.fpz"]
    assert np.array_equal(shown[0].clip.frames, FRAMES)
    assert np.array_equal(shown[1].clip.frames, noisy)
    mse = np.square(noisy.astype(float) - FRAMES).mean((1, 2, 3)) / 255**2
    assert shown[0].psnr is None
    assert shown[1].psnr == pytest.approx(-10 * np.log10(mse), abs=1e-4)
    assert clip_viewing.gather([sources[1]]) is None
    np.save(tmp_path / "b.npy", FRAMES[:, :2])
    with pytest.raises(ValueError, match="expected 3 frames of 6x2"):
        clip_viewing.gather([sources[0], str(tmp_path / "b.npy")])

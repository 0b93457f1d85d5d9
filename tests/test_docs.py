"""docs/python.md is a program that runs."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

GUIDE = Path(__file__).parents[1] / "docs" / "python.md"


@pytest.mark.skipif(not GUIDE.exists(), reason="the documents are not part of the wheel")
def test_the_guide_to_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), flags=re.M | re.S)
    assert len(blocks) >= 8
    names: dict[str, Any] = {}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for number, block in enumerate(blocks):
            exec(compile(block, f"{GUIDE.name}, block {number}", "exec"), names)
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"scene.ply", "scene.fpz", "photo.fpz", "clip.fpz"}
    for text in ("torch.Size([3, 48, 64, 3])", "torch.Size([8, 100])", "(2, 48, 64, 3)"):
        assert text in said.getvalue()
    assert names["means"].grad.isfinite().all()
    assert len(names["small"].data) <= 9000
    assert names["found"].psnr_self == pytest.approx(names["made"].report["psnr_self"], abs=0.1)

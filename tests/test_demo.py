import json

import pytest

from fieldpress import models
from fieldpress.demo import run_demo

pytestmark = pytest.mark.filterwarnings("ignore:LPIPS is left out")

KEYS = {
    *("input_bytes", "output_bytes", "ratio", "count_in", "count_out", "psnr", "ssim", "lpips"),
    *("psnr_self", "ssim_self", "fps", "fps_reference", "render_size", "views", "device"),
    *("bytes_by_section", "encode_seconds", "decode_seconds", "seed", "version"),
}


@pytest.mark.slow
def test_a_small_demo_leaves_what_it_promises(tmp_path):
    said = []
    out = tmp_path / "out"
    report = run_demo(
        out,
        progress=lambda stage, share: said.append((stage, share)),
        views=9,
        width=80,
        height=60,
        samples=4000,
        steps=60,
    )
    assert report["psnr_original"] > 19.5  # 19.0 without training
    assert set(report) >= KEYS
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(report))
    original, compressed = models.load(out / "scene.ply"), models.load(out / "scene.fpz")
    assert (len(original), len(compressed)) == (report["count_in"], report["count_out"])
    assert (out / "scene.fpz").stat().st_size == report["output_bytes"]
    assert sum(report["bytes_by_section"].values()) == report["output_bytes"]
    assert report["ratio"] > 8
    assert report["psnr_self"] > 30
    assert report["views"] == 2
    assert "<!doctype html>" in (out / "report.html").read_text(encoding="utf-8")
    shares = [share for _, share in said]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0

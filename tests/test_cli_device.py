"""--device: one sentence where there is no GPU, and nothing written."""

from __future__ import annotations

import json

import pytest
import torch

from fieldpress.__main__ import main


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "abacus"])
def test_a_gpu_that_is_not_there_is_one_sentence(splat_ply, tiny_model, tmp_path, capsys, device):
    source = str(splat_ply(tiny_model(30)))
    for verb in (["render", source, "--orbit", "2"], ["eval", source], ["compress", source]):
        output = tmp_path / f"{verb[0]}.fpz"
        assert main([*verb, "--device", device, "-o", str(output)]) == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert "device: " in lines[0]
        assert not output.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fitting_on_a_gpu_that_is_not_there_is_one_sentence(tmp_path, capsys):
    output = tmp_path / "out.ply"
    assert main(["fit", "gaussians", str(tmp_path), "--device", "cuda", "-o", str(output)]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line for line in lines if "device: cuda needs" in line] == lines
    assert not output.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("kind", ["image", "sdf", "nerf"])
def test_fields_on_a_gpu_that_is_not_there_are_one_sentence(kind, tmp_path, capsys):
    output = tmp_path / "out.fpz"
    assert main(["fit", kind, str(tmp_path), "--device", "cuda", "-o", str(output)]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line for line in lines if "device: cuda needs" in line] == lines
    assert len(lines) == 1
    assert not output.exists()


def test_the_cpu_may_be_named(splat_ply, tiny_model, tmp_path, capsys):
    source = str(splat_ply(tiny_model(30)))
    assert main(["eval", source, "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["device"] == "cpu"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_measures_the_same(splat_ply, tiny_model, capsys):
    source = str(splat_ply(tiny_model(30)))
    assert main(["eval", source, "--reference", source, "--device", "cuda", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["device"].startswith("cuda")
    assert report["psnr_self"] > 90

"""What waits in a scratch file comes back bit by bit, and codes to the same bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fieldpress.gaussians import compress, stored
from fieldpress.gaussians.codec import Steps, encode_source, requantise
from fieldpress.gaussians.fit_tables import Source
from fieldpress.gaussians.stored import Resident, Spilled


@pytest.mark.parametrize("degree", [0, 1, 3])
@pytest.mark.parametrize("n", [0, 1, 500])
def test_both_places_give_the_same(tiny_model, monkeypatch, n, degree):
    monkeypatch.setattr(stored, "STRIP", 64)  # Several strips, the last one short.
    model = tiny_model(n, degree)
    order = np.random.default_rng(n).permutation(n).astype(np.int32)
    here, away = Resident(model, order), Spilled(model, order)
    assert len(here) == len(away) == n
    assert here.sh_degree == away.sh_degree == degree
    assert here.float_bytes == away.float_bytes == model.float_bytes
    for name, tensor in away.whole().tensors().items():
        assert torch.equal(tensor, model.tensors()[name]), name
    for places in (np.arange(n), np.arange(n)[3::7], np.arange(0)):
        ours, theirs = away.rows(places), here.rows(places)
        for name, rows in theirs.items():
            assert np.array_equal(ours[name], rows), name


def test_colours_come_back_in_one_piece(tiny_model):
    model = Spilled(tiny_model(20, 3), np.arange(20)).whole()
    assert model.colors().data_ptr() == model.sh0.data_ptr()


def test_a_spilled_source_codes_to_the_same_bytes(tiny_model):
    model = tiny_model(3000, 2)
    here = Source.of(model, np.arange(3000, dtype=np.int32) % 8)
    away = here.spilled()
    assert isinstance(away.stored, Spilled)
    some = model.means[:, 0].numpy() > -0.2
    for a, b in ((here, away), (here.keep(some), away.keep(some))):
        assert encode_source(a, Steps()) == encode_source(b, Steps())
        for name, tensor in requantise(b, Steps()).tensors().items():
            assert torch.equal(tensor, requantise(a, Steps()).tensors()[name]), name
        assert torch.equal(a.kept().opacities, b.kept().opacities)


def test_without_a_disk_the_model_stays_in_memory(tiny_model, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored.tempfile, "TemporaryFile", full)
    source = Source.of(tiny_model(50, 1), np.zeros(50, np.int32))
    assert source.spilled() is source


@pytest.mark.parametrize("effort", ["fast", "normal"])
def test_a_large_model_is_compressed_as_well(tiny_model, monkeypatch, effort):
    monkeypatch.setattr(compress, "VIEWS", 4)
    monkeypatch.setattr(compress, "VIEW_SIZE", (64, 48))
    model, settings = tiny_model(2000, 1), compress.CompressSettings("small", effort=effort)
    usual = compress.compress(model, settings)
    monkeypatch.setattr(compress, "LARGE", 0)
    prepared = compress.prepare(model, settings)
    assert isinstance(prepared.job.whole.stored, Spilled)
    assert (prepared.job.lesson is not None) == (effort != "fast")
    found = compress.encode_to_goal(prepared, settings)
    assert found.report["psnr_self"] == pytest.approx(usual.report["psnr_self"], abs=0.1)
    assert len(found.data) == pytest.approx(len(usual.data), rel=0.1)

"""Sanitising: each reason counted once, order kept, the input untouched."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.sanitize import MAX_LOGIT, MIN_LOG_SCALE, sanitize

INF, NAN = torch.inf, torch.nan
REASONS = ("non_finite", "overflow", "invisible")
REPAIRS = ("zero_quats", "huge_quats", "clamped_scales", "clamped_opacities")


def spoil(model: SplatModel, name: str, row: int, value: float) -> SplatModel:
    """The model with one number (for quats, the whole row) replaced."""
    tensor = model.tensors()[name].clone()
    tensor[row] = value if name in ("quats", "opacities") else tensor[row]
    if name not in ("quats", "opacities"):
        tensor[row].view(-1)[-1] = value
    return replace(model, **{name: tensor})


def test_clean_model_passes_untouched(tiny_model):
    model = tiny_model(50)
    clean, report = sanitize(model)
    assert clean is model
    assert report == {"count_in": 50, "count_out": 50, **dict.fromkeys(REASONS + REPAIRS, 0)}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        *((n, v, "non_finite") for n in ("means", "quats", "sh0", "shN") for v in (NAN, INF, -INF)),
        ("scales", NAN, "non_finite"),
        ("scales", INF, "non_finite"),
        ("opacities", NAN, "non_finite"),
        ("opacities", -INF, "invisible"),
        ("opacities", -5.6, "invisible"),
        ("scales", 60.0, "overflow"),
        ("means", -1e30, "overflow"),
        ("shN", 1e30, "overflow"),
    ],
)
def test_removed(tiny_model, name, value, reason):
    model = spoil(tiny_model(10), name, 4, value)
    clean, report = sanitize(model)
    rest = [0, 1, 2, 3, 5, 6, 7, 8, 9]
    for key, tensor in clean.tensors().items():
        assert torch.equal(tensor, tiny_model(10).tensors()[key][rest])
    assert {k: v for k, v in report.items() if v} == {"count_in": 10, "count_out": 9, reason: 1}


@pytest.mark.parametrize(
    ("name", "value", "repair", "result"),
    [
        ("quats", 0.0, "zero_quats", [1, 0, 0, 0]),
        ("quats", 1e-20, "zero_quats", [1, 0, 0, 0]),
        ("quats", 1e30, "huge_quats", [0.5, 0.5, 0.5, 0.5]),
        ("opacities", INF, "clamped_opacities", MAX_LOGIT),
        ("scales", -INF, "clamped_scales", MIN_LOG_SCALE),
        ("scales", -1e9, "clamped_scales", MIN_LOG_SCALE),
    ],
)
def test_repaired(tiny_model, name, value, repair, result):
    model = spoil(tiny_model(10), name, 4, value)
    before = {key: tensor.clone() for key, tensor in model.tensors().items()}
    clean, report = sanitize(model)
    assert {k: v for k, v in report.items() if v} == {"count_in": 10, "count_out": 10, repair: 1}
    got = clean.tensors()[name][4]
    got = got[-1] if name == "scales" else got
    assert torch.allclose(got, torch.tensor(result, dtype=torch.float32))
    for key, tensor in before.items():
        assert torch.equal(model.tensors()[key], tensor), "the input changed"


def test_each_gaussian_is_counted_once(tiny_model):
    model = spoil(spoil(tiny_model(3), "means", 1, NAN), "opacities", 1, -INF)
    _, report = sanitize(spoil(model, "quats", 1, 0.0))
    assert {k: v for k, v in report.items() if v} == {
        "count_in": 3,
        "count_out": 2,
        "non_finite": 1,
    }


def test_min_alpha_is_a_choice(tiny_model):
    model = tiny_model(200)
    alpha = model.opacities.sigmoid()
    clean, report = sanitize(model, min_alpha=0.5)
    assert len(clean) == int((alpha >= 0.5).sum()) == 200 - report["invisible"] < 200


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("value", [1.0, NAN])
def test_small_and_wholly_bad(tiny_model, n, value):
    model = tiny_model(n)
    model = replace(model, means=model.means * value)
    clean, report = sanitize(model)
    assert len(clean) == report["count_out"] == (n if value == 1 else 0)
    assert clean.sh_degree == model.sh_degree


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32), min_size=14, max_size=14))
def test_what_is_left_can_be_rendered(row):
    values = torch.tensor([row], dtype=torch.float32)
    model = SplatModel(
        means=values[:, :3],
        quats=values[:, 3:7],
        scales=values[:, 7:10],
        opacities=values[:, 10],
        sh0=values[:, None, 11:14],
        shN=torch.zeros(1, 0, 3),
    )
    clean, report = sanitize(model)
    assert report["count_out"] == 1 - sum(report[reason] for reason in REASONS)
    means, quats, scales, opacities, colors = clean.activated()
    for value in (means.square(), scales.square(), opacities, colors):
        assert value.isfinite().all()
    assert torch.allclose(quats.norm(dim=1), torch.ones(len(clean)), atol=1e-5)
    assert sanitize(clean)[1]["count_out"] == len(clean)

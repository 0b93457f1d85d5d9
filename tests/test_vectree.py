"""VecTree: exact round trips, half a cell of position, bad files that end in one line."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldpress.gaussians import codec, vectree, vectree_file
from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.vectree import VecTreeSettings, quantise
from fieldpress.quant import container
from fieldpress.quant.codebook import CodebookSettings

GOLDEN = Path(__file__).parent / "golden" / "vectree"
FAST = VecTreeSettings(codebook=CodebookSettings(steps=5))


def scores(n: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(n, generator=rng, dtype=torch.float64) ** 3


def read(data: bytes) -> vectree.VecTree:
    return vectree_file.read(container.read(data), name="<bytes>")


def same(a: SplatModel, b: SplatModel) -> bool:
    """Whether two models agree to the last bit."""
    pairs = zip(a.tensors().values(), b.tensors().values(), strict=True)
    return all(x.numpy().tobytes() == y.numpy().tobytes() for x, y in pairs)


@pytest.mark.parametrize("degree", range(5))
@pytest.mark.parametrize("n", [1, 2, 63, 700])
def test_the_file_keeps_every_number(tiny_model, n, degree):
    tree = quantise(tiny_model(n, degree, seed=n), scores(n), FAST)
    data = vectree_file.encode(tree, {"recipe": "test"})
    found = read(data)
    for name in ("codes", "opacities", "scales", "quats", "coded", "indices", "codebook", "colors"):
        ours, theirs = getattr(tree, name), getattr(found, name)
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert ours.tobytes() == theirs.tobytes(), name
    decoded = codec.decode(data)
    assert same(decoded, tree.model())
    assert decoded.sh_degree == degree
    assert decoded.extra == {"recipe": "test"}
    assert found.low == tree.low
    assert found.span == tree.span


def in_order(model: SplatModel, level: int = 16) -> SplatModel:
    order, *_ = vectree._octree_order(model.means.double().numpy(), level)
    return model[torch.from_numpy(order)]


@given(st.integers(1, 60), st.sampled_from([1, 3, 16, 20]), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_positions_are_within_half_a_cell(tiny_model, n, level, seed):
    model = tiny_model(n, 0, seed=seed)
    tree = quantise(model, scores(n), replace(FAST, level=level))
    error = (tree.model().means - in_order(model, level).means).double().abs()
    cell = torch.tensor(tree.span, dtype=torch.float64) / 2**level
    rounding = 1e-6 * model.means.double().abs().max()
    assert bool((error <= cell / 2 + rounding).all())


def test_what_is_not_a_position_is_half_precision(tiny_model):
    model = tiny_model(300, 2)
    tree = quantise(model, scores(300), FAST)
    decoded, wanted = tree.model(), in_order(model)
    for name in ("opacities", "scales"):
        expected = getattr(wanted, name).half().float()
        assert torch.equal(getattr(decoded, name), expected)
    unit = torch.nn.functional.normalize(wanted.quats, dim=1)
    assert float(((unit * decoded.quats).sum(1).abs() - 1).abs().max()) < 1e-3
    kept = torch.from_numpy(~tree.coded)
    assert torch.equal(decoded.colors()[kept], wanted.colors()[kept].half().float())


def test_the_least_significant_share_a_codebook(tiny_model):
    """And each of them has the codeword nearest to its colours, after rounding to halves."""
    model, ranks = tiny_model(500, 2), scores(500)
    tree = quantise(model, ranks, replace(FAST, share=0.4))
    order, *_ = vectree._octree_order(model.means.double().numpy(), 16)
    coded = ranks[torch.from_numpy(order)][torch.from_numpy(tree.coded)]
    assert len(coded) == 200
    assert float(coded.max()) <= float(ranks.sort().values[199])
    assert len(tree.codebook) <= 200 // 8
    x = in_order(model).colors().reshape(500, -1)[torch.from_numpy(tree.coded)].double()
    distances = torch.cdist(x, torch.from_numpy(tree.codebook.astype(np.float64)))
    chosen = distances[torch.arange(200), torch.from_numpy(tree.indices).long()]
    torch.testing.assert_close(chosen, distances.min(1).values, atol=1e-4, rtol=0)
    uses = np.bincount(tree.indices)
    assert (np.diff(uses) <= 0).all()
    assert uses.min() > 0


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_none_in_the_codebook(tiny_model, share):
    tree = quantise(tiny_model(90, 1), scores(90), replace(FAST, share=share))
    assert len(tree.indices) == 90 * share
    assert same(codec.decode(vectree_file.encode(tree)), tree.model())


def test_an_empty_model(tiny_model):
    for degree in (0, 2):
        data = vectree_file.encode(quantise(tiny_model(0, degree), scores(0), FAST))
        assert not container.read(data).sections
        decoded = codec.decode(data)
        assert len(decoded) == 0
        assert decoded.sh_degree == degree


def test_several_blocks_and_their_prefixes(tiny_model, monkeypatch):
    monkeypatch.setattr(vectree_file, "BLOCK", 40)
    tree = quantise(tiny_model(100, 2), scores(100), FAST)
    data = vectree_file.encode(tree)
    found = container.read(data)
    counts = found.header["layout"]["counts"]
    assert counts == [33, 33, 34]
    whole = codec.decode(data)
    assert same(whole, tree.model())
    end = len(data) - sum(len(section.payload) for section in found.sections)
    sizes = []
    for section in (*found.sections, None):
        part = codec.decode(data[:end], partial=True)
        assert same(part, whole[: len(part)])
        sizes.append(len(part))
        end += 0 if section is None else len(section.payload)
    assert sizes == [0] * 8 + [33] * 7 + [66] * 7 + [100]


def test_identical_and_flat_points(tiny_model):
    one = tiny_model(1, 1)[torch.zeros(50, dtype=torch.int64)]
    decoded = codec.decode(vectree_file.encode(quantise(one, scores(50), FAST)))
    torch.testing.assert_close(decoded.means, one.means)
    flat = replace(tiny_model(50, 0), antialiased=True)
    flat.means[:, 1] = 3.25
    decoded = codec.decode(vectree_file.encode(quantise(flat, scores(50), FAST)))
    assert bool((decoded.means[:, 1] == 3.25).all())
    assert decoded.antialiased


def test_values_beyond_half_precision_are_clipped(tiny_model):
    model = tiny_model(10, 1)
    model.sh0[0], model.scales[1], model.shN[2] = 1e9, -1e9, -0.0
    tree = quantise(model, scores(10), replace(FAST, share=0.0))
    decoded = codec.decode(vectree_file.encode(tree))
    assert float(decoded.sh0.max()) == 65504
    assert float(decoded.scales.min()) == -65504
    assert all(bool(t.isfinite().all()) for t in decoded.tensors().values())


def test_bad_arguments_are_named(tiny_model):
    model = tiny_model(4, 0)
    with pytest.raises(ValueError, match=r"^scores: expected \[4\], got \[3\]"):
        quantise(model, scores(3), FAST)
    with pytest.raises(ValueError, match=r"^scores: expected finite values of at least 0"):
        quantise(model, -scores(4), FAST)
    far = replace(model, means=model.means * 1e31)
    with pytest.raises(ValueError, match=r"^means: expected at most 1e\+30"):
        quantise(far, scores(4), FAST)
    model.sh0[2, 0, 1] = float("nan")
    with pytest.raises(ValueError, match=r"^sh0: expected finite values"):
        quantise(model, scores(4), FAST)
    with pytest.raises(ValueError, match=r"^share: expected"):
        VecTreeSettings(share=1.5)
    with pytest.raises(ValueError, match=r"^level: expected"):
        VecTreeSettings(level=21)
    with pytest.raises(ValueError, match=r"^per_codeword: expected"):
        VecTreeSettings(per_codeword=0)
    with pytest.raises(ValueError, match=r"^codebook size: expected at most 65536"):
        VecTreeSettings(codebook=CodebookSettings(size=70_000))


# Golden files


def test_a_golden_file_decodes_to_the_same_bits():
    data = (GOLDEN / "tiny.fpz").read_bytes()
    wanted = json.loads((GOLDEN / "tiny.json").read_text())
    tree = read(data)
    assert tree.coded.astype(int).tolist() == wanted["coded"]
    assert tree.indices.tolist() == wanted["indices"]
    for name, values in codec.decode(data).tensors().items():
        assert values.numpy().astype("<f4").tobytes().hex() == wanted[name]


# Damage


@pytest.fixture(scope="module")
def file(tiny_model) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectree_file, "BLOCK", 40)
        return vectree_file.encode(quantise(tiny_model(70, 1), scores(70), FAST))


def test_cut_and_longer_files_are_refused(file, refusal):
    for end in (*range(0, len(file), len(file) // 40), len(file) - 1):
        assert refusal(file[:end])
    assert refusal(file + b"\0")


def test_flipped_bits_are_refused(file, refusal):
    rng = random.Random(1)
    for _ in range(300):
        changed = bytearray(file)
        changed[rng.randrange(len(file))] ^= 1 << rng.randrange(8)
        assert refusal(bytes(changed))
        assert refusal(bytes(changed), partial=True)


def test_forged_payloads_end_in_one_line_or_a_model(file, refusal):
    """Damage under checksums that agree with it, which reaches every decoder."""
    rng = random.Random(2)
    found = container.read(file)
    for _ in range(600):
        sections = list(found.sections)
        at = rng.randrange(len(sections))
        payload = bytearray(sections[at].payload or b"\0")
        kind = rng.randrange(3)
        if kind == 0:
            payload = payload[: rng.randrange(len(payload) + 1)]
        elif kind == 1:
            payload = bytearray(rng.randbytes(rng.randrange(60)))
        else:
            payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
        sections[at] = replace(sections[at], payload=bytes(payload))
        changed = container.write(found.header, sections)
        if refusal(changed) is None:
            decoded = codec.decode(changed)
            assert len(decoded) == 70
            assert all(bool(t.isfinite().all()) for t in decoded.tensors().values())


def test_forged_sections_are_refused(file, refusal):
    found = container.read(file)
    for at, section in enumerate(found.sections):
        others = [s for i, s in enumerate(found.sections) if i != at]
        assert f"section '{section.name}'" in str(refusal(container.write(found.header, others)))
        surplus = replace(section, name=section.name + "0")
        data = container.write(found.header, [*found.sections, surplus])
        assert "section '" in str(refusal(data))
        for codec_name in ("ints", "bits", "octree"):
            if codec_name != section.codec and not section.name.startswith("idx"):
                other = replace(section, codec=codec_name)
                assert refusal(container.write(found.header, [*others, other]))
        for raw in (0, section.raw_size + 1):
            claim = replace(section, raw_size=raw)
            assert refusal(container.write(found.header, [*others, claim]))


@pytest.mark.parametrize(
    "key", ["counts", "sh_degree", "level", "low", "span", "codewords", "fill"]
)
def test_forged_layouts_are_refused(file, key, refusal):
    found = container.read(file)
    layout = found.header["layout"]
    values: list = [None, "x", -1, 1e300, 2**70, {}, [[]], [1e300] * 3, ["nan"] * 3, [True] * 3]
    files = [{**layout, key: value} for value in values]
    files.append({k: v for k, v in layout.items() if k != key})
    if key == "fill":
        files += [{**layout, key: {**layout[key], "scl": value}} for value in [*values, [1e9] * 3]]
    for changed in files:
        data = container.write({**found.header, "layout": changed}, found.sections)
        possible = key in ("low", "span") and changed.get(key) == [True] * 3
        assert refusal(data) or possible, changed.get(key)


def test_counts_that_are_only_claimed_cost_nothing(refusal):
    layout = {
        "counts": [1 << 16] * (1 << 16), "sh_degree": 4, "antialiased": False, "level": 20,
        "low": [0, 0, 0], "span": [1, 1, 1], "codewords": 1 << 16,
        "fill": {"opa": [0], "scl": [0, 0, 0]},
    }  # fmt: skip
    data = container.write({"kind": "gaussians", "codec": "vectree", "layout": layout}, [])
    assert refusal(data) == "f.fpz: section 'book': expected, got none"
    assert len(codec.decode(data, partial=True)) == 0

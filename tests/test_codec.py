"""The splat codec: errors within its steps, the same on any threads, in parts, and on bad files."""

from __future__ import annotations

import hashlib
import json
import random
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldpress.gaussians import blocks, codec, fit_tables
from fieldpress.gaussians.frames import LEAST_LOG
from fieldpress.gaussians.model import SplatModel
from fieldpress.quant import _reference, container, entropy

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("means", "quats", "scales", "opacities", "sh0", "shN")


def same(a: SplatModel, b: SplatModel) -> bool:
    """Whether two models agree to the last bit."""
    pairs = zip(a.tensors().values(), b.tensors().values(), strict=True)
    return all(x.numpy().tobytes() == y.numpy().tobytes() for x, y in pairs)


def mixed_classes(n: int) -> np.ndarray:
    """[n, 2] of colour and of geometry, each of the ten in both."""
    return np.stack([np.arange(n) * 7 % 10, (np.arange(n) * 3 + 4) % 10], 1)


def order(model: SplatModel, classes: np.ndarray) -> np.ndarray:
    """The index of the Gaussian that decodes at each place."""
    return fit_tables.Source.of(model, classes.astype(np.int32)).order


def covariances(model: SplatModel) -> np.ndarray:
    w, x, y, z = torch.nn.functional.normalize(model.quats.double(), dim=1).unbind(1)
    turn = torch.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ],
        dim=1,
    ).reshape(-1, 3, 3)  # fmt: skip
    turned = turn * model.scales.double().exp()[:, None, :]
    return (turned @ turned.transpose(1, 2)).numpy()


def log_alpha(logits: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.logsigmoid(logits.double())


def small_blocks(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(fit_tables, "BLOCK_SIZE", size)


def bound(layout: dict, attribute: str, classes: np.ndarray) -> np.ndarray:
    """[N] the most that rounding, step, class, cap and bias may change a value of an attribute."""
    own = classes[:, 0 if attribute in ("dc", "ac") else 1]
    scale = np.minimum(8 << own, layout["caps"][attribute])
    rounding = max(blocks.ROUND[attribute], 64 - blocks.ROUND[attribute])
    share = (rounding + layout["bias"][attribute]) / 64
    return (scale * share + 0.5) * layout["units"][attribute] + 1e-5


@pytest.mark.parametrize("degree", range(5))
@pytest.mark.parametrize("n", [1, 2, 63, 1000])
def test_errors_are_within_the_steps(tiny_model, n, degree):
    model = tiny_model(n, degree, seed=n)
    classes = mixed_classes(n)
    steps = codec.Steps().scaled(0.5)
    data = codec.encode(model, classes, steps)
    decoded = codec.decode(data)
    assert len(decoded) == n
    assert decoded.sh_degree == degree
    assert all(t.dtype == torch.float32 for t in decoded.tensors().values())
    layout = container.read(data).header["layout"]
    place = order(model, classes)
    model, classes = model[torch.from_numpy(place)], classes[place]
    error = {name: (getattr(decoded, name) - getattr(model, name)).numpy() for name in NAMES}

    alpha, given = (log_alpha(m.opacities).numpy() for m in (decoded, model))
    assert (abs(alpha - np.minimum(given, -LEAST_LOG)) <= bound(layout, "opa", classes)).all()
    sizes = decoded.scales.numpy(), model.scales.numpy()
    found, wanted = (
        np.sort(s, axis=1) for s in sizes
    )  # Sorting brings no two lists further apart.
    assert (abs(found - wanted) <= bound(layout, "scl", classes)[:, None]).all()
    for name, attribute in (("sh0", "dc"), ("shN", "ac")):
        flat = error[name].reshape(n, -1)
        most = bound(layout, attribute, classes) * np.sqrt(flat.shape[1]) * 1.02
        assert (np.sqrt((flat**2).sum(1)) <= most).all()
    # Half a cell, and what its width may be rounded by: half an octave, the error of the size that
    # it follows, and the contraction's slope, taken at the octree leaf instead of at the point.
    share = np.minimum(steps.position * 2.0 ** classes[:, 1], max(steps.position, 1.0))
    cell = share * np.exp(wanted[:, 1] + bound(layout, "scl", classes)) * 2**0.5
    cell *= np.exp(layout["span"] / 2 ** layout["level"])
    assert (abs(error["means"]).max(1) <= np.maximum(cell, layout["span"] * 1e-4) / 2).all()


def test_the_steps_are_used(tiny_model):
    """A codec that keeps more than it was asked to wastes bytes."""
    model = tiny_model(1000, 1)
    flat = np.zeros(1000, int)
    steps = codec.Steps(position=0.5, opacity=0.1, scale=0.4, dc=0.4, ac=0.2)
    decoded = codec.decode(codec.encode(model, flat, steps))
    model = model[torch.from_numpy(order(model, flat))]
    alpha, given = (log_alpha(m.opacities) for m in (decoded, model))
    free = alpha < -0.1  # The others may have been cut off at logit 7.
    for error, step in ((alpha - given)[free], 0.1), (decoded.sh0 - model.sh0, 0.4):
        assert 0.2 < float(error.std()) / step < 0.4  # uniform: 1 / sqrt(12)
    coarser = codec.encode(model, np.full(1000, 2), steps)
    assert len(coarser) < 0.8 * len(codec.encode(model, flat, steps))


def test_one_class_for_both_is_the_same_as_two_alike(tiny_model):
    model, classes = tiny_model(200, 1), np.arange(200) * 7 % 10
    pairs = np.stack([classes, classes], 1)
    assert codec.encode(model, classes, codec.Steps()) == codec.encode(model, pairs, codec.Steps())


@pytest.mark.parametrize("kind", [0, 1])
def test_each_class_rules_its_own(tiny_model, kind):
    """Colour's coarsens colour alone, geometry's everything else."""
    model = tiny_model(1000, 1)
    fine, coarse = np.zeros((1000, 2), int), np.zeros((1000, 2), int)
    coarse[:, kind] = 4
    place = torch.from_numpy(order(model, fine))
    files = [codec.encode(model, classes, codec.Steps()) for classes in (fine, coarse)]
    found = [codec.decode(data) for data in files]
    wanted = model[place]
    errors = []
    for one in found:
        alpha = log_alpha(one.opacities) - log_alpha(wanted.opacities).clamp_max(-LEAST_LOG)
        sizes = one.scales.sort(1).values - wanted.scales.sort(1).values
        colors = one.sh0 - wanted.sh0, one.shN - wanted.shN
        geometry = one.means - wanted.means, alpha, sizes
        errors.append([[float(x.square().mean()) for x in part] for part in (colors, geometry)])
    assert all(b > 30 * a for a, b in zip(errors[0][kind], errors[1][kind], strict=True))
    rest = zip(errors[0][1 - kind], errors[1][1 - kind], strict=True)
    assert all(0.8 < b / a < 1.25 for a, b in rest)


@pytest.mark.parametrize("factor", [1e-9, 1e-5, 1e5, 1e9])
def test_steps_far_out_give_files_that_can_be_read(tiny_model, factor):
    """A search for an impossible goal asks for such steps."""
    model = tiny_model(100, 1)
    decoded = codec.decode(codec.encode(model, mixed_classes(100), codec.Steps().scaled(factor)))
    assert len(decoded) == 100
    assert finite(decoded)


def test_covariances_converge(tiny_model):
    model = tiny_model(400, 0)
    flat = np.zeros(400, int)
    wanted = covariances(model[torch.from_numpy(order(model, flat))])
    size = np.sqrt((wanted**2).sum((1, 2)))
    errors = []
    for factor in (1.0, 0.25, 0.0625):
        decoded = codec.decode(codec.encode(model, flat, codec.Steps().scaled(factor)))
        errors.append((np.sqrt(((covariances(decoded) - wanted) ** 2).sum((1, 2))) / size).mean())
    assert errors[0] < 0.1
    assert errors[1] < errors[0] / 3
    assert errors[2] < errors[1] / 3


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_two_full_blocks_decode_alike_on_any_threads(tiny_model, threads):
    model = tiny_model(60_000, 0)
    classes = mixed_classes(60_000)
    data = codec.encode(model, classes, codec.Steps(), header={"recipe": "test"})
    found = container.read(data)
    assert found.header["layout"]["counts"] == [30_000, 30_000]
    geometry = ["pos", "cls", "gcl", "opa", "scl", "tlt", "rol", "fin", "dc"]
    names = ["tab", *(f"{key}/{block}" for block in (0, 1) for key in geometry)]
    assert [section.name for section in found.sections] == names
    decoded = []
    for count in (1, 2, 3):
        threads(count)
        decoded.append(codec.decode(data))
    assert len(decoded[0]) == 60_000
    assert decoded[0].extra == {"recipe": "test"}
    assert same(decoded[0], decoded[1])
    assert same(decoded[0], decoded[2])
    place = torch.from_numpy(order(model, classes))
    assert float((decoded[0].means - model.means[place]).abs().max()) < 0.2


def test_equal_models_give_equal_bytes(tiny_model):
    model = tiny_model(100, 2)
    files = [codec.encode(model, mixed_classes(100), codec.Steps()) for _ in range(2)]
    assert files[0] == files[1]


def test_an_empty_model(tiny_model):
    for degree in (0, 3):
        data = codec.encode(tiny_model(0, degree), np.zeros(0, int), codec.Steps())
        decoded = codec.decode(data)
        assert len(decoded) == 0
        assert decoded.sh_degree == degree


@pytest.mark.parametrize("antialiased", [False, True])
def test_what_is_not_a_tensor_is_kept(tiny_model, antialiased):
    model = replace(tiny_model(5, 0), antialiased=antialiased)
    header = {"seed": 7, "recipe": {"preset": "small"}}
    decoded = codec.decode(codec.encode(model, np.zeros(5, int), codec.Steps(), header=header))
    assert decoded.antialiased is antialiased
    assert decoded.extra == header


# Extremes


def finite(model: SplatModel) -> bool:
    return all(bool(t.isfinite().all()) for t in model.tensors().values())


@pytest.mark.parametrize("n", [1, 1000])
def test_identical_points(tiny_model, n):
    one = tiny_model(1, 3)
    model = one[torch.zeros(n, dtype=torch.int64)]
    data = codec.encode(model, np.zeros(n, int), codec.Steps())
    decoded = codec.decode(data)
    assert len(decoded) == n
    assert float((decoded.means - one.means).abs().max()) < 1e-5
    assert len(data) < 5000


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e6])
@pytest.mark.parametrize("spread", [1e-3, 1e6])
def test_points_far_out(tiny_model, offset, spread):
    model = tiny_model(200, 0)
    size = max(spread, abs(offset) * 1e-6)
    model = replace(model, means=model.means * spread + offset, scales=model.scales + np.log(size))
    decoded = codec.decode(codec.encode(model, np.zeros(200, int), codec.Steps()))
    assert finite(decoded)
    place = torch.from_numpy(order(model, np.zeros(200, int)))
    assert float((decoded.means - model.means[place]).abs().max()) < 0.3 * size


@pytest.mark.parametrize(
    "shape", [(5, -20, -20), (5, 5, -20), (-25, -25, -25), (10, 10, 10), (8, 0, -8), (80, -80, 0)]
)
def test_needles_discs_and_dust(tiny_model, shape):
    model = tiny_model(100, 1)
    model = replace(model, scales=torch.tensor(shape, dtype=torch.float32).expand(100, 3))
    decoded = codec.decode(codec.encode(model, mixed_classes(100), codec.Steps()))
    assert finite(decoded)
    lengths = (decoded.quats.double() ** 2).sum(1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), atol=1e-6, rtol=0)
    wanted = model.scales.clamp(*fit_tables.SCALE_RANGE).sort(1).values
    assert float((decoded.scales.sort(1).values - wanted).abs().max()) < 0.6


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(tiny_model, name, value):
    model = tiny_model(4, 1)
    tensor = getattr(model, name).clone()
    tensor.view(-1)[3] = value
    with pytest.raises(ValueError, match=f"^{name}: expected finite values"):
        codec.encode(replace(model, **{name: tensor}), np.zeros(4, int), codec.Steps())


@pytest.mark.parametrize(
    "classes",
    [np.zeros(3, int), np.full(4, -1), np.full(4, 10), np.zeros((4, 3), int), np.zeros((2, 4), int),
     np.array([[0, 0], [0, 10], [0, 0], [0, 0]]), np.array([[0, 0], [-1, 0], [0, 0], [0, 0]])],
)  # fmt: skip
def test_impossible_classes_are_named(tiny_model, classes):
    with pytest.raises(ValueError, match=r"^classes: expected \[4\] or \[4, 2\] in 0\.\.9"):
        codec.encode(tiny_model(4, 0), classes, codec.Steps())


# Parts of files


def test_every_prefix_decodes(tiny_model, monkeypatch):
    small_blocks(monkeypatch, 40)
    model = tiny_model(100, 2)
    data = codec.encode(model, mixed_classes(100), codec.Steps())
    whole = codec.decode(data)
    found = container.read(data)
    counts = found.header["layout"]["counts"]
    assert len(counts) == 3
    end = len(data) - sum(len(section.payload) for section in found.sections)
    have: set[str] = set()
    for section in (*found.sections, None):
        part = codec.decode(data[:end], partial=True)
        check_part(part, whole, counts, have)
        if section is None:
            return
        if section.payload:
            with pytest.raises(ValueError, match=r"^<bytes>: section '"):
                codec.decode(data[:end])
            inside = codec.decode(data[: end + len(section.payload) - 1], partial=True)
            assert same(inside, part)
        end += len(section.payload)
        have.add(section.name)


def check_part(part: SplatModel, whole: SplatModel, counts: list[int], have: set[str]) -> None:
    """What is there equals the whole; what is not there is left out, or zero."""
    at = start = 0
    for block, count in enumerate(counts):
        keys = {key for key in (*codec.GEOMETRY, "dc", "lim", "ac") if f"{key}/{block}" in have}
        if keys >= set(codec.GEOMETRY):
            got, wanted = part[at : at + count], whole[start : start + count]
            if "dc" not in keys:
                wanted = replace(wanted, sh0=torch.zeros_like(wanted.sh0))
            if not keys >= {"lim", "ac"}:
                wanted = replace(wanted, shN=torch.zeros_like(wanted.shN))
            assert same(got, wanted)
            at += count
        start += count
    assert len(part) == at
    assert part.sh_degree == whole.sh_degree


# Damage


@pytest.fixture(scope="module")
def golden() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(GOLDEN.glob("*.fpz"))}


@pytest.mark.parametrize("name", ["color.fpz", "klt.fpz", "plain.fpz"])
def test_cut_files_are_refused(golden, name, refusal):
    data = golden[name]
    for end in (*range(0, len(data), len(data) // 20), len(data) - 1):
        assert refusal(data[:end])
    assert refusal(data + b"\0")


def test_flipped_bits_are_refused(golden, refusal):
    rng = random.Random(1)
    for data in golden.values():
        for _ in range(200):
            changed = bytearray(data)
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            assert refusal(bytes(changed))
            assert refusal(bytes(changed), partial=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # Forged values may overflow a float.
def test_forged_payloads_end_in_one_line_or_a_model(golden, refusal):
    """Damage under checksums that agree with it, which reaches every decoder."""
    rng = random.Random(2)
    for data in golden.values():
        found = container.read(data)
        count = sum(found.header["layout"]["counts"])
        for _ in range(150):
            sections = list(found.sections)
            at = rng.randrange(len(sections))
            payload = forged(sections[at].payload, rng)
            raw = len(payload) if sections[at].codec == "raw" else sections[at].raw_size
            sections[at] = replace(sections[at], payload=payload, raw_size=raw)
            if sections[at].codec == "zlib" and raw > 1032 * len(payload):
                continue  # The container refuses such a claim: see test_container.
            changed = container.write(found.header, sections)
            if refusal(changed) is None:
                assert len(codec.decode(changed)) == count


def forged(payload: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(3)
    if kind == 0:
        return payload[: rng.randrange(len(payload) + 1)]
    if kind == 1:
        return rng.randbytes(rng.randrange(60))
    changed = bytearray(payload or b"\0")
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def test_forged_sections_are_refused(golden, refusal):
    found = container.read(golden["color.fpz"])
    for at, section in enumerate(found.sections):
        others = [s for i, s in enumerate(found.sections) if i != at]
        assert f"section '{section.name}'" in str(refusal(container.write(found.header, others)))
        surplus = replace(section, name=section.name + "0")
        assert "section '" in str(
            refusal(container.write(found.header, [*found.sections, surplus]))
        )
        other = replace(section, codec="ints" if section.codec != "ints" else "bits")
        assert refusal(container.write(found.header, [*others, other]))
        if section.codec != "raw":
            for raw in (0, section.raw_size + 1):
                claim = replace(section, raw_size=raw)
                assert refusal(container.write(found.header, [*others, claim]))


LAYOUT_KEYS = (
    "counts", "sh_degree", "level", "low", "span", "center", "radius",
    "log_span", "precision", "precision_cap", "units", "caps", "bias", "mix",
)  # fmt: skip

POSSIBLE = ("span", "radius", "log_span", "precision", "precision_cap")  # with some


@pytest.mark.parametrize("key", LAYOUT_KEYS)
def test_forged_layouts_are_refused(golden, key, refusal):
    found = container.read(golden["klt.fpz"])
    layout = found.header["layout"]
    values: list = [None, "x", -99, 1e300, 2**70, -(2**70), [], {}, [[]], [1e300] * 3, ["nan"] * 3]
    values += [{**layout[key], "dc": v} for v in values] if isinstance(layout[key], dict) else []
    files = [{**layout, key: value} for value in [*values, 99]]
    files.append({k: v for k, v in layout.items() if k != key})
    for changed in files:
        data = container.write({**found.header, "layout": changed}, found.sections)
        message = refusal(data)
        possible = key in POSSIBLE and changed.get(key) in (-99, 99, 2**70)
        assert message or possible, changed.get(key)


@pytest.mark.parametrize("layout", [None, 3, "x", [], [1], {}, {"counts": 3}])
def test_layouts_that_are_none_are_refused(layout, refusal):
    assert refusal(container.write({"kind": "gaussians", "layout": layout}, []))
    assert refusal(container.write({"kind": "gaussians"}, []))


def test_other_kinds_are_named(golden, refusal):
    found = container.read(golden["plain.fpz"])
    data = container.write({**found.header, "kind": "nerf"}, found.sections)
    assert refusal(data) == "f.fpz: header: expected kind 'gaussians', got 'nerf'"


@pytest.mark.parametrize("partial", [False, True])
def test_nothing_is_allocated_for_a_claim(golden, partial, refusal):
    found = container.read(golden["plain.fpz"])
    layout = {**found.header["layout"], "counts": [65536] * 65536}
    data = container.write({**found.header, "layout": layout}, found.sections)
    tracemalloc.start()
    try:
        refusal(data, partial=partial)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


# The format


def digest(model: SplatModel) -> str:
    tensors = model.tensors().values()
    return hashlib.sha256(b"".join(t.numpy().astype("<f4").tobytes() for t in tensors)).hexdigest()


@pytest.mark.parametrize("coder", ["native", "twin"])
def test_golden_files_decode_to_their_bits(golden, monkeypatch, coder):
    """Written by `python tests/make_golden.py`; bytes that once decoded must go on doing so."""
    if coder == "twin":
        monkeypatch.setattr(entropy, "_native", _reference)
    digests = json.loads((GOLDEN / "digests.json").read_text(encoding="utf-8"))
    assert set(digests) == set(golden)
    for name, data in golden.items():
        assert digest(codec.decode(data)) == digests[name], name


# Colours anew


def test_recoloured_geometry_is_coded_to_the_same_bytes(tiny_model, monkeypatch):
    small_blocks(monkeypatch, 200)
    model = tiny_model(500, 2)
    source = fit_tables.Source.of(model, mixed_classes(500).astype(np.int32))
    decoded = codec.requantise(source, codec.Steps())
    other = replace(decoded, sh0=decoded.sh0 * 0.5 + 0.1, shN=-decoded.shN)
    again = source.recolored(other)
    place = torch.from_numpy(source.order)
    assert torch.equal(again.model.sh0[place], other.sh0)
    assert torch.equal(again.model.shN[place], other.shN)
    files = [codec.encode_source(s, codec.Steps()) for s in (source, again)]
    one, two = ({s.name: s.payload for s in container.read(f).sections} for f in files)
    assert set(one) == set(two)
    for block in range(3):
        for key in ("pos", "cls", "gcl", "opa", "scl", "tlt", "rol", "fin"):
            assert one[f"{key}/{block}"] == two[f"{key}/{block}"]
        assert one[f"dc/{block}"] != two[f"dc/{block}"]
        assert one[f"ac/{block}"] != two[f"ac/{block}"]
    ours, theirs = (codec.decode(f) for f in files)
    for name in ("means", "quats", "scales", "opacities"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    # Classes of colour make steps coarse; but for them it is the colours given that come back.
    assert float((theirs.shN - other.shN).abs().median()) < 0.1
    assert float((theirs.sh0 - other.sh0).abs().median()) < 0.2


def test_recolouring_with_what_there_is_changes_no_byte(tiny_model):
    model = tiny_model(300, 1)
    source = fit_tables.Source.of(model, mixed_classes(300).astype(np.int32))
    again = source.recolored(model[torch.from_numpy(source.order)])
    assert codec.encode_source(again, codec.Steps()) == codec.encode_source(source, codec.Steps())

"""The integer coder: equal to its plain twin, loss-free, fixed in its bytes, safe on any bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldpress.quant import _native, _reference, entropy

NO_LIMITS = np.zeros(0, np.int32)
LARGEST = (1 << 24) - 1
VALUE_LIMIT = 1 << 28
GOLDEN = Path(__file__).parent / "golden" / "streams.json"
BOTH = pytest.mark.parametrize("coder", [_native, _reference], ids=["native", "twin"])


@dataclass(frozen=True)
class Matrix:
    """What `encode_ints` takes."""

    symbols: np.ndarray
    scale: np.ndarray
    context: np.ndarray
    neighbors: np.ndarray
    limits: np.ndarray

    @property
    def rest(self) -> tuple[np.ndarray, ...]:
        return self.scale, self.context, self.neighbors, self.limits

    def encode(self, coder) -> bytes:
        return coder.encode_ints(self.symbols, *self.rest)

    def decode(self, coder, data: bytes) -> np.ndarray:
        return coder.decode_ints(data, self.symbols.shape[1], *self.rest)


def causal(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    rows = [[rng.integers(-1, i) if i else -1 for _ in range(k)] for i in range(n)]
    return np.array(rows, np.int32).reshape(n, k)


def matrix(seed: int, n: int, c: int, k: int, magnitude: float, limited: bool) -> Matrix:
    rng = np.random.default_rng(seed)
    symbols = np.rint(rng.laplace(size=(n, c)) * magnitude).clip(-LARGEST, LARGEST)
    symbols = symbols.astype(np.int32)
    limits = NO_LIMITS
    if limited:
        limits = rng.integers(0, c + 1, n).astype(np.int32)
        for row, limit in zip(symbols, limits, strict=True):
            row[limit:] = 0
            if limit and row[limit - 1] == 0:
                row[limit - 1] = -1
    scale = rng.choice([1, 2, 8, 511, 1 << 24], n).astype(np.int32)
    context = rng.choice([0, 1, 15, 31], (n, 2)).astype(np.uint8)
    return Matrix(symbols, scale, context, causal(rng, n, k), limits)


# rows, channels, neighbours, magnitude, limits?
MATRICES = [
    (0, 1, 0, 1.0, False),
    (0, 48, 8, 1.0, True),
    (1, 1, 0, 0.5, False),
    (1, 1, 4, 5.0, True),
    (1, 48, 8, 3.0, True),
    (2, 3, 1, 1.0, False),
    (63, 2, 4, 0.1, False),
    (300, 1, 4, 0.4, False),
    (150, 3, 5, 6.0, False),
    (60, 45, 4, 0.3, True),
    (17, 48, 8, 1.0, False),
    (31, 9, 2, 40.0, True),
    (12, 3, 2, 2.0**14, False),
    (7, 5, 3, 2.0**23, False),
    (5, 2, 8, 2.0**40, True),  # every symbol at the limit of the range
]


@pytest.mark.parametrize("case", MATRICES, ids=str)
def test_ints_equal_their_twin(case):
    m = matrix(len(str(case)), *case)
    data = m.encode(_native)
    assert data == m.encode(_reference)
    np.testing.assert_array_equal(m.decode(_native, data), m.symbols)
    np.testing.assert_array_equal(m.decode(_reference, data), m.symbols)


def test_long_streams_equal_their_twin():
    """Long enough for probabilities to meet their floor and counts theirs."""
    zeros = np.zeros((3000, 1), np.int32)
    zeros[2900] = 7
    m = Matrix(
        zeros, np.ones(3000, np.int32), np.zeros((3000, 2), np.uint8),
        np.zeros((3000, 0), np.int32), NO_LIMITS,
    )  # fmt: skip
    data = m.encode(_native)
    assert data == m.encode(_reference)
    assert len(data) < 20


matrices = st.builds(
    matrix,
    st.integers(0, 2**32),
    st.integers(0, 80),
    st.integers(1, 48),
    st.integers(0, 8),
    st.sampled_from([0.05, 0.5, 4.0, 1000.0, 2.0**22]),
    st.booleans(),
)


@given(matrices)
@settings(max_examples=100, deadline=None)
def test_ints_round_trip(m):
    data = m.encode(_native)
    np.testing.assert_array_equal(m.decode(_native, data), m.symbols)
    assert not data.endswith(b"\0")


@given(st.integers(1, 256), st.integers(0, 40))
@settings(max_examples=20, deadline=None)
def test_zeros_cost_almost_nothing(channels, n):
    m = matrix(0, n, channels, 2, 0.0, False)
    assert len(m.encode(_native)) <= 2 + n * channels // 40


# Damage


def outcome(decode, *arguments) -> np.ndarray | str:
    try:
        return decode(*arguments)
    except ValueError as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < 200
        return message


def same(a: np.ndarray | str, b: np.ndarray | str) -> bool:
    return np.array_equal(a, b) and type(a) is type(b)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    kind = rng.integers(4)
    if kind == 0:
        return data[: rng.integers(len(data) + 1)]
    if kind == 1:
        return rng.bytes(int(rng.integers(80)))
    if kind == 2:
        return data + rng.bytes(int(rng.integers(1, 4)))
    changed = bytearray(data or b"\0")
    for _ in range(rng.integers(1, 4)):
        changed[rng.integers(len(changed))] ^= 1 << rng.integers(8)
    return bytes(changed)


@given(matrices, st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_damaged_ints_end_in_one_line_or_a_matrix(m, seed):
    data = damaged(m.encode(_native), np.random.default_rng(seed))
    found = outcome(m.decode, _native, data)
    if isinstance(found, str):
        assert found == "coded integers: bytes left over after the last symbol"
    else:
        assert found.shape == m.symbols.shape
        assert found.dtype == np.int32
        assert abs(found.astype(np.int64)).max(initial=0) < 1 << 25


@pytest.mark.parametrize("seed", range(12))
def test_damaged_ints_decode_as_their_twin_does(seed):
    m = matrix(seed, 1 + seed * 2, 1 + seed % 5, seed % 9, 3.0, seed % 2 == 0)
    data = damaged(m.encode(_native), np.random.default_rng(seed))
    assert same(outcome(m.decode, _native, data), outcome(m.decode, _reference, data))


def tree(seed: int, n: int, depth: int, spread: int) -> np.ndarray:
    """Sorted codes: uniform within the last `spread` bits of one place, some repeated."""
    rng = np.random.default_rng(seed)
    bits = min(3 * depth, spread)
    codes = rng.integers(0, 1 << bits, n, dtype=np.uint64)
    codes += np.uint64(((1 << 3 * depth) - 1) >> bits << bits)
    return np.sort(codes[rng.integers(0, max(1, n // 2), n)] if n and seed % 2 else codes)


@pytest.mark.parametrize(
    ("n", "depth", "spread"),
    [
        (0, 0, 0), (0, 20, 60), (1, 0, 0), (1, 1, 3), (1, 20, 60), (5, 0, 0), (40, 1, 3),
        (2, 20, 60), (63, 3, 9), (300, 4, 12), (300, 3, 60), (120, 8, 24), (30, 20, 9),
    ],
)  # fmt: skip
def test_trees_equal_their_twin(n, depth, spread):
    for seed in (0, 1):
        codes = tree(seed, n, depth, spread)
        data = _native.encode_octree(codes, depth)
        assert data == _reference.encode_octree(codes, depth)
        np.testing.assert_array_equal(_native.decode_octree(data, depth, n), codes)
        np.testing.assert_array_equal(_reference.decode_octree(data, depth, n), codes)


trees = st.tuples(
    st.integers(0, 2**32), st.integers(0, 400), st.integers(0, 20), st.integers(1, 60)
)


@given(trees)
@settings(max_examples=80, deadline=None)
def test_trees_round_trip(case):
    codes, depth = tree(*case), case[2]
    data = _native.encode_octree(codes, depth)
    np.testing.assert_array_equal(_native.decode_octree(data, depth, len(codes)), codes)
    for wrong in {0, max(0, len(codes) - 1)} - {len(codes)}:
        found = outcome(_native.decode_octree, data, depth, wrong)
        assert isinstance(found, str) or len(found) == wrong


@given(trees, st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_damaged_trees_end_in_one_line_or_sorted_codes(case, seed):
    codes, depth = tree(*case), case[2]
    data = damaged(_native.encode_octree(codes, depth), np.random.default_rng(seed))
    found = outcome(_native.decode_octree, data, depth, len(codes))
    if isinstance(found, str):
        assert found.startswith("octree")
    else:
        assert found.shape == codes.shape
        assert (np.diff(found.astype(np.int64)) >= 0).all()
        assert int(found.max(initial=0)) >> 3 * depth == 0


@pytest.mark.parametrize("seed", range(12))
def test_damaged_trees_decode_as_their_twin_does(seed):
    codes = tree(seed, 3 * seed, 1 + seed, 20)
    data = damaged(_native.encode_octree(codes, 1 + seed), np.random.default_rng(seed))
    arguments = data, 1 + seed, len(codes)
    assert same(
        outcome(_native.decode_octree, *arguments), outcome(_reference.decode_octree, *arguments)
    )


# Neighbours


@pytest.mark.parametrize("k", range(9))
def test_neighbors_equal_their_twin(k):
    for n, depth, spread in ((0, 5, 9), (1, 0, 0), (9, 20, 60), (90, 3, 9), (200, 20, 30)):
        codes = tree(n, n, depth, spread)
        found = _native.neighbors(codes, depth, k)
        assert found.shape == (n, k)
        np.testing.assert_array_equal(found, _reference.neighbors(codes, depth, k))


@given(trees, st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_neighbors_are_earlier_and_distinct_and_as_many_as_there_can_be(case, k):
    found = entropy.causal_neighbors(tree(*case), case[2], k)
    for i, row in enumerate(found.tolist()):
        there = [j for j in row if j >= 0]
        assert len(set(there)) == len(there) == min(i, k)
        assert all(j < i for j in there)
        assert row[len(there) :] == [-1] * (k - len(there))


def test_the_nearest_neighbor_is_the_nearest():
    """In a full grid the cells around hold the nearest point that came before, by brute force."""
    cells = np.indices((8, 8, 8)).reshape(3, -1).T.astype(np.uint32)
    codes = np.sort(entropy.morton_codes(cells))
    places = entropy.morton_cells(codes).astype(np.int64)
    found = entropy.causal_neighbors(codes, 3, 1)[:, 0]
    for i in range(1, len(codes)):
        distance = ((places[:i] - places[i]) ** 2).sum(1)
        assert distance[found[i]] == distance.min()


# Prediction


@dataclass(frozen=True)
class Loop:
    """What both halves of closed-loop prediction take."""

    scale: np.ndarray
    neighbors: np.ndarray
    side: np.ndarray
    weights: np.ndarray
    fill: np.ndarray

    @property
    def all(self) -> tuple[np.ndarray, ...]:
        return self.scale, self.neighbors, self.side, self.weights, self.fill


def loop(seed: int, n: int, c: int, k: int, magnitude: float) -> tuple[np.ndarray, Loop]:
    """Wanted values, and a predictor whose gains are tame for small magnitudes only."""
    rng = np.random.default_rng(seed)
    previous, sides = int(rng.integers(0, 5)), int(rng.integers(0, 4))
    columns = k + previous + sides + 1
    gain = (1 << 20) if magnitude > 1e6 else 5000 // columns

    def whole(most: int, *shape: int) -> np.ndarray:
        return rng.integers(-most, most + 1, shape).astype(np.int32)

    weights = whole(gain, c, columns)
    weights[:, -1] = whole(VALUE_LIMIT if magnitude > 1e6 else 1000, c)
    top = int(min(magnitude * 4, VALUE_LIMIT))
    wanted = np.rint(rng.normal(size=(n, c)) * magnitude).clip(-(2**31), 2**31 - 1)
    scale = rng.choice([1, 3, 8, 64, 1 << 24] if magnitude > 1e6 else [1, 3, 8, 64], n)
    return wanted.astype(np.int32), Loop(
        scale.astype(np.int32), causal(rng, n, k), whole(top, n, sides), weights, whole(top, c)
    )


LOOPS = [
    (0, 1, 0, 10.0), (1, 1, 0, 10.0), (1, 48, 8, 10.0), (40, 3, 4, 300.0), (63, 2, 1, 1e4),
    (30, 45, 4, 20.0), (40, 5, 8, 1e9), (40, 1, 2, 2.0**28),
]  # fmt: skip


@pytest.mark.parametrize("case", LOOPS, ids=str)
def test_prediction_equals_its_twin(case):
    wanted, p = loop(3, *case)
    for rounding, bias in ((32, 0), (1, 31), (64, 7)):
        native = _native.quantise_predicted(wanted, *p.all, rounding, bias)
        twin = _reference.quantise_predicted(wanted, *p.all, rounding, bias)
        for a, b in zip(native, twin, strict=True):
            np.testing.assert_array_equal(a, b)
        for coder in (_native, _reference):
            restored = coder.reconstruct_predicted(native[0], *p.all, bias)
            np.testing.assert_array_equal(restored, native[1])


@given(
    st.integers(0, 2**32), st.integers(0, 60), st.integers(1, 48), st.integers(0, 8),
    st.sampled_from([1.0, 100.0, 1e5, 2.0**27, 1e12]), st.integers(1, 64), st.integers(0, 31),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_what_the_encoder_saw_is_what_the_decoder_restores(seed, n, c, k, size, rounding, bias):
    wanted, p = loop(seed, n, c, k, size)
    symbols, values = entropy.quantise_predicted(wanted, *p.all, rounding, bias)
    np.testing.assert_array_equal(entropy.reconstruct_predicted(symbols, *p.all, bias), values)
    assert abs(symbols.astype(np.int64)).max(initial=0) <= LARGEST
    assert abs(values.astype(np.int64)).max(initial=0) <= VALUE_LIMIT
    if size <= 1e5:  # Nothing is clipped: the rounding and the bias bound the error.
        most = np.maximum(rounding, 64 - rounding) * p.scale / 64 + p.scale * bias // 64
        assert (abs(values.astype(np.int64) - wanted) <= most[:, None]).all()


@BOTH
def test_rounding_by_hand(coder):
    """A step of 8; `round` is the fraction of a step, in 1/64, from which a magnitude goes up."""
    wanted = np.array([[3], [4], [5], [-4], [12], [-20]], np.int32)
    none = np.zeros((6, 0), np.int32)
    p = np.full(6, 8, np.int32), none, none, np.zeros((1, 1), np.int32), np.zeros(1, np.int32)
    for rounding, expected in ((32, [0, 1, 1, -1, 2, -3]), (33, [0, 0, 1, 0, 1, -2])):
        symbols, values = coder.quantise_predicted(wanted, *p, rounding, 0)
        assert symbols[:, 0].tolist() == expected
        assert values[:, 0].tolist() == [8 * s for s in expected]
    _, values = coder.quantise_predicted(wanted, *p, 32, 17)  # pulled back by 8 * 17 // 64 = 2
    assert values[:, 0].tolist() == [0, 6, 6, -6, 14, -22]


@BOTH
def test_prediction_by_hand(coder):
    """Half the neighbour, a quarter of the channel before, three of the side, and a constant."""
    p = (
        np.array([1, 1], np.int32),
        np.array([[-1], [0]], np.int32),
        np.array([[5], [-7]], np.int32),
        np.array([[2048, 1024, 3 * 4096, 10], [2048, 1024, 0, -1]], np.int32),
        np.array([100, -101], np.int32),
    )
    values = coder.reconstruct_predicted(np.array([[0, 0], [2, -1]], np.int32), *p, 0)
    first = [50 + 15 + 10, -51 - 1 + 19]  # -50.5 + 18.75 - 1 rounds to -33
    second = [38 - 21 + 10 + 2, -17 - 1 + 7 - 1]  # 37.5 rounds up; -16.5 + 7.25 - 1 to -10
    assert values.tolist() == [first, [second[0], -10 - 1]]
    assert second[0] == 29


# Bits, cells, bases


@given(
    st.lists(st.integers(0, 32).flatmap(lambda w: st.tuples(st.just(w), st.integers(0, 2**w - 1))))
)
@settings(max_examples=80, deadline=None)
def test_bits_round_trip_and_equal_their_twin(pairs):
    widths = np.array([w for w, _ in pairs], np.uint8)
    values = np.array([v for _, v in pairs], np.uint32)
    data = entropy.pack_bits(values, widths)
    assert data == _reference.pack_bits(values, widths)
    assert len(data) == -(-int(widths.sum()) // 8)
    for coder in (_native, _reference):
        np.testing.assert_array_equal(coder.unpack_bits(data, widths), values)
        assert "bits: expected" in outcome(coder.unpack_bits, data + b"\0", widths)
        if data:
            assert "bits: expected" in outcome(coder.unpack_bits, data[:-1], widths)


@BOTH
def test_bits_by_hand(coder):
    values, widths = np.array([1, 0, 5, 0x12345678], np.uint32), np.array([1, 0, 3, 32], np.uint8)
    assert coder.pack_bits(values, widths).hex() == "d123456780"  # 1 101 0001 0010 ...


@given(st.lists(st.tuples(*[st.integers(0, 2**21 - 1)] * 3), max_size=50))
@settings(max_examples=50, deadline=None)
def test_morton_codes_round_trip_and_equal_their_twin(cells):
    cells = np.array(cells, np.uint32).reshape(-1, 3)
    codes = entropy.morton_codes(cells)
    np.testing.assert_array_equal(codes, _reference.morton_codes(cells))
    for coder in (_native, _reference):
        np.testing.assert_array_equal(coder.morton_cells(codes), cells)


def test_morton_codes_by_hand():
    cells = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [3, 0, 4], [2**21 - 1] * 3], np.uint32)
    assert entropy.morton_codes(cells).tolist() == [1, 2, 4, 0o411, 2**63 - 1]


@given(st.integers(0, 2**32), st.integers(0, 40), st.integers(0, 9), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_bases_equal_their_twin(seed, n, d, e):
    rng = np.random.default_rng(seed)
    values = rng.integers(-(2**31), 2**31, (n, d)).astype(np.int32)
    values[rng.random((n, d)) < 0.3] = 0
    basis, offset = rng.normal(size=(d, e)) * 10.0 ** rng.integers(-9, 30), rng.normal(size=e)
    native = entropy.apply_basis(values, basis, offset)
    assert native.dtype == np.float32
    assert native.shape == (n, e)
    assert native.tobytes() == _reference.apply_basis(values, basis, offset).tobytes()


@BOTH
def test_bases_sum_in_order_and_round_apart(coder):
    """1e16 + 1 - 1e16 is 0 in this order; a fused multiply-add would keep the 1."""
    basis = np.array([[1e16], [1.0], [-1e16]])
    found = coder.apply_basis(np.array([[1, 1, 1]], np.int32), basis, np.zeros(1))
    assert found.tolist() == [[0.0]]
    third = 1.0 / 3.0  # 3 * third rounds to 1; fused with -1 it would leave -2^-54.
    found = coder.apply_basis(np.array([[3]], np.int32), np.array([[third]]), np.array([-1.0]))
    assert found.tolist() == [[0.0]]


# The bytes themselves


def golden_cases() -> dict:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@BOTH
def test_golden_ints(coder):
    for case in golden_cases()["ints"]:
        n, c = len(case["symbols"]), case["channels"]
        m = Matrix(
            np.array(case["symbols"], np.int32).reshape(n, c),
            np.array(case["scale"], np.int32),
            np.array(case["context"], np.uint8).reshape(n, 2),
            np.array(case["neighbors"], np.int32).reshape(n, -1),
            np.array(case["limits"], np.int32),
        )
        assert m.encode(coder).hex() == case["data"]
        np.testing.assert_array_equal(m.decode(coder, bytes.fromhex(case["data"])), m.symbols)


@BOTH
def test_golden_trees(coder):
    for case in golden_cases()["octree"]:
        codes, depth = np.array(case["codes"], np.uint64), case["depth"]
        assert coder.encode_octree(codes, depth).hex() == case["data"]
        data = bytes.fromhex(case["data"])
        np.testing.assert_array_equal(coder.decode_octree(data, depth, len(codes)), codes)
        assert coder.neighbors(codes, depth, 4).tolist() == case["neighbors"]


# Arguments


def zeros(*shape: int, dtype=np.int32) -> np.ndarray:
    return np.zeros(shape, dtype)


INTS = {
    "symbols": np.ones((2, 3), np.int32),
    "scale": np.ones(2, np.int32),
    "context": zeros(2, 2, dtype=np.uint8),
    "neighbors": np.array([[-1], [0]], np.int32),
    "limits": NO_LIMITS,
}
LOOP = {
    "wanted": zeros(2, 3),
    "scale": np.ones(2, np.int32),
    "neighbors": np.array([[-1], [0]], np.int32),
    "side": zeros(2, 1),
    "weights": zeros(3, 3),
    "fill": zeros(3),
    "round": 32,
    "bias": 0,
}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("symbols", np.full((2, 3), 1 << 24, np.int32), "magnitudes below 2^24, got 16777216"),
        ("symbols", np.full((2, 3), -(2**31), np.int32), "magnitudes below 2^24"),
        ("scale", np.ones(3, np.int32), "2 rows, got 3"),
        ("scale", zeros(2), "1..2^24, got 0"),
        ("scale", np.full(2, (1 << 24) + 1, np.int32), "1..2^24"),
        ("context", zeros(1, 2, dtype=np.uint8), "[rows, 2]"),
        ("context", zeros(2, 3, dtype=np.uint8), "[rows, 2]"),
        ("context", np.full((2, 2), 32, np.uint8), "below 32, got 32"),
        ("neighbors", zeros(1, 1), "2 rows, got 1"),
        ("neighbors", np.full((2, 9), -1, np.int32), "at most 8 columns, got 9"),
        ("neighbors", zeros(2, 1), "an earlier row or -1 in row 0, got 0"),
        ("neighbors", np.array([[-1], [1]], np.int32), "an earlier row or -1 in row 1, got 1"),
        ("neighbors", np.array([[-1], [-2]], np.int32), "an earlier row or -1 in row 1, got -2"),
        ("limits", zeros(1), "none or one a row, got 1"),
        ("limits", np.array([3, 4], np.int32), "0..channels, got 4"),
        ("limits", np.array([3, -1], np.int32), "0..channels, got -1"),
    ],
)
def test_wrong_matrices_are_named(name, value, expected):
    arguments = {**INTS, name: value}
    assert outcome(_native.encode_ints, *arguments.values()).startswith(
        f"{name}: expected {expected}"
    )
    if name == "symbols":
        return
    rest = [arguments[key] for key in ("scale", "context", "neighbors", "limits")]
    if name == "scale" and len(value) == 3:
        return  # When decoding, the scale says how many rows there are.
    assert outcome(_native.decode_ints, b"", 3, *rest).startswith(f"{name}: expected {expected}")


def test_symbols_that_break_their_limits_are_named():
    def message(limit: int, symbols: list[int]) -> str:
        limits = np.array([limit, 0], np.int32)
        rows = np.array([symbols, [0, 0, 0]], np.int32)
        return outcome(_native.encode_ints, *{**INTS, "symbols": rows, "limits": limits}.values())

    assert message(1, [1, 0, 2]) == "symbols: expected zero from the limit on, got 2"
    assert message(2, [1, 0, 0]) == "symbols: expected not zero just before the limit, got 0"


@pytest.mark.parametrize("channels", [0, -1, 257])
def test_wrong_channel_counts_are_named(channels):
    rest = [INTS[key] for key in ("scale", "context", "neighbors", "limits")]
    assert outcome(_native.decode_ints, b"", channels, *rest) == (
        f"channels: expected 1..256, got {channels}"
    )


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("scale", zeros(2), "1..2^24, got 0"),
        ("neighbors", zeros(2, 1), "an earlier row or -1 in row 0, got 0"),
        ("side", zeros(1, 1), "one row a symbol row, got 1"),
        ("side", np.full((2, 1), VALUE_LIMIT + 1, np.int32), "magnitudes up to 2^28"),
        ("weights", zeros(2, 3), "one row a channel, got 2"),
        ("weights", zeros(3, 2), "k + previous (0..16) + sides + 1 columns, got 2"),
        ("weights", zeros(3, 20), "k + previous (0..16) + sides + 1 columns, got 20"),
        ("weights", np.full((3, 3), (1 << 20) + 1, np.int32), "magnitudes up to 2^20"),
        ("fill", zeros(2), "one value a channel, got 2"),
        ("fill", np.full(3, -VALUE_LIMIT - 1, np.int32), "magnitudes up to 2^28"),
        ("round", 0, "1..64, got 0"),
        ("round", 65, "1..64, got 65"),
        ("bias", -1, "0..31, got -1"),
        ("bias", 32, "0..31, got 32"),
    ],
)
def test_wrong_predictions_are_named(name, value, expected):
    arguments = {**LOOP, name: value}
    assert outcome(_native.quantise_predicted, *arguments.values()).startswith(
        f"{name}: expected {expected}"
    )
    del arguments["round"]
    if name != "round":
        assert outcome(_native.reconstruct_predicted, *arguments.values()).startswith(
            f"{name}: expected {expected}"
        )


def u64(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        ("encode_octree", (u64(1, 0), 1), "codes: expected sorted, at, got 1"),
        ("encode_octree", (u64(0, 8), 1), "codes: expected within the depth, at, got 1"),
        ("encode_octree", (u64(), 21), "depth: expected 0..20, got 21"),
        ("encode_octree", (u64(), -1), "depth: expected 0..20, got -1"),
        ("decode_octree", (b"", 21, 1), "depth: expected 0..20, got 21"),
        ("decode_octree", (b"", 1, -1), "count: expected 0..2^22, got -1"),
        ("decode_octree", (b"", 1, (1 << 22) + 1), "count: expected 0..2^22, got 4194305"),
        ("neighbors", (u64(1, 0), 1, 1), "codes: expected sorted, at, got 1"),
        ("neighbors", (u64(0), 1, 9), "k: expected 0..8, got 9"),
        ("neighbors", (u64(0), 1, -1), "k: expected 0..8, got -1"),
        ("pack_bits", (np.ones(1, np.uint32), zeros(2, dtype=np.uint8)), "widths: expected one a"),
        ("pack_bits", (np.ones(1, np.uint32), zeros(1, dtype=np.uint8)), "values: expected within"),
        ("pack_bits", (np.ones(1, np.uint32), np.full(1, 33, np.uint8)), "widths: expected 0..32"),
        ("unpack_bits", (b"", np.full(1, 33, np.uint8)), "widths: expected 0..32, got 33"),
        ("morton_codes", (zeros(1, 2, dtype=np.uint32),), "cells: expected [N, 3], got 2"),
        ("morton_codes", (np.full((1, 3), 1 << 21, np.uint32),), "cells: expected below 2^21"),
        ("apply_basis", (zeros(1, 2), np.zeros((3, 1)), np.zeros(1)), "basis: expected 2 rows"),
        ("apply_basis", (zeros(1, 2), np.zeros((2, 1)), np.zeros(2)), "offset: expected 1 values"),
    ],
)
def test_wrong_arguments_are_named(function, arguments, expected):
    assert outcome(getattr(_native, function), *arguments).startswith(expected)

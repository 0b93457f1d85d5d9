"""The integer coder: equal to its plain twin, loss-free, fixed in its bytes, safe on any bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldpress.quant import _native, _reference, _reference_ints, entropy

NO_LIMITS = np.zeros(0, np.int32)
LARGEST = (1 << 24) - 1
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


def test_tallies_begin_with_rising_edges():
    """Else a token would have no interval; updates keep a distance of one."""
    priors = [_reference_ints.level_prior(e) for e in range(_reference_ints.LEVELS)]
    priors += [_reference_ints.last_prior(e) for e in range(_reference_ints.LEVELS)]
    priors += [_reference_ints.even_prior(b) for b in range(1, 5)]
    for _, *edges in priors:
        assert len(edges) == 15
        assert edges[0] >= 1
        assert edges[-1] < (1 << 15) - 16
        assert (np.diff(edges) >= 1).all()


@pytest.mark.parametrize("size", [0, 1, 3, 4, 8, 12, 40, 41, 42, 43, 2000])
def test_streams_of_every_length_end_where_they_should(size):
    """Coin flips: lengths of all remainders, one of which tells the words from the state."""
    rng = np.random.default_rng(size)
    symbols = rng.integers(0, 4, (size, 1)).astype(np.int32)
    m = Matrix(
        symbols, np.ones(size, np.int32), np.zeros((size, 2), np.uint8),
        np.zeros((size, 0), np.int32), NO_LIMITS,
    )  # fmt: skip
    data = m.encode(_native)
    assert data == m.encode(_reference)
    np.testing.assert_array_equal(m.decode(_native, data), symbols)
    for wrong in (data[:-1], data + b"\0", data + b"\1\2\3\4"):
        if data:
            assert isinstance(outcome(m.decode, _native, wrong), str)


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
        assert found == "coded integers: the stream does not end with the last symbol"
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


@given(
    st.integers(0, 2**32), st.integers(0, 9), st.integers(1, 40), st.integers(1, 40),
    st.sampled_from([100, 2**15, 2**15 + 1, 2**28]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_byte_bases_equal_their_twin(seed, n, d, e, most):
    """Sums of small values are made in 16 and 32 bits, of others in 64."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-most, most, (n, d)).astype(np.int32)
    basis = rng.integers(-128, 128, (d, e)).astype(np.int8)
    found, expected = np.full((2, n, e + 3), np.float32(7))
    entropy.apply_bytes(values, basis, 0.1, found, 2)
    _reference.apply_bytes(values, basis, 0.1, expected, 2)
    assert found.tobytes() == expected.tobytes()
    assert (found[:, [0, 1, -1]] == 7).all()


def test_byte_bases_by_hand():
    out = np.zeros((2, 3), np.float32)
    values, basis = np.array([[3, -1], [-32768, 32767]], np.int32), np.array([[2], [-128]], np.int8)
    entropy.apply_bytes(values, basis, 0.5, out, 1)
    assert out.tolist() == [[0, 67, 0], [0, (-65536 - 32767 * 128) / 2, 0]]


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

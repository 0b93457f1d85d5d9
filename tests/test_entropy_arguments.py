"""The integer coder's arguments: what is out of range is named in one line."""

from __future__ import annotations

import numpy as np
import pytest

from fieldpress.quant import _native

NO_LIMITS = np.zeros(0, np.int32)
VALUE_LIMIT = 1 << 28


def outcome(function, *arguments) -> str:
    with pytest.raises(ValueError, match=r"^[a-z]+: expected ") as caught:
        function(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 200
    return message


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


def bytes_of(rows: int, columns: int, n: int, width: int, first: int) -> tuple:
    """Arguments of `apply_bytes` for one row of two values."""
    basis, out = zeros(rows, columns, dtype=np.int8), np.zeros((n, width), np.float32)
    return zeros(1, 2), basis, 1.0, out, first


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
        ("apply_bytes", bytes_of(3, 1, 1, 1, 0), "basis: expected 2 rows, got 3"),
        ("apply_bytes", bytes_of(2, 1, 2, 1, 0), "out: expected 1 rows, got 2"),
        ("apply_bytes", bytes_of(2, 2, 1, 3, 2), "out: expected columns for the basis, got 3"),
        ("apply_bytes", bytes_of(2, 1, 1, 1, -1), "out: expected columns for the basis, got 1"),
        ("quaternions", (np.zeros((2, 2)), np.zeros(1)), "square: expected two numbers a roll"),
        ("quaternions", (np.zeros((1, 3)), np.zeros(1)), "square: expected two numbers a roll"),
    ],
)
def test_wrong_arguments_are_named(function, arguments, expected):
    assert outcome(getattr(_native, function), *arguments).startswith(expected)

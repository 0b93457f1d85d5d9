"""The .fpz container: round trips, prefixes, damage, hostile files, and its exact bytes."""

from __future__ import annotations

import json
import random
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldpress.quant import _reference
from fieldpress.quant.container import CODECS, Section, crc32c, read, sizes, write

# Written by hand from docs/format.md; only the three checksums came from a program.
GOLDEN_HEADER = {"kind": "none", "count": 2, "name": "é"}
GOLDEN_SECTIONS = [
    Section("a", "raw", b"\x01\x02\x03", 3),
    Section("pos/0", "octree", b"\xff", 300),
    Section("b", "bits", b"", 0),
]
GOLDEN = bytes.fromhex(
    "8946505a 0100 0000 25000000 03000000 20000000"
    "7b22636f756e74223a322c226b696e64223a226e6f6e65222c226e616d65223a22c3a9227d"
)


def file_of(table: bytes, count: int, payloads: bytes = b"", text: bytes = b"{}") -> bytes:
    """A file with sound checksums around whatever it is given."""
    front = struct.pack("<4sHHIII", b"\x89FPZ", 1, 0, len(text), count, len(table)) + text
    return b"".join(
        (front, crc32c(front).to_bytes(4, "little"), table, crc32c(table).to_bytes(4, "little"))
    ) + bytes(payloads)


def entry(name: bytes, codec: int, raw: bytes, coded: bytes, payload: bytes = b"") -> bytes:
    crc = crc32c(payload).to_bytes(4, "little")
    return bytes((len(name),)) + name + bytes((codec,)) + raw + coded + crc


def refusal(data: bytes, **options: bool) -> str:
    with pytest.raises(ValueError, match=r"^f\.fpz: ") as caught:
        read(data, name="f.fpz", **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return str(caught.value)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc/é\n"), inner),
    max_leaves=8,
)
headers = st.dictionaries(st.text("abcdefé\n", max_size=4), json_values, max_size=4)
names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20).filter(
    lambda name: name != "header"
)


@st.composite
def section_lists(draw: st.DrawFn) -> list[Section]:
    found = []
    for name in draw(st.lists(names, unique=True, max_size=6)):
        payload = draw(st.binary(max_size=40))
        codec = draw(st.sampled_from(sorted(CODECS)))
        highest = {"raw": len(payload), "zlib": 1032 * len(payload)}.get(codec, 2**63 - 1)
        lowest = len(payload) if codec == "raw" else 0
        found.append(Section(name, codec, payload, draw(st.integers(lowest, highest))))
    return found


@given(headers, section_lists(), st.sampled_from((bytes, bytearray, memoryview)))
def test_round_trip(header, sections, kind):
    data = write(header, sections)
    for partial in (False, True):
        found = read(kind(data), partial=partial)
        assert found.header == header
        assert found.sections == sections
        assert not found.truncated
    assert write(found.header, found.sections) == data


@given(headers, section_lists())
def test_sizes_sum_to_the_file(header, sections):
    data = write(header, sections)
    found = sizes(data)
    assert sum(found.values()) == len(data)
    assert list(found) == ["header", *(section.name for section in sections)]
    assert all(found[section.name] == len(section.payload) for section in sections)


@given(headers, section_lists())
def test_every_prefix_cut_at_a_boundary_reads(header, sections):
    data = write(header, sections)
    end = len(data) - sum(len(section.payload) for section in sections)
    for count in range(len(sections) + 1):
        found = read(data[:end], partial=True)
        assert found.header == header
        assert found.sections[:count] == sections[:count]
        # Empty sections that follow a cut are whole; no other section may appear.
        assert found.sections == sections[: len(found.sections)]
        assert all(not section.payload for section in found.sections[count:])
        assert found.truncated == (len(found.sections) < len(sections))
        end += len(sections[count].payload) if count < len(sections) else 0


def test_every_cut():
    data = write(GOLDEN_HEADER, GOLDEN_SECTIONS)
    payloads = len(data) - 4
    for end in range(len(data)):
        message = refusal(data[:end])
        with pytest.raises(ValueError, match=r"^<bytes>: "):
            sizes(data[:end])
        if end < payloads:
            assert "header: expected" in message or "section table: expected" in message
            refusal(data[:end], partial=True)
        else:
            cut = "'a'" if end < payloads + 3 else "'pos/0'"
            assert f"section {cut}: expected" in message
            found = read(data[:end], partial=True)
            assert found.truncated
            assert found.sections == GOLDEN_SECTIONS[: int(end >= payloads + 3)]


@pytest.mark.parametrize("partial", [False, True])
def test_flipped_bits_are_seen(partial):
    rng = random.Random(1)
    sections = [Section(f"s/{i}", "ints", rng.randbytes(9 * i), 99) for i in range(6)]
    data = write({"kind": "none", "seed": 7}, sections)
    for _ in range(500):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        if damaged != data:  # Two flips may cancel.
            refusal(bytes(damaged), partial=partial)


def test_trailing_bytes_are_refused():
    data = write({}, GOLDEN_SECTIONS) + b"\0"
    assert "end of file: expected" in refusal(data)
    assert "end of file: expected" in refusal(data, partial=True)


def test_sizes_are_checked_before_anything_is_allocated():
    huge = b"\xff" * 8 + b"\x7f"  # 2^63 - 1
    front = b"\x89FPZ\1\0\0\0"
    top = b"\xff" * 4
    hostile = {
        "section 'x': expected 9223372036854775807 bytes, got 3": file_of(
            entry(b"x", 3, huge, huge), 1, b"abc"
        ),
        "section 'x': expected raw size 3": file_of(entry(b"x", 0, huge, b"\3"), 1, b"abc"),
        "section 'x': expected raw size <= 3096": file_of(entry(b"x", 1, huge, b"\3"), 1, b"abc"),
        "header: expected at most 1048576 bytes": front + top + bytes(40),
        "section table: expected at least 9 bytes for each": file_of(b"", 2**32 - 1),
        "section table: expected 4294967299 bytes, got 8": (
            lambda head: head + crc32c(head).to_bytes(4, "little") + bytes(8)
        )(front + struct.pack("<III", 2, 1, 2**32 - 1) + b"{}"),
    }
    tracemalloc.start()
    try:
        for expected, data in hostile.items():
            assert expected in refusal(data)
        found = read(
            hostile["section 'x': expected 9223372036854775807 bytes, got 3"], partial=True
        )
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert found.truncated
    assert found.sections == []


@pytest.mark.parametrize(
    ("table", "count", "expected"),
    [
        (entry(b"x", 9, b"\0", b"\0"), 1, "section 'x': expected a codec in 0..4, got 9"),
        (entry(b"x", 0, b"\0", b"\0") * 2, 2, "section 'x': expected one section of this name"),
        (entry(b"header", 0, b"\0", b"\0"), 1, "section 'header': expected another name"),
        (entry(b"x\n", 9, b"\0", b"\0"), 1, r"section 'x\n': expected a codec"),
        (entry(b"x", 3, b"\x80\0", b"\0"), 1, "section 'x': expected a size in its shortest form"),
        (
            entry(b"x", 3, b"\xff" * 9 + b"\1", b"\0"),
            1,
            "section 'x': expected a size of at most 9",
        ),
        (entry(b"\xff", 0, b"\0", b"\0"), 1, "section table entry 0: expected a name in UTF-8"),
        (entry(b"", 0, b"\0", b"\0") + b"..", 1, "section table entry 0: expected a name and a"),
        (entry(b"x", 0, b"\0", b"\0") + b".", 1, "section table: expected 9 bytes, got 10"),
        (b"\xc8" + b"x" * 100, 1, "section table entry 0: expected a name and a codec"),
        (entry(b"xyz", 0, b"\0", b"\0")[:-1], 1, "section 'xyz': expected a checksum"),
    ],
)
def test_broken_tables_are_refused(table, count, expected):
    assert expected in refusal(file_of(table, count))
    assert expected in refusal(file_of(table, count), partial=True)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"3",
        b"\xff",
        b'{"a":1',
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"a":1,"a":2}',
        b'{"a":' + b"[" * 500_000,
        b'{"a":' + b"9" * 500_000 + b"}",
    ],
)
def test_headers_that_are_not_json_objects_are_refused(text):
    assert "f.fpz: header: expected" in refusal(file_of(b"", 0, text=text))


@given(st.binary(max_size=60), st.integers(0, 6), st.binary(max_size=8), st.booleans())
@settings(max_examples=300)
def test_arbitrary_tables_never_crash(table, count, payloads, partial):
    try:
        found = read(file_of(table, count, payloads), partial=partial)
    except ValueError:
        return
    assert len(found.sections) <= count


@given(st.binary(max_size=80), st.booleans())
def test_arbitrary_bytes_are_refused(data, partial):
    refusal(data, partial=partial)
    refusal(GOLDEN[:8] + data, partial=partial)


def test_other_versions_are_named():
    data = bytearray(write({}, []))
    data[4] = 2
    assert refusal(bytes(data)) == "f.fpz: header: expected version 1, got 2"
    data[4:8] = 1, 0, 3, 0
    assert refusal(bytes(data)) == "f.fpz: header: expected version 1, got flags 0x3"


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (Section("", "raw", b"", 0), "name of 1..255 bytes"),
        (Section("é" * 128, "raw", b"", 0), "name of 1..255 bytes"),
        (Section("\ud800", "raw", b"", 0), "name in UTF-8"),
        (Section("header", "raw", b"", 0), "another name"),
        (Section("x", "jpeg", b"", 0), "a codec of raw, zlib"),
        (Section("x", "raw", b"abc", 4), "raw size 3"),
        (Section("x", "zlib", b"abc", 3097), "raw size <= 3096"),
        (Section("x", "ints", b"abc", -1), "raw size in 0.."),
        (Section("x", "ints", b"abc", 2**63), "raw size in 0.."),
    ],
)
def test_impossible_sections_are_not_written(section, expected):
    with pytest.raises(ValueError, match=expected):
        write({}, [section])


def test_repeated_names_are_not_written():
    with pytest.raises(ValueError, match=r"^section 'a': expected one section of this name"):
        write({}, [GOLDEN_SECTIONS[0]] * 2)


@pytest.mark.parametrize(
    "header", [{"a": float("nan")}, {"a": b""}, {"a": {1: 2, "b": 3}}, {"a": "\ud800"}]
)
def test_headers_that_are_not_json_are_not_written(header):
    with pytest.raises(ValueError, match=r"^header: expected JSON values, got "):
        write(header, [])


def test_long_headers_are_refused_both_ways():
    longest = 2**20 - len('{"a":""}')
    assert read(write({"a": "x" * longest}, [])).header["a"] == "x" * longest
    with pytest.raises(ValueError, match="header: expected at most 1048576 bytes"):
        write({"a": "x" * (longest + 1)}, [])


def test_header_bytes_do_not_depend_on_the_order_of_keys():
    assert write({"b": 1, "a": {"d": 2, "c": 3}}, []) == write({"a": {"c": 3, "d": 2}, "b": 1}, [])


def test_it_costs_little():
    assert len(write({}, [])) == len(json.dumps({})) + 28
    sections = [Section(f"pos/{i}", "octree", bytes(16000), 10**6) for i in range(10)]
    overhead = sizes(write({}, sections))["header"] - len(write({}, []))
    assert overhead == 10 * (len("pos/0") + 11)


def test_golden_bytes():
    table = (
        b"\x01a\x00\x03\x03" + bytes.fromhex("1ef230f1")  # crc32c(01 02 03)
        + b"\x05pos/0\x02\xac\x02\x01" + bytes.fromhex("000000ff")  # crc32c(ff)
        + b"\x01b\x04\x00\x00" + bytes(4)  # crc32c()
    )  # fmt: skip
    crcs = [bytes.fromhex("41f3899d"), bytes.fromhex("c8209e06")]  # of GOLDEN, of the table
    expected = GOLDEN + crcs[0] + table + crcs[1] + b"\x01\x02\x03" + b"\xff"
    assert write(GOLDEN_HEADER, GOLDEN_SECTIONS).hex(" ") == expected.hex(" ")
    assert read(expected).header == GOLDEN_HEADER


def test_codec_numbers_are_fixed():
    assert CODECS == {"raw": 0, "zlib": 1, "octree": 2, "ints": 3, "bits": 4}


def test_crc32c_known_values():
    # RFC 3720, appendix B.4, and the usual check value.
    for data, expected in (
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ):
        assert crc32c(data) == expected
        assert _reference.crc32c(data) == expected


@given(st.binary(max_size=300))
def test_crc32c_equals_its_twin(data):
    assert crc32c(data) == _reference.crc32c(data)


def test_the_example_of_the_specification_reads():
    text = (Path(__file__).parents[1] / "docs" / "format.md").read_text(encoding="utf-8")
    lines = text.split("### 1.8")[1].split("```")[1].strip().splitlines()
    data = bytes.fromhex(" ".join(line[:66].strip() for line in lines))
    found = read(data)
    assert found.header == {"count": 2}
    assert found.sections == GOLDEN_SECTIONS[:1]

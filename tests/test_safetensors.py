"""The safetensors container and our tensors in it: to the bit, as the reference, and damaged."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch

from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.safetensors import read_safetensors, write_safetensors
from fieldpress.quant.safetensors import read_tensors, tensor_blocks


def packed(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    return {"x": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize("sh_degree", range(5))
@pytest.mark.parametrize("count", [0, 1, 77])
def test_round_trip_to_the_bit(tiny_model, sh_degree, count):
    model = tiny_model(count, sh_degree)
    model = SplatModel(**model.tensors(), antialiased=count == 1)
    if count:
        model.scales[0, 0] = -torch.inf
    got = read_safetensors(b"".join(write_safetensors(model)))
    for name, value in model.tensors().items():
        assert torch.equal(got.tensors()[name], value), name
    assert got.antialiased == model.antialiased


def test_the_reference_agrees(tiny_model):
    reference = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    model = tiny_model(9, 2)
    found = reference.load(b"".join(write_safetensors(model)))
    assert all(torch.equal(found[name], value) for name, value in model.tensors().items())
    tensors = {name: value.contiguous() for name, value in model.tensors().items()}
    theirs = read_safetensors(reference.save(tensors | {"other": torch.arange(3)}))
    assert torch.equal(theirs.shN, model.shN)


@pytest.mark.parametrize("code", ["<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "i1", "u1", "?", ">f4"])
def test_every_type_of_array(code):
    arrays = {"a": np.arange(12).reshape(3, 4).astype(code), "b": np.array(1, code)}
    arrays["c"] = np.zeros((0, 5), code)
    got, metadata = read_tensors(b"".join(tensor_blocks(arrays, {"k": "v"})))
    assert metadata == {"k": "v"}
    for name, array in arrays.items():
        assert got[name].shape == array.shape
        assert np.array_equal(got[name], array)


def test_bfloat16_reads():
    body = struct.pack("<2H", 0x3F80, 0xC000)
    got, _ = read_tensors(packed(entry("BF16", [2], [0, 4]), body))
    assert got["x"].tolist() == [1.0, -2.0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not safetensors, or cut short"),
        (struct.pack("<Q", 1 << 60), "not safetensors, or cut short"),
        (packed(b"[1"), "header is not JSON"),
        (packed(b"[" * 100_000), "header is not JSON"),
        (packed([1]), "expected an object"),
        (packed({"x": 3}), "expected a dtype such as F32, got None"),
        (packed(entry("F99")), "expected a dtype"),
        (packed(entry(shape=[-1])), "expected a shape and two offsets"),
        (packed(entry(offsets=[0])), "expected a shape and two offsets"),
        (packed(entry(shape=[1 << 40])), "expected 4398046511104 bytes within 0"),
        (packed(entry(offsets=[8, 16]), bytes(8)), "got 8 to 16"),
        (packed({"__metadata__": {"a": 1}}), "expected an object of strings"),
    ],
)
def test_what_is_refused(data, message):
    with pytest.raises(ValueError, match=rf"^a: .*{message}"):
        read_tensors(data, name="a")


def test_tensors_that_are_no_gaussians(tiny_model):
    tensors = {name: value.numpy() for name, value in tiny_model(5, 1).tensors().items()}
    for name, wrong in {"means": np.zeros((5, 2), "f4"), "quats": np.zeros((5, 4), "i4")}.items():
        with pytest.raises(ValueError, match=f"^a: safetensors {name}: expected"):
            read_safetensors(b"".join(tensor_blocks(tensors | {name: wrong})), name="a")
    del tensors["sh0"]
    with pytest.raises(ValueError, match=r"^a: safetensors sh0: expected floats .* got none"):
        read_safetensors(b"".join(tensor_blocks(tensors)), name="a")

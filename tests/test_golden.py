"""Golden files: of every kind and version, decoded to the same bits for ever."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import pytest
import torch

from fieldpress import models
from fieldpress.fields import codec as fields
from fieldpress.fields import video
from fieldpress.gaussians import codec, tiles
from fieldpress.quant import container

sys.path.insert(0, str(Path(__file__).parent))
from make_golden_kinds import MAKERS, digest

GOLDEN = Path(__file__).parent / "golden"
KINDS = GOLDEN / "kinds"
LARGEST = 20_000  # Bytes of a golden file.


def test_every_kind_and_version_has_its_file() -> None:
    known = {*fields.KINDS, tiles.KIND, video.KIND, "nerfacto"}
    assert known <= set(MAKERS), "a kind without a line in tests/make_golden_kinds.py"
    expected = {f"{kind}-{v}.fpz" for kind in MAKERS for v in range(1, container.VERSION + 1)}
    digests = json.loads((KINDS / "digests.json").read_text())
    assert {path.name for path in KINDS.glob("*.fpz")} == set(digests) == expected
    assert all(path.stat().st_size < LARGEST for path in GOLDEN.rglob("*.fpz"))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("path", sorted(KINDS.glob("*.fpz")), ids=lambda path: path.stem)
def test_it_decodes_to_the_bits_that_it_did(path: Path, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = models.load(path)
    finally:
        torch.set_num_threads(before)
    kind = path.stem.rpartition("-")[0].partition("_")[0]
    assert (model.kind == kind) or kind == tiles.KIND
    assert digest(model) == json.loads((KINDS / "digests.json").read_text())[path.name]


@pytest.mark.parametrize("kind", ["image", "sdf", "nerf"])
def test_a_field_that_is_coded_again_is_the_same_file(kind: str) -> None:
    """Encoding is as exact as decoding: the decoder's values quantise to what they came from."""
    data = (KINDS / f"{kind}-{container.VERSION}.fpz").read_bytes()
    model = fields.decode(data)
    layout = container.read(data).header["layout"]
    steps = fields.Steps(
        tuple(layout["steps"]), tuple(layout["weight_steps"]), tuple(layout.get("head_steps", ()))
    )
    encoding = model.network.encoding
    ends = encoding.first_rows
    used = [(model.network.table[a:b] != 0).any(1).numpy() for a, b in itertools.pairwise(ends)]
    extra = {"recipe": "golden"}
    again = fields.encode(model, steps, used, extra)
    found = fields.decode(again)
    for name, value in model.tensors().items():
        assert torch.equal(value, found.tensors()[name])
    assert fields.encode(found, steps, used, extra) == again


def test_a_newer_version_is_refused_by_its_number() -> None:
    data = bytearray((KINDS / "image-1.fpz").read_bytes())
    data[4] = container.VERSION + 1
    with pytest.raises(ValueError, match=f"expected version {container.VERSION}, got"):
        codec.decode(bytes(data), name="new.fpz")

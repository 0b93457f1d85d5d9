"""Write the golden files that are missing of every kind of model, and what they decode to.

Run `python tests/make_golden_kinds.py` after adding a kind to MAKERS or raising the container's
version. What is there is never written anew: a file of any version decodes for ever.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_golden import seeded_model

from fieldpress import models
from fieldpress.fields import bayes_codec, latent_image, nerfacto_codec, video
from fieldpress.fields import codec as fields
from fieldpress.fields.bayes_codec import BayesField
from fieldpress.fields.bayes_learn import Learner, learn
from fieldpress.fields.bayes_prior import Prior
from fieldpress.fields.bayes_shape import Shape
from fieldpress.fields.image import ImageField
from fieldpress.fields.latent_codec import LatentCodec
from fieldpress.fields.levels import Encoding
from fieldpress.fields.nerf import CELL_SIDE, GEOMETRY, NerfField
from fieldpress.fields.nerfacto import HashTable, NerfactoFields
from fieldpress.fields.network import Network, new_weights
from fieldpress.fields.sdf import SdfField
from fieldpress.fields.vq_nerf import VqNerfField
from fieldpress.gaussians.codec import Steps, encode
from fieldpress.gaussians.tiles import Tile, file_blocks
from fieldpress.quant import container

GOLDEN = Path(__file__).parent / "golden" / "kinds"


def network(encoding: Encoding, outputs: int) -> Network:
    rng = torch.Generator().manual_seed(outputs)
    table = torch.randn(encoding.rows, encoding.features, generator=rng)
    return Network(encoding, table, new_weights([encoding.width, 16, outputs], outputs))


def coded(model: Any, head: int = 0, decoder: int = 0) -> bytes:
    """A file in which about half of the rows are in use."""
    encoding = model.network.encoding
    rng = np.random.default_rng(1)
    used = [rng.random(level.rows) < 0.5 for level in encoding.level]
    steps = fields.Steps(
        (0.25,) * encoding.levels, (0.1, 0.1), (0.1,) * head, (0.1,) * decoder, 0.1
    )
    return fields.encode(model, steps, used, {"recipe": "golden"})


def image() -> bytes:
    encoding = Encoding(2, "SimplexGrid", 3, 2, 7, 4, 2.0)
    return coded(ImageField(network(encoding, 3), 40, 24))


def sdf() -> bytes:
    encoding = Encoding(3, "HashGrid", 3, 2, 7, 2, 2.0)
    return coded(SdfField(network(encoding, 1), (-1.0, -2.0, 0.5), 4.0))


def nerf() -> bytes:
    encoding = Encoding(3, "PermutoGrid", 3, 2, 7, 2, 2.0)
    cells = torch.arange(CELL_SIDE**3) % 4096 < 7
    head = new_weights([NerfField.head_inputs, 16, 3], 0)
    model = NerfField(network(encoding, GEOMETRY), head, cells, (-1.0, -1.0, -1.0), 2.0)
    return coded(model, head=2)


def thick() -> bytes:
    """As a snapshot of instant-ngp becomes one: marched several times, another unit of density."""
    encoding = Encoding(3, "HashGrid", 4, 4, 7, 2, 2.0)
    cells = torch.arange(CELL_SIDE**3) % 4096 < 7
    head = new_weights([NerfField.head_inputs, 16, 3], 0)
    return coded(
        NerfField(
            network(encoding, GEOMETRY), head, cells, (-1.5, -1.5, -1.5), 4.0, thickness=4.0,
            passes=12,
        ),
        head=2,
    )  # fmt: skip


def nerfacto() -> bytes:
    rng = torch.Generator().manual_seed(3)
    layers = {"t.1.layers.0.weight": (2, 6), "t.1.layers.0.bias": (2,)}
    rest = {name: torch.randn(shape, generator=rng) for name, shape in layers.items()}
    rest |= {"num_levels": torch.tensor(3), "max_res": torch.tensor(40), "x": torch.ones(2) > 0}
    rows = torch.randn(3 << 6, 2, generator=rng)
    table = HashTable(rows, 3, 40, "t.1.")
    model = NerfactoFields({"t.0.hash_table": table}, rest, {"u.0.hash_table": "t.0.hash_table"})
    return nerfacto_codec.encode(model, {"t.0.hash_table": (0.1, 0.2, 0.3)}, {"recipe": "golden"})


def vqnerf() -> bytes:
    encoding = Encoding(3, "HashGrid", 3, 2, 7, 2, 2.0)
    cells = torch.arange(CELL_SIDE**3) % 4096 < 7
    channels, ratio = 3 + 4, 2
    model = VqNerfField(
        network(encoding, GEOMETRY), new_weights([VqNerfField.head_inputs, 16, channels], 0), cells,
        (-1.0, -1.0, -1.0), 2.0, ratio=ratio,
        decoder=new_weights([9 * channels, 3 * ratio**2], 1),
        codes=torch.randn(2, 8, 2, generator=torch.Generator().manual_seed(0)),
    )  # fmt: skip
    return coded(model, head=2, decoder=1)


def latent() -> bytes:
    """A picture of latent grids."""
    rng = np.random.default_rng(0)
    frame = np.cumsum(rng.integers(-9, 10, (24, 40, 3)), 1).clip(-99, 99) + 128
    payload, _ = LatentCodec("ultrafast", 1e-3, 0).encode(
        frame.astype(np.uint8)[None], None, progress=lambda stage, done: None
    )
    return latent_image.write(payload, 40, 24, {"recipe": "golden"})


def clip(height: int = 24, width: int = 32, count: int = 4, group: int = 2) -> bytes:
    """Frames of a video of latent grids, in two groups of which the second leans on the first.

    Their pixels are those of every build; the group's version is that of the encoder at hand.
    """
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.stack([128 + 90 * np.sin((x + 2 * t) / a + y / 9) for a in (3, 5, 8)], -1)
             for t in range(count)]  # fmt: skip
    frames, layout = np.stack(waves).round().astype(np.uint8), video.Layout(group, 2)
    groups = tuple(video.encode_groups(frames, LatentCodec("ultrafast", 1e-3, 0), layout))
    field = video.VideoField("latent", width, height, Fraction(25), "bt601", groups)
    return video.write(field, {"recipe": "golden"})


def parts() -> bytes:
    """Twelve frames, so that some lean on one, some on two, and some on both sides."""
    return clip(52, 75, 12, 6)


@functools.cache
def small_prior() -> Prior:
    side = torch.arange(16) / 16.0
    grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
    ways = torch.tensor([[3.0, 1, 2], [1.0, 2, 3]])
    waves = [0.4 * torch.sin((n + 1) * grid @ ways) for n in range(6)]
    shape = Shape(patch=(16, 16), width=4, hidden=1, frequencies=1, latents=2, features=2)
    learned = learn(Learner.new(shape, torch.stack(waves)), 60, 20)
    return Prior.of(learned, index_bits=8, budget=6.0)


def prior() -> bytes:
    return small_prior().data


def bayes() -> bytes:
    """A picture of that prior, which decoding finds beside it."""
    given, size, rng = small_prior(), (16, 24), np.random.default_rng(0)
    rows = given.shape.rows(given.shape.grid(size))
    index = {
        level: rng.integers(0, 1 << given.index_bits, (rows[level], len(blocks.ends)))
        for level, blocks in given.blocks.items()
    }
    return bayes_codec.encode(BayesField(given, size, index, {"recipe": "golden"}))


def tiles() -> bytes:
    """Three tiles at two levels of detail."""
    streams, records = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(3):
            model = seeded_model(torch.Generator().manual_seed(number), 24, 1)
            model.means[:, 0] += 30.0 * number
            parts = [model, model[:5]]
            files = [encode(part, np.zeros(len(part), np.int64), Steps()) for part in parts]
            records.append(Tile.of([models.decode_fpz(data, "golden") for data in files]))
            for level, data in enumerate(files):
                streams[number, level] = Path(folder) / f"{number}-{level}"
                streams[number, level].write_bytes(data)
        return b"".join(file_blocks({"seed": 0}, records, streams))


# A line for each value of the header's "kind": that is all that a new one needs here.
MAKERS: dict[str, Callable[[], bytes]] = {
    "image": image, "sdf": sdf, "nerf": nerf, "vqnerf": vqnerf, "tiles": tiles,
    "image_latent": latent,  # Of the same kind, by another codec, whose version 1 it holds.
    "video": clip,
    "image_latent_2": latent, "video_2": clip,  # Version 2.
    "image_latent_3": latent, "video_3": clip,  # Version 3.
    "image_latent_4": latent, "video_4": parts,  # Version 4.
    "prior": prior, "image_bayes": bayes,
    "nerfacto": nerfacto, "nerf_thick": thick,
}  # fmt: skip


def digest(model: Any) -> str:
    """SHA-256 of the names, types, shapes and bytes of all tensors, in their order."""
    state = hashlib.sha256()
    for name, tensor in model.tensors().items():
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        state.update(tensor.contiguous().numpy().tobytes())
    return state.hexdigest()


def main() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    record = GOLDEN / "digests.json"
    digests = json.loads(record.read_text()) if record.exists() else {}
    for kind, make in MAKERS.items():
        path = GOLDEN / f"{kind}-{container.VERSION}.fpz"
        if not path.exists():
            path.write_bytes(make())
            digests[path.name] = digest(models.load(path))
            print(f"{path}: {path.stat().st_size} bytes")
    record.write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Groups of frames through latent grids: bytes, states, damage, and pictures as files."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldpress.__main__ import main
from fieldpress.fields import (
    _native,
    codec,
    latent_codec,
    latent_image,
    latent_motion,
    latent_weights,
    video,
)
from fieldpress.fields.ahead import DEPTH, ahead
from fieldpress.fields.latent_codec import VERSION, LatentCodec, needed
from fieldpress.fields.latent_engine import MIDDLE_GAIN, Engine, Painter, gain_for
from fieldpress.fields.latent_fit import Schedule, fit
from fieldpress.fields.latent_frame import piece, psnr, read_latents, sized
from fieldpress.fields.latent_group import State, last_anchors, order
from fieldpress.fields.latent_ops import encode_planes
from fieldpress.fields.latent_polish import polish
from fieldpress.fields.latent_weights import (
    Judge,
    groups,
    quantise,
    read,
    restored,
    trimmed,
    write,
)

STILL, MOVING = VERSION.still, VERSION.moving


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(latent_codec.STEPS, "ultrafast", 24)
    monkeypatch.setitem(latent_codec.STEPS, "fast", 120)


def clip(count: int, height: int = 40, width: int = 52) -> np.ndarray:
    """Smooth waves that move by 2 pixels a frame, with an edge."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    frames = []
    for t in range(count):
        a = 110 + 70 * np.sin((x + 2 * t) / 7) + 30 * np.cos(y / 5)
        b = np.where(x + 2 * t > width / 2, 170, 60)
        frames.append(np.stack([a, (a + b) / 2, b], -1))
    return np.stack(frames).clip(0, 255).round().astype(np.uint8)


def same(a: State, b: State) -> bool:
    pairs = list(zip(a.known, b.known, strict=True))
    return (
        sorted(a.anchors) == sorted(b.anchors)
        and all(np.array_equal(a.anchors[n], b.anchors[n]) for n in a.anchors)
        and all(torch.equal(x.flat, y.flat) for x, y in pairs)
        and all(np.array_equal(x.latents, y.latents) for x, y in pairs)
    )


def test_a_group_decodes_to_what_its_encoder_said() -> None:
    frames = clip(3)
    coder = LatentCodec("ultrafast", 1e-3)
    told: list[tuple[str, float]] = []
    payload, state = coder.encode(frames, progress=lambda *at: told.append(at))
    found, after = LatentCodec().decode(payload, frames.shape[:3])
    assert found.shape == frames.shape
    assert np.array_equal(after.anchors[-1], state.anchors[-1])
    assert same(after, state)
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    more, _ = coder.encode(clip(4)[3:], state)
    tail, _ = LatentCodec().decode(more, (1, *frames.shape[1:3]), after)
    assert psnr(tail[0], clip(4)[3]) > 15


def test_the_same_seed_gives_the_same_bytes() -> None:
    frames = clip(2)
    first, _ = LatentCodec("ultrafast", 1e-3, 3).encode(frames)
    assert LatentCodec("ultrafast", 1e-3, 3).encode(frames)[0] == first
    assert LatentCodec("ultrafast", 1e-3, 4).encode(frames)[0] != first


@pytest.fixture
def machines() -> Iterator[Iterator[str]]:
    """Every instruction set with one, two and three threads, one after the other."""
    isa, before = _native.isa(), torch.get_num_threads()

    def each() -> Iterator[str]:
        for name, threads in itertools.product(_native.available_isas(), (1, 2, 3)):
            _native.set_isa(name)
            torch.set_num_threads(threads)
            yield f"{name}, {threads} threads"

    yield each()
    _native.set_isa(isa)
    torch.set_num_threads(before)


def test_pixels_are_the_same_with_every_instruction_set_and_thread_count(machines) -> None:
    frames = clip(4)
    payload, _ = LatentCodec("ultrafast", 1e-3).encode(frames)
    found = [LatentCodec().decode(payload, frames.shape[:3]) for _ in machines]
    for pixels, state in found:
        assert np.array_equal(pixels, found[0][0])
        assert same(state, found[0][1])


def test_damage_is_told_alike_with_any_number_of_threads(machines) -> None:
    frames = clip(3)
    payload, _ = LatentCodec("ultrafast", 1e-3).encode(frames)
    bad = payload[:-1] + bytes([payload[-1] ^ 1])
    said = set()
    for _ in machines:
        with pytest.raises(ValueError, match=r"^frame 1: .*damaged") as error:
            LatentCodec().decode(bad, frames.shape[:3])
        said.add(str(error.value))
    assert len(said) == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_made_ahead_comes_in_order_and_fails_in_its_place(threads) -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for k in range(4):
            made.append(k)
            yield k
        raise ValueError("no fifth")

    found = []
    with pytest.raises(ValueError, match="no fifth"):  # noqa: PT012 - what came before counts
        for item in ahead(items(), threads):
            found.append(item)
            assert len(made) - len(found) <= (DEPTH if threads > 1 else 0)
    assert found == [0, 1, 2, 3]
    some = ahead(items(), threads)
    assert next(some) == 0
    some.close()  # Whoever stops early waits for what is being made, and no longer.


def test_a_larger_lagrangian_gives_fewer_bytes_and_less_quality() -> None:
    frames, rows = clip(1), []
    for lmbda in (1e-4, 3e-3):
        payload, state = LatentCodec("fast", lmbda).encode(frames)
        rows.append((len(payload), psnr(state.anchors[-1], frames[0])))
    assert rows[0][0] > rows[1][0]
    assert rows[0][1] > rows[1][1]
    assert rows[0][1] > 30


def engine(frame: np.ndarray) -> Engine:
    height, width = frame.shape[:2]
    target = torch.from_numpy(frame).permute(2, 0, 1).float().div(255).contiguous()
    return Engine(Painter(STILL, height, width, MIDDLE_GAIN), target)


@pytest.mark.parametrize(("bad", "falls"), [([7], 1), ([0], 1), ([5, 6, 7], 2)])
def test_a_fit_that_diverges_goes_back(bad: list[int], falls: int) -> None:
    found, told = engine(clip(1)[0]), []
    true, calls = found.gradients, itertools.count()

    def gradients(*args):
        error, bits, grad = true(*args)
        if next(calls) in bad:
            grad.fill_(torch.nan)
        return error, bits, grad

    found.gradients = gradients  # type: ignore[method-assign]
    latents, flat = fit(found, VERSION.prior(0), 1e-3, Schedule(steps=40),
                        watch=lambda *at: told.append(at))  # fmt: skip
    assert torch.isfinite(latents).all()
    assert torch.isfinite(flat).all()
    assert len(told) == 40 - falls  # Where it goes back nothing is learnt.
    assert told[-1][1] < 0.8 * told[0][1]


def test_a_fit_that_never_settles_says_so_in_one_line() -> None:
    found = engine(clip(1)[0])
    found.gradients = lambda *_: (float("nan"), 1.0, torch.zeros(found.count))  # type: ignore
    with pytest.raises(ValueError, match=r"^fit: diverged 5 times, last at step 4: .* got nan$"):
        fit(found, VERSION.prior(0), 1e-3, Schedule(steps=40))


@pytest.mark.parametrize("size", [(1, 1), (3, 70), (65, 2)])
def test_odd_sizes(size) -> None:
    frames = clip(2, *size)
    payload, state = LatentCodec("ultrafast", 1e-3).encode(frames)
    assert np.array_equal(LatentCodec().decode(payload, frames.shape[:3])[0][-1], state.anchors[-1])


def test_damage_is_told_and_nothing_else_happens() -> None:
    frames = clip(2)
    payload, _ = LatentCodec("ultrafast", 1e-3).encode(frames)
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(payload), 40):
        bad = bytearray(payload)
        bad[at] ^= 1 << int(rng.integers(8))
        with contextlib.suppress(ValueError):  # Or nothing was lost that decoding notices.
            found, _ = LatentCodec().decode(bytes(bad), frames.shape[:3])
            assert found.shape == frames.shape
    for cut in (0, 1, 4, 9, len(payload) // 2, len(payload) - 1):
        with pytest.raises(ValueError, match=r"expected|damaged"):
            LatentCodec().decode(payload[:cut], frames.shape[:3])
    with pytest.raises(ValueError, match="expected"):
        LatentCodec().decode(payload + b"x", frames.shape[:3])


def test_groups_of_two_versions_do_not_lean_on_each_other() -> None:
    golden = Path(__file__).parent / "golden" / "kinds"
    names = ("video-1", "video_2-1", "video_3-1")
    clips = [video.read((golden / f"{name}.fpz").read_bytes()) for name in names]
    assert [clip.groups[0].payload[0] for clip in clips] == [1, 2, 3]
    shape = (clips[0].groups[0].count, clips[0].height, clips[0].width)
    for a, b in itertools.permutations(clips, 2):
        _, state = LatentCodec().decode(a.groups[0].payload, shape)
        with pytest.raises(ValueError, match="expected the version of the group before"):
            LatentCodec().decode(b.groups[1].payload, shape, state)


def test_a_clip_of_an_older_version_is_read_and_not_gone_on_with() -> None:
    for path in sorted((Path(__file__).parent / "golden" / "kinds").glob("video_[23]-1.fpz")):
        older, codec = video.read(path.read_bytes()), LatentCodec("ultrafast", 1e-3)
        shape = older.groups[0].count, older.height, older.width
        frames, state = codec.decode(older.groups[0].payload, shape)
        assert np.array_equal(frames[-1], state.anchors[-1])
        assert list(state.anchors) == [-1]
        with pytest.raises(ValueError, match="expected the version of the group before it"):
            codec.encode(frames, state)


@pytest.mark.parametrize("design", [STILL, MOVING])
def test_weights_come_back_and_the_priors_cost_nothing(design) -> None:
    prior = VERSION.prior(design.guides // 3)
    rng = torch.Generator().manual_seed(0)
    flat = prior + 0.05 * torch.randn(design.parameters, generator=rng)
    flat[::3] = prior[::3]
    coded = quantise(design, flat, prior, [7] * len(groups(design)))
    data = write(design, coded)
    found = read(design, data, prior)
    assert torch.equal(found, restored(design, coded, prior))
    assert torch.equal(found[::3], prior[::3])
    assert float((found - flat).abs().max()) <= 0.65 * 2**-7 + 1e-6
    assert 0.5 < 8 * len(data) / coded.bits < 1.5
    assert write(design, quantise(design, prior, prior, [7] * len(groups(design)))) == b""
    assert torch.equal(read(design, b"", prior), prior)
    assert sorted(int(i) for _, at in groups(design) for i in at) == list(range(design.parameters))


def test_steps_that_do_not_pay_are_left_out() -> None:
    frame = torch.from_numpy(clip(1)[0]).permute(2, 0, 1).float().div(255).contiguous()
    engine = Engine(Painter(STILL, *frame.shape[1:], gain_for(1e-3)), frame)
    latents, prior = torch.zeros(engine.count), VERSION.prior(0)
    rng = torch.Generator().manual_seed(0)
    noisy = prior + 0.1 * torch.randn(len(prior), generator=rng)
    coded = quantise(STILL, noisy, prior, [6] * len(groups(STILL)))
    judge = Judge(engine, latents, prior, 1e-3 / engine.pixels)
    kept = trimmed(coded, judge, 400)
    assert judge.start(kept) < judge.start(coded)
    assert kept.bits < coded.bits
    assert judge.start(trimmed(kept, judge, 400)) <= judge.start(kept)


def test_polishing_lowers_the_loss_as_far_as_single_steps_do() -> None:
    """Of one latent no step down the gradient pays any more that was not seen to clash."""
    found, lmbda = engine(clip(1, 37, 51)[0]), 2e-3
    latents, flat = fit(found, VERSION.prior(0), lmbda, Schedule(steps=60))

    def loss() -> float:
        error, bits = found.losses(latents, flat)
        return error + lmbda * bits / found.pixels

    losses, taken = [loss()], []
    for _ in range(4):
        taken.append(polish(found, latents, flat, lmbda))
        losses.append(loss())
        assert torch.equal(latents, latents.round())
    assert taken[0] > 10
    assert losses[1] < losses[0]
    assert all(b <= a * (1 + 1e-5) for a, b in itertools.pairwise(losses))
    assert taken[-1] < taken[0]


def test_bits_and_errors_of_places_are_those_of_all() -> None:
    found = engine(clip(1, 21, 34)[0])
    rng = torch.Generator().manual_seed(0)
    latents = torch.randint(-3, 4, (found.count,), generator=rng).float()
    flat = VERSION.prior(0)
    error, bits = found.losses(latents, flat)
    each = [found.bits_of(k, latents, flat) for k in range(STILL.levels)]
    planes = found.painter.grids.planes
    total = sum(
        float(b[p.first : p.first + p.size].sum()) for b, p in zip(each, planes, strict=True)
    )
    assert total == pytest.approx(bits, rel=1e-5)
    assert float(found.errors(latents, flat).sum()) == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize("most", [1, 2])
@pytest.mark.parametrize("before", [(), (-1,), (-4, -1)])
@pytest.mark.parametrize(("count", "span"), [(1, 4), (8, 4), (9, 8), (7, 1), (6, 64), (14, 4)])
def test_every_frame_leans_on_frames_coded_before_it(count, span, before, most) -> None:
    places, seen = order(count, span, most, before), set(before)
    assert sorted(place.number for place in places) == list(range(count))
    anchors = list(before)
    for place in places:
        assert set(place.references) <= seen
        assert place.references or not seen
        assert place.away == [number - place.number for number in place.references]
        seen.add(place.number)
        if place.kind == 2:
            first, last = place.away
            assert first < 0 < last
        else:
            assert place.references == tuple(anchors[-most:][::-1])
            anchors.append(place.number)
    assert anchors[-1] == count - 1
    assert last_anchors(places, before, most) == anchors[-most:]


def test_a_frame_needs_the_bits_that_its_guide_lacks() -> None:
    frame, lmbda = clip(1)[0], 1e-3
    guide = torch.from_numpy(frame).permute(2, 0, 1).float().div(255)
    assert needed(frame, guide, lmbda) == 0
    asked = (lmbda / (2 * np.log(2))) ** 0.5
    assert needed(frame, guide + 0.99 * asked, lmbda) == 0
    assert needed(frame, guide + 4 * asked, lmbda) == pytest.approx(2)
    half = guide.clone()
    half[:, :, 26:] += 8 * asked  # Of 7 columns of cells one in part, three and a half of pixels.
    assert 0.5 * 3 - 0.2 < needed(frame, half, lmbda) < 0.6 * 3
    assert needed(frame, half, 4 * lmbda) < needed(frame, half, lmbda)


def test_runs_of_bytes_come_back_and_their_sizes_are_checked() -> None:
    for size in (0, 1, 127, 128, 300, 70000):
        data = sized(bytes(size))
        assert piece(data + b"x", 0, "run") == (bytes(size), len(data))
        with pytest.raises(ValueError, match=r"^run: expected"):
            piece(data[:-1], 0, "run")
    with pytest.raises(ValueError, match=r"^run: expected"):
        piece(b"\xff" * 9, 0, "run")


def test_no_motion_moves_nothing() -> None:
    frame = clip(1)[0]
    moved = latent_motion.move(frame, np.zeros(latent_motion.grid(*frame.shape[:2]), np.int32))
    assert np.array_equal(moved.mul(255).round().permute(1, 2, 0).numpy(), frame)


def test_a_picture_through_the_command(tmp_path, capsys) -> None:
    pil = pytest.importorskip("PIL.Image")
    source, out = tmp_path / "a.png", tmp_path / "a.fpz"
    pil.fromarray(clip(1)[0]).save(source)
    argv = ["fit", "image", str(source), "-o", str(out), "--method", "latent"]
    assert main([*argv, "--preset", "ultrafast", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["output_bytes"] == out.stat().st_size
    model = codec.decode(out.read_bytes())
    assert isinstance(model, latent_image.LatentImage)
    assert psnr(model.pixels, clip(1)[0]) == pytest.approx(report["psnr"], abs=1e-3)
    assert main(["info", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "image"
    assert main(["decompress", str(out), "-o", str(tmp_path / "b.png")]) == 0
    assert np.array_equal(np.array(pil.open(tmp_path / "b.png").convert("RGB")), model.pixels)
    capsys.readouterr()
    assert main([*argv, "--overwrite", "--preset", "balancing"]) == 2
    assert main([*argv, "--overwrite", "--lambda", "0.1", "--target-bpp", "1"]) == 2


def test_a_file_that_claims_too_much_is_refused() -> None:
    data = latent_image.write(b"\x01", 60000, 60000, {})
    with pytest.raises(ValueError, match="size"):
        codec.decode(data, name="a.fpz")


@pytest.mark.parametrize("size", [(500, 9), (700, 9), (40, 700), (4200, 3)])
def test_latents_of_tall_pictures_come_back(size: tuple[int, int]) -> None:
    """Coarsest grids of more than eight rows lean on nothing above them, as lower ones do."""
    rng, design = np.random.default_rng(5), VERSION.still
    flat = design.new(1) + 0.2 * torch.randn(
        design.parameters, generator=torch.Generator().manual_seed(5)
    )
    flat = flat.mul(1024).round().div(1024)
    grids = design.grids(*size)
    symbols = rng.integers(-6, 7, grids.count).astype(np.int32)
    parameters = latent_weights.integers(design, flat)
    nets = design.context_nets(grids)
    data = encode_planes(nets[::-1], parameters[::-1].copy(), symbols)
    assert np.array_equal(read_latents(design, data, *size, None, flat), symbols)


def test_steps_and_first_guesses_go_where_bytes_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(latent_codec.STEPS, "ultrafast", 400)
    asked, real = [], latent_codec.encode_frame

    def spied(*given, weights=None, **more) -> bytes:
        schedule = given[4]
        asked.append((schedule.steps, weights is not None))
        return real(*given[:4], Schedule(steps=2, tail=1, polish=(0, 0)), weights=weights, **more)

    bits = 0.25
    monkeypatch.setattr(latent_codec, "encode_frame", spied)
    monkeypatch.setattr(latent_codec, "needed", lambda frame, guide, lmbda: bits)
    coder, frames = LatentCodec("ultrafast", 1e-3), clip(4, 16, 16)
    _, state = coder.encode(frames)  # The first, the last, and between those the second and third.
    assert asked == [(880, True), (270, False), (168, False), (112, False)]
    asked.clear()
    coder.encode(frames[:1], state)
    assert asked == [(180, False)]
    asked.clear()
    coder.encode(frames[:1])
    assert asked == [(400, True)]
    asked.clear()
    bits = 9.0
    coder.encode(frames, state)
    assert [steps for steps, _ in asked] == [400] * 4
    asked.clear()
    monkeypatch.setitem(latent_codec.STEPS, "ultrafast", 60)
    bits = 0.0
    coder.encode(frames)
    assert [steps for steps, _ in asked] == [132, 36, 36, 36]


def test_bits_of_a_tall_coarsest_grid_lean_on_near_rows_only() -> None:
    engine = Engine(Painter(STILL, 700, 5, MIDDLE_GAIN), torch.zeros(3, 700, 5))
    level, flat = STILL.levels - 1, STILL.new(1)
    plane = engine.painter.grids.planes[level]
    assert plane.height > 8
    latents = torch.ones(engine.count)
    before = engine.bits_of(level, latents, flat)[plane.first :][: plane.size].clone()
    latents[plane.first] = 9
    after = engine.bits_of(level, latents, flat)[plane.first :][: plane.size]
    assert not torch.equal(after[:4], before[:4])
    assert torch.equal(after[4:], before[4:])

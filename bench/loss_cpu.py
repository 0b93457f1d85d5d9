"""Is the native photometric loss worth it: milliseconds a training step, against torch?

    python bench/loss_cpu.py [--rounds 15]

Value and gradient of 0.8 L1 + 0.2 (1 - SSIM) for one view, by the native kernel (the target's
half cached, as in training, and not), by torch's autograd over a dense 11 x 11 conv2d (the code of
Kerbl et al.), and over two separable ones. All of them take turns in each round, so that the
machine's moods hit them alike. Writes bench/results/loss_cpu.json: medians, quartiles, processor
time and its ratio to the native kernel's with a cached target (which others' work disturbs less
than the clock), and the error of each gradient against double precision.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from record import write
from torch import Tensor
from torch.nn.functional import conv2d, interpolate

from fieldpress.render import _reference_loss
from fieldpress.render.photometric import PhotometricTarget, photometric_loss

SIZES = [(135, 240), (270, 480)]
NATIVE = "native, target cached"
Step = Callable[[], Tensor]


def make_pair(height: int, width: int) -> tuple[Tensor, Tensor]:
    """A smooth photograph with noise, and a render that misses it."""
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, height // 8, width // 8, generator=g)
    photo = interpolate(coarse, size=(height, width), mode="bilinear").permute(0, 2, 3, 1)
    photo = photo + 0.02 * torch.randn(1, height, width, 3, generator=g)
    return photo + 0.05 * torch.randn(1, height, width, 3, generator=g), photo.contiguous()


def torch_loss(image: Tensor, photo: Tensor, windows: list[Tensor]) -> Tensor:
    """The loss of planar images [1, 3, H, W], blurred by one window after another."""

    def blur(t: Tensor) -> Tensor:
        for window in windows:
            t = conv2d(t, window, padding=(window.shape[2] // 2, window.shape[3] // 2), groups=3)
        return t

    mx, my = blur(image), blur(photo)
    mxx, myy, mxy = mx * mx, my * my, mx * my
    vx, vy, cov = (
        blur(image * image) - mxx, blur(photo * photo) - myy, blur(image * photo) - mxy,
    )  # fmt: skip
    top = (2 * mxy + _reference_loss.C1) * (2 * cov + _reference_loss.C2)
    ssim = top / ((mxx + myy + _reference_loss.C1) * (vx + vy + _reference_loss.C2))
    return 0.8 * (image - photo).abs().mean() + 0.2 * (1 - ssim.mean())


def torch_windows() -> dict[str, list[Tensor]]:
    taps = torch.exp(-0.5 * ((torch.arange(11) - 5) / 1.5) ** 2)
    taps = taps / taps.sum()
    dense = (taps[:, None] * taps).expand(3, 1, 11, 11).contiguous()
    down, across = (taps.reshape(s).repeat(3, 1, 1, 1) for s in ((1, 1, 11, 1), (1, 1, 1, 11)))
    return {"torch, dense": [dense], "torch, separable": [down, across]}


def make_steps(image: Tensor, photo: Tensor) -> dict[str, Step]:
    """Each returns the gradient [1, H, W, 3]."""
    ours = image.clone().requires_grad_()
    planar = image.permute(0, 3, 1, 2).contiguous().requires_grad_()
    planar_photo = photo.permute(0, 3, 1, 2).contiguous()
    target = PhotometricTarget.prepare(photo)

    def native(target: Tensor | PhotometricTarget) -> Tensor:
        return torch.autograd.grad(photometric_loss(ours, target), ours)[0]

    def by_torch(windows: list[Tensor]) -> Tensor:
        (gradient,) = torch.autograd.grad(torch_loss(planar, planar_photo, windows), planar)
        return gradient.permute(0, 2, 3, 1)

    steps: dict[str, Step] = {NATIVE: lambda: native(target), "native": lambda: native(photo)}
    for name, windows in torch_windows().items():
        steps[name] = lambda windows=windows: by_torch(windows)
    return steps


def measure(height: int, width: int, threads: int, rounds: int) -> dict:
    torch.set_num_threads(threads)
    image, photo = make_pair(height, width)
    exact = image.double().requires_grad_()
    _reference_loss.photometric_loss(exact, photo.double()).backward()
    want, rows = exact.grad, {}
    assert want is not None
    steps = make_steps(image, photo)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    used: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            start, cpu = time.perf_counter(), time.process_time()
            step()
            seconds[name].append(time.perf_counter() - start)
            used[name].append(time.process_time() - cpu)
    base = statistics.median(used[NATIVE])
    for name, step in steps.items():
        low, middle, high = (1e3 * s for s in statistics.quantiles(seconds[name], n=4))
        error = float((step().double() - want).norm() / want.norm())
        cpu = statistics.median(used[name])
        rows[name] = {
            "ms": middle, "quartiles_ms": [low, high], "cpu_ms": 1e3 * cpu,
            "cpu_ratio": cpu / base, "gradient_error": error,
        }  # fmt: skip
    return {"height": height, "width": width, "threads": threads, "steps": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    print(
        "size      threads  way                      ms (quartiles)         CPU ms   ratio   error"
    )
    cases = []
    for (height, width), threads in ((s, t) for s in SIZES for t in (1, 2)):
        cases.append(measure(height, width, threads, rounds))
        for name, row in cases[-1]["steps"].items():
            spread = "({:.2f} .. {:.2f})".format(*row["quartiles_ms"])
            print(
                f"{width}x{height:<6d} {threads:4d}  {name:22s} {row['ms']:8.2f} {spread:>18s}"
                f" {row['cpu_ms']:8.2f} {row['cpu_ratio']:7.1f}  {row['gradient_error']:.1e}"
            )
    write("loss_cpu", {"rounds": rounds, "cases": cases})


if __name__ == "__main__":
    main()

"""Makes the weights of first guesses of latents: fields/latent_guess_3.npy.

    python bench/latent_guess.py [--seconds 400]

Each step guesses the latents of one crop, with the shipped networks and at some rate, disturbs
them as a fit does, and follows the gradient of the logarithm of the loss. Pictures are those of
latent_defaults.py, which no benchmark measures on. Seconds are of the processor: how many steps
that is depends on the machine, and another run gives others.

Frames that lean on others start from zeros: guessed ones, tried, spend more bits than they earn.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from latent_clips import crop
from latent_defaults import RATES, VERSION, Item, disturbed, item
from record import ROOT
from torch import Tensor

from fieldpress.fields import latent_guess

RATE, EVERY = 2e-3, 500


def begun(levels: int) -> Tensor:
    """[levels, LEVEL] to begin with: the last layer guesses nearly nothing."""
    rows = []
    for _ in range(levels):
        for outputs, inputs, side in latent_guess.LAYERS:
            fan = inputs * side * side
            spread = (0.1 if outputs == 1 else 1) * fan**-0.5
            rows += [torch.randn(outputs * fan) * spread, torch.zeros(outputs)]
    return torch.cat(rows).view(levels, latent_guess.LEVEL)


def train(weights: Tensor, draw: Callable[[], Item], seconds: float) -> None:
    """Changes weights for so many seconds of the processor."""
    weights.requires_grad_()
    adam = torch.optim.Adam([weights], RATE)
    flat, start, step, total = VERSION.prior(0), time.process_time(), 0, 0.0
    while (part := (time.process_time() - start) / seconds) < 1:
        adam.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * part))
        one = draw()
        engine = one.engine
        latents = latent_guess.guess(engine, flat, one.lmbda, weights)
        soft, slope = disturbed(latents.detach(), torch.randn(engine.count), part)
        error, bits, grad = engine.gradients(soft, flat, one.lmbda, torch.zeros_like(flat))
        loss = error + one.lmbda * bits / engine.pixels
        adam.zero_grad()
        latents.backward(grad.mul(slope).div(loss))
        torch.nn.utils.clip_grad_norm_([weights], 1.0)
        adam.step()
        step, total = step + 1, total + math.log(loss)
        if step % EVERY == 0:
            print(f"  step {step}: {math.exp(total / EVERY):.6f}", flush=True)
            total = 0.0
    weights.requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=400)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng, (low, high) = random.Random(7), RATES["image"]
    weights = begun(VERSION.still.levels)
    draw = partial(drawn, rng, low, high)
    train(weights, draw, given.seconds)
    np.save(ROOT / "fields" / "latent_guess_3.npy", weights.numpy().astype(np.float16))


def drawn(rng: random.Random, low: float, high: float) -> Item:
    return item(VERSION.still, crop(rng), 10 ** rng.uniform(low, high))


if __name__ == "__main__":
    main()

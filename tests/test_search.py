"""Rate control: goals are kept, levels are taken for as long as they pay, reports say so."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from fieldpress.gaussians import compress as pressing
from fieldpress.gaussians import search as rule
from fieldpress.gaussians.codec import decode
from fieldpress.gaussians.compress import CompressSettings, compress, prepare
from fieldpress.gaussians.reduce import Measured
from fieldpress.gaussians.search import Effort, Goal, effort_for, mean_psnr
from fieldpress.scenes.orbit import orbit

EFFORTS = ("fast", "normal", "high")
N = 700


@pytest.fixture(scope="module")
def model(shell):
    return shell(N)


@pytest.fixture(scope="module")
def views():
    return orbit([0, 0, 0], 3.0, 8, width=64, height=48)


@pytest.fixture(scope="module")
def holdout():
    return orbit([0, 0, 0], 3.0, 3, width=64, height=48, elevation=30.0)


@pytest.fixture(scope="module")
def press(model, views, holdout):
    """Compress by any settings, each once."""
    found = {}

    def once(**settings):
        key = tuple(sorted(settings.items()))
        if key not in found:
            settings = CompressSettings(**settings)
            found[key] = compress(model, settings, views=views, holdout=holdout)
        return found[key]

    return once


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_quality_is_kept(press, model, holdout, effort):
    done = press(target_db=36.0, effort=effort)
    reached = mean_psnr(decode(done.data), holdout, model.render(holdout))
    assert reached == done.report["psnr_self"]
    assert 36.0 <= reached <= 36.0 + rule.DB_TOLERANCE
    assert done.report["output_bytes"] == len(done.data)
    assert done.report["count_out"] == len(decode(done.data))


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_size_is_kept_and_never_exceeded(press, effort):
    done = press(target_bytes=3000, effort=effort)
    assert 3000 * (1 - rule.BYTES_TOLERANCE) - 1 <= len(done.data) <= 3000


@pytest.mark.parametrize("effort", ["normal", "high"])
def test_effort_pays(press, effort):
    """Where little is kept. Above 40 dB so small a scene has nothing to spare."""
    assert len(press(target_db=30.0, effort=effort).data) < 0.9 * len(
        press(target_db=30.0, effort="fast").data
    )
    ours, plain = (press(target_bytes=3000, effort=e) for e in (effort, "fast"))
    assert ours.report["psnr_self"] > 1 + plain.report["psnr_self"]


def test_the_report_says_what_the_rounds_were(press):
    assert press(target_db=36.0, effort="fast").report["rounds"] == []
    for effort in ("normal", "high"):
        done = press(target_db=36.0, effort=effort)
        history, settings = done.report["rounds"], effort_for(effort, N)
        assert 2 <= len(history) <= 1 + settings.rounds
        assert history[0]["count"] == N
        assert history[0]["psnr_self"] > 90  # Nothing lost before the first.
        assert all(round(settings.keep * N) <= e["count"] < N for e in history[1:2])
        assert all(entry["bytes"] > 0 for entry in history)
        assert done.report["count_out"] in [entry["count"] for entry in history]
        ordered = sorted(history, key=lambda entry: entry["count"])
        qualities = [entry["psnr_self"] for entry in ordered]
        assert all(b > a - 0.5 for a, b in itertools.pairwise(qualities))


def test_every_effort_is_one_for_every_size():
    assert effort_for("fast", 10) is None
    for count in (1, 25_000, 25_001, rule.SMALL, 10_000_000):
        normal, high = effort_for("normal", count), effort_for("high", count)
        assert high.rounds >= normal.rounds
        assert high.keep >= normal.keep
        assert high.fit >= normal.fit
        assert high.views >= normal.views


def job_of(model, views, holdout, effort="normal"):
    return prepare(model, CompressSettings(effort=effort), views=views, holdout=holdout).job


@pytest.mark.parametrize(
    ("costs", "counts", "taken"),
    [
        ([5, 6, 7], [700, 560, 630], 0),  # Dearer, and with half the loss as well.
        ([5, 6, 4, 3, 9], [700, 560, 630, 567, 510], 3),  # Half the loss pays, and once more.
        ([5, 4, 3, 9, 9], [700, 560, 448, 358, 403], 2),
        ([5, 4, 3, 2, 1], [700, 560, 448, 358, 286], 4),
        ([5, 5, 5, 5], [700, 560, 448, 630], 0),  # No cheaper is not cheaper.
        ([5, 5.01, 4, 9, 9], [700, 560, 448, 358, 403], 2),  # Hardly dearer may be by chance.
        ([math.inf, math.inf, math.inf], [700, 560, 630], 0),
    ],
)
def test_rounds_go_on_while_the_goal_gets_cheaper(
    model, views, holdout, monkeypatch, costs, counts, taken
):
    job, seen, left = job_of(model, views, holdout), [], iter(costs)

    def cost(job, goal):
        seen.append((job.whole, job.measured))
        return next(left)

    monkeypatch.setattr(rule, "_cost", cost)
    said = []
    effort = Effort(keep=0.8, rounds=4, repair=1, merging=False)
    rule._reduce(job, Goal(None, 36.0), effort, said.append)
    assert [len(whole.order) for whole, _ in seen] == counts
    assert job.whole is seen[taken][0]
    assert job.measured is seen[taken][1]
    assert said == sorted(said)


def test_an_effort_without_pruning_keeps_all(model, views, holdout):
    job = job_of(model, views, holdout)
    rule._reduce(job, Goal(None, 36.0), Effort(keep=1.0), lambda done: None)
    assert len(job.whole.order) == N


def test_a_level_that_misses_the_goal_alone_costs_without_end(model, views, holdout):
    job, goal = job_of(model, views, holdout), Goal(None, 60.0)
    assert math.isfinite(rule._cost(job, goal))
    less = model[torch.arange(0, N, 2)]
    job.take(less, Measured.of(less, views, 0))
    assert rule._cost(job, goal) == math.inf
    assert math.isfinite(rule._cost(job, Goal(9000, 0.0)))
    assert [entry["count"] for entry in job.history] == [N, N // 2, N // 2]


def test_costs_rank_sizes_and_errors(model, views, holdout):
    """Half the error of rounding at the same bytes, and a finer file, are what they promise."""
    job = job_of(model, views, holdout, "fast")
    job.steps = replace(job.steps, prune=0.0)
    near, far = (rule._cost(job, Goal(None, db)) for db in (34.0, 40.0))
    assert near < far  # A better picture takes more bytes,
    small, large = (rule._cost(job, Goal(size, 0.0)) for size in (5000, 10_000))
    assert large < small  # and more bytes leave less error.


@pytest.mark.parametrize("effort", EFFORTS)
def test_goals_out_of_reach_are_refused(model, views, holdout, effort):
    settings = CompressSettings(target_bytes=40, effort=effort)
    with pytest.raises(ValueError, match=r"^target size: expected at most 40 bytes, the smallest"):
        compress(model[torch.arange(20)], settings, views=views, holdout=holdout)


@pytest.mark.parametrize("effort", ["fast", "normal"])
def test_the_same_bytes_every_time(model, views, holdout, press, effort):
    settings = CompressSettings(target_db=36.0, effort=effort)
    again = compress(model, settings, views=views, holdout=holdout)
    assert again.data == press(target_db=36.0, effort=effort).data


def test_progress_never_falls(model, views, holdout):
    said = []
    compress(
        model, CompressSettings("small"), views=views, holdout=holdout,
        progress=lambda stage, done: said.append(done),
    )  # fmt: skip
    assert said == sorted(said)
    assert said[-1] == 1.0


def test_large_models_are_refitted_too(model, views, holdout, monkeypatch):
    assert job_of(model, views, holdout, "fast").lesson is None
    assert len(job_of(model, views, holdout, "normal").lesson.views) == 8
    monkeypatch.setattr(pressing, "LARGE", 0)
    assert job_of(model, views, holdout, "fast").lesson is None
    for effort in ("normal", "high"):
        job = job_of(model, views, holdout, effort)
        assert job.spill
        assert len(job.lesson.views) == 8

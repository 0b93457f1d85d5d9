"""Rate control: how many Gaussians, which steps and which colours meet a goal, by real encodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ..scenes.cameras import Cameras
from ..scenes.metrics import psnr
from .allocate import allocate, share_bits
from .codec import Steps, decode_one, encode_source, requantise
from .fit_tables import Source
from .importance import reference
from .memory import give_back
from .model import SplatModel
from .reduce import Measured, reduced
from .refit import Lesson, refit
from .solve import solve

DB_TOLERANCE = 0.05
BYTES_TOLERANCE = 0.005
MAX_TRIALS = 10
COARSE_TRIALS = 4  # before the bits are shared anew
ROUNDS = 2  # of sharing the bits anew, for models up to
SMALL = 120_000  # Gaussians; larger ones get one round.
ALLOCATION_VIEWS = 4
DB_SLOPE, SIZE_SLOPE = -7.0, 0.4  # First guesses: dB, ln(bytes) lost per unit of ln(factor).
COARSE = {"size": 0.1, "quality": 0.4}  # Windows in which the bits are shared: ln(bytes), dB.
FITS = 2  # times that the colours are fitted to the geometry rounded at better steps
FIT_WINDOW = 0.4  # dB that the colours' steps alone may make up
LUCK = 0.05  # Of the logarithm of bytes or error: so much dearer a round may be by chance.
FINE = 1 / 32  # Steps of colours where only the geometry is to be rounded.


@dataclass(frozen=True)
class Effort:
    """What may be spent on a file.

    Attributes:
        views: of those given, how many the rounds and the colours are fitted to at the most.
        keep: share of the Gaussians that each round of pruning leaves; 1 for none.
        rounds: how many of them at the most.
        repair: iterations of colour re-fit after a round, and
        fit: on the geometry that the file will have.
        shares: times that the bits are shared anew after the rounds.
        merging: whether near Gaussians may become one.
    """

    views: int = 32
    keep: float = 0.8
    rounds: int = 8
    repair: int = 1
    fit: int = 3
    shares: int = 1
    merging: bool = True


HIGH = Effort(keep=0.85, rounds=14, repair=2, fit=8, shares=2)
MANY = Effort(views=16, keep=0.7, rounds=6)
NORMAL = (  # up to so many Gaussians
    (25_000, HIGH),
    (SMALL, Effort()),
    (math.inf, MANY),
)
EFFORTS = ("draft", "fast", "normal", "high")


def effort_for(name: str, count: int) -> Effort | None:
    """What a named effort is for so many Gaussians; None for pruning and steps alone."""
    if name == "normal":
        return next(effort for most, effort in NORMAL if count <= most)
    return {"draft": None, "fast": None, "high": HIGH if count <= 4 * SMALL else MANY}[name]


@dataclass(frozen=True)
class Goal:
    """A size in bytes or, without one, a psnr_self in dB; and whether to miss it is an error."""

    size: int | None
    db: float
    strict: bool = False

    @property
    def slope(self) -> float:
        return DB_SLOPE if self.size is None else -SIZE_SLOPE

    @property
    def coarse(self) -> tuple[float, float]:
        width = COARSE["quality" if self.size is None else "size"]
        return -width, width

    @property
    def fine(self) -> tuple[float, float]:
        return (0.0, DB_TOLERANCE) if self.size is None else (-BYTES_TOLERANCE, 0.0)

    def excess(self, job: Job, steps: Steps) -> float:
        """How far a file overshoots the goal: falls with the steps, as quality and size do."""
        if self.size is None:
            return job.preview(steps) - self.db
        return math.log(job.size(steps) / self.size)

    def check(self, trial: Trial) -> None:
        """ValueError for a file that misses an explicit goal; else the closest there is will do."""
        size = len(trial.data)
        if self.size is not None and size > self.size:
            raise ValueError(
                f"target size: expected at most {self.size} bytes, the smallest file found has "
                f"{size}"
            )
        if self.strict and self.size is None and trial.psnr_self < self.db - DB_TOLERANCE:
            raise ValueError(
                f"target quality: expected {self.db} dB, the finest file found reaches "
                f"{trial.psnr_self:.2f}"
            )


@dataclass(frozen=True)
class Trial:
    """One real encode: its steps, the file, what decoding and rendering it gave."""

    steps: Steps
    data: bytes
    count: int
    psnr_self: float


def mean_psnr(model: SplatModel, cameras: Cameras, pictures: Tensor) -> float:
    """Mean over the views of each view's PSNR against pictures [C, H, W, 3], view by view."""
    give_back()
    render = model.renderer()
    found = [
        float(psnr(render(cameras[c : c + 1]), pictures[c : c + 1])) for c in range(len(cameras))
    ]
    return sum(found) / len(found)


@dataclass
class Job:
    """One scene at work, and how many trials were made.

    Attributes:
        whole: the Gaussians to be coded but for those that `steps.prune` drops by their score.
        lesson: what colours are re-fitted to; None for no re-fit.
        spill: whether models wait in scratch files, as large ones do.
    """

    whole: Source
    measured: Measured
    views: Cameras
    holdout: Cameras
    pictures: Tensor
    header: dict[str, Any]
    lesson: Lesson | None = None
    spill: bool = False
    steps: Steps = field(default_factory=Steps)
    evaluations: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    def source(self, steps: Steps) -> Source:
        """What is left after pruning at these steps, in octree order."""
        if not steps.prune:
            return self.whole
        score = self.measured.score
        keep = score >= min(steps.prune * reference(score), float(score.max()))
        return self.whole.keep(keep.numpy())

    def take(self, model: SplatModel, measured: Measured) -> None:
        """Go on with another model; let go of it where memory matters."""
        self.measured, self.whole = measured, measured.source(model)
        if self.spill:
            self.whole = self.whole.spilled()

    def quality(self, model: SplatModel) -> float:
        """psnr_self of a model on the held-out views."""
        self.evaluations += 1
        return mean_psnr(model, self.holdout, self.pictures)

    def preview(self, steps: Steps) -> float:
        """The psnr_self that `run` will find, without coding."""
        return self.quality(requantise(self.source(steps), steps))

    def size(self, steps: Steps) -> int:
        """The bytes that `run` will find."""
        self.evaluations += 1
        return len(encode_source(self.source(steps), steps, self.header))

    def run(self, steps: Steps) -> Trial:
        """Prune, encode, decode the bytes and render them."""
        data = encode_source(self.source(steps), steps, self.header)
        decoded = decode_one(data, on_disk=self.spill)
        return Trial(steps, data, len(decoded), self.quality(decoded))


def search(job: Job, goal: Goal, effort: Effort | None, say: Callable[[float], None]) -> Trial:
    """The file that meets the goal; ValueError where an explicit goal cannot be met."""
    if job.lesson is None or effort is None:
        _share(job, goal, lambda done: say(0.7 * done))
        families = (lambda steps: steps.scaled, colored)
    else:
        job.steps = replace(job.steps, prune=0.0)
        first = 1 if len(job.whole.order) <= SMALL else 0  # What levels cost needs no more.
        _share(job, goal, lambda done: say(0.1 * done), rounds=first)
        _reduce(job, goal, effort, lambda done: say(0.1 + 0.4 * done))
        _share(job, goal, lambda done: say(0.5 + 0.2 * done), rounds=effort.shares)
        _fit(job, goal, effort, lambda done: say(0.7 + 0.2 * done))
        job.lesson = None  # Has done its work, and decoding needs the room.
        families = (colored, lambda steps: steps.scaled)
    best = None
    for family in families:  # The second where the first jumps over the window.
        steps = job.steps if best is None else best.steps
        trial = job.run(_solved(job, goal, family(steps), goal.fine, MAX_TRIALS))
        if best is None or _miss(goal, trial) < _miss(goal, best):
            best = trial
        if _miss(goal, best)[1] == 0:
            break
    assert best is not None
    goal.check(best)
    return best


def colored(steps: Steps) -> Callable[[float], Steps]:
    """Steps whose colours alone are scaled by a factor."""
    return lambda factor: replace(steps, dc=steps.dc * factor, ac=steps.ac * factor)


def _miss(goal: Goal, trial: Trial) -> tuple[bool, float]:
    """Whether a file lies on the wrong side of the goal, and how far outside the window."""
    low, high = goal.fine
    if goal.size is None:
        excess = trial.psnr_self - goal.db
        return excess < low, max(low - excess, excess - high, 0.0)
    excess = math.log(len(trial.data) / goal.size)
    return excess > high, max(low - excess, excess - high, 0.0)


def _solved(
    job: Job,
    goal: Goal,
    vary: Callable[[float], Steps],
    window: tuple[float, float],
    trials: int,
) -> Steps:
    """The steps of a family, by a factor on them, that come to the window around the goal."""

    def excess(x: float) -> float:
        return goal.excess(job, vary(math.exp(x)))

    return vary(math.exp(solve(excess, goal.slope, window, trials)))


def _share(job: Job, goal: Goal, say: Callable[[float], None], rounds: int | None = None) -> None:
    """Bring the steps near the goal and share the bits anew among them, in turn."""
    if rounds is None:
        rounds = ROUNDS if len(job.whole.order) <= SMALL else 1
    few = job.views[:: max(1, len(job.views) // ALLOCATION_VIEWS)]
    if not rounds:
        job.steps = _solved(job, goal, job.steps.scaled, goal.coarse, COARSE_TRIALS)
    for number in range(rounds):
        job.steps = _solved(job, goal, job.steps.scaled, goal.coarse, COARSE_TRIALS)
        say((number + 0.5) / rounds)
        if job.lesson is None:
            job.steps = allocate(job, job.steps, few)
        else:
            job.steps = share_bits(job.whole, job.steps, few, repaired=True)[0]
        give_back()
        say((number + 1) / rounds)


def _reduce(job: Job, goal: Goal, effort: Effort, say: Callable[[float], None]) -> None:
    """Lose Gaussians and re-fit in rounds while the goal gets cheaper; the job becomes the best.

    After a round that makes it hardly dearer another is looked at. Then there is one more try from
    the best with half the loss.
    """
    assert job.lesson is not None
    best = last = replace(job)
    least = _cost(job, goal)
    job.whole.forget()
    keep = effort.keep
    for number in range(effort.rounds if keep < 1 else 0):
        give_back()
        model, own = last.whole.model, last.whole.stored.fresh
        count = max(1, round(keep * len(model)))
        model = reduced(model, last.measured, count, effort.merging, own=own)
        give_back()
        model = refit(model, job.lesson, effort.repair, own=True)
        give_back()
        seed = int(job.header["seed"]) + number + 1
        job.take(model, Measured.of(model, job.lesson.views, seed))
        del model
        cost = _cost(job, goal)
        job.whole.forget()
        say((number + 1) / effort.rounds)
        if cost < least:
            best = last = replace(job)
            least = cost
        elif keep == effort.keep:
            if cost < least + LUCK and last is best:
                last = replace(job)
            else:
                last, keep = best, (1 + keep) / 2
        else:
            break
    job.whole, job.measured = best.whole, best.measured


def _cost(job: Job, goal: Goal) -> float:
    """Log of the bytes at which the job's model should meet the goal, or of the error at a size.

    One encode at the steps there are, carried on to the goal: the error of rounding goes with the
    square of the steps, the bytes with a power of them. Infinite where the reduction alone misses.
    """
    lost, size = _error(job.quality(job.whole.model)), job.size(job.steps)
    rounding = max(_error(job.preview(job.steps)) - lost, 1e-12)
    job.history.append(
        {"count": len(job.whole.order), "psnr_self": -10 * math.log10(lost), "bytes": size}
    )
    if goal.size is not None:
        factor = (size / goal.size) ** (1 / SIZE_SLOPE)
        return math.log(lost + rounding * factor**2)
    room = _error(goal.db) - lost
    if room <= 0:
        return math.inf
    return math.log(size) - SIZE_SLOPE * 0.5 * math.log(room / rounding)


def _error(db: float) -> float:
    return 10 ** (-min(db, 120.0) / 10)


def _fit(job: Job, goal: Goal, effort: Effort, say: Callable[[float], None]) -> None:
    """Fit the colours to the geometry as the decoder will see it, at steps that meet the goal."""
    assert job.lesson is not None
    start = job.whole
    for number in range(FITS):
        steps = replace(job.steps, dc=job.steps.dc * FINE, ac=job.steps.ac * FINE)
        rounded = requantise(start, steps)
        give_back()
        fitted = refit(rounded, job.lesson, effort.fit, own=True)
        give_back()
        job.whole = start.recolored(fitted)
        del rounded, fitted  # Large ones, and trials follow.
        say((number + 1) / FITS)
        missed = goal.excess(job, job.steps)
        if goal.size is not None or abs(missed) < FIT_WINDOW or number + 1 == FITS:
            break
        job.steps = job.steps.scaled(math.exp(missed / -DB_SLOPE))

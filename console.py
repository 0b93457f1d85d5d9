"""What a command line owes its user: whole outputs, one JSON object, progress, one-line errors."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TextIO

from .temporaries import folder_beside, sweep

FAILURE, MISUSE, INTERRUPTED = 1, 2, 130
PLAIN_LINE_SECONDS = 10.0  # Between lines of progress where stderr is no terminal.


class Misuse(Exception):
    """A command line that makes no sense whatever the files hold: exit code 2."""


def run(verb: Callable[[], int | None], *, debug: bool = False) -> int:
    """The exit code of `verb`; what it raises becomes one line on stderr.

    While it runs, whatever a library prints goes to stderr, and SIGTERM ends it as Ctrl-C does:
    by an exception, so that every half-written output is removed on the way out.
    """
    before = _trap_signals()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: say(str(message))
            return verb() or 0
    except Misuse as error:
        _complain(error)
        return MISUSE
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # The reader of stdout went away: nobody is left to tell.
        return FAILURE
    except Exception as error:
        if debug:
            raise
        _complain(error)
        return FAILURE
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(text: str) -> None:
    """A remark on stderr."""
    print(f"fieldpress: {text}", file=sys.stderr, flush=True)


def _complain(error: BaseException) -> None:
    say(f"error: {_one_line(error)}")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {(error.strerror or type(error).__name__).lower()}"
    if isinstance(error, MemoryError):
        return f"not enough memory{': ' if text else ''}{text}"
    if isinstance(error, (Misuse, ValueError, OSError, ImportError)) and text:
        return text
    return f"{type(error).__name__}: {text} (please report it; --debug shows where)"


def _trap_signals() -> dict[int, Any]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        for other in before:  # A second Ctrl-C must not cut the tidying up short.
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:  # As under nohup: leave it so.
                before[number] = signal.signal(number, interrupt)
    except ValueError:  # Not the main thread: its owner sees to signals.
        pass
    return before


# Results


@contextmanager
def quiet_stdout() -> Iterator[TextIO]:
    """Python code that prints goes to stderr meanwhile; yields the true stdout."""
    true = sys.stdout
    with redirect_stdout(sys.stderr):
        yield true


def print_json(report: Mapping[str, Any], out: TextIO) -> None:
    """One JSON object, one line; numbers that JSON does not know (NaN, infinity) become null."""
    _emit(to_json(report, indent=None) + "\n", out)


def to_json(report: Mapping[str, Any], indent: int | None = 2) -> str:
    return json.dumps(_plain(report), indent=indent, allow_nan=False, ensure_ascii=False)


def print_table(report: Mapping[str, Any], out: TextIO) -> None:
    """The same report for people: one line per entry, nested ones indented."""
    _emit("".join(line + "\n" for line in _table_lines(report, "")), out)


def _emit(text: str | bytes, out: Any) -> None:
    try:
        out.write(text)
        out.flush()
    except OSError as error:
        # What is left in the buffer would fail once more, with a traceback, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise ValueError(f"stdout: cannot write: {error.strerror}") from None


def _table_lines(report: Mapping[str, Any], indent: str) -> Iterator[str]:
    width = max((len(str(key)) for key in report), default=0)
    for key, value in report.items():
        if isinstance(value, Mapping) and not value:
            continue
        if isinstance(value, Mapping) and not indent:
            yield f"{key}:"
            yield from _table_lines(value, "  ")
        elif value is not None and not _is_list_of_objects(value):
            yield f"{indent}{key!s:<{width}}  {_cell(value)}"


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value)


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_cell, value))}]"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if hasattr(value, "tolist"):  # numpy scalars, tensors.
        return _plain(value.tolist())
    return str(value)


# Outputs


def check_output(output: str, *, overwrite: bool, folder: bool = False) -> None:
    """Raise before any work is done for an output that could not be written at its end."""
    path = Path(output)
    if output == "-":
        return
    if not path.parent.is_dir():
        raise ValueError(f"{output}: no such folder: {path.parent}")
    sweep(path.parent)
    if not path.exists():
        return
    if not (path.is_dir() if folder else path.is_file()):
        raise ValueError(f"{output}: exists and is not a {'folder' if folder else 'regular file'}")
    if not overwrite:
        raise ValueError(f"{output}: exists already; --overwrite replaces it")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to make a file or a folder at; it takes the place of `path` in the end, or vanishes.

    Into a folder that exists the new files are moved one by one: what else is in it stays.
    """
    workplace = None
    try:
        with folder_beside(path) as workplace:
            new = workplace / path.name
            yield new
            moved = [(new, path)]
            if path.is_dir():
                files = sorted(file for file in new.rglob("*") if file.is_file())
                moved = [(file, path / file.relative_to(new)) for file in files]
            for file, place in moved:
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, place)
    except OSError as error:
        ours = workplace is None or str(error.filename).startswith(str(workplace))
        if error.filename is not None and not ours:
            raise  # Something else that was not readable, say.
        raise ValueError(f"{path}: cannot write: {error.strerror}") from None


@contextmanager
def sink(output: str) -> Iterator[Callable[[bytes], bytes]]:
    """A function that writes a file's bytes and returns them as they then stand there.

    The file takes its place (or goes to stdout, for "-") only when the block ends without error.
    """
    if output == "-":
        held: list[bytes] = []

        def hold(data: bytes) -> bytes:
            held.append(data)
            return data

        yield hold
        assert sys.__stdout__ is not None
        _emit(b"".join(held), sys.__stdout__.buffer)
        return
    with whole(Path(output)) as new:

        def write(data: bytes) -> bytes:
            with new.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            return new.read_bytes()

        yield write


# Progress


class Progress:
    """How far a job is and how long it will take: a bar on a terminal, now and then a line else.

    Calling it with a stage and the share done of the current part moves it; `part` names which
    stretch of the whole job the shares that follow are of.
    """

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._first: tuple[float, float] | None = None  # When, and the share done by then.
        self._low, self._high = 0.0, 1.0
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self._bar = _rich_bar()
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def part(self, low: float, high: float) -> Progress:
        """Let the shares that follow run from `low` to `high` of the whole."""
        self._low, self._high = low, high
        return self

    def __call__(self, stage: str, fraction_done: float) -> None:
        done = self._low + (self._high - self._low) * min(max(fraction_done, 0.0), 1.0)
        if self._bar is not None:
            self._bar.update(self._task, description=stage, completed=done)
            return
        now = time.monotonic()
        if self._first is None:  # A resumed job begins beyond zero: that took no time of this run.
            self._first = now, done
        start, before = self._first
        if now - self._last >= PLAIN_LINE_SECONDS and before < done < 1:
            self._last = now
            left = (now - start) * (1 - done) / (done - before)
            say(f"{stage}: {100 * done:.0f} % done, about {left:.0f} s left")


def _rich_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )

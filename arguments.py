"""What the verbs of the command have in common: kinds of arguments, and how they end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import tyro

from . import console
from .console import Misuse

Input = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
Scene = Annotated[str | None, tyro.conf.arg(metavar="DIR")]
Device = Annotated[str, tyro.conf.arg(metavar="cpu|cuda|cuda:N")]
Json = Annotated[bool, tyro.conf.arg(name="json")]
Kind = Annotated[str | None, tyro.conf.arg(metavar="FORMAT")]
Frame = Annotated[
    Literal["rdf", "rub", "luf", "ruf", "ldb", "rdb", "lub", "ldf"] | None, tyro.conf.arg()
]

GOAL = tyro.conf.create_mutex_group(required=False)
PATH = tyro.conf.create_mutex_group(required=True)
WHERE = tyro.conf.create_mutex_group(required=False)


def output_as(metavar: str) -> Any:
    return tyro.conf.arg(name="output", aliases=["-o"], metavar=metavar)


def need_room(output: str, json_: bool) -> None:
    if output == "-" and json_:
        raise Misuse("--json: stdout already carries the output; write that to a file")


def finish(report: Mapping[str, Any], json_: bool, out: Any) -> None:
    if json_:
        console.print_json(report, out)
    else:
        console.print_table(report, out)


@contextmanager
def pool_of(jobs: int, ray: str | None, gpus: float = 0) -> Iterator[Any]:
    """Where tasks run: so many processes here, or a cluster; ended with the block."""
    from .jobs import Processes

    if jobs < 1:
        raise Misuse(f"--jobs: expected at least 1, got {jobs}")
    if ray is None and gpus:
        raise Misuse("--gpus: only a cluster hands them out; give --ray")
    if ray is None:
        pool = Processes(jobs)
    else:
        from .ray_jobs import RayPool

        pool = RayPool(ray, gpus=gpus)
    try:
        yield pool
    finally:
        pool.close()

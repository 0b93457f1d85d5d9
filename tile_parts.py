"""What `compress --tiles` has finished so far: a folder from which another run can go on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import __version__, models
from .console import to_json
from .gaussians.compress import CompressSettings
from .gaussians.cut import Rows, cut

ENDS = 1 << 20  # Bytes at either end of the input that are compared.


def about(rows: Rows, settings: CompressSettings, most: int) -> dict[str, Any]:
    """What must be the same for tiles to be of the same job."""
    state, size = hashlib.sha256(), rows.path.stat().st_size
    with rows.path.open("rb") as file:
        state.update(file.read(ENDS))
        file.seek(max(size - ENDS, 0))
        state.update(file.read(ENDS))
    return {
        "input_bytes": size,
        "input_changed": rows.path.stat().st_mtime_ns,
        "input_ends": state.hexdigest(),
        "tiles": most,
        **asdict(settings),
        "version": __version__,
    }


@dataclass(frozen=True)
class Parts:
    """A folder of tiles: cut, then pressed one by one.

    A record is written after what it speaks of, so that a kill between them loses both.
    """

    folder: Path

    def begin(self, job: Mapping[str, Any], resume: bool) -> None:
        """Make the folder, or take the one of an interrupted run of the same job.

        Raises ValueError where there is none to go on from, or it is another job's.
        """
        if not resume:
            self.end()
            self.folder.mkdir()
            try:
                self._write("job", job)
            except ValueError:
                self.end()
                raise
            return
        found = self._read("job")
        if found is None:
            raise ValueError(f"{self.folder}: no tiles to resume from")
        wanted = json.loads(to_json(job))
        for key, value in wanted.items():
            if found.get(key) != value:
                raise ValueError(
                    f"{self.folder}: these tiles are of another job: {key} was "
                    f"{found.get(key)!r:.60}, now {value!r:.60}"
                )
        for place in filter(Path.is_dir, self.folder.iterdir()):  # Of tasks that were at work.
            shutil.rmtree(place, ignore_errors=True)

    def left(self) -> str:
        """What an error says of the folder, which waits for another run."""
        return f"--resume goes on from {self.folder.name}"

    def end(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def cuts(self, rows: Rows, most: int) -> list[tuple[Path, int]]:
        """The parts of the input and their counts, cut now if they are not there."""
        known = self._read("cuts")
        if known is None:
            for left in self.folder.glob("*.ply"):
                left.unlink()
            made = cut(rows, self.folder, most)
            known = {"cuts": [[path.stem, count] for path, count in made]}
            self._write("cuts", known)
        return [(self.folder / f"{key}.ply", count) for key, count in known["cuts"]]

    def finished(self, keys: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """What was found of those tiles whose streams are there."""
        records = {key: self._read(key) for key in keys}
        return {
            key: record
            for key, record in records.items()
            if record is not None
            and all(self.stream(key, level).is_file() for level in range(len(record["files"])))
        }

    def keep(self, key: str, place: Path, result: Mapping[str, Any]) -> None:
        """Move the streams of a tile here, and note what was found."""
        for level, file in enumerate(result["files"]):
            os.replace(place / file, self.stream(key, level))
        self._write(key, result)

    def stream(self, key: str, level: int) -> Path:
        """Where a level of a tile lies."""
        return self.folder / f"{key}-{level}.fpz"

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        models.write_atomic(self.folder / f"{name}.json", [to_json(value).encode()])

    def _read(self, name: str) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((self.folder / f"{name}.json").read_bytes())
            return found if isinstance(found, dict) else None
        return None

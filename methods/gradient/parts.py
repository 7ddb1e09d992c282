"""What the jobs of a pass leave, and what they are handed: sealed files below ``cache_dir/parts``.

Each folder is named by a key of everything that its files follow from, so that whatever is found
there is what would be made again. The folders can be deleted whenever no run is at work.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from bench.engines.base import Engine, Job
from bench.engines.outcomes import outcomes, unless_single
from bench.storage.mirror import Mirror
from bench.storage.sharing import Sharing

T = TypeVar("T")

# Raised whenever a change of code moves a number in a part; a piece of every key.
PARTS_VERSION = 1
PARTS = "parts"  # the folder below cache_dir
SUFFIX = ".safetensors"
_MOST_OPEN = 32  # files that a worker keeps open for its next job

_open: dict[tuple[Path, object], object] = {}


@dataclass(frozen=True)
class PartsFolder:
    """The place of parts, and who makes them.

    Attributes:
        folder: the root of all folders of parts, or the folder of one search.
        engine: runs the jobs that make them.
        mirror: the copy of the cache in a store, which parts are shared through.
    """

    folder: Path
    engine: Engine
    mirror: Mirror

    def outcomes(
        self,
        jobs: Sequence[Job],
        read: Callable[[Path], T],
        label: str,
        whole: Path | None = None,
        found: set[Path] | None = None,
    ) -> Iterator[T]:
        """What ``bench.engines.outcomes`` gives; a single job is done in this process.

        Args:
            whole: the file that the store has once the parts are merged; None: the parts stay.
            found: receives the files that were there before.
        """
        runs = unless_single(self.engine, len(jobs))
        return outcomes(jobs, read, runs, label, "groups", Sharing(self.mirror, whole), found)

    def bring(self, paths: Collection[Path], read: Callable[[Path], object]) -> None:
        """Bring parts that others have finished, so that this process finds them done."""
        Sharing(self.mirror).exchange(paths, read)

    def sends(self, n_jobs: int) -> bool:
        """Whether so many jobs are done by other processes."""
        return self.engine.apart and n_jobs > 1

    def handed(
        self,
        value: T,
        path: Path,
        write: Callable[[Path, T], None],
        read: Callable[[Path], T],
        n_jobs: int,
    ) -> Handed[T]:
        """A value for so many jobs, written to a file where other processes will ask for it.

        Args:
            read: reads what ``write`` wrote; a function of a module.
        """
        if not self.sends(n_jobs):
            return Handed(value)
        write(path, value)
        return Handed(value, path, read)


@dataclass
class SharedSeconds:
    """The seconds of work that cells share, all processes together; ``facts`` are for the result.

    Attributes:
        by_others: what others, or earlier runs, spent on parts that this cell found done.
        for_others: what this cell spent on parts of other cells.
    """

    by_others: float = 0.0
    for_others: float = 0.0

    @property
    def facts(self) -> dict[str, float]:
        """Those that are not zero, by the names that ``bench.report.costs`` knows."""
        named = {f"seconds_{name}": round(value, 3) for name, value in vars(self).items()}
        return {name: value for name, value in named.items() if value}


class Handed(Generic[T]):
    """A value that jobs get through a file: it is at hand here, and read in another process.

    Args:
        value: the value.
        path: the file that holds it; None where no job of another process will ask.
        read: reads the file; a function of a module.
    """

    def __init__(
        self, value: T, path: Path | None = None, read: Callable[[Path], T] | None = None
    ) -> None:
        self._value, self.path, self._read = value, path, read

    def __call__(self) -> T:
        """The value."""
        return self._value

    def __reduce__(self) -> tuple:
        if self.path is None or self._read is None:
            raise TypeError("a value without a file cannot be sent to another process")
        return _arrived, (self.path, self._read)


def _arrived(path: Path, read: Callable[[Path], T]) -> Handed[T]:
    """What was handed, in another process, which reads each file once for its jobs."""
    name = (path, read)
    if name not in _open:
        if len(_open) >= _MOST_OPEN:
            _open.clear()
        _open[name] = read(path)
    value: T = _open[name]  # type: ignore[assignment]
    return Handed(value, path, read)

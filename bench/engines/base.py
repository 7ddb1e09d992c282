"""The interface of engines, which get independent jobs done, anywhere and in any order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from bench.core import progress, stopping
from bench.core.errors import UserError
from bench.core.fields import check_ranges


@dataclass(frozen=True)
class Job:
    """One piece of work, whose outcome is a file.

    Attributes:
        work: a function of a module or class (engines send it by name), called with ``arguments``;
            it writes ``target`` whole or not at all, and doing it twice is doing it once.
        arguments: the arguments of ``work``; plain data that can be sent to another process.
        target: the file whose presence says that the job is done.
        beside: other files that the work leaves, for other phases.
        share: does the work, unless another machine has, and lets others have what comes of it
            (``bench.storage.sharing``); None where there is no store. It can be sent, too.
    """

    work: Callable[..., None]
    arguments: tuple[Any, ...]
    target: Path
    beside: tuple[Path, ...] = ()
    share: Callable[[Path, Sequence[Path], Callable[[], None]], None] | None = None

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.target.exists()

    def run(self) -> None:
        """Do the work, unless somebody has done it in the meantime."""
        if self.done:
            return
        if self.share is None:
            self.work(*self.arguments)
        else:
            self.share(self.target, self.beside, partial(self.work, *self.arguments))

    def outcome(self) -> UserError | None:
        """Do the work, and return the user's mistake that stood in its way instead of raising it.

        For engines whose libraries wrap what is raised far away.
        """
        try:
            self.run()
        except UserError as error:
            return error
        return None


class Engine(ABC):
    """A place and a way to run jobs; a subclass is one entry of ``ENGINES``.

    No job may depend on which engine runs it: results are equal bit for bit wherever they are equal
    for any number of threads; work that is not sets its own number.

    Subclasses set ``Config``: a dataclass whose fields are the keys of ``conf/engine/NAME.yaml``.

    Attributes:
        apart: whether jobs run in other processes, whose files this one has to read to check them.
    """

    Config: ClassVar[type]
    apart: ClassVar[bool] = True

    def __init__(self, config: Any) -> None:
        self.config = config

    def check(self) -> None:
        """Raise UserError, before any work starts, if the engine cannot work here."""
        check_ranges(self.config, "engine")

    def run(self, jobs: Sequence[Job], label: str, unit: str) -> None:
        """Return when every job is done; jobs that are done already are not run again.

        Raises:
            UserError: a job failed by the user's mistake. Those that were finished stay.
            Stopped: the run was asked to stop (``bench.core.stopping``). Jobs that had begun were
                finished or, after SIGINT, abandoned.
        """
        left = [job for job in jobs if not job.done]
        if left:
            self._reach(left)
            with stopping.finish_first(abandons=self.apart):
                finished = self._finished(left, label, unit)
                for _ in progress.track(finished, label, unit=unit, total=len(left)):
                    pass

    def _reach(self, jobs: Sequence[Job]) -> None:  # noqa: B027 - most engines need nothing
        """Start or connect to what runs the jobs; none has begun, so that a signal ends this."""

    @abstractmethod
    def _finished(self, jobs: Sequence[Job], label: str, unit: str) -> Iterator[Job]:
        """Run jobs, and yield each when it is done; begin none after ``stopping.asked()``.

        An engine whose jobs run apart looks at ``stopping.asked_at_once()`` several times a second,
        and then returns within a second, with its jobs ended. It ends them in the same way when
        the iterator is closed.
        """

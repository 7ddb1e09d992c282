"""What an engine is: it gets independent jobs done, anywhere and in any order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class Job:
    """One piece of work, whose outcome is a file.

    Attributes:
        work: a function of a module (engines send it by name), called with ``arguments``; it
            writes ``target`` whole or not at all, and doing it twice is doing it once.
        arguments: what it needs; plain data that can be sent to another process.
        target: done = this file is there.
    """

    work: Callable[..., None]
    arguments: tuple[Any, ...]
    target: Path

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.target.exists()

    def run(self) -> None:
        """Do the work, unless somebody has done it in the meantime."""
        if not self.done:
            self.work(*self.arguments)


class Engine(ABC):
    """Runs jobs; a subclass is one entry of ``ENGINES``.

    No job may depend on which engine runs it: results are equal bit for bit, which is why work that
    depends on the number of threads sets its own.

    Subclasses set ``Config``: a dataclass whose fields are the keys of ``conf/engine/NAME.yaml``.
    """

    Config: ClassVar[type]

    def __init__(self, config: Any) -> None:
        self.config = config

    def check(self) -> None:  # noqa: B027 - an engine may have nothing to check
        """Raise UserError, before any work starts, if the engine cannot work here."""

    def run(self, jobs: Sequence[Job], label: str, unit: str) -> None:
        """Return when every job is done; jobs that are done already are not run again.

        Raises:
            UserError: a job failed by the user's mistake. Those that were finished stay.
        """
        left = [job for job in jobs if not job.done]
        if left:
            self._run(left, label, unit)

    @abstractmethod
    def _run(self, jobs: Sequence[Job], label: str, unit: str) -> None:
        """Run jobs that are not done."""

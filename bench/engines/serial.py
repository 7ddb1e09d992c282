"""The engine that runs jobs one after the other in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.core import stopping
from bench.engines.base import Engine, Job


@dataclass
class SerialConfig:
    """The settings of ``serial``: there is nothing to set."""


class Serial(Engine):
    """Runs jobs in this process, in the order given."""

    Config = SerialConfig
    apart = False

    def _finished(self, jobs: Sequence[Job], label: str, unit: str) -> Iterator[Job]:  # noqa: ARG002
        for job in jobs:
            if stopping.asked():
                return
            job.run()
            yield job

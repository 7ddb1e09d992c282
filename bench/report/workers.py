"""Who makes the independent parts of a report: this process, or several beside each other."""

from __future__ import annotations

from bench.engines.base import Engine
from bench.engines.processes import Processes, ProcessesConfig
from bench.engines.serial import Serial, SerialConfig

_WORTH_SECONDS = 10.0  # workers take two or three to start, and load the libraries again


def engine_for(seconds: float) -> Engine:
    """The engine for parts that would take one core so long."""
    if seconds < _WORTH_SECONDS:
        return Serial(SerialConfig())
    return Processes(ProcessesConfig(workers=None, gpus=0))

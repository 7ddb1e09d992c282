"""Wall time and peak memory of the named phases of a cell."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Phase:
    """One phase: its wall time in seconds and the process's peak resident memory in MiB."""

    name: str
    seconds: float
    peak_mib: float


@dataclass
class Phases:
    """The phases of one cell, in the order in which they ended."""

    records: list[Phase] = field(default_factory=list)
    _peaks: list[float] = field(default_factory=list)  # MiB so far, of each running phase

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Time the block and note its peak memory; outside Linux that of the process so far."""
        self._note_peak()
        self._peaks.append(0.0)
        _reset_peak()
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._note_peak()
            self.records.append(Phase(name, round(seconds, 3), round(self._peaks.pop(), 1)))

    def _note_peak(self) -> None:
        """Keep the peak for every running phase, before a phase within it resets the counter."""
        if self._peaks:
            peak = _peak_mib()
            self._peaks = [max(known, peak) for known in self._peaks]


def _reset_peak() -> None:
    with contextlib.suppress(OSError):  # elsewhere the peak is the whole process's so far
        _CLEAR.write_text("5")  # Linux: set the peak back to the current resident size


def _peak_mib() -> float:
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024

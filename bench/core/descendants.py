"""The processes that this one has started, and those that these have; Linux alone says so."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path


def descendants(pid: int) -> set[int]:
    """The ids of all processes below one; none where the system does not say."""
    below: set[int] = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has ended in the meantime
            own = set(map(int, children.read_text().split()))
            below |= own.union(*map(descendants, own))
    return below


def kill_below(pid: int) -> None:
    """Kill all processes below one."""
    for one in descendants(pid):
        with suppress(OSError):  # it has ended by itself
            os.kill(one, signal.SIGKILL)

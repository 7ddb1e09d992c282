"""What contenders of a benchmark share: a clock, turns, and peers in environments of their own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path


def timed(run: Callable[[], object]) -> Callable[[], float]:
    """The same work, returning the seconds that it took."""

    def seconds() -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    return seconds


def interleave(contenders: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender, round by round; a round before them, which warms up, is dropped.

    Args:
        contenders: by name; each does its work once and returns seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            taken = run()
            if number:
                seconds[name].append(taken)
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return seconds


class Peer:
    """A process of another interpreter that does one pass when asked.

    Attributes:
        said: its first line, which it prints when it is ready.

    Raises:
        RuntimeError: it ended before that; the last line of what it said on standard error.
    """

    def __init__(self, python: str, script: str, *words: object) -> None:
        path = Path(__file__).with_name(script)
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [python, str(path), *map(str, words)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip
        self.said = self._answer().strip()

    def _answer(self) -> str:
        line: str = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            self._log.seek(0)
            last = self._log.read().strip().splitlines()[-1:] or ["no output"]
            raise RuntimeError(last[0])
        return line

    def seconds(self) -> float:
        """One pass; the process keeps its own time, so that starting costs nothing."""
        self._process.stdin.write("run\n")  # type: ignore[union-attr]
        self._process.stdin.flush()  # type: ignore[union-attr]
        return float(self._answer())

    def stop(self) -> None:
        """Let it end."""
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait(timeout=60)

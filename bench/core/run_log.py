"""The log file of a run: every line that the run says, with its time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from bench.core.escape import clean

_file: Path | None = None  # where this process notes what it says, if anywhere


@contextmanager
def kept_in(file: Path) -> Iterator[None]:
    """A context in which the lines of this process are appended to a file.

    Processes may share the file: each line is appended by itself.

    Raises:
        OSError: the file cannot be made.
    """
    global _file
    before = _file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    _file = file
    try:
        yield
    finally:
        _file = before


def note(text: str) -> None:
    """Append the lines of a text to the log of the run, if it keeps one.

    A disk that takes no more lines costs lines of the log, never a result.
    """
    if _file is None:
        return
    now = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
    with suppress(OSError), open(_file, "a", encoding="utf-8") as stream:
        stream.writelines(f"{now} {clean(line)}\n" for line in text.splitlines())

"""How much is read of a file that may be anybody's, and which files are read at all.

A results folder, a model's folder or a corpus may come from a stranger. Whoever reads one of its
files reads it through a module that keeps these bounds: ``documents`` (JSON and YAML),
``jsonlines`` and ``tables`` (Parquet). Each bound is far above what an honest file needs, and so
low that reading up to it takes seconds and less than a gibibyte.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from bench.core.errors import UserError

MIB = 1 << 20

# A cell's config.yaml has some kilobytes; a parser of YAML reads some megabytes a second.
MOST_YAML_BYTES = MIB
MOST_YAML_VALUES = 100_000  # settings have some hundreds
# A result.json of 4,000 groups of queries with ten metrics each has a quarter of that.
MOST_JSON_BYTES = 64 * MIB
# One line of JSON: a list of 1,000 passages of 10 kB, with as many opponents, has 20 MB. Texts take
# up to four bytes a character in memory, twice over while they are parsed.
MOST_LINE_BYTES = 32 * MIB
# An answered sheet: 10,000 pairs with passages of 10 kB have 100 MB.
MOST_SHEET_BYTES = 256 * MIB
# Values of one document or line, counted by its commas and brackets. An empty object of two bytes
# takes 72 in memory; without this bound a line of 32 MiB could take 800.
MOST_VALUES = 2_000_000
# Lists within lists. Settings go six deep; Python gives up at some hundreds.
MOST_DEPTH = 50
# Counts and ids are 64-bit numbers, in Arrow and SQLite as well.
LARGEST_COUNT = 2**63 - 1
LARGEST_INTEGER = 2**64 - 1
# What a gzip file may become. Rankings pack to a tenth or a thirtieth, zeros to a thousandth; small
# files may do as they like.
MOST_EXPANSION = 200
EXPANDS_FREELY = 16 * MIB
# The table of queries: 20,000 queries with scores over 100 subsets have 32 MB.
MOST_TABLE_BYTES = 128 * MIB
MOST_TABLE_ROWS = 1_000_000  # of a table whose number of queries nobody says
MOST_TABLE_COLUMNS = 1_000  # a metric, a slice or a kind each
MOST_TABLE_VALUES = 16_000_000  # with those in lists; a column of equal values packs to nothing


def open_regular(path: Path, most_bytes: int | None = None) -> IO[bytes]:
    """Open a file of the disk for reading, and nothing else that a name may stand for.

    A FIFO would be waited for, and a device may have no end.

    Args:
        most_bytes: size beyond which it is not read; None for any.

    Raises:
        OSError: it cannot be opened.
        UserError: it is no regular file, or larger than ``most_bytes``.
    """
    # Not waiting matters to FIFOs alone: a regular file is read as ever.
    stream = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 - it is returned
    state = os.stat(stream.fileno())
    reason = ""
    if not stat.S_ISREG(state.st_mode):
        reason = "cannot read it (a device, a pipe or a socket, not a file)"
    elif most_bytes is not None and state.st_size > most_bytes:
        reason = f"has {state.st_size:,} bytes, and {most_bytes:,} are the most that is read"
    if reason:
        stream.close()
        raise UserError(reason, where=str(path), fix="get the file from where it was made")
    return stream


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """All bytes of a regular file that has no more than ``most_bytes``.

    Raises:
        UserError: it cannot be read, is no regular file, or has more.
    """
    try:
        with open_regular(path, most_bytes) as stream:
            size = os.stat(stream.fileno()).st_size
            content = stream.read(size + 1)
    except OSError as error:
        raise UserError(f"cannot read it ({error.strerror or error})", where=str(path)) from error
    if len(content) > size:  # what the system makes as it is read has no size
        raise UserError("cannot read it (it grows while it is read)", where=str(path))
    return content


def check_inside(path: Path, folder: Path) -> None:
    """Refuse a path that links lead out of a folder; what is not there yet leads nowhere.

    Raises:
        UserError: it leads elsewhere, or in a circle.
    """
    try:
        target, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    except (OSError, ValueError) as error:
        raise UserError(f"leads nowhere ({error})", where=str(path)) from error
    if target != root and root not in target.parents:
        raise UserError(
            "is a link, or lies behind one, that leads out of the folder",
            where=str(path),
            fix=f"put what it links to into {folder}, or remove it",
        )


def whole_number(digits: str) -> int | float:
    """The number that digits of JSON stand for; for ``json`` as ``parse_int``.

    A number of more than 64 bits is infinite, as 1e999 is, so that whoever wants a count or a
    finite number refuses it by the name of its field.

    Raises:
        ValueError: it has some thousands of digits.
    """
    number = int(digits)
    if abs(number) <= LARGEST_INTEGER:
        return number
    return math.inf if number > 0 else -math.inf


def check_number_of_values(text: bytes) -> None:
    """Refuse JSON of more values than are read, before they are made.

    Raises:
        ValueError: there are too many.
    """
    if len(text) > MOST_VALUES:  # shorter ones cannot hold as many
        values = sum(map(text.count, (b",", b"[", b"{")))
        if values > MOST_VALUES:
            raise ValueError(f"holds {values:,} values, and {MOST_VALUES:,} are the most")


def values_of(document: Any) -> Iterator[Any]:
    """Every value of nested lists and dictionaries, itself and the keys included.

    Raises:
        ValueError: they are nested too deeply.
    """
    waiting = [(document, 0)]
    while waiting:
        value, depth = waiting.pop()
        yield value
        if isinstance(value, dict | list):
            if depth == MOST_DEPTH:
                raise ValueError("nested too deeply")
            inner = [*value, *value.values()] if isinstance(value, dict) else value
            waiting += [(one, depth + 1) for one in inner]


def check_nesting(document: Any, text: bytes) -> None:
    """Refuse a parsed JSON value that is nested too deeply.

    Args:
        text: what it was parsed from; by its brackets most are seen to be flat.

    Raises:
        ValueError: it is.
    """
    if text.count(b"[") + text.count(b"{") > MOST_DEPTH:
        for _ in values_of(document):
            pass

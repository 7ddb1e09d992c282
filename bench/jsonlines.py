"""Stream JSON-lines files, plain or gzipped, one or a sharded glob; every fault names its place."""

from __future__ import annotations

import glob
import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError

Json = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a record was read: file and line (from 1)."""

    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"

    def error(self, field: str, what: str, fix: str = "") -> UserError:
        """A one-line error about ``field`` of the record at this place."""
        return UserError(what, where=f"{self}, field {field!r}", fix=fix)


def expand(pattern: str, setting: str) -> list[Path]:
    """The files that a path or glob names, sorted by name.

    Args:
        pattern: a path or a glob, e.g. ``"trex_sentences.jsonl-*-of-00020"``.
        setting: the config key it came from, for the error message.

    Raises:
        UserError: no such file, or a directory.
    """
    try:
        literal = Path(pattern).expanduser()
        is_folder = literal.is_dir()
        found = [literal] if literal.is_file() else sorted(map(Path, glob.glob(str(literal))))
        files = [path for path in found if path.is_file()]
    except (OSError, RuntimeError) as error:  # no such home, a name too long, a closed folder
        raise UserError(
            f"cannot look there ({error})", where=pattern, fix=f"check {setting}"
        ) from error
    if is_folder:
        raise UserError(
            "is a directory, not a file", where=str(literal), fix=f"set {setting} to a file or glob"
        )
    if not files:
        raise UserError(
            "no such file", where=pattern, fix=f"set {setting} to an existing file or glob"
        )
    return files


def read(path: Path) -> Iterator[tuple[Place, Json]]:
    """Yield every record of one file with its place; blank lines are skipped.

    Raises:
        UserError: not readable, not UTF-8, not JSON, not an object, or a damaged gzip stream.
    """
    for place, raw in lines(path):
        yield place, _parse(raw, place)


def lines(path: Path) -> Iterator[tuple[Place, bytes]]:
    """Yield every line of one plain or gzipped file with its place; blank lines are skipped.

    Raises:
        UserError: not readable, or a damaged gzip stream.
    """
    line_number = 0
    try:
        with _open(path) as stream:
            for line_number, raw in enumerate(stream, start=1):
                if raw.strip():
                    yield Place(path, line_number), raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"damaged gzip stream after line {line_number} ({error})",
            where=str(path),
            fix="fetch the file again",
        ) from error
    except PermissionError as error:
        raise UserError(
            "no permission to read", where=str(path), fix="check its owner and mode"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read it ({error.strerror or error})", where=str(path)) from error


def _open(path: Path) -> Any:
    with open(path, "rb") as stream:
        is_gzip = stream.read(2) == b"\x1f\x8b"  # by content: the name may lie
    return gzip.open(path, "rb") if is_gzip else open(path, "rb")


def _parse(raw: bytes, place: Place) -> Json:
    try:
        # Some editors put a byte order mark before the first line; it is no part of the record.
        # Without the newline, a fault at the end of the line is not reported as column 1.
        text = raw.rstrip(b"\r\n").decode("utf-8-sig" if place.line == 1 else "utf-8")
        record = json.loads(text)
    except UnicodeDecodeError as error:
        raise UserError(
            f"not UTF-8 at byte {error.start} of the line", where=str(place), fix="re-encode it"
        ) from error
    except (ValueError, RecursionError) as error:
        detail = ": nested too deeply"
        if isinstance(error, json.JSONDecodeError):
            detail = f" at column {error.colno}: {error.msg}"
        elif isinstance(error, ValueError):  # an integer of thousands of digits
            detail = f": {error}"
        raise UserError(
            f"broken JSON{detail}", where=str(place), fix="mend or delete the line"
        ) from error
    if not isinstance(record, dict):
        raise UserError(f"expected a JSON object, found {type(record).__name__}", where=str(place))
    return record


def dump(record: Json) -> str:
    """One line of JSON, with its newline. Lone surrogates are escaped, so it is always UTF-8."""
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(record, ensure_ascii=True, allow_nan=False)
    return text + "\n"

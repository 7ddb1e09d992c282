"""JSON-lines files as streams of records, plain or gzipped; every fault names its place."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

from bench.core.errors import UserError
from bench.core.escape import clean
from bench.storage.files import File, open_bytes

Json = dict[str, Any]

_NO_TEXT = re.compile("[\0\ud800-\udfff]")
# JSON can hold such a character only as an escape; those of two surrogates that are one character
# match as well, and are looked at again.
_MAY_BE_NO_TEXT = re.compile(rb"\\u(?:[dD][89a-fA-F]|0000)")


@dataclass(frozen=True)
class Place:
    """The place where a record was read: file and line (from 1)."""

    path: File
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"

    def error(self, field: str, what: str, fix: str = "") -> UserError:
        """A one-line error about ``field`` of the record at this place."""
        return UserError(what, where=f"{self}, field {field!r}", fix=fix)


def read(path: File) -> Iterator[tuple[Place, Json]]:
    """Yield every record of one file with its place; blank lines are skipped.

    Raises:
        UserError: not readable, not UTF-8, not JSON, not an object, or a damaged gzip stream.
    """
    for place, raw in lines(path):
        yield place, _parse(raw, place)


def read_texts(path: File) -> Iterator[tuple[Place, Json]]:
    """Yield every record of a file whose texts and ids go to tokenizers, indexes and tables.

    Some of these take a NUL or a lone surrogate, and some do not; so none is ever given one.

    Raises:
        UserError: as ``read``; or a text or a name in it holds such a character.
    """
    for place, raw in lines(path):
        record = _parse(raw, place)
        if _MAY_BE_NO_TEXT.search(raw):
            check_texts(record, place)
        yield place, record


def check_texts(record: Json, place: Place) -> None:
    """Refuse, with a UserError, a record with a text or a name that holds such a character."""
    for name, value in record.items():
        _check_characters([name, value], name, place)


def check_characters(text: str, field: str, place: Place) -> None:
    """Refuse a text that holds NUL or a lone surrogate.

    Raises:
        UserError: names the character, file, line and field.
    """
    if wrong := _NO_TEXT.search(text):
        character = "NUL" if wrong[0] == "\0" else "a lone surrogate"
        raise place.error(
            clean(field),
            f"holds {character} (U+{ord(wrong[0]):04X}), which is no text",
            "replace or delete the character",
        )


def _check_characters(value: Any, field: str, place: Place) -> None:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            check_characters(one, field, place)
        elif isinstance(one, dict):
            waiting += [*one, *one.values()]
        elif isinstance(one, list):
            waiting += one


def lines(path: File) -> Iterator[tuple[Place, bytes]]:
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


@contextmanager
def _open(path: File) -> Iterator[IO[bytes]]:
    with open_bytes(path) as stream:
        is_gzip = stream.read(2) == b"\x1f\x8b"  # by content, as the name may lie
    with open_bytes(path) as stream:  # opened again, as not every store can go back
        if is_gzip:
            with gzip.open(stream) as unpacked:
                yield cast("IO[bytes]", unpacked)
        else:
            yield stream


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
        elif isinstance(error, ValueError):  # Python refuses an integer of thousands of digits
            detail = f": {error}"
        raise UserError(
            f"broken JSON{detail}", where=str(place), fix="mend or delete the line"
        ) from error
    if not isinstance(record, dict):
        raise UserError(f"expected a JSON object, found {type(record).__name__}", where=str(place))
    return record


def dump(record: Json) -> str:
    """A record as one line of JSON with its newline; lone surrogates are escaped."""
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(record, ensure_ascii=True, allow_nan=False)
    return text + "\n"

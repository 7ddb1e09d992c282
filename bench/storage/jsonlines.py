"""JSON-lines files as streams of records, plain or gzipped; every fault names its place."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

from bench.core.errors import UserError
from bench.core.escape import clean
from bench.storage.bounds import (
    EXPANDS_FREELY,
    MOST_EXPANSION,
    MOST_LINE_BYTES,
    check_nesting,
    check_number_of_values,
    whole_number,
)
from bench.storage.files import File, open_bytes

Json = dict[str, Any]

_DECODER = json.JSONDecoder(parse_int=whole_number)
_BLOCK = 1 << 20  # bytes that are unpacked at a time
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
        UserError: not readable, not UTF-8, not JSON, not an object, a damaged gzip stream, or
            beyond a bound of ``bench.storage.bounds``.
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
        UserError: not readable, a damaged gzip stream, one that expands beyond measure, or a line
            that is longer than any that is read.
    """
    line_number = 0
    try:
        with _open(path) as stream:
            while raw := stream.readline(MOST_LINE_BYTES + 1):
                line_number += 1
                if len(raw) > MOST_LINE_BYTES:
                    raise UserError(
                        f"has more than {MOST_LINE_BYTES:,} bytes, the most of a line that is read",
                        where=str(Place(path, line_number)),
                        fix="put each record on a line of its own",
                    )
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
            packed = _Counted(stream)
            with gzip.open(packed) as unpacked:
                yield cast(
                    "IO[bytes]", io.BufferedReader(_Expanding(path, packed, unpacked), _BLOCK)
                )
        else:
            yield stream


class _Counted(io.RawIOBase):
    """A stream that counts the bytes that are read of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.n_read = stream, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        self.n_read += len(data)
        return len(data)


class _Expanding(io.RawIOBase):
    """What a gzip stream unpacks to, as long as that is within measure of what it is packed in."""

    def __init__(self, path: File, packed: _Counted, unpacked: Any) -> None:
        self._path, self._packed, self._unpacked, self._n_made = path, packed, unpacked, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._unpacked.read(len(buffer))
        buffer[: len(data)] = data
        self._n_made += len(data)
        if self._n_made > EXPANDS_FREELY + MOST_EXPANSION * self._packed.n_read:
            raise UserError(
                f"unpacks to more than {MOST_EXPANSION} times its size",
                where=str(self._path),
                fix="unpack it yourself if you trust it",
            )
        return len(data)


def _parse(raw: bytes, place: Place) -> Json:
    try:
        # Some editors put a byte order mark before the first line; it is no part of the record.
        # Without the newline, a fault at the end of the line is not reported as column 1.
        text = raw.rstrip(b"\r\n").decode("utf-8-sig" if place.line == 1 else "utf-8")
        check_number_of_values(raw)
        record = _DECODER.decode(text)
        check_nesting(record, raw)
    except UnicodeDecodeError as error:
        raise UserError(
            f"not UTF-8 at byte {error.start} of the line", where=str(place), fix="re-encode it"
        ) from error
    except (ValueError, RecursionError) as error:
        detail = ": nested too deeply"
        if isinstance(error, json.JSONDecodeError):
            detail = f" at column {error.colno}: {error.msg}"
        elif isinstance(error, ValueError):  # beyond a bound
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

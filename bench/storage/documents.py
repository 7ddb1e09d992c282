"""Whole documents, JSON and YAML, that may be anybody's: plain values within bounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from bench.core.errors import UserError
from bench.storage.bounds import (
    LARGEST_INTEGER,
    MOST_DEPTH,
    MOST_JSON_BYTES,
    MOST_YAML_BYTES,
    MOST_YAML_VALUES,
    check_nesting,
    check_number_of_values,
    read_bytes,
    values_of,
    whole_number,
)

# The parser in C where PyYAML has it: both are safe, and take the same files.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN = (dict, list, str, int, float, bool, type(None))


class _BeyondError(ValueError):
    """A reason why a document that is well formed is not read."""


def read_json(path: Path) -> Any:
    """The value that a file of JSON holds; NaN and infinities are numbers as any.

    Raises:
        UserError: it cannot be read, is no JSON, or is beyond a bound of ``bench.storage.bounds``.
    """
    content = read_bytes(path, MOST_JSON_BYTES)
    try:
        check_number_of_values(content)
        document = json.loads(content.decode("utf-8"), parse_int=whole_number)
        check_nesting(document, content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read it ({_reason(error)})", where=str(path)) from error
    return document


def read_yaml(path: Path) -> Any:
    """The value that a file of YAML holds: lists, dictionaries with texts as keys, plain values.

    Aliases count as what they stand for: a kilobyte of them can stand for more values than any
    memory holds, or for a list that holds itself.

    Raises:
        UserError: it cannot be read, is no YAML, holds a date or another such value, or is beyond a
            bound of ``bench.storage.bounds``.
    """
    content = read_bytes(path, MOST_YAML_BYTES)
    try:
        text = content.decode("utf-8")
        _check_events(text)
        loader = _Loader(text)
        try:
            document = loader.get_single_data()
        finally:
            loader.dispose()
        _check_plain(document)
    # PyYAML raises whatever its constructors do: of a date of month 13, or of base64 that is none.
    except (
        yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, OverflowError,
        RecursionError,
    ) as error:  # fmt: skip
        raise UserError(f"cannot read it ({_reason(error)})", where=str(path)) from error
    return document


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return " ".join(str(error).split())[:200] or type(error).__name__


def _check_events(text: str) -> None:
    """Refuse, before any value is made, what making it could take for ever: depth, merge keys.

    A mapping that merges others twice over holds their keys twice until it is made, so that thirty
    lines of such mappings fill any memory.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        line = event.start_mark.line + 1
        if depth > MOST_DEPTH:
            raise _BeyondError(f"nested too deeply in line {line}")
        merges = getattr(event, "value", None) == "<<"
        if merges or str(getattr(event, "tag", None)).endswith(":merge"):
            raise _BeyondError(f"a merge key in line {line}: write out what it stands for")


def _check_plain(document: Any) -> None:
    for number, value in enumerate(values_of(document)):
        if number == MOST_YAML_VALUES:
            raise _BeyondError(
                f"holds more than {number:,} values, with those that aliases stand for"
            )
        if not isinstance(value, _PLAIN):
            raise _BeyondError(f"holds a {type(value).__name__}: put it in quotes")
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise _BeyondError("holds a whole number of more than 64 bits")
        if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
            raise _BeyondError("has a key that is no text: put it in quotes")

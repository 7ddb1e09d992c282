"""What a field of ``result.json`` may hold: everything that reads results relies on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from bench.storage.bounds import LARGEST_COUNT

Check = Callable[[Any, str], None]


def check_fields(record: Mapping[str, Any]) -> None:
    """Refuse a record that has a field of another type than its own, at any depth that is read.

    A field that is missing is told of by whoever needs it; one that is unknown by ``Result``.
    Numbers of metrics are checked as they become estimates.

    Raises:
        TypeError: names the field.
    """
    _of(_RESULT)(record, "")


def _wrong(value: Any, where: str, expected: str) -> TypeError:
    return TypeError(f"{where} is no {expected}: {value!r:.40}")


def _text(value: Any, where: str) -> None:
    if not isinstance(value, str):
        raise _wrong(value, where, "text")


def _truth(value: Any, where: str) -> None:
    if not isinstance(value, bool):
        raise _wrong(value, where, "truth value")


def _count(value: Any, where: str) -> None:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if not (is_number and 0 <= value <= LARGEST_COUNT):
        raise _wrong(value, where, "count")


def _number(value: Any, where: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value)):
        raise _wrong(value, where, "number that is finite")


def _size(value: Any, where: str) -> None:
    _number(value, where)
    if not 0 <= value <= LARGEST_COUNT:
        raise _wrong(value, where, "size")


def _anything(value: Any, where: str) -> None:
    """Of another program, or shown as it is."""


def _or_null(check: Check) -> Check:
    def checked(value: Any, where: str) -> None:
        if value is not None:
            check(value, where)

    return checked


def _table(check: Check = _anything) -> Check:
    """A dictionary of any names, each with a value of one kind."""

    def checked(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise _wrong(value, where, "table of values")
        for name, inner in value.items():
            check(inner, f"{where}.{name:.40}" if where else f"{name:.40}")

    return checked


def _list(check: Check) -> Check:
    def checked(value: Any, where: str) -> None:
        if not isinstance(value, list):
            raise _wrong(value, where, "list")
        for number, inner in enumerate(value):
            check(inner, f"{where}[{number}]")

    return checked


def _of(fields: Mapping[str, Check]) -> Check:
    """A dictionary in which some names have values of their own kinds."""

    def checked(value: Any, where: str) -> None:
        _table()(value, where)
        for name, check in fields.items():
            if name in value:
                check(value[name], f"{where}.{name}" if where else name)

    return checked


_JUDGE = {"name": _text, "identity": _anything, "threshold": _number, "counts": _table(_number)}
_TASK = {
    "name": _or_null(_text), "sha256": _or_null(_text), "n_queries": _or_null(_count),
    "n_scored": _or_null(_count), "n_passages": _or_null(_count),
    "counts": _or_null(_table(_number)), "separators": _or_null(_list(_text)),
    "judge": _or_null(_of(_JUDGE)),
}  # fmt: skip
_MODEL = {
    "name": _or_null(_text), "sha256": _or_null(_text), "n_params": _or_null(_count),
    "training": _or_null(_table()), "reading": _or_null(_table()),
}  # fmt: skip
_METHOD = {
    "name": _or_null(_text), "config": _or_null(_table()), "key": _or_null(_text),
    "facts": _or_null(_table()), "counts": _or_null(_table(_number)),
}  # fmt: skip
_PHASE = {"name": _text, "seconds": _or_null(_size), "peak_mib": _or_null(_size)}
_INDEX = {name: _or_null(_size) for name in ("bytes", "bytes_per_passage", "shards")}
_ENV = {"torch": _or_null(_text), "device": _or_null(_text), "git_sha": _or_null(_text)}
_RESULT: dict[str, Check] = {
    "task": _of(_TASK), "model": _of(_MODEL), "method": _of(_METHOD),
    "metrics": _table(_table()), "slices": _table(_table(_table(_table()))),
    "phases": _list(_of(_PHASE)), "index": _of(_INDEX), "env": _of(_ENV), "date": _text,
    "top_k": _count, "seed": _count, "command": _text, "rankings_sha256": _text,
    "imported": _truth, "identity": _table(),
}  # fmt: skip

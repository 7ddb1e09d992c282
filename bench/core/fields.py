"""What a field of a settings class says of itself: its range, and whether results depend on it.

    @dataclass(frozen=True)
    class Settings:
        depth: int = part_of_key(at_least=1)
        batch_size: int = speed(at_least=1)

A field without such a mark has no range, and results depend on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, get_type_hints

from bench.core.errors import UserError

_MARK = "mark"


@dataclass(frozen=True)
class Mark:
    """What is known of one field.

    Attributes:
        in_key: whether results depend on the value; otherwise only time and memory do.
        at_least, above, at_most: bounds of a number; None where there is none.
        words: what may stand in place of a number, such as ``"auto"``.
        fix: what to do about a value out of range, where the range alone does not say.
    """

    in_key: bool = True
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    words: tuple[str, ...] = ()
    fix: str = ""

    @property
    def is_bounded(self) -> bool:
        """Whether there is a range at all."""
        return (self.at_least, self.above, self.at_most) != (None, None, None)

    @property
    def range(self) -> str:
        """The values that may be set, in words: ``"0 to 1 or 'auto'"``."""
        if self.at_most is not None:
            numbers = f"{self.at_least or self.above or 0:g} to {self.at_most:g}"
        elif self.at_least is not None:
            numbers = f"at least {self.at_least:g}"
        else:
            numbers = f"more than {self.above:g}"
        return " or ".join([numbers, *map(repr, self.words)])

    def admits(self, value: Any) -> bool:
        """Whether a value may be set; None stands for a default and always may."""
        if value is None or value in self.words:
            return True
        return (
            not isinstance(value, str)
            and math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
        )


def part_of_key(**details: Any) -> Any:
    """A field that results depend on; ``details`` are fields of ``Mark``."""
    return field(metadata={_MARK: Mark(in_key=True, **details)})


def speed(**details: Any) -> Any:
    """A field that changes time and memory, but no result; ``details`` are fields of ``Mark``."""
    return field(metadata={_MARK: Mark(in_key=False, **details)})


def marks(schema: Any) -> dict[str, Mark]:
    """The mark of each field of a dataclass, or of a value of it, by name."""
    return {one.name: one.metadata.get(_MARK, Mark()) for one in fields(schema)}


def identifying(settings: Any, schema: type | None = None) -> dict[str, Any]:
    """The values that results depend on, nested ones too, as plain values that can be hashed.

    Args:
        schema: the class whose fields are asked for, where that is a base of the value's own.
    """
    chosen = [name for name, mark in marks(schema or settings).items() if mark.in_key]
    return {name: _plain(getattr(settings, name)) for name in chosen}


def without_speed(schema: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values less those that no result depends on, nested ones too.

    Args:
        schema: the class that describes them; keys that it does not know are kept.
        values: of any file, and so of any type.
    """
    hints, known = _hints(schema), marks(schema)
    return {
        key: without_speed(hints[key], value)
        if is_dataclass(hints.get(key)) and isinstance(value, Mapping)
        else value
        for key, value in values.items()
        if key not in known or known[key].in_key
    }


@cache
def _hints(schema: type) -> dict[str, Any]:
    return get_type_hints(schema)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return identifying(value)
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, list | tuple) else value


def check_ranges(settings: Any, where: str) -> None:
    """Refuse values outside the range of their field.

    Args:
        where: the config key that the fields are below, such as ``"method"``.

    Raises:
        UserError: names the key, the range and the value.
    """
    for name, mark in marks(settings).items():
        value = getattr(settings, name)
        if mark.is_bounded and not mark.admits(value):
            finite = isinstance(value, str) or math.isfinite(value)
            wanted = mark.range if finite else "a finite number"
            key = f"{where}.{name}"
            fix = mark.fix or f"set {key}"
            raise UserError(f"expected {wanted}, found {value!r}", where=key, fix=fix)

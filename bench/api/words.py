"""Settings as a Python program has them, as the words that commands take."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.override_parser.types import Quote, QuotedString

from bench.core.errors import UserError
from bench.run.config_errors import GROUPS

_PLAIN = re.compile(r"(?!(?:true|false|null|inf|nan)$)[A-Za-z_][\w.-]*", re.ASCII | re.IGNORECASE)


def words_of(settings: Mapping[str, Any]) -> list[str]:
    """``KEY=VALUE`` of each setting, in the order given.

    Args:
        settings: values by key. A key is one of ``conf/`` (``top_k``), with dots if it is within a
            group (``"task.n_passages"``); a mapping holds the keys of a group or deeper, and
            ``name`` in that of a group chooses it. A value is a text, a path, a number, a truth
            value or None; a list sweeps over its items; a tuple is one value that is a list.

    Raises:
        UserError: a key that is given twice, or a value of another kind.
    """
    words: dict[str, str] = {}
    for key, value in _flat(settings):
        if key in words:
            raise UserError("is given twice", where=key, fix="give it one value")
        words[key] = f"{key}={_swept(value, key)}"
    return list(words.values())


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if not isinstance(name, str):
            raise UserError(f"expected the name of a setting, found {name!r:.60}", where=above)
        chooses = name == "name" and above in GROUPS
        key = above if chooses else f"{above}.{name}" if above else name
        if isinstance(value, Mapping):
            yield from _flat(value, key)
        else:
            yield key, value


def _swept(value: Any, key: str) -> str:
    if not isinstance(value, list):
        return _value(value, key)
    if not value:
        raise UserError(
            "an empty list sweeps over nothing", where=key, fix="() is a value that is empty"
        )
    return ",".join(_value(one, key) for one in value)


def _value(value: Any, key: str) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        text = str(value)
        return text if _PLAIN.fullmatch(text) else QuotedString(text, Quote.double).with_quotes()
    if isinstance(value, tuple):
        return f"[{','.join(_value(one, key) for one in value)}]"
    raise UserError(
        f"expected a text, a number, None or a tuple, found {value!r:.60}",
        where=key,
        fix="a list sweeps over its items; a tuple is one value that is a list",
    )


def list_of(names: Sequence[str] | str, key: str) -> tuple[str, ...]:
    """Names as one value that is a list, from one or several.

    Raises:
        UserError: something else.
    """
    given = (names,) if isinstance(names, str) else tuple(names)
    if not given or not all(isinstance(name, str) for name in given):
        raise UserError(f"expected names, found {names!r:.60}", where=key)
    return given

"""The one exception that users see: a single line that says what, where and what to do."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the user's input, or a condition of their machine that they can mend.

    The command line prints it as one line and exits with status 2; it never shows a traceback.

    Args:
        what: what is wrong, e.g. ``"no such file"``.
        where: the place: a path, ``path:line``, ``path:line, field``, or a config key.
        fix: what the user can do about it.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        parts = [f"{where}: {what}" if where else what]
        if fix:
            parts.append(fix)
        super().__init__("; ".join(" ".join(part.split()) for part in parts))

    def __reduce__(self) -> tuple:
        # Sweep launchers pickle exceptions between processes, which drops keyword arguments.
        return (_rebuild, (self.what, self.where, self.fix))


def _rebuild(what: str, where: str, fix: str) -> UserError:
    return UserError(what, where=where, fix=fix)


def at_least(least: float, where: str, value: float | None) -> None:
    """Raise UserError for a setting below its least value or not finite; None is a default."""
    if value is None:
        return
    if not math.isfinite(value):
        raise UserError(f"expected a finite number, found {value}", where=where)
    if value < least:
        raise UserError(f"expected at least {least}, found {value}", where=where)


def first_line(error: Exception) -> str:
    """The first line of what a library's error says, cut at 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Name the nearest of ``choices``, and list them all when they are few."""
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{hint}known: {', '.join(known)}" if len(known) <= 40 else hint.strip()

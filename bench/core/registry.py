"""Lazy, typed registries: listing what exists imports none of it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from bench.core.errors import UserError, did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """What is known of a registered class without importing it.

    Attributes:
        target: ``"module:Class"``, imported on first use.
        summary: one line for ``tdabench list``.
        family: the group it is listed under, e.g. ``"retrieval"`` or ``"gradient"``.
        needs: what must be at hand, e.g. ``("model", "optimizer state")``.
        cost: cost class, e.g. ``"one forward and backward pass over the corpus"``.
        source: the paper or library it comes from.
    """

    target: str
    summary: str
    family: str = ""
    needs: tuple[str, ...] = ()
    cost: str = ""
    source: str = ""


class Registry(Generic[T]):
    """Names to classes of one kind.

    Args:
        kind: what the entries are, for messages (``"method"``).
        base: ``"module:Class"`` that every entry must derive from, imported on first use.
    """

    def __init__(self, kind: str, base: str) -> None:
        self.kind = kind
        self._base = base
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, entry: Entry) -> None:
        """Register ``entry``; a name that is taken by another target is an error."""
        taken = self._entries.get(name)
        if taken is not None and taken.target != entry.target:
            raise ValueError(
                f"{self.kind} {name!r} is already registered as {taken.target}; "
                f"refusing to replace it by {entry.target}"
            )
        self._entries[name] = entry

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def entry(self, name: str) -> Entry:
        """The description of ``name``, without importing it."""
        if name not in self._entries:
            raise UserError(f"unknown {self.kind} {name!r}", fix=did_you_mean(name, self._entries))
        return self._entries[name]

    def get(self, name: str) -> type[T]:
        """Import the class registered as ``name``, or named directly as ``"module:Class"``.

        Raises:
            UserError: an unknown name, a module that does not load, or a class of another kind.
        """
        target = name if ":" in name else self.entry(name).target
        found = _import(target, self.kind)
        base = _import(self._base, self.kind)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise UserError(f"{self.kind} {target!r} is not a subclass of {self._base}")
        return cast("type[T]", found)


def _import(target: str, kind: str) -> type:
    module_name, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # a module of the user's own may fail in any way while it loads
        raise UserError(
            f"cannot import {kind} {target!r} ({type(error).__name__}: {error})",
            fix="check the spelling of module:Class, and that the module is on PYTHONPATH",
        ) from error

"""The formats of a report, each in a module of its own.

A module with a ``Format`` that is put into this folder is one more: nothing lists them, all modules
of the folder are imported where a report is written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from pkgutil import iter_modules

from bench.report.content import Content


class Format(ABC):
    """One way of writing down a report."""

    @abstractmethod
    def files(self, content: Content) -> dict[str, str]:
        """The text of its files by their names in the folder of the report."""


def all_files(content: Content) -> dict[str, str]:
    """The text of every file that any format writes, by its name."""
    for module in sorted(one.name for one in iter_modules(__path__)):
        import_module(f"{__name__}.{module}")
    texts: dict[str, str] = {}
    for form in Format.__subclasses__():
        of_format = form().files(content)
        taken = sorted(texts.keys() & of_format.keys())
        assert not taken, f"two formats write {taken}"
        texts.update(of_format)
    return texts

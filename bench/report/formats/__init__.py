"""The formats of a report, each in a module of its own.

A module with a ``ReportFormat`` that is put into this folder is one more: nothing lists them, all
modules of the folder are imported where a report is written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import ClassVar

from bench.report.board import Board
from bench.report.figures.catalog import FigurePlan
from bench.report.table import Table


@dataclass(frozen=True)
class SitePlace:
    """The place of a report on a site of several.

    Attributes:
        title: what the page is called.
        links: addresses of other pages, relative to the folder of the report, by their titles.
    """

    title: str
    links: Mapping[str, str]


@dataclass(frozen=True)
class Content:
    """Everything that the formats of a report read.

    Attributes:
        boards: the boards, sorted by task and model.
        folder: the folder of the files, to which addresses are relative.
        figures: the figures that are drawn beside the files, and those that lack data; None where
            none were asked for.
        has_viewer: whether the rankings of the cells are shown in a viewer beside the files.
        leaderboards, pairs, foresights, seeds: a table for each board, some without rows.
        seeds_by_metric: ``seeds`` for programs, a row for each metric.
        pictures: the SVG of figures that stand on the page, by the stem of their files.
        site: the place on a site, whose pages link to nothing outside of it; None on a disk.
    """

    boards: Sequence[Board]
    folder: Path
    figures: FigurePlan | None
    has_viewer: bool
    leaderboards: Sequence[Table]
    pairs: Sequence[Table]
    foresights: Sequence[Table]
    seeds: Sequence[Table]
    seeds_by_metric: Sequence[Table]
    pictures: Mapping[str, str] = field(default_factory=dict, repr=False)
    site: SitePlace | None = None


class ReportFormat(ABC):
    """One way of writing down a report."""

    links: ClassVar[dict[str, str]] = {}  # names of files that the page links to, by their titles

    @abstractmethod
    def files(self, content: Content) -> dict[str, str]:
        """The text of its files by their names in the folder of the report."""


def formats() -> list[type[ReportFormat]]:
    """Every format, in the order of the modules' names."""
    for module in sorted(one.name for one in iter_modules(__path__)):
        import_module(f"{__name__}.{module}")
    # Not in the order in which somebody happened to import them.
    return sorted(ReportFormat.__subclasses__(), key=lambda form: form.__module__)


def all_files(content: Content) -> dict[str, str]:
    """The text of every file that any format writes, by its name."""
    texts: dict[str, str] = {}
    for form in formats():
        of_format = form().files(content)
        taken = sorted(texts.keys() & of_format.keys())
        assert not taken, f"two formats write {taken}"
        texts.update(of_format)
    return texts

"""The one style of all figures: sizes, fonts, and the look of each method."""

from __future__ import annotations

import itertools
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.colors import to_hex, to_rgb

from bench.core.escape import clean
from bench.report.figures.data import Series
from methods import METHODS

WIDTH = 3.35  # inches: one column of a two-column paper
PANEL_HEIGHT = 1.9  # inches, of one of several panels
NAME_SIZE = 6.5  # points of the names beside lines and marks; small print has 6
INK, SOFT, GRID = "#1b1f24", "#59636e", "#e3e6ea"
_LONGEST_NAME = 30
_PREFIX = re.compile(r"(\(|, )metric\.(?:[a-z_]+\.)+(?=[a-z_]+=)")  # in a label
_DARK_ENOUGH = 1.05 / 4.5 - 0.05  # luminance

# Okabe & Ito's colours stay apart for colour-blind readers, and the marks say the same once more.
FAMILIES = {
    "retrieval": ("#0072b2", "s"),
    "gradient": ("#d55e00", "o"),
    "representation": ("#cc79a7", "^"),
    "combination": ("#009e73", "D"),
    "control": ("#7f7f7f", "X"),
    "other": ("#e69f00", "v"),
}
# Methods of a family share its colour: shades and dashes tell them apart, also in grey print.
_SHADES = (0.0, -0.45, 0.35, -0.25, 0.5)
_DASHES = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))

_SETTINGS: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "text.parse_math": False,  # names come from settings: a dollar sign is a dollar sign
    "text.usetex": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "axes.unicode_minus": True,
    "hatch.linewidth": 0.5,
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # publishers refuse Type 3
    "svg.hashsalt": "tdabench",  # or ids in the file would differ from run to run
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class Look:
    """The look of a series."""

    color: str
    marker: str
    dashes: Any
    is_filled: bool

    @property
    def ink(self) -> str:
        """The colour of the name: as dark as small print on white must be (WCAG, 4.5 to 1)."""
        return next(
            ink
            for darker in range(11)
            if _luminance(ink := _shaded(self.color, -darker / 10)) <= _DARK_ENOUGH
        )

    @property
    def mark(self) -> dict[str, Any]:
        """The keywords of matplotlib for the marker."""
        return {
            "marker": self.marker,
            "markersize": 4,
            "markeredgewidth": 0.8,
            "markeredgecolor": self.color,
            "markerfacecolor": self.color if self.is_filled else "white",
        }


@contextmanager
def style() -> Iterator[None]:
    """A block to draw and save in, where none of the user's own matplotlib settings count."""
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(_SETTINGS)
        # Names in scripts that the font does not have show boxes; the CSV has them in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def looks(series: Iterable[Series]) -> dict[Series, Look]:
    """The look of each series: that of its method, or a free one if the method has several."""
    chosen: dict[Series, Look] = {}
    taken: set[tuple[str, int]] = set()
    for one in sorted(set(series), key=lambda s: (s.label, s.method)):
        family = one.family if one.family in FAMILIES else "other"
        peers = [name for name in METHODS if METHODS.entry(name).family == one.family]
        wanted = peers.index(one.method) if one.method in peers else 0
        number = next(i for i in itertools.count(wanted) if (family, i) not in taken)
        taken.add((family, number))
        chosen[one] = _look(family, number)
    return chosen


def _look(family: str, number: int) -> Look:
    color, marker = FAMILIES[family]
    shade = _SHADES[number % len(_SHADES)]
    dashes = number % len(_DASHES)
    return Look(_shaded(color, shade), marker, _DASHES[dashes], is_filled=dashes % 2 == 0)


def _luminance(color: str) -> float:
    """Relative luminance as WCAG defines it, 0 to 1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _shaded(color: str, shade: float) -> str:
    """A colour mixed with white (above 0) or black (below 0)."""
    target = 1.0 if shade > 0 else 0.0
    red, green, blue = (part + abs(shade) * (target - part) for part in to_rgb(color))
    return to_hex((red, green, blue))


def name(text: str, longest: int = _LONGEST_NAME) -> str:
    """The name as one printable line that fits; characters that XML cannot hold are replaced."""
    line = re.sub("[\ufffe\uffff]", "\N{REPLACEMENT CHARACTER}", clean(text))
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def names(labels: Iterable[str], longest: int = _LONGEST_NAME) -> dict[str, str]:
    """Short names of a figure's labels, as ``name`` makes them, of which no two are equal.

    ``trackstar (metric.tail_patch.top=5)`` becomes ``trackstar (top=5)``, unless that is the name
    of another, too. Labels that agree in all that there is room for keep their ends, and then get
    numbers.
    """
    every = list(dict.fromkeys(labels))
    chosen: dict[str, str] = {}
    for label in every:
        bare = _PREFIX.sub(r"\1", label)
        is_free = [_PREFIX.sub(r"\1", other) for other in every].count(bare) == 1
        chosen[label] = bare if is_free else label
    cut = {label: name(text, longest) for label, text in chosen.items()}
    counts = Counter(cut.values())
    taken: set[str] = set()
    for label, text in chosen.items():
        if counts[cut[label]] > 1:
            start, end = longest // 3, longest - longest // 3 - 1
            line = name(text, len(text))
            cut[label] = line if len(line) <= longest else f"{line[:start]}…{line[-end:]}"
        whole, number = cut[label], 2
        while cut[label] in taken:
            tail = f" {number}"
            cut[label], number = f"{whole[: longest - len(tail)]}{tail}", number + 1
        taken.add(cut[label])
    return cut


def quantity(value: float, unit: str) -> str:
    """The number as a tick of an axis shows it: ``2M``, ``4 kB``, ``0.5``."""
    if unit not in ("count", "bytes"):
        return f"{value:g}"
    steps = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
    scale, prefix = next(((s, p) for s, p in steps if abs(value) >= s), (1.0, ""))
    number = f"{value / scale:.3g}"
    return f"{number}{prefix}" if unit == "count" else f"{number} {prefix}B"

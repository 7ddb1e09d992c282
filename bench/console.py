"""Where results and lists are printed."""

from __future__ import annotations

import sys

from rich.console import Console

LOG_WIDTH = 120  # columns where the output is no terminal, e.g. a file


def stdout() -> Console:
    """A console on standard output: as wide as the terminal, or 120 columns."""
    return Console(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False)

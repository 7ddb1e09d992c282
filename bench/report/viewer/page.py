"""The viewer's page: program and style in one file, and nothing of the data."""

from __future__ import annotations

from bench.report.rendering import rendered

SCRIPTS = (
    "dom", "store", "text", "state", "filter", "list", "ranking", "query", "keys", "main",
)  # fmt: skip


def viewer_page(home: str | None) -> str:
    """The HTML of ``index.html``; ``home`` is the address of the leaderboard, None for none."""
    return rendered("viewer", folder="viewer", scripts=SCRIPTS, home=home)

"""The viewer's page: program and style in one file, and nothing of the data."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from jinja2 import Environment
from markupsafe import Markup

from bench.core.environment import __version__

SCRIPTS = (
    "dom", "store", "text", "state", "filter", "list", "ranking", "query", "keys", "main",
)  # fmt: skip


def viewer_page(home: str | None) -> str:
    """The HTML of ``index.html``; ``home`` is the address of the leaderboard, None for none."""
    folder = resources.files("bench.report") / "templates" / "viewer"

    def text_of(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    script = '"use strict";\n' + "\n".join(text_of(f"{name}.js") for name in SCRIPTS)
    style = text_of("viewer.css")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text_of("viewer.html")).render(
        home=home,
        version=__version__,
        style=Markup(style),  # noqa: S704 - package data
        script=Markup(script),  # noqa: S704 - package data
        style_hash=_digest(style),
        script_hash=_digest(script),
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

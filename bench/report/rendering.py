"""Self-contained HTML pages from the templates of this package."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from bench.core.environment import __version__
from bench.core.escape import clean


def rendered(
    name: str,
    *,
    folder: str = "",
    scripts: Sequence[str] | None = (),
    filters: Mapping[str, Callable[..., Any]] | None = None,
    **values: Any,
) -> str:
    """The page of ``NAME.html`` with the style ``NAME.css`` and its program within.

    A template gets both, ``version``, the filter ``clean``, and the hashes that its policy names:
    markup that got past the escaping would still run no program.

    Args:
        folder: folder of the files, below ``templates``.
        scripts: names of the program's parts in their order; ``NAME.js`` is all of it if empty, and
            there is none if None.
        values: the values that the template shows.
    """
    templates = resources.files("bench.report").joinpath("templates", folder)

    def text_of(file: str) -> str:
        return templates.joinpath(file).read_text(encoding="utf-8")

    style = text_of(f"{name}.css")
    parts = [] if scripts is None else [text_of(f"{part}.js") for part in scripts or [name]]
    script = "\n".join(['"use strict";', *parts])
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update({"clean": clean, **(filters or {})})
    return environment.from_string(text_of(f"{name}.html")).render(
        style=Markup(style),  # noqa: S704 - a file of this package
        script=Markup(script),  # noqa: S704 - likewise
        style_hash=_policy_hash(style),
        script_hash=_policy_hash(script),
        version=__version__,
        **values,
    )


def _policy_hash(text: str) -> str:
    """The name of a style or a program of the page in its Content-Security-Policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

"""Markdown as HTML: headings that can be linked to, and links that lead to pages of the site."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token

_NO_SLUG = re.compile(r"[^\w\- ]")
_WIDE = (
    ("table_open", '<div class="scroll" tabindex="0">\n<table>\n'),
    ("table_close", "</table>\n</div>\n"),
)


@dataclass(frozen=True)
class Prose:
    """A page of text.

    Attributes:
        title: its first heading, as plain text; empty if it has none.
        html: its content.
    """

    title: str
    html: str


def prose(text: str, address: Callable[[str], str] = str) -> Prose:
    """The HTML of Markdown: CommonMark with tables.

    Args:
        text: of this project's own; what it has of HTML stays.
        address: what becomes of the target of a link or an image.
    """
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    for kind, html in _WIDE:
        markdown.add_render_rule(kind, lambda *_, html=html: html)
    tokens = markdown.parse(text)
    title = ""
    taken: dict[str, int] = {}
    for place, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = "".join(_texts(tokens[place + 1]))
            title = title or heading
            token.attrSet("id", _free(slug(heading), taken))
    for token in tokens:
        for inner in token.children or ():
            for name in ("href", "src"):
                if target := inner.attrGet(name):
                    inner.attrSet(name, address(str(target)))
    return Prose(title, markdown.renderer.render(tokens, markdown.options, {}))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table; its cells are Markdown, too."""
    ruler = [":--"] * len(heads)
    return [f"| {' | '.join(cells)} |" for cells in (heads, ruler, *rows)]


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading, so that a link leads to the same place on both."""
    return _NO_SLUG.sub("", heading.strip().lower()).replace(" ", "-")


def _texts(token: Token) -> Iterator[str]:
    for inner in token.children or ():
        if inner.type in ("text", "code_inline"):
            yield inner.content
        yield from _texts(inner)


def _free(name: str, taken: dict[str, int]) -> str:
    """The name, with a number behind it where an earlier heading has it."""
    number = taken.get(name, 0)
    taken[name] = number + 1
    return f"{name}-{number}" if number else name

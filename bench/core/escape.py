"""Texts made safe for each format that shows them: whatever corpora and files hold is data."""

from __future__ import annotations

import re
import unicodedata

_REPLACED = "\N{REPLACEMENT CHARACTER}"
_BIDI_CONTROLS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
_LATEX = str.maketrans({
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",  # at the start of a line, `\\` before it would take these for its arguments
    "*": "{*}",
    **{symbol: "\\" + symbol for symbol in "{}$&#_%"},
})  # fmt: skip
_MARKDOWN = str.maketrans({
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    **{symbol: "\\" + symbol for symbol in "\\`*[]|~"},
})  # fmt: skip
# An underscore inside a word is no emphasis, and `grad\_dot` would be harder to read.
_OUTER_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")


def clean(value: object) -> str:
    """``value`` as one printable line: white space becomes a space, what steers a display U+FFFD.

    Control characters can drive a terminal, bidirectional controls can reorder the text around
    a name, and lone surrogates cannot be written as UTF-8.
    """
    text = str(value)
    # Nothing that is replaced is printable, and most texts are; reports ask about millions.
    return text if text.isprintable() else "".join(map(_clean_character, text))


def _clean_character(character: str) -> str:
    if character in "\t\n\r":
        return " "
    steers = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    return _REPLACED if steers or character in _BIDI_CONTROLS else character


def markdown(value: object) -> str:
    """The literal text of a Markdown table cell that shows ``value``."""
    text = clean(value).translate(_MARKDOWN)
    # Viewers turn bare addresses into links; an escaped slash keeps them text.
    return _OUTER_UNDERSCORE.sub(r"\\_", text).replace("://", ":\\//")


def latex(value: object) -> str:
    """The literal text of a LaTeX table cell that shows ``value``."""
    return clean(value).translate(_LATEX)


def spreadsheet(value: object) -> str:
    """A CSV text field that shows ``value`` and that no spreadsheet takes for a formula."""
    text = clean(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text

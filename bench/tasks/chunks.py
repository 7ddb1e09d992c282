"""Documents cut into passages of a bounded number of tokens, between sentences where it can be."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.core.errors import UserError

_WORD = re.compile(r"\S+")
# The space between sentences: a full stop with closing marks behind it, or a new line. It is a rule
# and no model, so it also takes the stop of "Mr." for an end; a cut there does no harm.
_BETWEEN_SENTENCES = re.compile(r"[.!?…][\"'”’)\]]*\s+|\n\s*")


class Chunker:
    """A cutter of documents into as few and as even passages as their sentences allow.

    No text is lost but the white space at cuts. Where no sentence ends in reach the cut is between
    words, and inside a word only if it alone exceeds the bound. Tokens are counted in the whole
    document; a passage taken alone may count one more or less.

    Args:
        size: tokens a passage at most; None leaves documents as they are.
        tokenizer: a folder with a ``tokenizer.json`` whose tokens are counted; None counts words,
            which are what white space separates.

    Raises:
        UserError: no tokenizer there.
    """

    def __init__(self, size: int | None, tokenizer: Path | None) -> None:
        self._size = size
        self._tokenizer: Any = None if tokenizer is None else _load(tokenizer)

    def passages(self, text: str) -> Iterator[str]:
        """The passages of one document, in order; a blank document has none."""
        if not text.strip():
            return
        words = list(_WORD.finditer(text))
        if self._size is None or (self._tokenizer is None and len(words) <= self._size):
            yield text
            return
        # Positions in characters: where each token ends, and where words and sentences begin.
        ends = [word.end() for word in words] if self._tokenizer is None else self._ends(text)
        starts = [word.start() for word in words]
        sentences = [between.end() for between in _BETWEEN_SENTENCES.finditer(text)]
        start = 0
        while start < len(text):
            stop = _stop(start, ends, (sentences, starts), self._size, len(text))
            if passage := text[start:stop].strip():
                yield passage
            start = stop

    def _ends(self, text: str) -> list[int]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return [end for _, end in encoding.offsets]


def _stop(
    start: int, ends: Sequence[int], cuts: Sequence[Sequence[int]], size: int, length: int
) -> int:
    """The position where the passage from ``start`` stops; all positions are in characters.

    Args:
        start: where the passage begins.
        ends: where the document's tokens end, ascending.
        cuts: places to cut, ascending, the better kind first.
        size: the most tokens of a passage.
    """
    first = bisect_right(ends, start)
    left = len(ends) - first
    if left <= size:
        return length
    even = left / -(-left // size)
    low = ends[first + int(even / 2)]
    beyond = ends[first + size]  # a cut there or later leaves one token too many before it
    for places in cuts:
        reach = places[bisect_left(places, low) : bisect_left(places, beyond)]
        if reach:
            return min(reach, key=lambda place: abs(bisect_right(ends, place) - first - even))
        low = ends[first]
    return ends[first + size - 1]


def _load(folder: Path) -> Any:
    from tokenizers import Tokenizer

    path = folder.expanduser() / "tokenizer.json"
    if not path.is_file():
        raise UserError(
            "no tokenizer.json there", where=str(folder), fix="set task.tokenizer to its folder"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower class
        raise UserError(f"no tokenizer ({error})", where=str(path)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer

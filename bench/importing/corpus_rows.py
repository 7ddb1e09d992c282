"""Rows of the passages that lists name, found in one pass over the corpus."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bench.core import progress
from bench.importing.lists import FileList, digest
from bench.tasks.passages import PassageStore


@dataclass(frozen=True)
class Match:
    """What the corpus knows of one entry of a list.

    Attributes:
        row: the row of its passage; None if there is none to take.
        by: what it was known by, ``"id"`` or ``"text"``.
        used: whether its passage is there, but taken by an earlier entry of the list.
        ambiguous: how many passages have its id, where nothing tells which is meant; else 0.
        other_text: whether a passage has its id, but not its text.
    """

    row: int | None = None
    by: str = ""
    used: bool = False
    ambiguous: int = 0
    other_text: bool = False


class CorpusRows:
    """Looks up passages by id, checked by text where there is one, else by exact text.

    Memory grows with what the lists name, never with the corpus.

    Args:
        passages: the corpus.
        lists: the lists whose entries will be looked up.
    """

    def __init__(self, passages: PassageStore, lists: Sequence[FileList]) -> None:
        sides = [side for ranked in lists for side in (ranked.proponents, ranked.opponents)]
        ids = {name for side in sides for name in side.ids}
        texts = {text for side in sides for text in side.texts if text is not None}
        self._by_id: dict[str, list[tuple[int, bytes]]] = {}
        self._by_text: dict[bytes, list[int]] = {}
        for passage in progress.track(passages, "find passages", unit="passages"):
            named = passage.passage_id in ids
            text = digest(passage.text) if texts or named else b""
            if named:
                self._by_id.setdefault(passage.passage_id, []).append((passage.row, text))
            if text in texts:
                self._by_text.setdefault(text, []).append(passage.row)

    def find(self, name: str, text: bytes | None, used: Collection[int]) -> Match:
        """The row of one entry of a list.

        Args:
            name: the file's id.
            text: digest of its text, None where it is unknown.
            used: rows that the list has already.
        """
        named = self._by_id.get(name, [])
        if text is None:
            if len(named) > 1:
                return Match(ambiguous=len(named))
            return _first([row for row, _ in named], "id", used)
        same = [row for row, own in named if own == text]
        if same:
            return _first(same, "id", used)
        # Identical texts are as good as each other: each is taken once, the first one first.
        match = _first(self._by_text.get(text, []), "text", used)
        return match if match.row is not None or match.used else Match(other_text=bool(named))


def _first(rows: Sequence[int], by: str, used: Collection[int]) -> Match:
    row = next((row for row in rows if row not in used), None)
    return Match(row, by) if row is not None else Match(used=bool(rows))

"""TREC run files: ``qid Q0 docid rank score tag``, one passage of one query a line."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.core.errors import UserError
from bench.importing.lists import Entries, FileList, places
from bench.storage import jsonlines
from bench.storage.jsonlines import Place

FIELDS = ("qid", "Q0", "docid", "rank", "score", "tag")


@dataclass
class _Lines:
    """The lines of one query that have been read so far."""

    place: Place
    ids: list[str] = field(default_factory=list)
    scores: array = field(default_factory=lambda: array("d"))
    ranks: array = field(default_factory=lambda: array("q"))
    lines: array = field(default_factory=places)


def read_trec(paths: Iterable[Path]) -> Iterator[FileList]:
    """The lists of one or several shards, in the order in which their queries first occur.

    A query's lines may lie apart. Memory grows with the lines: an id and three numbers each.

    Raises:
        UserError: other than six fields, a rank that is no whole number, a score that is no finite
            number, a query that goes on in another shard, or a second tag: two runs in one file.
    """
    queries: dict[str, _Lines] = {}
    tag = ""
    for path in paths:
        for place, raw in jsonlines.lines(path):
            qid, _, docid, rank, score, own_tag = _fields(raw, place)
            if tag and own_tag != tag:
                raise place.error(
                    "tag", f"{own_tag!r} after {tag!r}: two runs in one", "import them one by one"
                )
            tag = own_tag
            lines = queries.setdefault(qid, _Lines(place))
            if lines.place.path != path:
                raise place.error(
                    "qid", f"{qid!r} has lines in {lines.place} already", "join the two lists"
                )
            lines.ids.append(docid)
            lines.ranks.append(_rank(rank, place))
            lines.scores.append(_score(score, place))
            lines.lines.append(place.line)
    for qid, lines in queries.items():
        yield FileList(
            place=lines.place,
            query_ids=(qid,),
            proponents=Entries(
                ids=lines.ids,
                scores=np.array(lines.scores, dtype=np.float64),
                ranks=np.array(lines.ranks, dtype=np.int64),
                lines=lines.lines,
            ),
        )


def _fields(raw: bytes, place: Place) -> list[str]:
    try:
        words = raw.decode("utf-8-sig" if place.line == 1 else "utf-8").split()
    except UnicodeDecodeError as error:
        raise UserError(
            f"not UTF-8 at byte {error.start} of the line", where=str(place), fix="re-encode it"
        ) from error
    if len(words) != len(FIELDS):
        raise UserError(
            f"{len(words)} fields where a TREC run has {len(FIELDS)}",
            where=str(place),
            fix=f"write {' '.join(FIELDS)}; ids and tags hold no spaces",
        )
    return words


def _rank(word: str, place: Place) -> int:
    # Checked by hand, for int() also takes signs, underscores and numbers of any length.
    if not (word.isascii() and word.isdigit() and len(word) <= 18):
        raise place.error("rank", f"expected a whole number, found {word[:40]!r}")
    return int(word)


def _score(word: str, place: Place) -> float:
    try:
        score = float(word)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise place.error(
            "score", f"expected a finite number, found {word[:40]!r}", "leave the passage out"
        )
    return score

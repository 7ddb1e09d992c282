"""Rankings without the texts that they quote, so that they can be handed on whatever the licence.

A ranking holds prompts, targets and passages. Corpora and lists of facts have licences of their
own, so a bundle (``bench.report.publishing``) holds none of these texts: each stands as its
SHA-256, by which whoever has the corpus sees that an id means the same passage. Two files of a cell
take the place of ``retrievals.jsonl``: ``rankings.jsonl``, which has its other fields as they are,
and ``passages.jsonl`` with hash and length of every passage that a list names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.storage import jsonlines
from bench.storage.bounds import LARGEST_COUNT
from bench.storage.jsonlines import Json, Place
from bench.storage.whole_files import whole_file
from bench.tasks.records import (
    RetrievalRecord,
    count_field,
    id_field,
    parse_retrieval,
    read_retrievals,
)

RANKINGS, PASSAGES = "rankings.jsonl", "passages.jsonl"
_QUERY = {"inputs_plaintext": "inputs_sha256", "targets_plaintext": "targets_sha256"}
_LISTS = {"proponents": "proponent_ids", "opponents": "opponent_ids"}
_SHA256 = re.compile("[0-9a-f]{64}")
# Passages that are listed in one cell: 5,400 queries with 100 each have 540,000. A reader holds all
# of them, in some hundred bytes each.
_MOST_PASSAGES = 2_000_000


def write_text_free(retrievals: Path, folder: Path) -> None:
    """Write what a file of rankings says without its texts; the same bytes for the same rankings.

    Raises:
        UserError: a line is damaged, or one id is listed with two texts.
    """
    known: dict[str, tuple[str, int]] = {}
    with whole_file(folder / RANKINGS) as stream:
        for line, record in enumerate(read_retrievals(retrievals), start=1):
            kept = record.to_json()
            for texts, ids in _LISTS.items():
                for passage_id, text in zip(kept.get(ids, ()), kept.pop(texts, ()), strict=True):
                    own = _sha256(text), len(text)
                    place = Place(retrievals, line)
                    if known.setdefault(passage_id, own) != own:
                        raise place.error(ids, f"{passage_id!r:.60} has another text elsewhere")
            _check_number(known, Place(retrievals, line), "proponents")
            for text, sha256 in _QUERY.items():
                kept[sha256] = _sha256(kept.pop(text))
            stream.write(jsonlines.dump(kept))
    with whole_file(folder / PASSAGES) as stream:
        for passage_id, (sha256, characters) in sorted(known.items()):
            passage = {"passage_id": passage_id, "sha256": sha256, "characters": characters}
            stream.write(jsonlines.dump(passage))


def read_text_free(folder: Path) -> Iterator[tuple[RetrievalRecord, Sequence[int]]]:
    """The rankings of a cell that ``write_text_free`` wrote, one at a time.

    Yields:
        the ranking, in which each text is its hash, and the length of each proponent in characters.

    Raises:
        UserError: a line of either file is damaged, or a list names a passage that only one has.
    """
    passages: dict[str, tuple[str, int]] = {}
    for place, line in jsonlines.read(folder / PASSAGES):
        passage_id, characters = id_field(line, place, "passage_id"), _length(line, place)
        if passage_id in passages:
            raise place.error("passage_id", f"{passage_id!r:.60} is there twice")
        passages[passage_id] = _hash(line, place, "sha256"), characters
        _check_number(passages, place, "passage_id")
    lengths = dict(passages.values())
    for place, line in jsonlines.read(folder / RANKINGS):
        if named := sorted({*_QUERY, *_LISTS} & line.keys()):
            raise place.error(named[0], "holds texts, and a bundle has none")
        texts = {text: _hash(line, place, sha256) for text, sha256 in _QUERY.items()}
        lists = {
            name: _known(line[ids], passages, place, ids)
            for name, ids in _LISTS.items()
            if ids in line
        }
        record = parse_retrieval({**line, **texts, **lists}, place, lengths.__getitem__)
        yield record, [passages[passage_id][1] for passage_id in record.proponent_ids]


def _check_number(passages: Json, place: Place, field: str) -> None:
    if len(passages) > _MOST_PASSAGES:
        raise place.error(field, f"lists more than {_MOST_PASSAGES:,} passages, the most of a cell")


def _known(ids: object, passages: Json, place: Place, field: str) -> list[str]:
    """The hash of each passage of a list."""
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise place.error(field, f"expected a list of ids, found {ids!r:.60}")
    if lacking := [one for one in ids if one not in passages]:
        raise place.error(field, f"names {lacking[0]!r:.60}, which {PASSAGES} lacks")
    return [passages[one][0] for one in ids]


def _length(line: Json, place: Place) -> int:
    characters = count_field(line, place, "characters")
    if characters is None or characters > LARGEST_COUNT:
        raise place.error("characters", f"expected a count, found {characters!r:.60}")
    return characters


def _hash(line: Json, place: Place, field: str) -> str:
    value = line.get(field)
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise place.error(field, f"expected a SHA-256, found {value!r:.60}")
    return value


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

"""A task whose queries and passages the caller of a function holds, read as those of ``jsonl``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.core.errors import UserError, first_line
from bench.storage import jsonlines
from bench.storage.jsonlines import Json, Place
from bench.tasks.base import SPACE, Answers
from bench.tasks.jsonl import JsonLines, JsonLinesConfig

QUERIES, PASSAGES = "queries", "passages"


class Given(JsonLines):
    """Queries and passages from records in memory; their fields are those of ``JsonLines``.

    A prepared task has the hash that it would have if the records were read from files.

    Args:
        queries, passages: records; messages call the first of either ``queries:1``.
        separator, chat, answers: as the settings of ``task=jsonl``.
    """

    def __init__(
        self,
        queries: Sequence[Json],
        passages: Sequence[Json],
        separator: str = SPACE,
        chat: bool = False,
        answers: Answers = Answers.target,
    ) -> None:
        super().__init__(
            JsonLinesConfig(QUERIES, PASSAGES, separator, chat, answers, n_queries=None, seed=0)
        )
        self._records = {QUERIES: queries, PASSAGES: passages}

    def fingerprint(self) -> dict[str, object]:
        """Hashes of the records, and how the queries are asked."""
        config, kinds = self.config, self._records
        asking = {"separator": config.separator, "chat": config.chat, "answers": config.answers}
        return {**asking, **{kind: _sha256(records) for kind, records in kinds.items()}}

    def _read(self, kind: str) -> Iterator[tuple[Place, Json]]:
        for number, record in enumerate(self._records[kind], start=1):
            place = Place(Path(kind), number)
            jsonlines.check_texts(record, place)
            yield place, record


def _sha256(records: Sequence[Json]) -> str:
    digest = hashlib.sha256()
    for record in records:
        digest.update(jsonlines.dump(record).encode("utf-8"))
    return digest.hexdigest()


def passage_records(given: Iterable[Any]) -> list[Json]:
    """Passages as records, from texts or from mappings with ``text``.

    One without ``passage_id`` has its place in the list, from 0, as its id.

    Raises:
        UserError: one of them is neither, or there are none.
    """
    wanted = "a text or a mapping with 'text'"
    records = []
    for where, number, one in _numbered(given, PASSAGES):
        own = {"text": one} if isinstance(one, str) else one
        records.append(_record({"passage_id": str(number)}, own, wanted, where))
    return records


def query_records(given: Iterable[Any]) -> list[Json]:
    """Queries as records, from pairs of prompt and target or from mappings with both.

    One without ``query_id`` has its place in the list, from 0, as its id.

    Raises:
        UserError: one of them is neither, or there are none.
    """
    wanted = "a pair (prompt, target) or a mapping with 'prompt' and 'target'"
    records = []
    for where, number, one in _numbered(given, QUERIES):
        is_pair = isinstance(one, tuple | list) and len(one) == 2
        own = dict(zip(("prompt", "target"), one, strict=True)) if is_pair else one
        records.append(_record({"query_id": str(number)}, own, wanted, where))
    return records


def _numbered(given: Iterable[Any], name: str) -> Iterator[tuple[str, int, Any]]:
    """The place of each item for messages, its number and the item."""
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise UserError(f"expected a list, found {type(given).__name__}", where=name)
    number = -1
    for number, one in enumerate(given):
        yield f"{name}[{number}]", number, one
    if number < 0:
        raise UserError("is empty", where=name, fix="give at least one")


def _record(default: Json, own: Any, wanted: str, where: str) -> Json:
    """A record as a line of a file would hold it."""
    if not isinstance(own, Mapping):
        raise UserError(f"expected {wanted}, found {own!r:.60}", where=where)
    try:
        record: Json = json.loads(jsonlines.dump({**default, **own}))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"holds what no JSON does ({first_line(error)})", where=where) from error
    return record

"""The release's ``*_retrievals*.jsonl``: ids, texts and scores, with or without a judgement."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from bench.importing.lists import Entries, FileList, digest
from bench.results.rankings import correct_of
from bench.storage import jsonlines
from bench.storage.jsonlines import Place
from bench.tasks.records import RetrievalRecord, parse_retrieval


def read_records(paths: Iterable[Path]) -> Iterator[tuple[Place, RetrievalRecord]]:
    """Stream the rankings of one or several shards with their places.

    Raises:
        UserError: a missing field, a wrong type, NaN, or lists of unequal lengths.
    """
    for path in paths:
        for place, record in jsonlines.read(path):
            yield place, parse_retrieval(record, place)


def read_release(paths: Iterable[Path]) -> Iterator[FileList]:
    """The lists of one or several shards; texts are kept as digests.

    Raises:
        UserError: see ``read_records``.
    """
    for place, record in read_records(paths):
        ids = (record.fact_id, record.example_id)
        correct = correct_of(record)
        yield FileList(
            place=place,
            query_ids=tuple(dict.fromkeys(name for name in ids if name is not None)),
            prompt=record.inputs_plaintext,
            target=record.targets_plaintext,
            proponents=_entries(
                "proponent_ids", record.proponent_ids, record.proponents, record.proponent_scores
            ),
            opponents=_entries(
                "opponent_ids",
                record.opponent_ids or [],
                record.opponents or [],
                record.opponent_scores or [],
            ),
            correct=None if correct is None else tuple(correct.tolist()),
            field="example_id",
        )


def _entries(field: str, ids: list[str], texts: list[str], scores: list[float]) -> Entries:
    return Entries(
        ids=ids,
        scores=np.asarray(scores, dtype=np.float64),
        ranks=np.arange(len(ids), dtype=np.int64),
        texts=[digest(text) if text else None for text in texts],  # an empty one tells nothing
        field=field,
    )

"""What the stored rankings of a cell say by themselves: whether there are any, and what is correct.

A ranking carries the judgement that it was scored by, so that nobody needs the task to read it.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from bench.core.errors import UserError
from bench.results.schema import ENTAILED, FIRST_PASSAGES, RETRIEVALS
from bench.results.text_free import RANKINGS, read_text_free
from bench.storage import jsonlines
from bench.storage.whole_files import whole_file
from bench.tasks.records import RetrievalRecord, read_retrievals

DEPTH = 10  # passages of a query that it holds, and that agreement of rankings looks at


def has_rankings(folder: Path) -> bool:
    """Whether a cell's folder holds its rankings: committed tables are kept without them."""
    return (folder / RETRIEVALS).is_file()


def correct_of(record: RetrievalRecord, threshold: float = ENTAILED) -> np.ndarray | None:
    """Whether each listed passage of one query is correct, as the ranking itself says.

    Args:
        record: one line of ``retrievals.jsonl``.
        threshold: a passage is correct above this entailment score of a judge.

    Returns:
        bool ``[n proponents]``; None for a ranking that was neither annotated nor judged.
    """
    if record.proponent_correct is not None:
        return np.asarray(record.proponent_correct, dtype=bool)
    if record.proponent_ais_scores is not None:
        return np.asarray(record.proponent_ais_scores, dtype=np.float64) > threshold
    return None


def first_passages(folder: Path) -> dict[str, set[str]]:
    """The ids of the first ten passages of each query of a cell.

    Raises:
        UserError: the cell's rankings are missing or damaged, or what was kept of them is.
    """
    if (folder / RANKINGS).is_file():
        return {one.example_id: set(one.proponent_ids[:DEPTH]) for one, _ in read_text_free(folder)}
    if has_rankings(folder) or not (folder / FIRST_PASSAGES).exists():
        records = read_retrievals(folder / RETRIEVALS)
        return {record.example_id: set(record.proponent_ids[:DEPTH]) for record in records}
    first = {}
    for place, record in jsonlines.read(folder / FIRST_PASSAGES):
        query, ids = record.get("query_id"), record.get("passage_ids")
        if not isinstance(query, str) or not isinstance(ids, list):
            raise UserError("expected query_id and passage_ids", where=str(place))
        first[query] = set(map(str, ids[:DEPTH]))
    return first


def keep_first_passages(folder: Path, copy: Path) -> None:
    """Write the ids of each query's first ten passages, packed, beside the copy of a cell."""
    with (
        whole_file(copy / FIRST_PASSAGES, "wb") as stream,
        # Without a time and a name in it, equal ids are equal bytes.
        gzip.GzipFile("", "wb", fileobj=stream, mtime=0) as packed,
    ):
        for query, ids in first_passages(folder).items():
            line = jsonlines.dump({"query_id": query, "passage_ids": sorted(ids)})
            packed.write(line.encode())

"""Writes a finished cell: all four files or none."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from bench.core.escape import clean
from bench.results.schema import CONFIG, PER_QUERY, RESULT, RETRIEVALS, Result
from bench.run.evaluation import Evaluation
from bench.run.spans import ListedSpans
from bench.storage import jsonlines
from bench.storage.hashes import file_sha256
from bench.storage.whole_folders import whole_folder
from bench.tasks.base import Task
from bench.tasks.records import RetrievalRecord
from bench.tasks.support import support
from methods.base import Ranking


def write_cell(
    folder: Path,
    config: dict[str, Any],
    result: Result,
    records: Iterable[RetrievalRecord],
    per_query: pd.DataFrame,
) -> Result:
    """Write config, rankings, per-query values and result.

    Args:
        records: one a query, in the order of ``per_query``; streamed, never held together.

    Returns:
        the result as written, with the hash of the rankings.

    Raises:
        UserError: the disk is full or the folder cannot be written; no part is then left.
    """
    with whole_folder(folder) as partial:
        header = "# Resolved settings of this cell. The command that makes it again:\n"
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        # Cleaned: a file's name in the command may hold a line break, which would end the comment.
        (partial / CONFIG).write_text(
            f"{header}# {clean(result.command)}\n{text}", encoding="utf-8"
        )
        with open(partial / RETRIEVALS, "w", encoding="utf-8") as stream:
            for record in records:
                stream.write(jsonlines.dump(record.to_json()))
        result = replace(result, rankings_sha256=file_sha256(partial / RETRIEVALS))
        per_query.to_parquet(partial / PER_QUERY, index=False)
        text = json.dumps(result.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
        (partial / RESULT).write_text(text + "\n", encoding="utf-8")
    return result


def padded(values: Sequence[float], length: int) -> list[float | None]:
    """Values of the first of a list, None for the others and for what is not finite."""
    known = [value if math.isfinite(value) else None for value in values]
    return [*known, *[None] * (length - len(known))]


def retrieval_records(
    task: Task,
    rankings: Sequence[Ranking],
    evaluation: Evaluation,
    spans: Iterable[ListedSpans] | None = None,
) -> Iterator[RetrievalRecord]:
    """The rankings in the release's format, in the order of the task's queries.

    Args:
        spans: the shares of tokens in each query's list; None where nobody asked for them.
    """
    judgement = evaluation.judgement
    judged = [None] * len(rankings) if judgement is None else judgement.scores
    annotated = task.annotated and judgement is None  # the one judgement that was scored by
    shares = itertools.repeat(None, len(rankings)) if spans is None else spans
    for query, ranking, ais_scores, listed in zip(
        task.queries, rankings, judged, shares, strict=True
    ):
        rows = ranking.rows.tolist()
        passages = [task.passages[row] for row in rows]
        opponents = [task.passages[row] for row in ranking.opponent_rows.tolist()] or None
        changes = evaluation.changes.get(query.query_id)
        yield RetrievalRecord(
            example_id=query.query_id,
            query_set=task.name,
            inputs_plaintext=query.prompt,
            targets_plaintext=query.target,
            proponents=[passage.text for passage in passages],
            proponent_ids=[passage.passage_id for passage in passages],
            proponent_scores=ranking.scores.tolist(),
            opponents=opponents and [passage.text for passage in opponents],
            opponent_ids=opponents and [passage.passage_id for passage in opponents],
            opponent_scores=opponents and ranking.opponent_scores.tolist(),
            fact_id=query.query_id,
            relation=query.relation or None,
            c4_frequency=query.frequency,
            has_trex_sentence=bool(query.gold_rows) if annotated else None,
            proponent_correct=task.correct(query, rows).tolist() if annotated else None,
            proponent_ais_scores=ais_scores,
            proponent_support=[support(query.statement, one.statement).value for one in passages]
            if query.statement
            else None,
            proponent_tail_patch=None if changes is None else padded(changes, len(rows)),
            proponent_spans=None if listed is None else listed.proponents,
            opponent_spans=(None if listed is None else listed.opponents) or None,
        )

"""Joins a file's lists with a task: its queries by id or prompt, its passages by id or text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.core.errors import UserError
from bench.importing.arrange import Arranger
from bench.importing.corpus_rows import CorpusRows
from bench.importing.lists import Entries, FileList
from bench.importing.settings import Missing
from bench.tasks.base import Query, Task
from methods.base import Ranking

_OTHER_TASK = "is it the task that was ranked? missing=skip leaves out what does not match"


@dataclass(frozen=True)
class Joined:
    """What could be joined.

    Attributes:
        queries: the task's queries, in its order; all of them unless some were skipped.
        rankings: the ranking of each of them.
        counts: what was joined by what, and what was left out.
        notes: what a reader of the numbers should know, a line each.
    """

    queries: list[Query]
    rankings: list[Ranking]
    counts: Counter[str]
    notes: list[str]


def join(lists: Iterable[FileList], task: Task, missing: Missing, top_k: int | None) -> Joined:
    """Find the task's query of each list and the task's row of each passage.

    Memory grows with the lists; the corpus is read once, as a stream.

    Args:
        lists: the lists of one ranking.
        missing: what becomes of what does not match.
        top_k: lists are cut to it, None to keep them whole.

    Raises:
        UserError: a query or passage that the task does not have, a query that the file does not
            rank (unless ``missing`` allows it), two lists of one query, a passage listed twice, or
            an id that stands for something else in the task.
    """
    return _Join(task, missing, top_k).run(lists)


class _Join:
    def __init__(self, task: Task, missing: Missing, top_k: int | None) -> None:
        self.task = task
        self.missing = missing
        self.top_k = top_k
        self.counts: Counter[str] = Counter()
        self.arranger = Arranger(self.counts)

    def run(self, lists: Iterable[FileList]) -> Joined:
        owned = self._owned(lists)
        queries = self._ranked_queries(owned)
        rows = CorpusRows(
            self.task.passages, [owned[q.query_id] for q in queries if q.query_id in owned]
        )
        rankings = [self._ranking(query, owned.get(query.query_id), rows) for query in queries]
        if self.counts["passages_not_in_task"] and not any(len(r.rows) for r in rankings):
            raise UserError("no passage of the file is in the task", fix=_OTHER_TASK)
        self.arranger.check()
        return Joined(queries, rankings, self.counts, self._notes())

    # -------------------------------------------------------------- queries

    def _owned(self, lists: Iterable[FileList]) -> dict[str, FileList]:
        """The list of each query of the task, by the task's id."""
        finder = _QueryFinder(self.task.queries, self.counts)
        owned: dict[str, FileList] = {}
        unmatched: FileList | None = None
        for ranked in lists:
            self.counts["file_queries"] += 1
            query = finder.find(ranked)
            if isinstance(query, str):
                self.counts["file_queries_not_in_task"] += 1
                unmatched = unmatched or ranked
                if self.missing is not Missing.skip:
                    raise ranked.query_error(query, _OTHER_TASK)
                continue
            first = owned.setdefault(query.query_id, ranked)
            if first is not ranked:
                raise ranked.query_error(
                    f"query {query.query_id!r} is ranked at {first.place} already",
                    "keep one list a query",
                )
        if not self.counts["file_queries"]:
            raise UserError("the file ranks nothing", fix="give a file with at least one list")
        if not owned:
            assert unmatched is not None
            what = "neither this query nor any other of the file is in the task"
            raise unmatched.query_error(what, "check task=… and its settings")
        return owned

    def _ranked_queries(self, owned: dict[str, FileList]) -> list[Query]:
        lacking = [query.query_id for query in self.task.queries if query.query_id not in owned]
        self.counts["task_queries_not_in_file"] = len(lacking)
        if lacking and self.missing is Missing.error:
            path = next(iter(owned.values())).place.path
            raise UserError(
                f"does not rank {len(lacking)} of the task's {len(self.task.queries)} queries, "
                f"such as {lacking[0]!r}",
                where=str(path),
                fix="missing=skip leaves them out, missing=empty counts them as failures",
            )
        if self.missing is Missing.skip:
            return [query for query in self.task.queries if query.query_id in owned]
        return list(self.task.queries)

    # -------------------------------------------------------------- passages

    def _ranking(self, query: Query, ranked: FileList | None, rows: CorpusRows) -> Ranking:
        if ranked is None:
            return Ranking(query.query_id, np.empty(0, dtype=np.int64), np.empty(0))
        high = self._rows(ranked, ranked.proponents, rows)
        kept = np.flatnonzero(high >= 0)
        self._compare_labels(query, ranked, high)
        side = ranked.proponents
        best, scores = self.arranger.strongest(high[kept], side.scores[kept], side.ranks[kept])
        other = ranked.opponents
        low = self._rows(ranked, other, rows)
        kept = np.flatnonzero(low >= 0)
        worst, low_scores = self.arranger.weakest(low[kept], other.scores[kept])
        cut = slice(self.top_k)
        self.counts["lists_cut_to_top_k"] += len(best) > len(best[cut])
        return Ranking(query.query_id, best[cut], scores[cut], worst[cut], low_scores[cut])

    def _rows(self, ranked: FileList, side: Entries, rows: CorpusRows) -> np.ndarray:
        """The task's row of each entry, -1 for one that is left out: int64 ``[n]``."""
        used: set[int] = set()
        chosen = np.full(len(side.ids), -1, dtype=np.int64)
        for i, name in enumerate(side.ids):
            match = rows.find(name, side.text(i), used)
            if match.row is not None:
                used.add(match.row)
                chosen[i] = match.row
                self.counts[f"passages_joined_by_{match.by}"] += 1
            elif match.used:
                raise ranked.entry_error(
                    side, i, f"passage {name!r} is listed twice", "list it once a query"
                )
            elif match.ambiguous:
                raise ranked.entry_error(
                    side, i, f"{name!r} is the id of {match.ambiguous} passages of the task",
                    "give each passage its own id",
                )  # fmt: skip
            else:
                self.counts["passages_not_in_task"] += 1
                if self.missing is not Missing.skip:
                    what = (
                        f"passage {name!r} has another text in the task"
                        if match.other_text
                        else f"no passage of the task has the id {name!r}"
                        + (" or this text" if side.texts else "")
                    )
                    raise ranked.entry_error(side, i, what, _OTHER_TASK)
        return chosen

    def _compare_labels(self, query: Query, ranked: FileList, chosen: np.ndarray) -> None:
        """Count where the file's judgement is not the task's: the task's is what is scored."""
        if ranked.correct is None or not self.task.annotated:
            return
        kept = chosen >= 0
        task_says = self.task.correct(query, chosen[kept].tolist())
        self.counts["labels_unlike_the_task"] += int(
            (task_says != np.array(ranked.correct, dtype=bool)[kept]).sum()
        )

    def _notes(self) -> list[str]:
        """The counts that change what a number means, in words."""
        count = self.counts
        absent = "left out" if self.missing is Missing.skip else "counted as failures"
        sayings = {
            "file_queries_not_in_task": "queries of the file that the task lacks, left out",
            "task_queries_not_in_file": f"queries of the task that the file lacks, {absent}",
            "passages_not_in_task": "listed passages that the task lacks, left out; lists close up",
            "queries_with_another_prompt": "queries with another prompt in the task",
            "lists_out_of_score_order": "lists whose ranks disagree with their scores, "
            "ordered by score, then by row of the corpus",
            "lists_with_ties_reordered": "lists with equal scores in another order, "
            "ordered by row of the corpus",
            "labels_unlike_the_task": "labels that disagree with the task's annotation, "
            "which is what counts",
        }
        return [f"{text}: {count[name]:,}" for name, text in sayings.items() if count[name]]


class _QueryFinder:
    """The task's query of a list: by id, else by prompt and target."""

    def __init__(self, queries: Sequence[Query], counts: Counter[str]) -> None:
        self._counts = counts
        self._by_id = {query.query_id: query for query in queries}
        self._by_text: dict[tuple[str, str], list[Query]] = {}
        for query in queries:
            self._by_text.setdefault((query.prompt.strip(), query.target.strip()), []).append(query)

    def find(self, ranked: FileList) -> Query | str:
        """The query, or why there is none.

        Raises:
            UserError: several queries of the task have its prompt and target.
        """
        by_id = next((self._by_id[name] for name in ranked.query_ids if name in self._by_id), None)
        prompt, target = (t and t.strip() for t in (ranked.prompt, ranked.target))
        if by_id and (target is None or target == by_id.target.strip()):
            other = prompt is not None and prompt != by_id.prompt.strip()
            self._counts["queries_with_another_prompt"] += other
            self._counts["queries_joined_by_id"] += 1
            return by_id
        same = self._by_text.get((prompt or "", target or ""), [])
        if len(same) > 1:
            raise ranked.query_error(
                f"{len(same)} queries of the task have this prompt and target",
                "give the file the task's ids",
            )
        if same:
            self._counts["queries_joined_by_text"] += 1
            return same[0]
        if by_id:
            return f"query {by_id.query_id!r} of the task has another target, {by_id.target!r:.40}"
        what = f"no query of the task has the id {' or '.join(map(repr, ranked.query_ids))}"
        return what if prompt is None else f"{what}, or this prompt and target"

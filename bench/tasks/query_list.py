"""The queries of a retrievals file, by which the facts that they were made of are found again.

The release's own sample of facts is reported broken; its queries are in the retrieval files, from
which they are joined with the facts on the prompt and the target.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from bench.core import progress
from bench.core.errors import UserError
from bench.storage import jsonlines
from bench.storage.files import File
from bench.storage.jsonlines import Place
from bench.tasks.records import Fact, id_field, text_field

_NAMED = 3  # how many queries a notice names; all are counted


@dataclass
class _Listed:
    """A query of the file, and the facts that it may ask: number of the prompt by fact id."""

    place: Place
    fact_id: str | None
    facts: dict[str, int] = field(default_factory=dict)

    def chosen(self) -> dict[str, int]:
        """The fact that the file names, if it fits; else all that fit."""
        if self.fact_id in self.facts:
            return {self.fact_id: self.facts[self.fact_id]}
        return self.facts


class QueryList:
    """The join of queries with a stream of facts, in memory for the queries alone.

    A fact is a query's if one of its prompts and its ``entity1`` are the query's, white space at
    the ends aside. Where several facts are, the query's own ``fact_id`` decides; without one the
    query is ambiguous, and left out.

    Args:
        paths: retrieval files in the release's format; several may hold the same queries.

    Raises:
        UserError: a faulty file, or one without queries.
    """

    def __init__(self, paths: Iterable[File]) -> None:
        self._listed: dict[tuple[str, str], list[_Listed]] = {}
        seen: set[tuple[str, str, str | None]] = set()
        for path in paths:
            for place, record in progress.track(
                jsonlines.read_texts(path), "read queries", unit="lines"
            ):
                prompt = text_field(record, place, "inputs_plaintext").strip()
                target = text_field(record, place, "targets_plaintext").strip()
                named = record.get("fact_id") is not None
                fact_id = id_field(record, place, "fact_id") if named else None
                if (prompt, target, fact_id) not in seen:
                    seen.add((prompt, target, fact_id))
                    listed = self._listed.setdefault((prompt, target), [])
                    listed.append(_Listed(place, fact_id))
        if not self._listed:
            raise UserError(
                "holds no query", where="task.queries_from", fix="set it to a retrievals file"
            )

    def add(self, fact: Fact) -> None:
        """Take one fact of the stream."""
        # Backwards, so that of equal prompts the first stays.
        for number, prompt in reversed(list(enumerate(fact.prompts))):
            for listed in self._listed.get((prompt.strip(), fact.entity1.strip()), ()):
                listed.facts[fact.fact_id] = number

    def prompts(self, counts: dict[str, int]) -> dict[str, int]:
        """The number of the prompt that the file asks, by the id of each fact that is a query's.

        Args:
            counts: receives how many queries were joined, on which prompt, and why others were
                not.

        Raises:
            UserError: no query is left.
        """
        queries = [listed for group in self._listed.values() for listed in group]
        prompts: dict[str, int] = {}
        twice = 0
        unmatched: list[_Listed] = []
        ambiguous: list[_Listed] = []
        for listed in queries:
            facts = listed.chosen()
            if len(facts) == 1 and set(facts) <= set(prompts):
                twice += 1  # one fact is one query, asked with the first prompt listed
            elif len(facts) == 1:
                prompts |= facts
            else:
                (ambiguous if facts else unmatched).append(listed)
        counts |= {
            "queries_from_read": len(queries),
            "queries_from_without_fact": len(unmatched),
            "queries_from_ambiguous": len(ambiguous),
            "queries_from_of_a_fact_asked_before": twice,
        }
        for number in sorted(set(prompts.values())):
            asked = sum(one == number for one in prompts.values())
            counts[f"queries_from_joined_on_prompt{number}"] = asked
        if not prompts:
            raise UserError(
                f"none of its {len(queries):,} queries is, by prompt and target, one single fact "
                "of task.facts",
                where=str(queries[0].place.path),
                fix="are both of the same release?",
            )
        _say("are no fact", unmatched, len(queries))
        _say("are several facts, and name none", ambiguous, len(queries))
        return prompts


def _say(what: str, left_out: list[_Listed], n: int) -> None:
    if left_out:
        examples = "; ".join(
            f"{one.place}" + (f" ({', '.join(one.facts)})" if one.facts else "")
            for one in left_out[:_NAMED]
        )
        more = "; …" if len(left_out) > _NAMED else ""
        progress.say(
            f"task.queries_from: {len(left_out):,} of {n:,} queries {what}, and are not asked: "
            f"{examples}{more}"
        )

"""Methods made of methods: one re-ranks what another found, or several lists become one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.core.errors import UserError, at_least
from bench.core.typed import typed
from bench.tasks.base import Query
from methods import METHODS
from methods.base import Context, IndexSize, Method, Ranking
from methods.topk import order


class _Combined(Method):
    """Holds parts: whole methods, each with its own settings, on the same task and model."""

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self._parts: dict[str, Method] = {}

    def _add(self, key: str, settings: dict[str, Any]) -> Method:
        """Make a part from the settings at ``method.KEY``."""
        where = f"method.{key}"
        if not isinstance(settings.get("name"), str):
            raise UserError("is no method", where=where, fix=f"set method@{where}=NAME")
        method_class = METHODS.get(settings.get("target") or settings["name"])
        config = typed(method_class.Config, settings, where, ("name", "target"))
        # One model for all parts, loaded when the first of them asks.
        own = replace(
            self.context, counts=Counter(), facts={}, load_model=lambda: self.context.model
        )
        self._parts[key] = method_class(config, own)
        return self._parts[key]

    def identity(self) -> Any:
        """Its own version, and what each part depends on."""
        return [self.version, {key: part.identity() for key, part in self._parts.items()}]

    def check(self) -> None:
        """Refuse what a part refuses."""
        for key, part in self._parts.items():
            try:
                part.check()
            except UserError as error:
                place = error.where.replace("method.", f"method.{key}.", 1)
                raise UserError(error.what, where=place, fix=error.fix) from error

    def index(self) -> IndexSize:
        """Index each part; sizes add up, counts and facts are kept by part."""
        sizes = [part.index() for part in self._parts.values()]
        return IndexSize(sum(size.bytes for size in sizes), sum(size.shards for size in sizes))

    def _note(self) -> None:
        for key, part in self._parts.items():
            facts, counts = part.context.facts, part.context.counts
            self.context.facts |= {f"{key}.{name}": value for name, value in facts.items()}
            self.context.counts |= Counter({f"{key}.{k}": n for k, n in counts.items()})


@dataclass
class HybridConfig:
    """See ``conf/method/hybrid.yaml``."""

    first: dict[str, Any]
    second: dict[str, Any]
    depth: int
    first_share: float


class Hybrid(_Combined):
    """The first method finds ``depth`` passages a query, the second one puts them in order.

    score = s · u(first) + (1 - s) · u(second), where u maps a method's scores over a query's
    candidates to 0 … 1 and s is ``first_share``. With s = 0 the order is the second one's, and what
    matches nothing there is not listed.
    """

    Config = HybridConfig
    config: HybridConfig

    def __init__(self, config: HybridConfig, context: Context) -> None:
        super().__init__(config, context)
        self._first = self._add("first", config.first)
        self._second = self._add("second", config.second)

    def check(self) -> None:
        """Refuse settings out of range, and what either part refuses."""
        config = self.config
        at_least(1, "method.depth", config.depth)
        if not 0 <= config.first_share <= 1:
            raise UserError(
                f"expected 0 to 1, found {config.first_share}", where="method.first_share"
            )
        if type(self._second).rescore is Method.rescore:
            raise UserError(
                f"{config.second['name']} ranks all passages and cannot score chosen ones",
                where="method.second",
                fix="use a gradient method, bm25 or dense",
            )
        super().check()

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Re-rank the first method's lists; lists are at most ``depth`` long."""
        found = list(self._first.search(queries, max(self.config.depth, top_k)))
        rows = _rectangle(found)
        for ranking, again in zip(found, self._second.rescore(queries, rows), strict=True):
            n, share = len(ranking.rows), self.config.first_share
            candidates, rescored = ranking.rows, again[:n]
            scores = share * _to_unit(ranking.scores) + (1 - share) * _to_unit(rescored)
            if share == 0 and self._second.zero_is_no_match:
                candidates, scores = candidates[rescored > 0], scores[rescored > 0]
            best = order(scores, candidates)[:top_k]
            yield Ranking(ranking.query_id, candidates[best], scores[best])
        self._note()


@dataclass
class FusionConfig:
    """See ``conf/method/fusion.yaml``."""

    members: dict[str, Any]
    depth: int
    k: float


class Fusion(_Combined):
    """Reciprocal-rank fusion: score = Σ over methods of 1 / (k + rank), 0 where not in a list.

    Source: Cormack, Clarke & Büttcher 2009.
    """

    Config = FusionConfig
    config: FusionConfig

    def __init__(self, config: FusionConfig, context: Context) -> None:
        super().__init__(config, context)
        for name, settings in config.members.items():
            self._add(f"members.{name}", settings)

    def check(self) -> None:
        """Refuse settings out of range, fewer than two members, and what a member refuses."""
        for field in ("depth", "k"):
            at_least(1, f"method.{field}", getattr(self.config, field))
        if len(self._parts) < 2:
            raise UserError("needs at least two members", where="method.members")
        super().check()

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Search with each member in turn, then fuse query by query."""
        depth = max(self.config.depth, top_k)
        lists = [list(part.search(queries, depth)) for part in self._parts.values()]
        for rankings in zip(*lists, strict=True):
            rows, scores = self._fuse(rankings)
            best = order(scores, rows)[:top_k]
            yield Ranking(rankings[0].query_id, rows[best], scores[best])
        self._note()

    def _fuse(self, rankings: Sequence[Ranking]) -> tuple[np.ndarray, np.ndarray]:
        rows = np.unique(np.concatenate([ranking.rows for ranking in rankings]))
        scores = np.zeros(len(rows))
        for ranking in rankings:
            ranks = np.arange(1, len(ranking.rows) + 1)
            scores[np.searchsorted(rows, ranking.rows)] += 1 / (self.config.k + ranks)
        return rows, scores


def _to_unit(scores: np.ndarray) -> np.ndarray:
    """Scores mapped to 0 … 1, lowest and highest; all equal ones to 0."""
    if len(scores) == 0:
        return scores
    span = scores.max() - scores.min()
    return (scores - scores.min()) / span if span > 0 else np.zeros_like(scores)


def _rectangle(rankings: Sequence[Ranking]) -> np.ndarray:
    """Rows of all lists, int64 ``[queries, longest]``; shorter ones repeat their first row."""
    longest = max((len(ranking.rows) for ranking in rankings), default=0)
    rows = np.zeros((len(rankings), longest), dtype=np.int64)
    for line, ranking in zip(rows, rankings, strict=True):
        line[: len(ranking.rows)] = ranking.rows
        line[len(ranking.rows) :] = ranking.rows[0] if len(ranking.rows) else 0
    return rows

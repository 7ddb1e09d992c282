"""Methods made of methods: one re-ranks the list of another, or several lists become one."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.core.errors import UserError
from bench.core.fields import identifying, part_of_key
from bench.tasks.base import Query
from methods.base import Context, IndexSize, Method, Ranking
from methods.choosing import chosen
from methods.topk import order


class _Combined(Method):
    """A method of parts: whole methods, each with its own settings, on the same task and model."""

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self._parts = {
            key: self._part(key, settings) for key, settings in self.settings_of(config).items()
        }

    @staticmethod
    @abstractmethod
    def settings_of(config: Any) -> dict[str, dict[str, Any]]:
        """Settings of each part, by the part's key below ``method``."""

    def _part(self, key: str, settings: dict[str, Any]) -> Method:
        part_class, config = _chosen(key, settings)
        # One model for all parts, loaded when the first of them asks.
        own = replace(
            self.context, counts=Counter(), facts={}, load_model=lambda: self.context.model
        )
        return part_class(config, own)

    @classmethod
    def check_settings(cls, config: Any) -> None:
        """Refuse settings out of range, and what a part refuses."""
        super().check_settings(config)
        for key, settings in cls.settings_of(config).items():
            part_class, own = _chosen(key, settings)
            with _naming(key):
                part_class.check_settings(own)

    def check(self) -> None:
        """Refuse what a part refuses."""
        for key, part in self._parts.items():
            with _naming(key):
                part.check()

    def identifying_settings(self) -> dict[str, Any]:
        """Its own settings, and of each part its name and the settings that matter of it."""
        parts = self.settings_of(self.config)
        own = identifying(self.config)
        kept = {name: value for name, value in own.items() if not isinstance(value, dict)}
        named = {key: (part["name"], part.get("target")) for key, part in parts.items()}
        return kept | {
            key: [*named[key], part.identifying_settings()] for key, part in self._parts.items()
        }

    def identity(self) -> Any:
        """The version of the combination and the identity of each part."""
        return [
            super().identity(), {key: part.identity() for key, part in self._parts.items()}
        ]  # fmt: skip

    def index(self) -> IndexSize:
        """Index each part, and add up their sizes."""
        sizes = [part.index() for part in self._parts.values()]
        return IndexSize(sum(size.bytes for size in sizes), sum(size.shards for size in sizes))

    def _note(self) -> None:
        """Take over the facts and counts of the parts, each under its part's key."""
        for key, part in self._parts.items():
            facts, counts = part.context.facts, part.context.counts
            self.context.facts |= {f"{key}.{name}": value for name, value in facts.items()}
            self.context.counts |= Counter({f"{key}.{k}": n for k, n in counts.items()})


def _chosen(key: str, settings: dict[str, Any]) -> tuple[type[Method], Any]:
    """Class and configuration of the part at ``method.KEY``."""
    where = f"method.{key}"
    if not isinstance(settings.get("name"), str):
        raise UserError("is no method", where=where, fix=f"set method@{where}=NAME")
    return chosen(settings, where)


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """Within this context, an error at ``method.…`` is one at ``method.KEY.…``."""
    try:
        yield
    except UserError as error:
        where = error.where.replace("method.", f"method.{key}.", 1)
        raise UserError(error.what, where=where, fix=error.fix) from error


@dataclass
class HybridConfig:
    """Settings of ``conf/method/hybrid.yaml``."""

    first: dict[str, Any] = part_of_key()
    second: dict[str, Any] = part_of_key()
    depth: int = part_of_key(at_least=1)
    first_share: float = part_of_key(at_least=0, at_most=1)


class Hybrid(_Combined):
    """The first method finds ``depth`` passages a query, the second one puts them in order.

    score = s · u(first) + (1 - s) · u(second), where u maps a method's scores over a query's
    candidates to 0 … 1 and s is ``first_share``. With s = 0 the order is the second one's, and what
    matches nothing there is not listed.
    """

    Config = HybridConfig
    config: HybridConfig

    @staticmethod
    def settings_of(config: HybridConfig) -> dict[str, dict[str, Any]]:
        """Settings of both parts."""
        return {"first": config.first, "second": config.second}

    @classmethod
    def check_settings(cls, config: HybridConfig) -> None:
        """Refuse settings out of range, a second part that only searches, what a part refuses."""
        super().check_settings(config)
        if _chosen("second", config.second)[0].rescore is Method.rescore:
            raise UserError(
                f"{config.second['name']} ranks all passages and cannot score chosen ones",
                where="method.second",
                fix="use a gradient method, bm25 or dense",
            )

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Re-rank the first method's lists, which are at most ``depth`` long."""
        first, second = self._parts["first"], self._parts["second"]
        listed = list(first.search(queries, max(self.config.depth, top_k)))
        rescored = second.rescore(queries, _rectangle(listed))
        for ranking, again in zip(listed, rescored, strict=True):
            candidates, share = ranking.rows, self.config.first_share
            again = again[: len(candidates)]
            scores = share * _to_unit(ranking.scores) + (1 - share) * _to_unit(again)
            if share == 0 and second.zero_is_no_match:
                candidates, scores = candidates[again > 0], scores[again > 0]
            best = order(scores, candidates)[:top_k]
            yield Ranking(ranking.query_id, candidates[best], scores[best])
        self._note()


@dataclass
class FusionConfig:
    """Settings of ``conf/method/fusion.yaml``."""

    members: dict[str, Any] = part_of_key()
    depth: int = part_of_key(at_least=1)
    k: float = part_of_key(at_least=1)


class Fusion(_Combined):
    """Reciprocal-rank fusion: score = Σ over methods of 1 / (k + rank), 0 where not in a list.

    Source: Cormack, Clarke & Büttcher 2009.
    """

    Config = FusionConfig
    config: FusionConfig

    @staticmethod
    def settings_of(config: FusionConfig) -> dict[str, dict[str, Any]]:
        """Settings of all members."""
        return {f"members.{name}": settings for name, settings in config.members.items()}

    @classmethod
    def check_settings(cls, config: FusionConfig) -> None:
        """Refuse settings out of range, fewer than two members, and what a member refuses."""
        super().check_settings(config)
        if len(config.members) < 2:
            raise UserError("needs at least two members", where="method.members")

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
        """Rows of all lists of a query, ascending int64 ``[n]``, and scores, float64 ``[n]``."""
        rows = np.unique(np.concatenate([ranking.rows for ranking in rankings]))
        scores = np.zeros(len(rows))
        for ranking in rankings:
            ranks = np.arange(1, len(ranking.rows) + 1)
            scores[np.searchsorted(rows, ranking.rows)] += 1 / (self.config.k + ranks)
        return rows, scores


def _to_unit(scores: np.ndarray) -> np.ndarray:
    """Scores mapped linearly, the lowest to 0, the highest to 1; equal scores all to 0."""
    if len(scores) == 0:
        return scores
    span = scores.max() - scores.min()
    return (scores - scores.min()) / span if span > 0 else np.zeros_like(scores)


def _rectangle(rankings: Sequence[Ranking]) -> np.ndarray:
    """Rows of all lists, int64 ``[queries, longest]``; a shorter list repeats its first row."""
    longest = max((len(ranking.rows) for ranking in rankings), default=0)
    rows = np.zeros((len(rankings), longest), dtype=np.int64)
    for line, ranking in zip(rows, rankings, strict=True):
        line[: len(ranking.rows)] = ranking.rows
        line[len(ranking.rows) :] = ranking.rows[0] if len(ranking.rows) else 0
    return rows

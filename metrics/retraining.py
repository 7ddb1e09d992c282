"""Influence measured by training again: what a model says, had it not seen some passages.

- Removal effect: train without the first proponents of a group of queries, all at once; the fall of
  each of these queries' target probability, group by group. A method that finds what the model
  learnt a fact from has a large one. Compare it with that of ``random`` (chance) and ``gold`` (the
  stating passages). It is told in probability, in nats of the whole target and in nats a token of
  it: a probability near 0 hardly falls, and a long target has more to lose, so that methods may
  differ in one unit and not in another.
- LDS, the linear datamodelling score (Park et al., 2303.14186, section 4; here with one model a
  subset, or several averaged): train on random subsets of the corpus; the rank correlation, over
  subsets, of what the scores of a subset's passages add up to and what the model then says.
- QLD, the query's loss deviation: train without the top share of one query's own ranking, one
  training a query; the rise of its loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from bench.models.retraining import Removal
from metrics.settings import RetrainingConfig
from metrics.stats.correlation import rank_correlation

if TYPE_CHECKING:
    from bench.tasks.base import Query

Ranked = tuple[np.ndarray, np.ndarray]  # rows and scores of one query, strongest first
Retrain = Callable[[Sequence[Removal]], np.ndarray]  # removals → [removals, queries]


@dataclass(frozen=True)
class Measured:
    """What retraining said of one method.

    Attributes:
        per_query: ``query_id``, and of what was measured ``removal_effect`` (fall of the
            probability), ``removal_effect_log`` (nats a target), ``removal_effect_token`` (nats a
            token of the target), ``lds`` and ``qld`` (nats a target); NaN for queries that were not
            in the group.
        subsets: of ``lds``, what was foreseen of each subset and what was measured: float64
            ``[queries, subsets]`` each.
        facts: how many passages were removed (mean over groups), and how far the truth repeats.
    """

    per_query: pd.DataFrame
    subsets: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)


class RetrainingTruth:
    """Measures rankings against retrained models.

    Args:
        config: checked settings.
        queries: all of them, in the order of the retrained models' answers.
        top_k: how long lists may be.
        seed: of the random subsets: the same for every method, which share the retrained models.
        retrain: trains, or finds what it trained before.
    """

    def __init__(
        self,
        config: RetrainingConfig,
        queries: Sequence[Query],
        n_tokens: Sequence[int],
        n_passages: int,
        top_k: int,
        seed: int,
        retrain: Retrain,
    ) -> None:
        self._config = config
        self._queries = queries
        self._n_tokens = np.asarray(n_tokens)
        self._n_passages = n_passages
        self._top_k = top_k
        self._seed = seed
        self._retrain = retrain

    def measure(
        self, rankings: Mapping[str, Ranked], group: Mapping[str, Sequence[str]]
    ) -> Measured:
        """Measure one method.

        Args:
            rankings: by query id, of all queries.
            group: ids of the queries of the ``removal`` and of the ``qld`` group.
        """
        config = self._config
        frame = pd.DataFrame({"query_id": [query.query_id for query in self._queries]})
        facts: dict[str, float] = {}
        subsets = {}
        if config.removal_queries:
            chosen = self._numbers(group["removal"])
            tops = [rankings[i][0][: config.removal_top] for i in group["removal"]]
            rows = _shared(tops, config.removal_group)
            facts["removed_passages"] = float(np.mean([len(part) for part in set(rows)]))
            effect, effect_log = self._effects(rows, chosen)
            frame["removal_effect"] = self._spread(chosen, effect)
            frame["removal_effect_log"] = self._spread(chosen, effect_log)
            frame["removal_effect_token"] = self._spread(
                chosen, effect_log / self._n_tokens[chosen]
            )
        if config.lds_subsets:
            kept, outputs = self._subsets()
            measured = outputs.mean(0).T
            lists = [rankings[query.query_id] for query in self._queries]
            predicted = np.stack(
                [
                    summed_scores(rows, scores, kept, is_cut=len(rows) >= self._top_k)
                    for rows, scores in lists
                ]
            )
            frame["lds"] = [
                rank_correlation(*pair) for pair in zip(predicted, measured, strict=True)
            ]
            subsets["lds"] = (predicted, measured)
            if config.seeds > 1:
                facts["lds_ceiling"] = reseed_agreement(outputs)
        if config.qld_queries:
            chosen = self._numbers(group["qld"])
            top = config.n_qld_passages(self._n_passages)
            rows = [Removal.of(rankings[i][0][:top]).rows for i in group["qld"]]
            frame["qld"] = self._spread(chosen, self._effects(rows, chosen)[1])
        return Measured(frame, subsets, facts)

    def _numbers(self, ids: Sequence[str]) -> list[int]:
        places = {query.query_id: number for number, query in enumerate(self._queries)}
        return [places[query_id] for query_id in ids]

    def _spread(self, chosen: Sequence[int], values: np.ndarray) -> np.ndarray:
        column = np.full(len(self._queries), math.nan)
        column[chosen] = values
        return column

    def _effects(
        self, rows: Sequence[tuple[int, ...]], chosen: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fall of each chosen query's probability and log-probability, mean over the seeds."""
        seeds = range(self._config.seeds)
        removals = [Removal((), seed) for seed in seeds]
        removals += [Removal(part, seed) for seed in seeds for part in rows]
        answers = self._retrain(removals)
        before = answers[: len(seeds), chosen]  # [seeds, chosen]
        # Of the models trained without a query's own rows, only what they say of this query.
        after = answers[len(seeds) :].reshape(len(seeds), len(rows), -1)
        after = after[:, np.arange(len(rows)), chosen]
        return (np.exp(before) - np.exp(after)).mean(0), (before - after).mean(0)

    def _subsets(self) -> tuple[np.ndarray, np.ndarray]:
        """The passages of each subset, and what models say that were trained on them alone.

        Returns:
            bool ``[subsets, passages]``, and float64 ``[seeds, subsets, queries]``.
        """
        config, n = self._config, self._n_passages
        kept = np.zeros((config.lds_subsets, n), dtype=bool)
        for number, subset in enumerate(kept):
            order = np.random.default_rng([self._seed, number]).permutation(n)
            subset[order[: round(config.lds_share * n)]] = True
        seeds = range(config.seeds)
        removals = [Removal.of(np.flatnonzero(~subset), s) for s in seeds for subset in kept]
        return kept, self._retrain(removals).reshape(len(seeds), len(kept), -1)


def _shared(tops: Sequence[np.ndarray], size: int) -> list[tuple[int, ...]]:
    """The rows that are removed for each query and the others of its group of ``size``.

    Groups are every n-th query, so that each is a sample of all.
    """
    n_groups = math.ceil(len(tops) / size)
    groups = [Removal.of(np.concatenate(tops[i::n_groups])).rows for i in range(n_groups)]
    return [groups[number % n_groups] for number in range(len(tops))]


def summed_scores(
    rows: np.ndarray, scores: np.ndarray, kept: np.ndarray, *, is_cut: bool
) -> np.ndarray:
    """Sums of the scores of each subset's passages: what a method foresees of the subset.

    The linear datamodelling score is the rank correlation of these sums with what was measured. All
    subsets are of one size, so that only differences to the unlisted passages matter. Where a list
    is cut, each of them counts as much as its last one; where the method had no more to say, as
    nothing. A list of the whole corpus makes it exact.

    Args:
        rows, scores: of one query, strongest first, ``[k]``; none foresee nothing of any subset.
        kept: which passages each subset holds, bool ``[subsets, passages]``.
        is_cut: whether the list ends because it was not to be longer.

    Returns:
        float64 ``[subsets]``, less a constant.
    """
    last = float(scores[-1]) if is_cut and len(scores) else 0.0
    return kept[:, rows] @ (np.asarray(scores, dtype=np.float64) - last)


def reseed_agreement(outputs: np.ndarray) -> float:
    """How well one seed's outputs foresee the mean of the others': no score can be much above it.

    Args:
        outputs: ``[seeds, subsets, queries]``, at least 2 seeds.

    Returns:
        the rank correlation over the subsets, as a mean over seeds and queries.
    """
    correlations = []
    for seed in range(len(outputs)):
        others = np.delete(outputs, seed, axis=0).mean(0)
        pairs = zip(outputs[seed].T, others.T, strict=True)
        correlations += [rank_correlation(one, other) for one, other in pairs]
    seen = [value for value in correlations if not math.isnan(value)]
    return sum(seen) / len(seen) if seen else 0.0

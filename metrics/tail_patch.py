"""Tail-patch: does one more training step on a proponent raise the target's probability?

Source: 2410.17413, section 4: from the final checkpoint, one step on one proponent alone; the
increase of the target sequence's probability, mean over the top 10 proponents, then over queries.
The learning rate and the exact optimizer settings of that step are unverified: all are settings,
and docs/methods.md has the formula that they fill in.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from bench.core import progress
from bench.core.errors import first_line
from bench.models.base import no_moments_to_step_with, unknown_learning_rate
from bench.models.dtypes import running_in
from bench.models.language_model import LanguageModel, Tokens
from bench.storage.keys import content_key
from bench.tasks.base import Query, Task
from metrics.optimizer_step import QUERIES_AT_ONCE, OptimizerStep, Stepped
from metrics.patch_cache import Pair, PatchCache, StepOutcome
from metrics.settings import TailPatchConfig

# Raised whenever a change of code moves a measurement; part of the cache's name.
STEP_VERSION = 5

# Digits that are kept in float64: which passages were stepped on side by side moves the fifteenth,
# and would tell a run that was killed and went on from one that was not.
_DIGITS = 8
_WINDOW = 512  # passages that are tokenised ahead, so that those of one length go together


@dataclass(frozen=True)
class Patched:
    """What the model said of each query before and after the steps.

    Attributes:
        before: log-probability of each query's target, by query id.
        after: what came of the step on each of its proponents, in their order, by query id. The
            log-probability is NaN where there is no step, or nothing finite after it; the mean of
            such a query is NaN, too.
        not_finite: ids of the passages that this is so for.
    """

    before: dict[str, float]
    after: dict[str, list[StepOutcome]]
    not_finite: list[str]

    def changes(self) -> dict[str, list[float]]:
        """Change of the target's probability by the step on each proponent, by query id."""
        return {
            query_id: [
                math.exp(one.log_probability) - math.exp(self.before[query_id]) for one in outcomes
            ]
            for query_id, outcomes in self.after.items()
        }

    def table(self) -> pd.DataFrame:
        """Means over each query's proponents.

        Returns:
            one row a query: ``query_id``, ``base_log_probability``, ``base_probability``,
            ``tail_patch`` (change of the probability), ``tail_patch_log`` (of the log-probability,
            in nats), and of the steps ``tail_patch_clipped`` (share of parameter tensors whose
            update was clipped) and ``tail_patch_step`` (root mean square of what a step adds to a
            parameter); NaN for a query without proponents.
        """
        return pd.DataFrame.from_records(
            [_record(query_id, self.before[query_id], v) for query_id, v in self.after.items()]
        )

    def of_opponents(self) -> pd.DataFrame:
        """The changes of ``table`` as columns of their own, for the steps on opponents.

        Returns:
            one row a query: ``query_id``, ``opponent_tail_patch``, ``opponent_tail_patch_log``.
        """
        names = {name: f"opponent_{name}" for name in ("tail_patch", "tail_patch_log")}
        return self.table()[["query_id", *names]].rename(columns=names)


class TailPatch:
    """Measures pairs of (query, proponent); each distinct passage is stepped on once.

    Args:
        model: left exactly as it was.
        task: where the passages are.
        cache_dir: measured pairs are kept below it and shared by all methods.

    Attributes:
        settings: what the step was made with, defaults resolved: two tail-patches may be compared
            where these are equal.

    Raises:
        UserError: an unknown optimizer, or one whose state or learning rate is not at hand.
    """

    def __init__(
        self, config: TailPatchConfig, model: LanguageModel, task: Task, cache_dir: Path
    ) -> None:
        self._config = config
        self._model = model
        self._task = task
        learning_rate = config.learning_rate
        if learning_rate is None:
            learning_rate = model.learning_rate
        if learning_rate is None:
            raise unknown_learning_rate()
        moments = model.second_moments if config.optimizer == "saved" else None
        if config.optimizer == "saved" and moments is None:
            raise no_moments_to_step_with(model.name)
        state = ["sgd"] if moments is None else moments.identity
        clip = config.clip_at
        identity = [STEP_VERSION, task.sha256, learning_rate, clip, *_identity(model), state]
        self._step = OptimizerStep(model, learning_rate, moments, clip, config.memory_mib)
        self._cache_path = cache_dir / "tail_patch" / f"{content_key(identity)}.scores"
        self.settings = {
            "optimizer": self._step.optimizer,
            "second_moments": None if moments is None else content_key(moments.identity),
            "learning_rate": learning_rate,
            "clip": config.clip,
        }

    def measure(self, queries: Sequence[Query], proponents: Mapping[str, Sequence[int]]) -> Patched:
        """Step on the first ``top`` proponents of each query, one at a time.

        Args:
            proponents: passage rows by query id, strongest first.

        Raises:
            UserError: the model does not run in its gradient dtype.
        """
        tokens = {q.query_id: self._model.query_tokens(q) for q in queries}
        with running_in(self._model.gradient_dtype, self._model.name):
            base = self._rounded(self._step.log_probs(list(tokens.values())))
        before = dict(zip(tokens, base, strict=True))
        wanted: defaultdict[int, list[str]] = defaultdict(list)
        for query in queries:
            for row in proponents[query.query_id][: self._config.top]:
                wanted[int(row)].append(query.query_id)
        patched = self._patch(wanted, tokens)
        after = {
            query.query_id: [
                patched[int(row), query.query_id]
                for row in proponents[query.query_id][: self._config.top]
            ]
            for query in queries
        }
        failed = {
            row for (row, _), one in patched.items() if not math.isfinite(one.log_probability)
        }
        ids = [self._task.passages[row].passage_id for row in sorted(failed)]
        return Patched(before, after, ids)

    def _patch(
        self, wanted: Mapping[int, list[str]], tokens: Mapping[str, Tokens]
    ) -> dict[Pair, StepOutcome]:
        """Outcomes of the steps for every (passage row, query id) that is asked for."""
        with closing(PatchCache(self._cache_path)) as cache:
            patched = cache.known([(row, query_id) for row in wanted for query_id in wanted[row]])
            missing: dict[int, list[str]] = {}
            for row in sorted(wanted):
                if new := [query_id for query_id in wanted[row] if (row, query_id) not in patched]:
                    missing[row] = new
            measured = self._measured(missing, tokens) if missing else ()
            for row, outcomes in progress.track(measured, "tail-patch", len(missing), "passages"):
                pairs = {(row, query_id): outcome for query_id, outcome in outcomes.items()}
                cache.add(
                    {pair: one for pair, one in pairs.items() if all(map(math.isfinite, one))}
                )
                patched.update(pairs)
        return patched

    def _measured(
        self, missing: Mapping[int, list[str]], tokens: Mapping[str, Tokens]
    ) -> Iterator[tuple[int, dict[str, StepOutcome]]]:
        """The row of each passage, with the outcomes of the step on it by query id."""
        rows = list(missing)
        for start in range(0, len(rows), _WINDOW):
            window = [
                _Job(row, self._model.passage_tokens(self._task.passages[row].text), missing[row])
                for row in rows[start : start + _WINDOW]
            ]
            # Passages of one length go together; queries are of about one length anyway.
            waiting = sorted(window, key=lambda job: (len(job.query_ids), len(job.passage.ids)))
            while waiting:
                batch = self._side_by_side(waiting, tokens)
                try:
                    stepped = self._after(batch, tokens)
                except RuntimeError as error:
                    self._one_at_a_time(len(batch), error)
                    continue
                for job, one in zip(batch, stepped, strict=True):
                    yield job.row, self._outcomes(job, one)
                waiting = waiting[len(batch) :]

    def _outcomes(self, job: _Job, stepped: Stepped) -> dict[str, StepOutcome]:
        values = self._rounded(stepped.log_probs)
        (rms,) = self._rounded([stepped.rms], significant=True)
        outcomes = [StepOutcome(value, stepped.clipped, rms) for value in values]
        return dict(zip(job.query_ids, outcomes, strict=True))

    def _rounded(self, values: Sequence[float], significant: bool = False) -> list[float]:
        """Values without the digits of float64 that batching moves.

        ``_DIGITS`` are kept behind the point, or significant ones.
        """
        if self._model.gradient_dtype != torch.float64:
            return list(values)
        if significant:
            return [float(f"{value:.{_DIGITS}g}") for value in values]
        return [round(value, _DIGITS) for value in values]

    def _side_by_side(self, waiting: Sequence[_Job], tokens: Mapping[str, Tokens]) -> list[_Job]:
        """The first jobs that fit in one batch; a passage with nothing to predict goes alone."""
        batch, most = list(waiting[:1]), 0
        for job in waiting:
            if batch[0].passage.n_loss == 0 or job.passage.n_loss == 0:
                break
            most = max(most, len(job.passage.ids), job.tokens(tokens))
            if job is not batch[0]:
                if not self._step.has_room_for(len(batch) + 1, most):
                    break
                batch.append(job)
        return batch

    def _after(self, batch: Sequence[_Job], tokens: Mapping[str, Tokens]) -> list[Stepped]:
        asked = [[tokens[query_id] for query_id in job.query_ids] for job in batch]
        if batch[0].passage.n_loss == 0:  # no loss, no step: the model stays as it is
            return [Stepped(self._step.log_probs(of_one), 0.0, 0.0) for of_one in asked]
        return self._step.after([job.passage for job in batch], asked)

    def _one_at_a_time(self, passages: int, error: RuntimeError) -> None:
        """Go on with single passages: the model does not run side by side, or memory is short."""
        if passages == 1:
            raise error
        self._step.most_at_once = 1
        progress.say(f"tail-patch: one passage at a time from here on ({first_line(error)})")


@dataclass(frozen=True)
class _Job:
    """A passage to step on, and the queries that are asked after it."""

    row: int
    passage: Tokens
    query_ids: list[str]

    def tokens(self, queries: Mapping[str, Tokens]) -> int:
        """Number of padded tokens that are asked at once after the step."""
        lengths = [len(queries[query_id].ids) for query_id in self.query_ids]
        return max(lengths) * min(len(lengths), QUERIES_AT_ONCE)


def _identity(model: LanguageModel) -> list[Any]:
    """The settings that the model's numbers depend on beside its files."""
    weights = next(model.module.parameters()).dtype
    dtypes = [str(weights), str(model.gradient_dtype)]
    return [model.sha256, model.append_eos, model.context_length, dtypes]


def _record(query_id: str, base: float, after: Sequence[StepOutcome]) -> dict[str, object]:
    log_probs, clipped, rms = zip(*after, strict=True) if after else ((), (), ())
    return {
        "query_id": query_id,
        "base_log_probability": base,
        "base_probability": math.exp(base),
        "tail_patch": _mean([math.exp(value) for value in log_probs]) - math.exp(base),
        "tail_patch_log": _mean(log_probs) - base,
        "tail_patch_clipped": _mean(clipped),
        "tail_patch_step": _mean(rms),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan

"""Tail-patch: does one more training step on a proponent raise the target's probability?

Source: 2410.17413, section 4: from the final checkpoint, one step on one proponent alone; the
increase of the target sequence's probability, mean over the top 10 proponents, then over queries.
The learning rate and the exact optimizer settings of that step are unverified: all are settings,
and docs/methods.md has the formula that they fill in.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bench.engines.base import Engine, Job
from bench.models.answers import log_sums
from bench.models.base import no_moments_to_step_with, unknown_learning_rate
from bench.models.dtypes import running_in
from bench.models.language_model import LanguageModel, Tokens
from bench.storage.keys import content_key
from bench.storage.mirror import Mirror
from bench.tasks.base import Query, Task
from metrics.patch_cache import Pair, PatchCache, StepOutcome
from metrics.patch_jobs import Asked, Patcher, StepSettings, kept_digits
from metrics.settings import TailPatchConfig


@dataclass(frozen=True)
class Patched:
    """What the model said of each query before and after the steps.

    Attributes:
        before: log-probability of each query's target (of its accepted answers together, where
            they are summed), by query id.
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
        engine: runs the steps, perhaps in other processes.
        load_model: brings the same model in another process, to which it can be sent.
        mirror: the copy of ``cache_dir`` in a store, which measured pairs are shared through.

    Attributes:
        settings: what the step was made with, defaults resolved: two tail-patches may be compared
            where these are equal.

    Raises:
        UserError: an unknown optimizer, or one whose state or learning rate is not at hand.
    """

    def __init__(
        self,
        config: TailPatchConfig,
        model: LanguageModel,
        task: Task,
        cache_dir: Path,
        engine: Engine,
        load_model: Callable[[], LanguageModel],
        mirror: Mirror,
    ) -> None:
        self._config, self._engine = config, engine
        self._model, self._task = model, task
        learning_rate = config.learning_rate
        if learning_rate is None:
            learning_rate = model.learning_rate
        if learning_rate is None:
            raise unknown_learning_rate()
        is_saved = config.optimizer == "saved"
        moments = model.second_moments if is_saved else None
        if is_saved and moments is None:
            raise no_moments_to_step_with(model.name)
        made_with = StepSettings(
            task.sha256, learning_rate, is_saved, config.clip_at, config.memory_mib
        )
        self._step, key = made_with.step(model), made_with.key(model)
        self._patcher = Patcher(made_with, key, task.passages, load_model, here=(model, self._step))
        self._cache = PatchCache(cache_dir / "tail_patch" / f"{key}.scores", mirror)
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
        answers = {q.query_id: self._model.query_answers(q) for q in queries}
        with running_in(self._model.gradient_dtype, self._model.name):
            logs = self._step.log_probs([one for own in answers.values() for one in own])
        base = kept_digits(log_sums(logs, [len(own) for own in answers.values()]), self._model)
        before = dict(zip(answers, base, strict=True))
        wanted: defaultdict[int, list[str]] = defaultdict(list)
        for query in queries:
            for row in proponents[query.query_id][: self._config.top]:
                wanted[int(row)].append(query.query_id)
        patched = self._patch(wanted, answers)
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
        self, wanted: Mapping[int, list[str]], answers: Mapping[str, Sequence[Tokens]]
    ) -> dict[Pair, StepOutcome]:
        """Outcomes of the steps for every (passage row, query id) that is asked for."""

        def jobs(kept: Collection[Pair], folder: Path) -> list[Job]:
            missing = [
                Asked(row, {one: answers[one] for one in new})
                for row in sorted(wanted)
                if (new := [one for one in wanted[row] if (row, one) not in kept])
            ]
            return self._patcher.jobs(missing, folder)

        pairs = [(row, one) for row in wanted for one in wanted[row]]
        return self._cache.measured(pairs, jobs, self._engine)


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

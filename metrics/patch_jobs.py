"""The steps of tail-patch as jobs: each steps on a few passages side by side, and leaves a part.

Which passages go together depends on the passages, the model and ``memory_mib`` alone, so that
every engine makes the same batches. In float64 it does not matter: values are rounded to fewer
digits than batches move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.core import progress
from bench.core.errors import UserError, first_line
from bench.engines.base import Job
from bench.models.answers import log_sums
from bench.models.language_model import LanguageModel, Tokens
from bench.storage.keys import content_key
from bench.storage.score_parts import part_path, write_part
from bench.tasks.passages import PassageStore
from metrics.optimizer_step import QUERIES_AT_ONCE, OptimizerStep, Stepped
from metrics.patch_cache import Pair, StepOutcome, part_of_outcomes

# Raised whenever a change of code moves a measurement; part of the cache's name.
STEP_VERSION = 5

# Digits that are kept in float64: which passages were stepped on side by side moves the fifteenth,
# and would tell a run that was killed and went on from one that was not.
_DIGITS = 8
_WINDOW = 512  # passages that are tokenised ahead, so that those of one length go together


@dataclass(frozen=True)
class StepSettings:
    """What a step is made with, beside the model.

    Attributes:
        task_sha256: hash of the task.
        learning_rate: of the step.
        saved: whether the model's second moments scale the step; without, it is plain SGD.
        clip, memory_mib: as of ``OptimizerStep``.
    """

    task_sha256: str
    learning_rate: float
    saved: bool
    clip: float | None
    memory_mib: int

    def key(self, model: LanguageModel) -> str:
        """A key of everything that an outcome depends on beside passage and query."""
        moments = model.second_moments if self.saved else None
        state = ["sgd"] if moments is None else moments.identity
        weights = next(model.module.parameters()).dtype
        dtypes = [str(weights), str(model.gradient_dtype)]
        of_model = [model.sha256, model.append_eos, model.context_length, dtypes]
        return content_key(
            [STEP_VERSION, self.task_sha256, self.learning_rate, self.clip, *of_model, state]
        )

    def step(self, model: LanguageModel) -> OptimizerStep:
        """The step on a model."""
        moments = model.second_moments if self.saved else None
        return OptimizerStep(model, self.learning_rate, moments, self.clip, self.memory_mib)


@dataclass(frozen=True)
class Asked:
    """A passage to step on, and the queries that are asked after it.

    Attributes:
        row: the passage's row.
        queries: the answers of each query, by its id.
    """

    row: int
    queries: Mapping[str, Sequence[Tokens]]

    @property
    def answers(self) -> list[Tokens]:
        """The answers of all queries, one query behind the other."""
        return [one for answers in self.queries.values() for one in answers]

    @property
    def n_tokens(self) -> int:
        """The number of padded tokens that are asked at once after the step."""
        lengths = [len(tokens.ids) for tokens in self.answers]
        return max(lengths) * min(len(lengths), QUERIES_AT_ONCE)


@dataclass(frozen=True)
class Patcher:
    """Steps on passages, here or in another process, to which it can be sent.

    Attributes:
        settings: of the step.
        key: ``settings.key`` of the model; another model is refused.
        passages: where the passages are.
        load_model: brings the model in another process; can be sent, too.
        here: the model and its step, where they are at hand; they are not sent along.
    """

    settings: StepSettings
    key: str
    passages: PassageStore
    load_model: Callable[[], LanguageModel]
    here: tuple[LanguageModel, OptimizerStep] | None = field(default=None, compare=False)

    def __reduce__(self) -> tuple:
        return Patcher, (self.settings, self.key, self.passages, self.load_model)

    def jobs(self, asked: Sequence[Asked], folder: Path) -> list[Job]:
        """A job for each batch of passages that are stepped on side by side."""
        return [self._job(batch, folder) for batch in self._batches(asked)]

    def _job(self, batch: tuple[Asked, ...], folder: Path) -> Job:
        rows = [[one.row, *sorted(one.queries)] for one in batch]
        path = part_path(folder, content_key([self.key, rows]))
        return Job(Patcher.write, (self, path, batch), path)

    def write(self, path: Path, batch: Sequence[Asked]) -> None:
        """Step on each passage of a batch alone, and write what came of it."""
        model, step = self.here or _opened(self)
        passages = [model.passage_tokens(self.passages[one.row].text) for one in batch]
        asked = [one.answers for one in batch]
        outcomes: dict[Pair, StepOutcome] = {}
        for one, stepped in zip(batch, _stepped(step, passages, asked), strict=True):
            sizes = [len(answers) for answers in one.queries.values()]
            values = kept_digits(log_sums(stepped.log_probs, sizes), model)
            (rms,) = kept_digits([stepped.rms], model, significant=True)
            for query_id, value in zip(one.queries, values, strict=True):
                outcomes[one.row, query_id] = StepOutcome(value, stepped.clipped, rms)
        self.passages.check_unchanged()  # this may be another process than the one that opened them
        write_part(path, part_of_outcomes(outcomes))

    def _batches(self, asked: Sequence[Asked]) -> Iterator[tuple[Asked, ...]]:
        """Passages of one length together; queries are of about one length anyway."""
        assert self.here is not None  # only the process with the model gives out jobs
        model, step = self.here
        for start in range(0, len(asked), _WINDOW):
            window = [
                (one, model.passage_tokens(self.passages[one.row].text))
                for one in asked[start : start + _WINDOW]
            ]
            window.sort(key=lambda pair: (len(pair[0].answers), len(pair[1].ids)))
            while window:
                n = _side_by_side(window, step)
                yield tuple(one for one, _ in window[:n])
                window = window[n:]


def kept_digits(
    values: Sequence[float], model: LanguageModel, significant: bool = False
) -> list[float]:
    """Values without the digits of float64 that batching moves.

    ``_DIGITS`` are kept behind the point, or significant ones.
    """
    if model.gradient_dtype != torch.float64:
        return list(values)
    if significant:
        return [float(f"{value:.{_DIGITS}g}") for value in values]
    return [round(value, _DIGITS) for value in values]


def _side_by_side(waiting: Sequence[tuple[Asked, Tokens]], step: OptimizerStep) -> int:
    """How many of the first fit in one batch; a passage with nothing to predict goes alone."""
    n = most = 0
    for one, passage in waiting:
        most = max(most, len(passage.ids), one.n_tokens)
        if n and (passage.n_loss == 0 or not step.has_room_for(n + 1, most)):
            break
        n += 1
        if passage.n_loss == 0:
            break
    return n


def _stepped(
    step: OptimizerStep, passages: Sequence[Tokens], asked: Sequence[list[Tokens]]
) -> list[Stepped]:
    """What came of each step, for the texts that are asked after it.

    Passages go one at a time where the model does not run side by side, or memory is short.
    """
    if passages[0].n_loss == 0:  # no loss, no step: the model stays as it is
        return [Stepped(step.log_probs(of_one), 0.0, 0.0) for of_one in asked]
    if step.most_at_once > 1 and len(passages) > 1:
        try:
            return step.after(passages, asked)
        except RuntimeError as error:
            step.most_at_once = 1
            progress.say(f"tail-patch: one passage at a time from here on ({first_line(error)})")
    pairs = zip(passages, asked, strict=True)
    return [step.after([passage], [of_one])[0] for passage, of_one in pairs]


# The model that this process opened last, and its step, by what they are of: its jobs share them.
_open: dict[tuple[Any, ...], tuple[LanguageModel, OptimizerStep]] = {}


def _opened(patcher: Patcher) -> tuple[LanguageModel, OptimizerStep]:
    name = (patcher.key, patcher.settings.memory_mib)
    if name not in _open:
        _open.clear()  # before the next one is loaded: two models may not fit into memory
        model = patcher.load_model()
        if patcher.settings.key(model) != patcher.key:
            raise UserError(
                "another process finds another model than the run that started it",
                where=f"model {model.name}",
                fix="do not change the model's files while a run reads them, and give every "
                "machine the same ones",
            )
        _open[name] = (model, patcher.settings.step(model))
    return _open[name]

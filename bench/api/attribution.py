"""Attribution for a model in memory: what a method ranks for each query, without a cell."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from bench.api.lending import composing, working
from bench.api.words import words_of
from bench.core import progress
from bench.core.errors import UserError, did_you_mean
from bench.core.typed import typed
from bench.run.composing import composed
from bench.run.extend_hydra import side_of
from bench.run.settings import Settings, settings_from
from bench.storage.jsonlines import Json
from bench.tasks.base import SPACE, Answers
from bench.tasks.given import Given, passage_records, query_records

if TYPE_CHECKING:
    from typing import Literal

    from torch.optim import Optimizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bench.tasks.base import Task
    from methods.base import Ranking

    Moments = Optimizer | Mapping[str, Any] | Literal["estimate"] | None

_NAME = "given"  # of the task, in the cache
# Settings of conf/model/hf.yaml that are of the files of a folder, or have arguments of their own.
_OF_FILES = (
    "name", "source", "path", "revision", "adapter", "dtype", "optimizer_state", "geometry"
)  # fmt: skip


@dataclass(frozen=True)
class RankedPassages:
    """The passages that were ranked for one query.

    Attributes:
        query_id, prompt, target: the query.
        rows: places of the strongest passages in the list that was given, strongest first, int64
            ``[k]``; equal scores by rising place.
        passage_ids, texts: ids and texts of these, ``k`` each.
        scores: the method's scores of these, higher = stronger, float64 ``[k]``.
        opponent_rows, opponent_scores: the weakest passages, weakest first, likewise; empty where
            the method lists none.
    """

    query_id: str
    prompt: str
    target: str
    rows: np.ndarray
    passage_ids: list[str]
    texts: list[str]
    scores: np.ndarray
    opponent_rows: np.ndarray
    opponent_scores: np.ndarray


class Attribution(Mapping[str, RankedPassages]):
    """The rankings of one method, by query id, in the order in which the queries were given.

    Attributes:
        method: the method's name.
        settings: the method's settings, defaults among them.
        facts: what the method found on its way, such as the λ in use.
        counts: numbers of passages that were cut at the model's context, and the like.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        rankings: Iterable[RankedPassages],
        facts: Mapping[str, Any],
        counts: Mapping[str, int],
    ) -> None:
        self.method: str = settings["name"]
        self.settings, self.facts, self.counts = dict(settings), dict(facts), dict(counts)
        self._by_query = {one.query_id: one for one in rankings}

    def __getitem__(self, query_id: str) -> RankedPassages:
        return self._by_query[query_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_query)

    def __len__(self) -> int:
        """The number of queries."""
        return len(self._by_query)

    def __repr__(self) -> str:
        longest = max((len(one.rows) for one in self.values()), default=0)
        return (
            f"Attribution by {self.method}: {len(self)} queries, lists of {longest} passages; "
            "[query_id] .to_dataframe()"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each listed passage, query by query, strongest first.

        Returns:
            columns ``query_id``, ``rank`` (from 1), ``passage_id``, ``score``, ``text``.
        """
        columns = ["query_id", "rank", "passage_id", "score", "text"]
        lists = [
            pd.DataFrame(
                {
                    "query_id": one.query_id,
                    "rank": np.arange(1, len(one.rows) + 1),
                    "passage_id": one.passage_ids,
                    "score": one.scores,
                    "text": one.texts,
                }
            )
            for one in self.values()
        ]
        return pd.concat(lists, ignore_index=True)[columns]


def attribute(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    passages: Iterable[str | Mapping[str, Any]],
    queries: Iterable[tuple[str, str] | Mapping[str, Any]],
    method: str = "trackstar",
    moments: Moments = None,
    *,
    top_k: int = 100,
    seed: int = 0,
    separator: str = SPACE,
    chat: bool = False,
    answers: Literal["target", "best", "sum"] = "target",
    model_settings: Mapping[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    quiet: bool = False,
    **method_settings: Any,
) -> Attribution:
    """Rank passages for queries with a model in memory, as ``tdabench run model=hf`` would.

    Scores are those of the command, bit for bit, for the same model saved to a folder. The model is
    neither changed nor moved: it computes on the device where it is, frozen and in eval mode, and
    is then as it was.

    Args:
        model: a causal language model of transformers.
        tokenizer: the tokenizer that it was trained with.
        passages: the texts that may have caused what the model says, as strings or as mappings
            ``{"passage_id", "text"}``; without an id, a passage is called by its place, from 0.
        queries: what to ask, as pairs ``(prompt, target)`` or as mappings ``{"query_id", "prompt",
            "target"}``; ids likewise. The loss is that of the target.
        method: a name of ``tdabench list methods``.
        moments: second moments V of the model's optimizer, which methods with optimizer correction
            divide by, as TrackStar does: the optimizer itself; its ``state_dict()``; a mapping of
            parameter names to V; or ``"estimate"``, a pass over the passages. None has none.
        top_k: length of a list, where there are as many passages.
        seed: the seed of all that is drawn.
        separator: what stands between prompt and target in the string that the model reads.
        chat: whether prompt and target are put into the tokenizer's chat template.
        answers: ``"best"`` traces the target or one of a query's ``entity1_alias``, whichever the
            model finds most probable; ``"sum"`` traces the probability of all of these together.
        model_settings: settings of ``conf/model/hf.yaml``, such as ``gradient_dtype``,
            ``append_eos``, ``context_length``, ``adam_epsilon`` and ``learning_rate``.
        cache_dir: a folder that keeps the index for the next call; None keeps nothing.
        quiet: whether progress is silenced.
        **method_settings: settings of ``conf/method``, such as ``projection_dim=16`` (per side) or
            ``mixing=0.5``.

    Returns:
        the ranking of each query.

    Raises:
        UserError: an unknown method or setting, a passage or a query that is none, a model that
            cannot be read, moments that are missing or none of the model's.
    """
    records = passage_records(passages)
    builder = Given(query_records(queries), records, separator, chat, _accepted(answers))
    _check_model_settings(model_settings or {})
    own = {"projection_dim": _side_of(model), **(model_settings or {})}
    estimates = isinstance(moments, str) and moments == "estimate"
    words = words_of(
        {
            "task": {"name": "jsonl", "queries": "queries", "passages": "passages"},
            "model": {"name": "hf", "path": None, **own},
            "model.optimizer_state": "estimate" if estimates else None,
            "method": {**method_settings, "name": method},
            "metric": "attribution",
            "device": "cpu",  # the model is where it is
            "top_k": top_k,
            "seed": seed,
            "quiet": quiet,
        }
    )
    with ExitStack() as stack:
        stack.enter_context(composing())
        settings = settings_from(composed(words, "attribute"))
        if cache_dir is None:
            cache_dir = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="tdabench-", ignore_cleanup_errors=True)
            )
        stack.enter_context(working())
        stack.enter_context(progress.silenced(quiet))
        return _ranked(
            model, tokenizer, None if estimates else moments, settings, builder, records,
            Path(cache_dir).expanduser(),
        )  # fmt: skip


def _side_of(model: object) -> int:
    """The projection's side; what is no model is refused where it is lent."""
    to_dict = getattr(getattr(model, "config", None), "to_dict", None)
    return side_of(to_dict() if callable(to_dict) else None)


def _accepted(answers: str) -> Answers:
    try:
        return Answers(answers)
    except ValueError as error:
        fix = did_you_mean(answers, [one.value for one in Answers])
        raise UserError(f"unknown {answers!r}", where="answers", fix=fix) from error


def _check_model_settings(own: Mapping[str, Any]) -> None:
    for key in own:
        if key in _OF_FILES:
            raise UserError(
                "means nothing for a model in memory",
                where=f"model_settings: {key}",
                fix="leave it out; second moments are the argument moments",
            )


def _ranked(
    module: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    moments: object,
    settings: Settings,
    builder: Given,
    records: list[Json],
    cache_dir: Path,
) -> Attribution:
    """The rankings of a method over a task that is prepared now."""
    from bench.models.directory import completed
    from bench.models.in_memory import lent
    from bench.models.settings import DirectoryConfig
    from bench.tasks.base import load_task
    from methods.base import Context
    from methods.choosing import chosen

    config = typed(DirectoryConfig, settings.model, "model", ("name", "source"))
    kind, own = chosen(settings.method)
    kind.check_settings(own)
    with lent(module, tokenizer, config, moments) as model:
        task = load_task(_NAME, builder, cache_dir)
        context = Context(
            task=task,
            cache_dir=cache_dir,
            load_model=lambda: completed(config, model, task, cache_dir),
            device=str(model.device),
        )
        method = kind(own, context)
        method.check()
        method.index()
        rankings = list(method.search(task.queries, settings.top_k))
        return Attribution(
            settings.method,
            _described(task, rankings, records, settings.top_k),
            context.facts,
            context.counts,
        )


def _described(
    task: Task, rankings: list[Ranking], records: list[Json], top_k: int
) -> Iterator[RankedPassages]:
    """The rankings with ids and texts, once it is sure that they are what a method promises."""
    from bench.run.ranking_checks import check_rankings

    check_rankings(rankings, task.queries, len(task.passages), top_k)
    for query, ranking in zip(task.queries, rankings, strict=True):
        listed = [records[row] for row in ranking.rows.tolist()]
        yield RankedPassages(
            query_id=query.query_id,
            prompt=query.prompt,
            target=query.target,
            rows=ranking.rows,
            passage_ids=[str(record["passage_id"]) for record in listed],
            texts=[record["text"] for record in listed],
            scores=ranking.scores,
            opponent_rows=ranking.opponent_rows,
            opponent_scores=ranking.opponent_scores,
        )

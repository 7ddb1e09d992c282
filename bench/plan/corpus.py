"""Numbers of passages, tokens and queries, without preparing a task or training a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.core import progress
from bench.core.errors import UserError
from bench.models.base import ModelSource
from bench.run.parts import task_builder
from bench.run.settings import Settings
from bench.tasks import Task, TaskBuilder, prepared_task
from methods.gradient.cost import Architecture, tokens_per_word

PASSAGES, TOKENS, QUERIES = "passages", "tokens a passage", "queries"
_SAMPLE = 1000  # passages whose tokens are counted, for a mean within a few percent


@dataclass(frozen=True)
class Count:
    """A number and its source, in words."""

    value: float
    source: str


def count_corpus(
    settings: Settings,
    source: ModelSource,
    architecture: Architecture,
    given: Mapping[str, Count],
) -> dict[str, Count]:
    """Count passages, tokens a passage and queries; the task is asked only for what is not given.

    Raises:
        UserError: bad input files, no queries, or no passages.
    """
    names = (PASSAGES, TOKENS, QUERIES)
    counts = dict(given)
    if len(counts) < len(names):
        counts = _measure(settings, source, architecture, given) | counts
    tokens, limit = counts[TOKENS], architecture.context_length
    if tokens.value > limit:
        counts[TOKENS] = Count(limit, f"{tokens.source}, cut at the context length")
    return {name: counts[name] for name in names}


def _measure(
    settings: Settings, source: ModelSource, architecture: Architecture, given: Mapping[str, Count]
) -> dict[str, Count]:
    """Count the prepared task or, if the cache has none, the streams of its builder."""
    name, builder = settings.task["name"], task_builder(settings)
    task = prepared_task(name, builder, settings.cache_dir)
    if task is None:
        whole = not {PASSAGES, QUERIES} <= set(given)
        texts, n_passages = _stream(builder, name, whole)
        n_queries = sum(1 for _ in builder.queries()) if whole else 0
    else:
        texts = [passage.text for passage in task.passages.slice(0, _SAMPLE)]
        n_passages, n_queries = len(task.passages), len(task.queries)
    if not n_passages or not (n_queries or QUERIES in given):
        raise UserError("there is no passage or no query", where="task", fix="check its files")
    return {
        PASSAGES: Count(n_passages, f"task {name}"),
        QUERIES: Count(n_queries, f"task {name}"),
        TOKENS: _tokens(texts, settings, source, architecture, task),
    }


def _stream(builder: TaskBuilder, name: str, whole: bool) -> tuple[list[str], int]:
    texts: list[str] = []
    n_passages = 0
    for passage in progress.track(builder.passages(), f"count {name}", unit="passages"):
        n_passages += 1
        if n_passages <= _SAMPLE:
            texts.append(passage.text)
        elif not whole:
            break
    return texts, n_passages


def _tokens(
    texts: Sequence[str],
    settings: Settings,
    source: ModelSource,
    architecture: Architecture,
    task: Task | None,
) -> Count:
    """Mean number of tokens of the first passages, each cut at the context length."""
    limit, end = architecture.context_length, bool(settings.model.get("append_eos"))
    tokenizer = source.tokenizer(task, settings.cache_dir)
    first = f"the first {len(texts):,} passages"
    if tokenizer is not None:
        lengths = [len(tokenizer(text, verbose=False)["input_ids"]) + end for text in texts]
        return Count(sum(min(n, limit) for n in lengths) / len(lengths), f"tokenizer on {first}")
    factor = tokens_per_word(architecture.vocab_size)
    words = [min(limit, factor * len(text.split()) + end) for text in texts]
    how = f"words × {factor:.2f} on {first}: the tokenizer is not here"
    return Count(max(1.0, sum(words) / len(words)), how)

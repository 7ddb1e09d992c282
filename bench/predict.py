"""``tdabench predict``: asks a model every query, and writes its answers as queries to trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench import jsonlines, progress
from bench.composing import composed, model_source, task_builder
from bench.config import settings_from
from bench.errors import UserError
from bench.escape import clean
from bench.models.language_model import mean_probability
from bench.predictions import predictions
from bench.storage import whole_file
from bench.tasks import load_task


def main(out: Path, which: str, max_tokens: int, overrides: Sequence[str]) -> int:
    """Write the answers as queries of ``task=jsonl``, and print how many are right.

    Args:
        out: a file that is not there yet.
        which: the queries whose answer is wrong, right, or all of them.
        max_tokens: of an answer, at most.
        overrides: as of ``tdabench run``; what is of the method or the metrics plays no part.

    Raises:
        UserError: wrong overrides, a model that cannot be had, or a file that is there already.
    """
    if out.exists():
        raise UserError("is there already", where=str(out), fix="name another file, or remove it")
    if max_tokens < 1:
        raise UserError(f"expected at least 1, found {max_tokens}", where="--max-tokens")
    settings = settings_from(composed(overrides, "predict"))
    progress.set_quiet(settings.quiet)
    source = model_source(settings)
    source.check()
    task = load_task(settings.task["name"], task_builder(settings), settings.cache_dir)
    model = source.load(task, settings.cache_dir, settings.device)
    counts: Counter[str] = Counter()
    log_probabilities = []
    with whole_file(out) as stream:
        for one in predictions(model, task.queries, max_tokens):
            log_probabilities.append(one.target_log_probability)
            kind = "right" if one.right else "wrong" if one.answer else "empty"
            counts[kind] += 1
            if one.answer and which in (kind, "all"):
                counts["written"] += 1
                stream.write(jsonlines.dump(one.record()))
    n = len(task.queries)
    print(f"{n:,} queries: {counts['right']:,} right, {counts['wrong']:,} wrong by generation")
    mean = mean_probability(log_probabilities)
    print(f"mean probability of the annotated target: {mean:.3f}")
    if counts["empty"]:
        print(f"{counts['empty']:,} answers are empty, and left out")
    print(f"queries: {clean(out)} ({counts['written']:,}, {which})")
    return 0

"""``tdabench predict``: asks a model every query, and writes its answers as queries to trace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from bench.cli.commands import parser_of
from bench.core import progress
from bench.core.errors import UserError, at_least, did_you_mean
from bench.core.escape import clean
from bench.core.typed import typed
from bench.run.composing import composed
from bench.run.parts import Parts
from bench.run.settings import settings_from
from bench.storage import jsonlines
from bench.storage.files import refuse_address
from bench.storage.whole_files import whole_file

_WHICH = ("wrong", "right", "all")


@dataclass
class PredictConfig:
    """Words of the command line that are the command's own.

    Attributes:
        which: the queries whose answer is ``wrong``, ``right``, or ``all`` of them.
        max_tokens: how many tokens an answer may have.
    """

    which: str = "wrong"  # right answers are the task's own queries
    max_tokens: int = 12  # no name of a task is longer


def main(words: Sequence[str]) -> int:
    """Write the answers as queries of ``task=jsonl``, and print how many are right; returns 0.

    Raises:
        UserError: wrong words, a model that cannot be had, or a file that is there already.
    """
    parser = parser_of("predict")
    parser.add_argument("out", metavar="OUT", help="the file to write: queries of task=jsonl")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="KEY=VALUE",
        help="which=wrong|right|all (default: wrong), max_tokens=N of an answer (default: 12); "
        "else as of `tdabench run`: task=… and model=…; what is of the method or the metrics plays "
        "no part",
    )
    options = parser.parse_args(words)
    out = options.out
    refuse_address(out, "OUT")
    path = Path(out)
    if path.exists():
        raise UserError("is there already", where=out, fix="name another file, or remove it")
    own, overrides = _own(options.words)
    settings = settings_from(composed(overrides, "predict"))
    progress.set_quiet(settings.quiet)
    parts = Parts(settings)
    parts.check_files()
    from bench.models.language_model import mean_probability  # slow to import
    from bench.models.predictions import predictions

    parts.check_device()
    parts.source.check()
    settings.cache.check()
    queries = parts.task.queries
    counts: Counter[str] = Counter()
    log_probabilities = []
    with whole_file(path) as stream:
        for one in predictions(parts.model, queries, own.max_tokens):
            log_probabilities.append(one.target_log_probability)
            kind = "right" if one.right else "wrong" if one.answer else "empty"
            counts[kind] += 1
            if one.answer and own.which in (kind, "all"):
                counts["written"] += 1
                stream.write(jsonlines.dump(one.record()))
    right, wrong = counts["right"], counts["wrong"]
    print(f"{len(queries):,} queries: {right:,} right, {wrong:,} wrong by generation")
    mean = mean_probability(log_probabilities)
    print(f"mean probability of the annotated target: {mean:.3f}")
    if counts["empty"]:
        print(f"{counts['empty']:,} answers are empty, and left out")
    print(f"queries: {clean(out)} ({counts['written']:,}, {own.which})")
    return 0


def _own(words: Sequence[str]) -> tuple[PredictConfig, list[str]]:
    """The command's own settings, and the other words."""
    names = [field.name for field in fields(PredictConfig)]
    given = [word.split("=", 1) for word in words if word.split("=", 1)[0] in names]
    wrong = next((word for word in given if len(word) < 2), None)
    if wrong:
        raise UserError("expected KEY=VALUE", where=wrong[0])
    own: PredictConfig = typed(PredictConfig, {**asdict(PredictConfig()), **dict(given)}, "predict")
    if own.which not in _WHICH:
        raise UserError(
            f"unknown answers {own.which!r}", where="which", fix=did_you_mean(own.which, _WHICH)
        )
    at_least(1, "max_tokens", own.max_tokens)
    return own, [word for word in words if word.split("=", 1)[0] not in names]

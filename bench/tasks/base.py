"""A task on disk: queries and a corpus, prepared once per content key, then opened by anyone."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.core import progress
from bench.core.errors import UserError
from bench.core.fields import check_ranges
from bench.storage import jsonlines
from bench.storage.hashes import file_sha256
from bench.storage.keys import content_key
from bench.storage.sealed import open_or_make, open_sealed
from bench.tasks.passages import TEXTS, Passage, PassageStore, write_passages
from bench.tasks.support import Support, support
from bench.tasks.texts import TextCounter

_KIND, _QUERIES = "task", "queries.jsonl"
# A part of the folder's name, raised whenever the files of a prepared task change.
_LAYOUT_VERSION = 3
# Fields of a query that are left out of the task's hash, and of its file where they are empty.
_NAMES = ("subject_names", "answer_names")
SPACE = " "  # the separator of scripts that have one
# Fields of a query that say how it is asked, and are written only where it is not this.
_USUAL = {"separator": SPACE, "chat": False, "accepted": (), "summed": False}


class Answers(str, Enum):
    """The answers that a query accepts."""

    target = "target"
    best = "best"
    sum = "sum"


@dataclass(frozen=True)
class Query:
    """A fact to trace: which passages made the model complete ``prompt`` with ``target``?

    Attributes:
        gold_rows: rows of the passages annotated to state the fact, ascending.
        frequency: how often the fact occurs in the corpus, None if unknown.
        slices: group labels for breakdowns, e.g. ``{"relation": "instrument"}``.
        statement: the fact's entity ids, hops and near names (``bench.tasks.support``), or None.
        is_repetition: the target's words already occur in the prompt's subject.
        subject_names: what the fact's subject is called, for judges that match names; may be empty.
        answer_names: other names of the target, likewise. Neither moves a ranking: they are no part
            of the task's hash.
        separator: what stands between prompt and target in the string that a model reads.
        chat: whether the prompt is a user's message and the target the answer to it, in the
            tokenizer's chat template, instead of one string.
        accepted: other answers than the target that are as right.
        summed: whether the query's probability is that of all of these and the target together
            (``LanguageModel.query_answers``), and not that of the one which the model finds most
            probable (``LanguageModel.query_tokens``).
    """

    query_id: str
    prompt: str
    target: str
    relation: str = ""
    gold_rows: tuple[int, ...] = ()
    frequency: int | None = None
    is_repetition: bool = False
    slices: dict[str, str] = field(default_factory=dict)
    statement: dict[str, Any] | None = None
    subject_names: tuple[str, ...] = ()
    answer_names: tuple[str, ...] = ()
    separator: str = SPACE
    chat: bool = False
    accepted: tuple[str, ...] = ()
    summed: bool = False

    @property
    def text(self) -> str:
        """Prompt, separator and target: the query as one string."""
        return f"{self.prompt}{self.separator}{self.target}"

    @property
    def asked(self) -> list[Any]:
        """All that a model reads of the query, as JSON values: what its lists follow from."""
        accepted = [list(self.accepted), self.summed]
        return [self.prompt, self.separator, self.target, self.chat, *accepted]


@dataclass(frozen=True)
class Task:
    """Queries, candidates and ground truth of one prepared task.

    Attributes:
        sha256: hash of the queries and of every passage; two tasks with equal hashes are the same.
        corpus_sha256: hash of the passages alone; models trained here depend on nothing else.
        annotated: whether ``gold_rows`` are known; if not, attribution needs a judge.
        counts: what was kept and what was left out, by reason. Passages of equal text are
            candidates of their own, of which perhaps only one is annotated: ``repeated_texts`` says
            how many have the text of an earlier one, and ``unannotated_copies_of_gold`` how often
            one of them counts as wrong though it reads as an annotated one, over all queries.
    """

    name: str
    version: int
    sha256: str
    corpus_sha256: str
    queries: Sequence[Query]
    passages: PassageStore
    annotated: bool
    counts: dict[str, int]

    def correct(self, query: Query, rows: Sequence[int]) -> np.ndarray:
        """Whether each of ``rows`` is annotated to state the fact: bool ``[len(rows)]``."""
        return np.isin(np.asarray(rows, dtype=np.int64), np.asarray(query.gold_rows, np.int64))

    def support(self, query: Query, row: int) -> Support:
        """How passage ``row`` supports the fact of ``query``."""
        if query.statement is None:
            return Support.ENTAILS if row in query.gold_rows else Support.UNANNOTATED
        return support(query.statement, self.passages[row].statement)


class TaskBuilder(ABC):
    """The maker of a task from its config; a subclass is one entry of ``TASKS``.

    Attributes:
        annotated: whether the queries' gold rows are known.
        counts: what was kept and left out, filled by ``passages`` and ``queries``.

    Subclasses set ``Config`` (a dataclass whose fields are the keys of ``conf/task/NAME.yaml``) and
    ``version`` (raised whenever a change of code moves a number).
    """

    Config: ClassVar[type]
    version: ClassVar[int] = 1

    def __init__(self, config: Any) -> None:
        check_ranges(config, "task")
        self.config = config
        self.annotated = True
        self.counts: dict[str, int] = {}

    @abstractmethod
    def fingerprint(self) -> Any:
        """JSON value that changes whenever the produced task would: settings, input files."""

    @abstractmethod
    def passages(self) -> Iterable[Passage]:
        """Stream the candidates in row order. Called once, before ``queries``."""

    @abstractmethod
    def queries(self) -> Iterable[Query]:
        """The queries, with rows as ``passages`` gave them."""


def load_task(name: str, builder: TaskBuilder, cache_dir: Path) -> Task:
    """Open the prepared task of ``builder``, preparing it first if the cache has no sound one.

    Raises:
        UserError: bad input files, no queries, or no passages.
    """

    def prepare(partial: Path) -> dict[str, Any]:
        progress.say(f"prepare task {name} in {folder}")
        return _prepare(name, builder, partial)

    folder, made_from = _folder(name, builder, cache_dir)
    return _open(name, folder, open_or_make(folder, _KIND, made_from, prepare, replace=True))


def prepared_task(name: str, builder: TaskBuilder, cache_dir: Path) -> Task | None:
    """The prepared task of ``builder`` if the cache has it; prepares nothing.

    Raises:
        UserError: the cached task is damaged.
    """
    folder, made_from = _folder(name, builder, cache_dir)
    if not folder.exists():
        return None
    return _open(name, folder, open_sealed(folder, _KIND, made_from))


def _folder(name: str, builder: TaskBuilder, cache_dir: Path) -> tuple[Path, list[Any]]:
    """Where a prepared task is, and what it is made from."""
    made_from = [_LAYOUT_VERSION, name, builder.version, builder.fingerprint()]
    return cache_dir / "tasks" / name / content_key(made_from), made_from


def _open(name: str, folder: Path, facts: dict[str, Any]) -> Task:
    return Task(
        name=name,
        queries=[_query(record) for _, record in jsonlines.read(folder / _QUERIES)],
        passages=PassageStore(folder, facts["corpus_sha256"]),
        **facts,
    )


def _prepare(name: str, builder: TaskBuilder, folder: Path) -> dict[str, Any]:
    """Write the files of a task; returns the fields of ``Task`` that are not in them."""
    characters, texts = 0, TextCounter()

    def counted() -> Iterator[Passage]:
        nonlocal characters
        for passage in progress.track(builder.passages(), f"prepare {name}", unit="passages"):
            characters += len(passage.text)
            texts.add(passage.text)
            yield passage

    n_passages = write_passages(counted(), folder)
    corpus_sha256 = file_sha256(folder / TEXTS)  # known since it was written
    passages = PassageStore(folder, corpus_sha256)
    n_queries = n_unseparated = n_unannotated = n_accepting = 0
    separator = getattr(builder.config, "separator", SPACE)
    digest = hashlib.sha256()
    with open(folder / _QUERIES, "w", encoding="utf-8") as stream:
        for query in builder.queries():
            query = _asked(query, builder.config, separator)
            n_unseparated += query.separator != separator
            n_accepting += bool(query.accepted)
            record = {k: v for k, v in asdict(query).items() if k not in _USUAL or _USUAL[k] != v}
            names = {key: value for key in _NAMES if (value := record.pop(key))}
            digest.update(jsonlines.dump(record).encode("utf-8"))
            stream.write(jsonlines.dump({**record, **names}))
            n_queries += 1
            if texts.repeated:
                n_unannotated += _unannotated_copies(query, passages, texts)
    if n_queries == 0:
        raise UserError("no query is left to ask", fix="check the task's facts and filters")
    counts = dict(builder.counts)
    if texts.repeated:
        counts |= {"repeated_texts": texts.repeated, "unannotated_copies_of_gold": n_unannotated}
    if n_accepting:
        counts["queries_with_other_answers"] = n_accepting
    if n_unseparated:
        counts["prompts_ending_in_white_space"] = n_unseparated
        progress.say(
            f"prompts that end in white space get no separator: {n_unseparated:,} of {n_queries:,}"
        )
    return {
        "version": builder.version,
        "sha256": content_key([corpus_sha256, digest.hexdigest()], length=64),
        "corpus_sha256": corpus_sha256,
        "annotated": builder.annotated,
        "counts": {
            **counts,
            "passages": n_passages,
            "characters": characters,
            "queries": n_queries,
        },
    }


def _asked(query: Query, config: Any, separator: str) -> Query:
    """The query as the task asks it.

    Args:
        config: the task's; one without ``chat`` or ``answers`` asks in strings, for the target.
        separator: the task's.
    """
    answers = getattr(config, "answers", Answers.target)
    names = dict.fromkeys(query.answer_names) if answers is not Answers.target else ()
    accepted = tuple(name for name in names if name != query.target)
    return replace(
        query,
        separator=separator_behind(query.prompt, separator),
        chat=getattr(config, "chat", False),
        accepted=accepted,
        summed=answers is Answers.sum and bool(accepted),
    )


def separator_behind(prompt: str, separator: str) -> str:
    """The task's separator, or none if the prompt ends in white space."""
    return "" if prompt != prompt.rstrip() else separator


def _unannotated_copies(query: Query, passages: PassageStore, texts: TextCounter) -> int:
    """Passages that are letter by letter an annotated one of the query, and count as wrong."""
    gold = {passages[row].text for row in query.gold_rows}
    return sum(map(texts.copies, gold)) - len(query.gold_rows)


def _query(record: dict[str, Any]) -> Query:
    lists = {key: tuple(record.get(key, ())) for key in ("gold_rows", "accepted", *_NAMES)}
    return Query(**{**record, **lists})

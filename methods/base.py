"""The interface of a method: it indexes the passages once and ranks them for each query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.core.errors import UserError
from bench.core.fields import check_ranges, identifying
from bench.core.phases import Phases
from bench.core.registry import file_sha256_of
from bench.engines import Engine
from bench.engines.serial import Serial, SerialConfig
from bench.storage.mirror import Mirror
from bench.tasks.base import Query, Task

if TYPE_CHECKING:
    from bench.models.language_model import LanguageModel
    from bench.models.retraining import Removal
    from methods.costs import Costs, PlannedRun
    from methods.gradient.cost import Architecture

# In a method's facts, where matrices may be left out: what `methods.gradient.parameters.coverage`
# says of it. A method of several parts puts its parts' names before it.
GRADIENT_PARAMETERS = "gradient_parameters"


@dataclass(frozen=True)
class Ranking:
    """The strongest passages for one query.

    Attributes:
        rows: rows of the passages, strongest first, int64 ``[k]``; equal scores by ascending row.
            Fewer than were asked for, or none, where no more passages have anything to do with the
            query.
        scores: the method's scores of these, higher = stronger, float64 ``[k]``.
        opponent_rows, opponent_scores: rows and scores of the weakest passages, lowest score first,
            equal scores by ascending row; empty where a method lists none.
    """

    query_id: str
    rows: np.ndarray
    scores: np.ndarray
    opponent_rows: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    opponent_scores: np.ndarray = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class TokenShares:
    """What each token of a query's listed passages adds to its passage's score.

    Attributes:
        proponents: the shares of each of the first passages, float64 ``[tokens]`` each, in the
            order of the ranking. A passage's shares sum to its score.
        opponents: those of the weakest passages, likewise.
    """

    proponents: list[np.ndarray]
    opponents: list[np.ndarray]


@dataclass
class IndexSize:
    """Bytes and files that an index takes on disk; both are 0 for methods that store nothing."""

    bytes: int = 0
    shards: int = 0


def _no_model() -> LanguageModel:
    raise ValueError("this context was made without a model")


def _serial() -> Engine:
    return Serial(SerialConfig())


def _no_retraining(removals: Sequence[Removal]) -> np.ndarray:  # noqa: ARG001
    raise ValueError("this context was made without a way to retrain")


@dataclass(frozen=True)
class Sibling:
    """Another cell of the sweep, of the same task and model, whose lists are still to be made.

    Attributes:
        kind, config: its method's class, and a value of the class's ``Config``.
        top_k: length of its lists.
    """

    kind: type[Method]
    config: Any
    top_k: int


@dataclass
class Context:
    """What the harness lends a method for one cell.

    Attributes:
        cache_dir: root of all caches; a method writes below ``cache_dir/index``.
        load_model: loads or trains the model under study; called at most once, on first use.
        device: name of the torch device, e.g. ``"cpu"``.
        phases: wall time and memory of each named phase, written into the result.
        counts: numbers of truncated passages, skipped queries and the like, for the result.
        facts: values that a reader of the result needs, e.g. the λ in use.
        retrain: trains models without some passages and asks them the queries, for the metrics.
        engine: runs independent jobs, perhaps in other processes.
        model_recipe: loads the same model in another process, to which it can be sent.
        mirror: the copy of ``cache_dir`` in a store, for what others need not make again.
        spans: whether a method's ``shares`` will be asked for after its search.
        siblings: the cells of the sweep that come after this one: a method may do with its own work
            what theirs has in common with it, and leave it where they will find it.
    """

    task: Task
    cache_dir: Path
    load_model: Callable[[], LanguageModel] = _no_model
    device: str = "cpu"
    phases: Phases = field(default_factory=Phases)
    counts: Counter[str] = field(default_factory=Counter)
    facts: dict[str, Any] = field(default_factory=dict)
    retrain: Callable[[Sequence[Removal]], np.ndarray] = _no_retraining
    engine: Engine = field(default_factory=_serial)
    model_recipe: Callable[[], LanguageModel] = _no_model
    mirror: Mirror = field(default_factory=lambda: Mirror(Path()))
    spans: bool = False
    siblings: Callable[[], Sequence[Sibling]] = tuple

    @cached_property
    def model(self) -> LanguageModel:
        """The model under study: loaded, or trained, only when somebody asks for it."""
        return self.load_model()


@dataclass
class NoSettings:
    """The configuration of a method that has no settings."""


class Method(ABC):
    """One way of ranking passages; ``conf/method/NAME.yaml`` names the class as its ``target``.

    Attributes:
        Config: a dataclass whose fields are the settings of the YAML, without defaults: the YAML
            holds each default and the reason for it.
        planned: whether ``plan`` answers.
        version: raised whenever a change of code moves a ranking; part of every cell's key.
        zero_is_no_match: whether a score of 0 says that passage and query have nothing in common.
            Such passages are not listed.
    """

    Config: ClassVar[type] = NoSettings
    planned: ClassVar[bool] = False
    version: ClassVar[int | tuple[int, ...]] = 1
    zero_is_no_match: ClassVar[bool] = False

    def __init__(self, config: Any, context: Context) -> None:
        self.config = config
        self.context = context

    @classmethod
    def check_settings(cls, config: Any) -> None:
        """Refuse settings that cannot work, by nothing but the settings themselves.

        The harness calls it before a task is prepared or a model is loaded. The base class refuses
        numbers outside the range of their field (``bench.core.fields``).

        Args:
            config: a value of ``Config``; messages say ``method.KEY``.

        Raises:
            UserError: names the key and what may be set.
        """
        check_ranges(config, "method")

    @classmethod
    def plan(cls, config: Any, architecture: Architecture, run: PlannedRun) -> Costs:
        """The costs of a run, known before a model is loaded; only where ``planned`` is set.

        Args:
            config: a value of ``Config`` that ``check_settings`` has passed.

        Raises:
            UserError: a run would refuse these settings for this model or this run.
        """
        raise NotImplementedError(f"{cls.__name__} does not say what a run takes")

    def check(self) -> None:  # noqa: B027 - most methods have nothing to check
        """Refuse, with a UserError, what only the task, the model or a file can show to be wrong.

        The harness calls it after ``check_settings`` and before any passage is read.
        """

    def identifying_settings(self) -> dict[str, Any]:
        """The settings that rankings depend on, as plain values: part of the cell's key."""
        return identifying(self.config)

    def identity(self) -> Any:
        """All that rankings depend on beside settings, task and model: part of the cell's key.

        It is the version; a class that is not of this package adds its name, and its module's name
        or, where it was loaded from a file by its path, the hash of that file.
        """
        kind = type(self)
        if kind.__module__.startswith(f"{__package__}."):
            return self.version
        return [self.version, kind.__qualname__, file_sha256_of(kind) or kind.__module__]

    def index(self) -> IndexSize:
        """Read the passages once and keep what searching needs; the base class reads nothing."""
        return IndexSize()

    @abstractmethod
    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Rank the passages for each query.

        Args:
            top_k: length of a list, where there are as many passages.

        Yields:
            one ranking a query, in the order of ``queries``.
        """

    def rescore(
        self,
        queries: Sequence[Query],  # noqa: ARG002
        rows: np.ndarray,  # noqa: ARG002
    ) -> Iterator[np.ndarray]:
        """Score given passages instead of searching for them; call ``index`` first.

        Args:
            queries: queries of the task, in any order.
            rows: rows of the passages to score for each query, int64 ``[queries, candidates]``.

        Yields:
            scores of one query's candidates, float64 ``[candidates]``, on the scale of ``search``.

        Raises:
            UserError: the method can only rank all passages.
        """
        raise UserError(
            f"{type(self).__name__} ranks all passages and cannot score chosen ones",
            where="method",
            fix="use a gradient method, bm25 or dense",
        )

    def shares(
        self,
        queries: Sequence[Query],
        rankings: Sequence[Ranking],
        depth: int,
    ) -> Iterator[TokenShares]:
        """Take scores apart into the shares of the passages' tokens; call ``search`` first.

        Only for methods whose ``Config`` has ``check_spans``, in a context that has ``spans``.

        Args:
            rankings: what ``search`` gave for these queries.
            depth: number of passages at either end of a list whose scores are taken apart.

        Yields:
            the shares of one query's passages; one passage is encoded at a time.
        """
        raise NotImplementedError(f"{type(self).__name__} does not take its scores apart")

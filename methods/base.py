"""What a method is: it indexes the passages once and ranks them for each query."""

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
from bench.core.phases import Phases
from bench.engines import Engine
from bench.engines.serial import Serial, SerialConfig
from bench.storage.mirror import Mirror
from bench.tasks.base import Query, Task

if TYPE_CHECKING:
    from bench.models.language_model import LanguageModel
    from bench.models.retraining import Removal

# In a method's facts, where matrices may be left out: what `methods.gradient.parameters.coverage`
# says of it. A method of several parts puts its parts' names before it.
GRADIENT_PARAMETERS = "gradient_parameters"


@dataclass(frozen=True)
class Ranking:
    """The strongest passages for one query.

    Attributes:
        rows: passage rows, strongest first, int64 ``[k]``; equal scores in ascending row order.
            Fewer than were asked for, or none, where no more passages have anything to do with the
            query.
        scores: the method's scores, higher = stronger, float64 ``[k]``.
        opponent_rows, opponent_scores: likewise the lowest scores, lowest first, equal ones in
            ascending row order; empty where a method has none.
    """

    query_id: str
    rows: np.ndarray
    scores: np.ndarray
    opponent_rows: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    opponent_scores: np.ndarray = field(default_factory=lambda: np.empty(0))


@dataclass
class IndexSize:
    """What the index costs on disk. ``bytes`` is 0 for methods that store nothing."""

    bytes: int = 0
    shards: int = 0


def _no_model() -> LanguageModel:
    raise ValueError("this context was made without a model")


def _serial() -> Engine:
    return Serial(SerialConfig())


def _no_retraining(removals: Sequence[Removal]) -> np.ndarray:  # noqa: ARG001
    raise ValueError("this context was made without a way to retrain")


@dataclass
class Context:
    """What the harness lends a method for one cell.

    Attributes:
        task: the queries and candidates.
        cache_dir: root of all caches; a method writes below ``cache_dir/index``.
        device: torch device name, e.g. ``"cpu"``.
        phases: wall time and memory by named phase, written into the result.
        counts: anything counted on the way (truncated passages, skipped queries), likewise.
        facts: values found on the way that a reader of the result needs, e.g. the λ in use.
        load_model: brings the model under study; called at most once, on first use.
        retrain: what models trained without some passages say, for the metrics.
        engine: runs independent jobs, perhaps in other processes.
        model_recipe: brings the same model there: unlike ``load_model``, it can be sent.
        mirror: the copy of ``cache_dir`` in a store, for what others need not make again.
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

    @cached_property
    def model(self) -> LanguageModel:
        """The model under study: loaded, or trained, only when somebody asks for it."""
        return self.load_model()


class Method(ABC):
    """One way of ranking passages; a subclass is one entry of ``METHODS``.

    Subclasses set ``Config``: a dataclass whose fields are the keys of ``conf/method/NAME.yaml``,
    without defaults, since the YAML file holds each default and the reason for it.

    Attributes:
        version: raised whenever a change of code moves a ranking; part of every cell's key.
        zero_is_no_match: whether a score of 0 says that passage and query have nothing in common.
            Such passages are not listed.
    """

    Config: ClassVar[type]
    version: ClassVar[int | tuple[int, ...]] = 1
    zero_is_no_match: ClassVar[bool] = False

    def __init__(self, config: Any, context: Context) -> None:
        self.config = config
        self.context = context

    def check(self) -> None:  # noqa: B027 - most methods have nothing to check
        """Raise UserError, before any work starts, if the method cannot run in this setting."""

    def identity(self) -> Any:
        """What rankings depend on beside settings, task and model: part of the cell's key."""
        return self.version

    @abstractmethod
    def index(self) -> IndexSize:
        """Read the passages once and keep what searching needs."""

    @abstractmethod
    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Rank the passages for each query, in the order given."""

    def rescore(
        self,
        queries: Sequence[Query],  # noqa: ARG002
        rows: np.ndarray,  # noqa: ARG002
    ) -> Iterator[np.ndarray]:
        """Score given passages instead of searching for them; call ``index`` first.

        Args:
            queries: in any order.
            rows: passages of each query, int64 ``[queries, candidates]``.

        Yields:
            float64 ``[candidates]`` for each query, on the scale of ``search``.

        Raises:
            UserError: this method cannot.
        """
        raise UserError(
            f"{type(self).__name__} ranks all passages and cannot score chosen ones",
            where="method",
            fix="use a gradient method, bm25 or dense",
        )

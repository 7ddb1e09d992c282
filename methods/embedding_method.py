"""A method with one vector a passage: what dense, sparse and model vectors have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from bench.core.errors import UserError
from bench.storage.keys import content_key
from bench.tasks.base import Task
from methods.base import Context, IndexSize, Method
from methods.embedding_index import (
    Embed,
    Embedder,
    EmbeddingIndex,
    VectorFormat,
    open_or_embed,
)

if TYPE_CHECKING:
    from bench.models.language_model import LanguageModel

Vectors = TypeVar("Vectors")  # the vectors of several texts


class EmbeddingMethod(Method, Generic[Vectors]):
    """Embeds passages once and keeps the vectors; a subclass makes and searches them.

    Attributes:
        name: name of the method, and of the folder of its indexes.
        form: format in which the vectors are kept.
    """

    name: ClassVar[str]
    form: ClassVar[VectorFormat]

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__(config, context)
        self._index: EmbeddingIndex[Vectors] | None = None

    @abstractmethod
    def vector_settings(self) -> dict[str, Any]:
        """All that a vector depends on beside its text, as JSON values."""

    @abstractmethod
    def _embed_passages(self, texts: list[str]) -> tuple[Vectors, Mapping[str, int]]:
        """The vectors of passages, and what was counted on the way."""

    def index(self) -> IndexSize:
        """Embed the passages, or open what was embedded before, here or in a store."""
        context, settings = self.context, self.vector_settings()
        passages = context.task.passages
        folder = context.cache_dir / "index" / self.name
        folder /= content_key({**settings, "corpus": passages.sha256})
        elsewhere = _Elsewhere(
            type(self), self.config, replace(context.task, queries=()), context.cache_dir,
            context.device, context.model_recipe, content_key(settings),
        )  # fmt: skip
        embedder = Embedder(passages, self.form, elsewhere, here=self._embed_passages)
        self._index = open_or_embed(folder, embedder, context.engine, context.mirror)
        context.counts.update(self._index.counts)
        context.facts["encoding_seconds"] = self._index.seconds
        vectors: Any = self._index.vectors
        return IndexSize(bytes=vectors.nbytes, shards=1)

    @property
    def _opened(self) -> EmbeddingIndex[Vectors]:
        if self._index is None:
            raise ValueError("call index() first")
        return self._index


@dataclass(frozen=True)
class _Elsewhere:
    """How another process gets what embeds: plain data that can be sent to it.

    Attributes:
        kind, config: class and settings of the method.
        task: without its queries.
        load_model: brings the model under study, for methods that read it.
        key: key of the settings that vectors depend on.
    """

    kind: type[EmbeddingMethod]
    config: Any
    task: Task
    cache_dir: Path
    device: str
    load_model: Callable[[], LanguageModel]
    key: str

    def __call__(self) -> Embed:
        """What embeds, opened once in a process for all jobs of one index.

        Raises:
            UserError: the model found here is not the one that the index is of.
        """
        which = (self.kind, self.config, self.device, self.key)
        if not (_open and _open[-1][0] == which):
            _open.clear()  # before the next one is loaded: two models may not fit into memory
            context = Context(self.task, self.cache_dir, self.load_model, self.device)
            method = self.kind(self.config, context)
            if content_key(method.vector_settings()) != self.key:
                raise UserError(
                    "another process finds another model than the run that started it",
                    where=f"method {self.kind.name}",
                    fix="do not change the model's files while a run reads them, and give every "
                    "machine the same ones",
                )
            _open.append((which, method))
        return _open[-1][1]._embed_passages


_open: list[tuple[tuple[Any, ...], EmbeddingMethod]] = []  # the one that was opened last

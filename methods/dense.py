"""Dense retrieval: cosine of sentence embeddings (Reimers & Gurevych 2019).

It stands in for the paper's Gecko, a larger encoder that is not public: compare its place among
the methods, not its numbers, with the paper's.

An embedding depends in its last digits (about 1e-7) on the texts that it is batched with, since
padding changes the order of summation. Passages whose scores are closer than that, such as equal
texts far apart in the corpus, may swap between batch sizes; equal texts within a chunk never do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from bench.errors import UserError
from bench.storage import content_key
from bench.tasks.base import Query
from methods.base import Context, IndexSize, Method, Ranking
from methods.embedding_index import open_or_embed
from methods.encoder_files import encoder_sha256, find_encoder
from methods.query_text import QueryPart, query_text
from methods.vector_search import search_rows

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Raised whenever a change of code moves an embedding; part of every index key.
EMBEDDINGS_VERSION = 2


@dataclass
class DenseConfig:
    """See ``conf/method/dense.yaml``."""

    model: str
    batch_size: int
    query_prompt: Optional[str]  # noqa: UP045 - omegaconf reads the annotation at run time
    passage_prompt: Optional[str]  # noqa: UP045
    query: QueryPart
    max_length: Optional[int]  # noqa: UP045


class Dense(Method):
    """Any sentence-transformers model; the embeddings of a corpus are kept and used again."""

    Config = DenseConfig
    config: DenseConfig

    def __init__(self, config: DenseConfig, context: Context) -> None:
        super().__init__(config, context)
        self._embeddings: np.ndarray | None = None

    def check(self) -> None:
        """Find the model, and refuse sizes that cannot work."""
        for field in ("batch_size", "max_length"):
            value = getattr(self.config, field)
            if value is not None and value < 1:
                raise UserError(f"expected at least 1, found {value}", where=f"method.{field}")
        _ = self._folder

    @cached_property
    def _folder(self) -> Path:
        return find_encoder(self.config.model)

    @cached_property
    def _encoder(self) -> SentenceTransformer:
        kind = "SentenceTransformer"
        return load_encoder(self._folder, self.context.device, self.config.max_length, kind)

    def index(self) -> IndexSize:
        """Embed the passages, or open what was embedded before: float32 ``[passages, dim]``."""
        config, task = self.config, self.context.task
        weights = encoder_sha256(self._folder)
        key = content_key(
            {
                "version": EMBEDDINGS_VERSION,
                "task": task.sha256,
                "encoder": weights,
                "passage_prompt": config.passage_prompt,
                "max_length": config.max_length,
            }
        )
        folder = self.context.cache_dir / "index" / "dense" / key
        index = open_or_embed(folder, task.passages, self._embed_passages)
        self._embeddings = index.vectors
        self.context.counts.update(index.counts)
        self.context.facts["encoder_sha256"] = weights
        self.context.facts["encoding_seconds"] = index.seconds
        return IndexSize(bytes=index.vectors.nbytes, shards=1)

    def _embed_passages(self, texts: list[str]) -> tuple[np.ndarray, dict[str, int]]:
        config = self.config
        vectors = _embed(self._encoder, texts, config.batch_size, config.passage_prompt)
        cut = n_truncated(self._encoder, texts, config.passage_prompt)
        return vectors, {"passages_truncated": cut}

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Embed the queries, and scan the stored embeddings block by block."""
        if self._embeddings is None:
            raise ValueError("call index() before search()")
        found = search_rows(self._embed_queries(queries), self._embeddings, top_k)
        for query, (rows, scores) in zip(queries, found, strict=True):
            yield Ranking(query.query_id, rows, scores)

    def rescore(self, queries: Sequence[Query], rows: np.ndarray) -> Iterator[np.ndarray]:
        """Cosines with some passages: float64 ``[candidates]`` for each query."""
        if self._embeddings is None:
            raise ValueError("call index() before rescore()")
        for asked, chosen in zip(self._embed_queries(queries), rows, strict=True):
            vectors = self._embeddings[chosen].astype(np.float64)
            yield (vectors * asked.astype(np.float64)).sum(axis=1)

    def _embed_queries(self, queries: Sequence[Query]) -> np.ndarray:
        config = self.config
        texts = [query_text(query, config.query) for query in queries]
        return _embed(self._encoder, texts, config.batch_size, config.query_prompt)


def load_encoder(folder: Path, device: str, max_length: int | None, kind: str) -> Any:
    """A sentence encoder in float32, without network and without code from the model's folder.

    Args:
        kind: the library's class, ``SentenceTransformer`` or ``SparseEncoder``.
        max_length: tokens after which a text is cut; None is the model's own limit.

    Raises:
        UserError: the files are no model that the library can load, or ``max_length`` is beyond
            the model's positions.
    """
    import sentence_transformers
    from transformers.utils import logging

    logging.disable_progress_bar()  # one line a weight matrix says nothing to a user
    try:
        encoder = getattr(sentence_transformers, kind)(
            str(folder), device=device, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise UserError(
            f"sentence-transformers cannot load it ({error})",
            where=str(folder),
            fix="set method.model to another folder, package or Hub id",
        ) from error
    encoder.default_prompt_name = None  # only the prompts of our config
    if max_length is not None:
        inner = getattr(encoder[0], "auto_model", None)
        limit = getattr(getattr(inner, "config", None), "max_position_embeddings", max_length)
        if max_length > limit:
            raise UserError(f"the model reads {limit} tokens at most", where="method.max_length")
        encoder.max_seq_length = max_length
    return encoder.float().eval()


def _embed(
    encoder: SentenceTransformer, texts: list[str], batch_size: int, prompt: str | None
) -> np.ndarray:
    """Unit vectors: float32 ``[texts, dim]``. Equal texts are embedded once."""
    number: dict[str, int] = {}
    places = [number.setdefault(text, len(number)) for text in texts]
    # encode() sorts the texts by length before it batches them.
    embeddings = encoder.encode(
        list(number),
        prompt=prompt,
        batch_size=batch_size,
        show_progress_bar=False,
        normalize_embeddings=True,
        convert_to_numpy=True,
    )
    return np.asarray(embeddings, dtype=np.float32)[places]


def n_truncated(encoder: Any, texts: list[str], prompt: str | None) -> int:
    """How many texts are longer than what the encoder reads; 0 where that cannot be told."""
    from transformers import PreTrainedTokenizerBase

    tokenizer, limit = encoder.tokenizer, encoder.max_seq_length
    if limit is None or not isinstance(tokenizer, PreTrainedTokenizerBase):
        return 0
    ids = tokenizer([(prompt or "") + text for text in texts], truncation=False, verbose=False)
    return sum(len(one) > limit for one in ids["input_ids"])

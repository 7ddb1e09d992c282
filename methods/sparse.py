"""Sparse-neural retrieval: dot product of vectors over a vocabulary (SPLADE, 2107.05720).

A masked language model says for every word of its vocabulary how much a text is about it; few are
above 0. Passages are kept as those few, and are scored block by block.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import torch
from torch import Tensor

from bench import progress
from bench.errors import UserError
from bench.storage import content_key
from bench.tasks.base import Query
from methods.base import Context, IndexSize, Method, Ranking
from methods.dense import load_encoder, n_truncated
from methods.encoder_files import encoder_sha256, find_encoder
from methods.query_text import QueryPart, query_text
from methods.sparse_index import SparseIndex, SparseRows, open_or_embed
from methods.topk import TopK

if TYPE_CHECKING:
    from sentence_transformers import SparseEncoder

# Raised whenever a change of code moves an embedding; part of every index key.
EMBEDDINGS_VERSION = 1
_QUERIES_AT_ONCE = 1024
_PASSAGES_AT_ONCE = 4096


@dataclass
class SparseConfig:
    """See ``conf/method/sparse.yaml``."""

    model: Optional[str]  # noqa: UP045 - omegaconf reads the annotation at run time
    batch_size: int
    query_prompt: Optional[str]  # noqa: UP045
    passage_prompt: Optional[str]  # noqa: UP045
    query: QueryPart
    max_length: Optional[int]  # noqa: UP045


class Sparse(Method):
    """Any SPLADE model; the embeddings of a corpus are kept and used again."""

    Config = SparseConfig
    config: SparseConfig

    def __init__(self, config: SparseConfig, context: Context) -> None:
        super().__init__(config, context)
        self._index: SparseIndex | None = None

    def check(self) -> None:
        """Find the model, and refuse sizes that cannot work."""
        for field in ("batch_size", "max_length"):
            value = getattr(self.config, field)
            if value is not None and value < 1:
                raise UserError(f"expected at least 1, found {value}", where=f"method.{field}")
        _refuse_dense(self._folder)

    @cached_property
    def _folder(self) -> Path:
        if self.config.model is None:
            raise UserError(
                "method sparse needs a model",
                where="method.model",
                fix="set method.model to a folder with a SPLADE model, or to a Hub id",
            )
        return find_encoder(self.config.model)

    @cached_property
    def _encoder(self) -> SparseEncoder:
        config = self.config
        return load_encoder(self._folder, self.context.device, config.max_length, "SparseEncoder")

    def index(self) -> IndexSize:
        """Embed the passages, or open what was embedded before."""
        config, task = self.config, self.context.task
        weights = encoder_sha256(self._folder)
        key = content_key(
            {
                "version": EMBEDDINGS_VERSION,
                "corpus": task.corpus_sha256,
                "encoder": weights,
                "passage_prompt": config.passage_prompt,
                "max_length": config.max_length,
            }
        )
        folder = self.context.cache_dir / "index" / "sparse" / key
        self._index = open_or_embed(folder, task.passages, self._embed_passages)
        self.context.counts.update(self._index.counts)
        self.context.facts["encoder_sha256"] = weights
        self.context.facts["encoding_seconds"] = self._index.seconds
        return IndexSize(bytes=self._index.rows.nbytes, shards=1)

    def _embed_passages(self, texts: list[str]) -> tuple[SparseRows, dict[str, int]]:
        prompt = self.config.passage_prompt
        found = self._embed(texts, prompt, "document").coalesce()
        starts = np.zeros(len(texts) + 1, dtype=np.int64)
        np.cumsum(np.bincount(found.indices()[0].numpy(), minlength=len(texts)), out=starts[1:])
        rows = SparseRows(
            starts, found.indices()[1].numpy().astype(np.int32), found.values().numpy()
        )
        return rows, {"passages_truncated": n_truncated(self._encoder, texts, prompt)}

    def _embed(self, texts: list[str], prompt: str | None, role: str) -> Tensor:
        """Vectors, sparse float32 ``[texts, vocabulary]``. Equal texts are embedded once."""
        number: dict[str, int] = {}
        places = [number.setdefault(text, len(number)) for text in texts]
        options: dict[str, Any] = {
            "prompt": prompt,
            "batch_size": self.config.batch_size,
            "task": role,  # for models that read queries otherwise than passages
            "show_progress_bar": False,
            "save_to_cpu": True,
        }
        # encode() sorts the texts by length before it batches them.
        embedded = self._encoder.encode(list(number), **options)
        return embedded.index_select(0, torch.tensor(places))

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """One pass over the passages for each group of queries."""
        if self._index is None:
            raise ValueError("call index() before search()")
        rows, n_passages = self._index.rows, len(self.context.task.passages)
        for first in range(0, len(queries), _QUERIES_AT_ONCE):
            group = queries[first : first + _QUERIES_AT_ONCE]
            asked, best = self._embed_queries(group), TopK(len(group), top_k)
            starts = range(0, n_passages, _PASSAGES_AT_ONCE)
            for start in progress.track(starts, "search sparse", unit="blocks"):
                stop = min(start + _PASSAGES_AT_ONCE, n_passages)
                block = rows.block(start, stop, asked.shape[1])
                best.push((block @ asked.T).T.numpy(), np.arange(start, stop))
            for query, found, scores in zip(group, best.rows, best.scores, strict=True):
                yield Ranking(query.query_id, found, scores)

    def rescore(self, queries: Sequence[Query], rows: np.ndarray) -> Iterator[np.ndarray]:
        """Dot products with some passages: float64 ``[candidates]`` for each query."""
        if self._index is None:
            raise ValueError("call index() before rescore()")
        for asked, chosen in zip(self._embed_queries(queries), rows, strict=True):
            vectors = (self._index.rows.block(row, row + 1, len(asked)) for row in chosen.tolist())
            yield np.array([float(vector @ asked) for vector in vectors])

    def _embed_queries(self, queries: Sequence[Query]) -> Tensor:
        """Float64 ``[queries, vocabulary]``."""
        texts = [query_text(query, self.config.query) for query in queries]
        return self._embed(texts, self.config.query_prompt, "query").to_dense().double()


def _refuse_dense(folder: Path) -> None:
    """The library would give a dense encoder random weights for words, and rank by them."""
    modules, config = folder / "modules.json", folder / "config.json"
    try:
        if modules.is_file():
            parts = [part["type"] for part in json.loads(modules.read_text(encoding="utf-8"))]
            sparse = any(".sparse_encoder." in part for part in parts)
        else:
            kinds = json.loads(config.read_text(encoding="utf-8")).get("architectures") or []
            sparse = any(kind.endswith("ForMaskedLM") for kind in kinds)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        sparse = False
    if not sparse:
        raise UserError(
            "is no sparse encoder: no module of SPLADE, no masked language model",
            where=str(folder),
            fix="set method.model to another folder, or use method=dense",
        )

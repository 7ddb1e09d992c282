"""Sparse-neural retrieval: dot product of vectors over a vocabulary (SPLADE, 2107.05720).

A masked language model gives every word of its vocabulary a weight for how much a text is about it.
Few weights are above 0; an index keeps these, and passages are scored block by block.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench.core import progress
from bench.core.errors import UserError
from bench.tasks.base import Query
from methods.base import Ranking
from methods.embedding_search import best_rows
from methods.encoders import EMBEDDINGS_VERSION, EncoderMethod
from methods.sparse_vectors import SparseRows, SparseVectors
from methods.topk import MATCHES_VERSION, TopK, matching
from methods.vector_search import QUERIES_LISTED_AT_ONCE, Lists

_QUERIES_AT_ONCE = 1024
_PASSAGES_AT_ONCE = 4096


class Sparse(EncoderMethod[SparseRows]):
    """Retrieval by any SPLADE model; a corpus is embedded once.

    Its weights are never below 0, so that a passage scores 0 where it shares no dimension with the
    query, and is then not listed.
    """

    version = (EMBEDDINGS_VERSION, MATCHES_VERSION)
    zero_is_no_match = True
    name = "sparse"
    library_class = "SparseEncoder"
    form = SparseVectors()

    def _check_folder(self, folder: Path) -> None:
        _refuse_dense(folder)

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Score all passages in one pass for each group of queries."""
        index, scan = self._opened, partial(best_of, width=self._width)
        for start in range(0, len(queries), QUERIES_LISTED_AT_ONCE):
            group = queries[start : start + QUERIES_LISTED_AT_ONCE]
            asked, context = self._embed_queries(group), self.context
            lists = best_rows(index, asked, len(group), top_k, scan, context.engine, context.mirror)
            for query, rows, scores in zip(group, *lists, strict=True):
                yield Ranking(query.query_id, *matching(rows, scores))

    def rescore(self, queries: Sequence[Query], rows: np.ndarray) -> Iterator[np.ndarray]:
        """Compute dot products with chosen passages: float64 ``[candidates]`` for each query."""
        stored, width = self._opened.vectors, self._width
        dense = self._embed_queries(queries).block(0, len(queries), width).to_dense()
        for asked, chosen in zip(dense, rows, strict=True):
            vectors = (stored.block(row, row + 1, len(asked)) for row in chosen.tolist())
            yield np.array([float(vector @ asked) for vector in vectors])

    @property
    def _width(self) -> int:
        """The number of words in the vocabulary."""
        width: int = self._encoder.get_sentence_embedding_dimension()
        return width

    def _embed(self, texts: list[str], prompt: str | None, role: str) -> SparseRows:
        """The entries of each text's vector that are not 0."""
        # Some models read queries otherwise than passages: ``task`` tells them which these are.
        encoded, places = self._encode(texts, prompt, task=role, save_to_cpu=True)
        entries = encoded.index_select(0, torch.tensor(places)).coalesce()
        rows, dims = entries.indices().numpy()
        starts = np.zeros(len(texts) + 1, dtype=np.int64)
        np.cumsum(np.bincount(rows, minlength=len(texts)), out=starts[1:])
        return SparseRows(starts, dims.astype(np.int32), entries.values().numpy())


def best_of(queries: SparseRows, stored: SparseRows, rows: range, k: int, width: int) -> Lists:
    """The ``k`` best of some rows for each query, by dot products in float64.

    Args:
        width: of the vectors.
    """
    lists, n_queries = [], len(queries.starts) - 1
    for start in range(0, n_queries, _QUERIES_AT_ONCE):
        asked = queries.block(start, min(start + _QUERIES_AT_ONCE, n_queries), width).to_dense()
        best, firsts = TopK(len(asked), k), range(rows.start, rows.stop, _PASSAGES_AT_ONCE)
        for first in progress.track(firsts, "search sparse", unit="blocks"):
            stop = min(first + _PASSAGES_AT_ONCE, rows.stop)
            block = stored.block(first, stop, width)
            best.push((block @ asked.T).T.numpy(), np.arange(first, stop))
        lists.append((best.rows, best.scores))
    found, scores = map(np.concatenate, zip(*lists, strict=True))
    return found, scores


def _refuse_dense(folder: Path) -> None:
    """Refuse a dense encoder, which the library would give random weights for words."""
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

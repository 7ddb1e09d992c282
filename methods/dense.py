"""Dense retrieval: cosine of sentence embeddings (Reimers & Gurevych 2019).

The encoder stands in for the paper's Gecko, which is larger and not public: compare its place among
the methods with the paper's, not its numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bench.tasks.base import Query
from methods.base import Ranking
from methods.embedding_index import DenseVectors
from methods.embedding_search import search_dense
from methods.encoders import EncoderMethod


class Dense(EncoderMethod[np.ndarray]):
    """Retrieval by any model of sentence-transformers; a corpus is embedded once."""

    name = "dense"
    library_class = "SentenceTransformer"
    form = DenseVectors()

    def search(self, queries: Sequence[Query], top_k: int) -> Iterator[Ranking]:
        """Embed the queries, and scan the stored embeddings block by block."""
        index, context, asked = self._opened, self.context, self._embed_queries(queries)
        ranked = search_dense(index, asked, top_k, context.engine, context.mirror)
        for query, (rows, scores) in zip(queries, ranked, strict=True):
            yield Ranking(query.query_id, rows, scores)

    def rescore(self, queries: Sequence[Query], rows: np.ndarray) -> Iterator[np.ndarray]:
        """Compute cosines with chosen passages: float64 ``[candidates]`` for each query."""
        stored = self._opened.vectors
        for asked, chosen in zip(self._embed_queries(queries), rows, strict=True):
            vectors = stored[chosen].astype(np.float64)
            yield (vectors * asked.astype(np.float64)).sum(axis=1)

    def _embed(self, texts: list[str], prompt: str | None, role: str) -> np.ndarray:  # noqa: ARG002
        """Unit vectors of texts, float32 ``[texts, dim]``."""
        vectors, places = self._encode(
            texts, prompt, normalize_embeddings=True, convert_to_numpy=True
        )
        return np.asarray(vectors, dtype=np.float32)[places]

"""The two sources of passages' features: a stored index, or the encoder itself."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from bench.tasks.passages import PassageStore
from methods.gradient.batching import encode_all
from methods.gradient.settings import EncodingSettings

if TYPE_CHECKING:
    from bench.models.language_model import LanguageModel
    from methods.gradient.checkpoints import CheckpointEncoder


def rows_by_seed(n_rows: int, wanted: int | None, seed: int) -> np.ndarray:
    """Ascending rows, int64, of a sample that depends on the seed alone; None takes all rows."""
    if wanted is None or wanted >= n_rows:
        return np.arange(n_rows)
    return np.sort(np.array(random.Random(seed).sample(range(n_rows), wanted)))  # noqa: S311


class FeatureSource(ABC):
    """Features of the passages of one corpus, float32, by row."""

    @property
    @abstractmethod
    def n_rows(self) -> int:
        """Number of passages."""

    @abstractmethod
    def n_blocks(self, rows_at_once: int) -> int:
        """Number of blocks that ``blocks`` streams."""

    @abstractmethod
    def blocks(self, rows_at_once: int) -> Iterator[tuple[int, Tensor]]:
        """Stream the first row and the features ``[rows, dim]`` of each block, in row order."""

    @abstractmethod
    def rows(self, rows: np.ndarray) -> Tensor:
        """Features ``[len(rows), dim]`` of ascending rows."""


@dataclass(frozen=True)
class EncodedFeatures(FeatureSource):
    """Encodes passages whenever it is asked, and keeps nothing.

    Attributes:
        settings: ``batch_size`` and ``batch_tokens``, the bounds of a forward pass.
        counts: receives the numbers of passages that ``blocks`` encoded cut or without loss.
    """

    model: LanguageModel
    encoder: CheckpointEncoder
    passages: PassageStore
    settings: EncodingSettings
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def n_rows(self) -> int:
        """Number of passages."""
        return len(self.passages)

    @property
    def dim(self) -> int:
        """Number of dimensions of a row."""
        return self.encoder.dim

    def texts(self, rows: range) -> list[str]:
        """Texts of some rows."""
        return [passage.text for passage in self.passages.slice(rows.start, rows.stop)]

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, dict[str, int]]:
        """Features ``[texts, dim]``, and the numbers of texts that were cut or have no loss."""
        tokens = [self.model.passage_tokens(text) for text in texts]
        size, budget = self.settings.batch_size, self.settings.batch_tokens
        features = encode_all(self.encoder, tokens, size, budget)
        return features, {
            "passages_truncated": sum(t.truncated for t in tokens),
            "passages_without_loss": sum(t.n_loss == 0 for t in tokens),
        }

    def n_blocks(self, rows_at_once: int) -> int:
        """Number of blocks that ``blocks`` streams."""
        return -(-self.n_rows // rows_at_once)

    def blocks(self, rows_at_once: int) -> Iterator[tuple[int, Tensor]]:
        """Encode the corpus in row order, ``rows_at_once`` passages at a time."""
        for start in range(0, self.n_rows, rows_at_once):
            features, counted = self.encode(self.texts(range(start, start + rows_at_once)))
            self.counts.update(counted)
            yield start, features

    def rows(self, rows: np.ndarray) -> Tensor:
        """Features ``[len(rows), dim]`` of some rows, encoded now."""
        return self.encode([self.passages[row].text for row in rows.tolist()])[0]

"""The two sources of passages' features: a stored index, or the encoder itself."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from methods.gradient import groups
from methods.gradient.batching import encode_all

if TYPE_CHECKING:
    from bench.models.language_model import LanguageModel
    from methods.gradient.checkpoints import CheckpointEncoder
    from methods.gradient.recipes import Recipe

BYTES_READ = "index_bytes_read"  # in the counts of a result; the check of hashes is not in it


def rows_by_seed(n_rows: int, wanted: int | None, seed: int) -> np.ndarray:
    """Ascending rows, int64, of a sample that depends on the seed alone; None takes all rows."""
    if wanted is None or wanted >= n_rows:
        return np.arange(n_rows)
    return np.sort(np.array(random.Random(seed).sample(range(n_rows), wanted)))  # noqa: S311


class FeatureSource(ABC):
    """Features of the passages of one corpus, or of a group of them, float32, by row of the corpus.

    Attributes:
        span: the rows of the corpus that are here.
        counts: receives the numbers of what was read or encoded.
    """

    span: range
    counts: Counter[str]

    @property
    def n_rows(self) -> int:
        """Number of passages."""
        return len(self.span)

    @property
    @abstractmethod
    def identity(self) -> Any:
        """What the features follow from, as a JSON value: a piece of the keys of parts."""

    @abstractmethod
    def groups(self) -> list[FeatureSource]:
        """The same features in groups, in row order, each with counts of its own.

        They can be sent to other processes. Where each ends depends on the corpus and the number of
        dimensions alone.
        """

    @abstractmethod
    def n_blocks(self, rows_at_once: int) -> int:
        """Number of blocks that ``blocks`` streams."""

    @abstractmethod
    def blocks(self, rows_at_once: int) -> Iterator[tuple[int, Tensor]]:
        """Stream the first row and the features ``[rows, dim]`` of each block, in row order."""

    def blocks_on(self, device: torch.device, rows_at_once: int) -> Iterator[tuple[int, Tensor]]:
        """The blocks of ``blocks``, on the device where that can be ahead of their use.

        Args:
            device: where they are computed with.
        """
        del device  # encoding computes on it, so that nothing is gained by being ahead
        return self.blocks(rows_at_once)

    @abstractmethod
    def rows(self, rows: np.ndarray) -> Tensor:
        """Features ``[len(rows), dim]`` of ascending rows."""


@dataclass(frozen=True)
class EncodedFeatures(FeatureSource):
    """Encodes passages whenever it is asked, and keeps nothing.

    Attributes:
        recipe: brings the same encoder in another process; its settings bound a forward pass.
        span: the rows that are encoded.
        counts: receives the numbers of passages that ``blocks`` encoded cut or without loss.
    """

    model: LanguageModel
    encoder: CheckpointEncoder
    recipe: Recipe
    span: range
    counts: Counter[str] = field(default_factory=Counter)

    def __reduce__(self) -> tuple:
        return _encoded, (self.recipe, self.span)

    @property
    def identity(self) -> Any:
        """The key of the features, and the corpus."""
        return [self.recipe.key, self.recipe.passages.sha256]

    @property
    def dim(self) -> int:
        """Number of dimensions of a row."""
        return self.encoder.dim

    def groups(self) -> list[FeatureSource]:
        """See ``FeatureSource.groups``."""
        least = groups.least_texts(self.dim)
        spans = groups.cut(len(self.span), least)
        return [replace(self, span=self.span[s.start : s.stop], counts=Counter()) for s in spans]

    def texts(self, rows: range) -> list[str]:
        """Texts of some rows."""
        return [passage.text for passage in self.recipe.passages.slice(rows.start, rows.stop)]

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, dict[str, int]]:
        """Features ``[texts, dim]``, and the numbers of texts that were cut or have no loss."""
        tokens = [self.model.passage_tokens(text) for text in texts]
        size, budget = self.recipe.config.batch_size, self.recipe.config.batch_tokens
        features = encode_all(self.encoder, tokens, size, budget)
        return features, {
            "passages_truncated": sum(t.truncated for t in tokens),
            "passages_without_loss": sum(t.n_loss == 0 for t in tokens),
        }

    def n_blocks(self, rows_at_once: int) -> int:
        """Number of blocks that ``blocks`` streams."""
        return -(-self.n_rows // rows_at_once)

    def blocks(self, rows_at_once: int) -> Iterator[tuple[int, Tensor]]:
        """Encode the passages in row order, ``rows_at_once`` at a time."""
        for start in self.span[::rows_at_once]:
            stop = min(start + rows_at_once, self.span.stop)
            features, counted = self.encode(self.texts(range(start, stop)))
            self.counts.update(counted)
            yield start, features

    def rows(self, rows: np.ndarray) -> Tensor:
        """Features ``[len(rows), dim]`` of some rows, encoded now."""
        return self.encode([self.recipe.passages[row].text for row in rows.tolist()])[0]


def _encoded(recipe: Recipe, span: range) -> EncodedFeatures:
    """A group of passages in another process."""
    recipe.passages.check_unchanged()
    return replace(recipe.opened(), span=span, counts=Counter())

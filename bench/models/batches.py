"""The texts that a training goes over, and its steps: texts of similar length side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.models.padding import most_tokens, parts_of
from bench.models.tokens import TokenCorpus

_WINDOW = 50  # steps whose texts are sorted by length together


@dataclass(frozen=True)
class TrainingTexts:
    """The texts of a training by row: first those of every epoch, then those that take turns.

    Attributes:
        corpus: the token ids of all of them.
        every_epoch: the number of texts that each epoch goes over.
        taking_turns: the number of the other texts that an epoch goes over, a later part in the
            next one, and the first again behind the last.
    """

    corpus: TokenCorpus
    every_epoch: int
    taking_turns: int = 0

    def rows(self, epoch: int) -> np.ndarray:
        """The rows of an epoch, counted from 0; int64 ``[n]``."""
        always = np.arange(self.every_epoch)
        n_others = len(self.corpus) - self.every_epoch
        if self.taking_turns == 0:
            return always
        turn = np.arange(epoch * self.taking_turns, (epoch + 1) * self.taking_turns)
        return np.concatenate([always, self.every_epoch + turn % n_others])


@dataclass(frozen=True)
class BatchSize:
    """How much a forward pass and a step go over.

    Attributes:
        texts: the number of texts of a forward pass; None where tokens are counted.
        tokens: the most tokens of a forward pass, padding included.
        passes: the number of forward passes of a step.
    """

    texts: int | None
    tokens: int | None = None
    passes: int = 1


def steps_of(
    rows: np.ndarray, lengths: np.ndarray, size: BatchSize, rng: np.random.Generator
) -> list[np.ndarray]:
    """The rows of each step, in random order, of similar length each, so that padding is little.

    Args:
        rows: the rows to go over, int64 ``[n]``; texts of one token predict nothing and are left
            out.
        lengths: the number of tokens of every row of the corpus.
        size: the size of a step.
        rng: the source of the order.
    """
    rows = rng.permutation(rows)
    rows = rows[lengths[rows] > 1]
    a_step = _texts_a_step(lengths[rows], size)
    window = _WINDOW * a_step
    steps: list[np.ndarray] = []
    for start in range(0, len(rows), window):
        part = rows[start : start + window]
        part = part[np.argsort(lengths[part], kind="stable")]
        if size.texts is None:
            assert size.tokens is not None
            steps += _filled(part, lengths, size.tokens * size.passes)
        else:
            steps += [part[i : i + a_step] for i in range(0, len(part), a_step)]
    return [steps[i] for i in rng.permutation(len(steps))]


def passes_of(
    step: np.ndarray, lengths: np.ndarray, size: BatchSize, vocab_size: int
) -> list[np.ndarray]:
    """The rows of each forward pass of a step.

    Where texts are counted, those whose logits would take more than a pass may hold, padded to
    the longest, are several passes. The step's gradient is the sum over all its tokens either way.

    Args:
        step: the rows of the step, int64 ``[n]``.
        lengths: the number of tokens of every row of the corpus.
        size: the size of a step.
        vocab_size: the number of logits of a token.
    """
    if size.texts is None:
        assert size.tokens is not None
        return list(_filled(step, lengths, size.tokens))
    most = most_tokens(vocab_size)
    parts = (step[i : i + size.texts] for i in range(0, len(step), size.texts))
    return [rows for part in parts for rows in _filled(part, lengths, most)]


def _texts_a_step(lengths: np.ndarray, size: BatchSize) -> int:
    """The number of texts of a step; where tokens are counted, about as many."""
    if size.texts is not None:
        return size.texts * size.passes
    assert size.tokens is not None
    mean = float(lengths.mean()) if len(lengths) else 1.0
    return max(1, round(size.tokens * size.passes / mean))


def _filled(rows: np.ndarray, lengths: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Rows in parts of at most ``most`` tokens each when padded to the longest, or of one text."""
    for part in parts_of(lengths[rows].tolist(), most):
        yield rows[part]

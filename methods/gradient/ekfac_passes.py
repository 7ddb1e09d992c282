"""The two passes of EK-FAC over the passages of the Hessian, as jobs of one group each.

The first pass sums up x xᵀ and δ δᵀ of each matrix, the second (Q_Sᵀ G Q_A)² in the bases that the
first has found (``ekfac.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bench.core import progress
from bench.engines.base import Job
from bench.models.dtypes import running_in
from bench.models.language_model import IGNORE, Tokens, pad
from methods.gradient.batching import batch_rows, token_budget
from methods.gradient.collectors import Collector, formed_at_once
from methods.gradient.parameters import Matrix
from methods.gradient.partial_sums import Sums, write_sums
from methods.gradient.parts import Handed
from methods.gradient.settings import EkfacConfig, Labels
from methods.gradient.source import EncodedFeatures

TEXTS_AT_ONCE = 4096  # sorted by length together, they need little padding; also the least group


@dataclass(frozen=True)
class FactorPass:
    """One of the passes.

    Attributes:
        features: what encodes the passages.
        what: the pass's name, for its progress.
        bases: Q_S and Q_A of each matrix in turn; None in the first pass.
    """

    features: EncodedFeatures
    config: EkfacConfig
    what: str
    bases: Handed[list[Tensor]] | None

    def job(self, rows: np.ndarray, target: Path) -> Job:
        """The job of a group, whose passages are at these rows."""
        return Job(FactorPass.run, (self, rows, target), target)

    def run(self, rows: np.ndarray, target: Path) -> None:
        """Sum up a group of passages: S and A of each matrix in turn, or Λ of each, in a file."""
        encoder = self.features.encoder.only
        collectors = self._collectors()
        for ids, labels in self._batches(rows):
            mask = torch.zeros_like(labels, dtype=torch.bool)
            mask[:, :-1] = labels[:, 1:] != IGNORE
            for one in collectors:
                one.mask = mask
            encoder.collect(collectors, [torch.empty(0)] * len(collectors), ids, labels)
        sums = [total for one in collectors for total in one.totals]
        write_sums(target, Sums(sums, len(rows), {}))

    def _collectors(self) -> list[_Summing]:
        encoder = self.features.encoder.only
        if self.bases is None:
            return [_Covariances(matrix, encoder.dtype) for matrix in encoder.matrices]
        bases = self.bases()
        of_matrix = zip(bases[::2], bases[1::2], encoder.matrices, strict=True)
        return [
            _Eigenvalues(outputs.to(matrix.device), inputs.to(matrix.device), encoder.dtype)
            for outputs, inputs, matrix in of_matrix
        ]

    def _batches(self, rows: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        """Stream ids and labels, int64 ``[batch, tokens]``, of the texts that have a loss."""
        model, config, encoder = self.features.model, self.config, self.features.encoder.only
        passages = self.features.recipe.passages
        # Batches are as small as on a CPU: the sums grow while a batch is at work, so one that did
        # not fit into memory could not be taken back and halved.
        budget = token_budget(config.batch_tokens, torch.device("cpu"))
        with progress.counted(self.what, len(rows), unit="passages") as advance:
            for start in range(0, len(rows), TEXTS_AT_ONCE):
                texts = [
                    (int(row), model.passage_tokens(passages[row].text))
                    for row in rows[start : start + TEXTS_AT_ONCE].tolist()
                ]
                for batch in _by_length(texts, config.batch_size, budget):
                    ids, labels = pad([tokens for _, tokens in batch], encoder.device)
                    if config.labels is Labels.sampled:
                        drawn_for = [row for row, _ in batch]
                        with running_in(model.gradient_dtype, model.name):
                            labels = sampled_labels(
                                encoder.module, ids, labels, drawn_for, config.seed
                            )
                    yield ids, labels
                    advance(len(batch))


def _by_length(
    texts: Sequence[tuple[int, Tokens]], batch_size: int, batch_tokens: int
) -> Iterator[list[tuple[int, Tokens]]]:
    """Batches of texts of about the same length, the longest first."""
    waiting = sorted((t for t in texts if t[1].n_loss), key=lambda text: -len(text[1].ids))
    while waiting:
        size = batch_rows(len(waiting[0][1].ids), batch_size, batch_tokens)
        yield waiting[:size]
        waiting = waiting[size:]


@torch.no_grad()
def sampled_labels(
    module: nn.Module, ids: Tensor, labels: Tensor, rows: Sequence[int], seed: int
) -> Tensor:
    """Replace each label by a token drawn from the model's prediction at its place.

    The draws of a text depend on the seed and its row alone, not on its batch: label number j is
    the first token at which the cumulative probability exceeds uniform number j of
    ``numpy.random.default_rng([seed, row])``.

    Args:
        ids, labels: ids and labels, ``[batch, tokens]``; labels are ``IGNORE`` where no loss is.
        rows: row of each text, ``[batch]``.

    Returns:
        drawn labels, ``[batch, tokens]``.
    """
    logits = module(input_ids=ids, use_cache=False).logits
    drawn = labels.clone()
    for number, row in enumerate(rows):
        place = (labels[number, 1:] != IGNORE).nonzero()[:, 0]
        uniform = np.random.default_rng([seed % 2**64, row]).random(len(place))
        cumulative = torch.softmax(logits[number, place].double(), -1).cumsum(-1)
        level = torch.from_numpy(uniform).to(cumulative)[:, None] * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, level, right=True)[:, 0]
        drawn[number, place + 1] = tokens.clamp_max(cumulative.shape[1] - 1)
    return drawn


class _Summing(Collector):
    """A collector with sums of its own, in float64.

    Attributes:
        mask: the tokens of the batch at work that predict, bool ``[batch, tokens]``.
        totals: the sums.
    """

    mask: Tensor
    totals: list[Tensor]


class _Covariances(_Summing):
    """Sums δ δᵀ and x xᵀ over the tokens of ``mask``; no gradient is formed."""

    positioned = True  # as the mask is

    def __init__(self, matrix: Matrix, dtype: torch.dtype) -> None:
        self.size, self._dtype = matrix.shape, dtype
        m, n = matrix.shape
        self.outer = torch.zeros(m, m, dtype=torch.float64, device=matrix.device)
        self.inner = torch.zeros(n, n, dtype=torch.float64, device=matrix.device)
        self.totals = [self.outer, self.inner]

    def keep(self, x_btn: Tensor) -> Tensor:
        counted = x_btn[self.mask.to(x_btn.device)].to(self._dtype)
        self.inner += counted.T @ counted
        return x_btn.new_empty(0)  # nothing of x is needed later

    def add(self, total: Tensor, narrowed: Tensor, kept: Tensor) -> None:  # noqa: ARG002
        counted = narrowed[self.mask.to(narrowed.device)].to(self._dtype)
        self.outer += counted.T @ counted


class _Eigenvalues(_Summing):
    """Sums (Q_Sᵀ G Q_A)² over examples.

    The factors of G are rotated, not G itself. That takes m² + n² multiplications a token instead
    of m n (m + n) an example, which is less for texts shorter than the matrix is wide.
    """

    def __init__(self, outputs: Tensor, inputs: Tensor, dtype: torch.dtype) -> None:
        self.size = (len(outputs), len(inputs))
        self.outputs, self.inputs, self._dtype = outputs, inputs, dtype
        self.sums = torch.zeros(self.size, dtype=torch.float64, device=outputs.device)
        self.totals = [self.sums]
        self._step = formed_at_once(self.size, outputs.device)

    def keep(self, x_btn: Tensor) -> Tensor:
        return x_btn.to(self._dtype) @ self.inputs

    def narrowed(self, delta_btm: Tensor) -> Tensor:
        return delta_btm.to(self._dtype) @ self.outputs

    def add(self, total: Tensor, narrowed: Tensor, kept: Tensor) -> None:  # noqa: ARG002
        for delta, x in zip(narrowed.split(self._step), kept.split(self._step), strict=True):
            self.sums += torch.bmm(delta.transpose(1, 2), x).square_().sum(0)

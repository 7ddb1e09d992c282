"""EK-FAC: influence functions with a Kronecker-factored Hessian and corrected eigenvalues.

Of each matrix W ``[out, in]``, with inputs x and output gradients δ of a text's tokens, so that its
gradient is G = Σ_t δ_t x_tᵀ:

    A = E[x xᵀ] = Q_A diag(a) Q_Aᵀ,    S = E[δ δᵀ] = Q_S diag(s) Q_Sᵀ,    E over tokens;
    Λ = E[(Q_Sᵀ G Q_A)²], elementwise, E over passages;
    H⁻¹ V = Q_S ((Q_Sᵀ V Q_A) / (Λ + λ)) Q_Aᵀ,    λ = ``damping`` · mean(Λ).

The labels of δ and G are drawn from the model's own predictions (``labels=sampled``), so that
E[vec G vec Gᵀ] is the Fisher information, or the Gauss-Newton Hessian; or they are the text's own
(``empirical``). The last token of a text predicts none and has no δ. Only the bases of A and S
count, not their scale. Biases are left out, as in all gradient methods here. Source: Grosse et al.
2023, 2308.03296; George et al. 2018, 1806.03884.

One pass over the passages of the Hessian finds A and S, and one more finds Λ, each with one more
forward pass where labels are drawn. The factors are kept on disk. Scoring is one pass over the
corpus for each group of queries: queries are rotated there and back once, and passages not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.core import progress
from bench.core.errors import UserError
from bench.models.dtypes import running_in
from bench.models.language_model import IGNORE, Tokens, pad
from bench.storage.keys import content_key
from bench.storage.sealed import open_or_make
from methods.base import IndexSize
from methods.gradient.batching import batch_rows, token_budget
from methods.gradient.collectors import Collector, formed_at_once
from methods.gradient.influence import Influence
from methods.gradient.settings import EkfacConfig, Labels

# Raised whenever a change of code moves a factor; part of every key.
FACTORS_VERSION = 1

_FACTORS = "factors.safetensors"
_TEXTS_AT_ONCE = 4096  # sorted by length together, they need little padding


@dataclass(frozen=True)
class Factors:
    """The Hessian of one matrix.

    Attributes:
        inputs: Q_A, ``[in, in]``, an eigenvector a column.
        outputs: Q_S, ``[out, out]``.
        eigenvalues: Λ, ``[out, in]``.
    """

    inputs: Tensor
    outputs: Tensor
    eigenvalues: Tensor

    def solve(self, gradients: Tensor, damping: float) -> Tensor:
        """H⁻¹ times each gradient ``[rows, out, in]``; zero where no passage has a gradient."""
        damped = self.eigenvalues + damping * self.eigenvalues.mean()
        inverse = torch.where(damped > 0, damped.reciprocal(), 0.0)
        rotated = (self.outputs.T @ gradients @ self.inputs) * inverse
        return self.outputs @ rotated @ self.inputs.T


class Ekfac(Influence):
    """Ranks by Σ_matrices ⟨G_m, Q_S ((Q_Sᵀ G_q Q_A) / (Λ + λ)) Q_Aᵀ⟩.

    Passages without loss count in the mean of Λ with a gradient of zero.
    """

    Config: ClassVar[type] = EkfacConfig
    config: EkfacConfig

    def estimate(self) -> IndexSize:
        """Open the factors of each matrix, or fit them in two passes over the passages."""
        settings = self._factor_settings()
        folder = self.context.cache_dir / "index" / "ekfac" / content_key(settings)
        with self.context.mirror.shared(folder):
            open_or_make(
                folder, "EK-FAC factors", settings, lambda partial: _write(partial, self._fit())
            )
        device = self.encoder.device
        self._factors = [
            Factors(*(part.to(device, self.dtype) for part in vars(one).values()))
            for one in _read(folder, len(self.encoder.matrices))
        ]
        return IndexSize((folder / _FACTORS).stat().st_size, 1)

    def _factor_settings(self) -> dict[str, object]:
        """All that the factors depend on; damping is added later, by the search."""
        rows, config = self.hessian_rows(), self.config
        whole = len(rows) == len(self.context.task.passages)
        seeded = config.labels is Labels.sampled or not whole
        return {
            **self.key_settings,
            "version": FACTORS_VERSION,
            "corpus": self.context.task.passages.sha256,
            "sample": None if whole else len(rows),
            "labels": config.labels.value,
            "seed": config.seed if seeded else None,
        }

    def precondition(self, queries: Tensor) -> Tensor:
        """Multiply the queries ``[queries, dim]`` by H⁻¹ in place, a matrix at a time."""
        for factors, part in zip(self._factors, self.by_matrix(queries), strict=True):
            gradients = part.unflatten(1, factors.eigenvalues.shape)
            part.copy_(factors.solve(gradients, self.config.damping).flatten(1))
        return queries

    def _fit(self) -> list[Factors]:
        """Find the factors of each matrix in two passes."""
        dtype, device = self.encoder.dtype, self.encoder.device
        shapes = [matrix.shape for matrix in self.encoder.matrices]
        covariances = [_Covariances(shape, dtype, device) for shape in shapes]
        for ids, labels in self._batches("EK-FAC factors"):
            mask = torch.zeros_like(labels, dtype=torch.bool)
            mask[:, :-1] = labels[:, 1:] != IGNORE
            for one in covariances:
                one.mask = mask
            self._run(covariances, ids, labels)
        bases = [self._bases(one) for one in covariances]
        del covariances
        corrected = [_Eigenvalues(outputs, inputs, dtype) for outputs, inputs in bases]
        for ids, labels in self._batches("EK-FAC eigenvalues"):
            self._run(corrected, ids, labels)
        n_passages = len(self.hessian_rows())
        return [
            Factors(one.inputs, one.outputs, (one.sums / n_passages).to(dtype)) for one in corrected
        ]

    def _run(self, collectors: Sequence[Collector], ids: Tensor, labels: Tensor) -> None:
        """Run one batch; the collector of each matrix keeps its own sums."""
        self.encoder.collect(collectors, [torch.empty(0)] * len(collectors), ids, labels)

    def _bases(self, sums: _Covariances) -> tuple[Tensor, Tensor]:
        """The eigenvectors Q_S and Q_A of a matrix."""
        if not (torch.isfinite(sums.outer).all() and torch.isfinite(sums.inner).all()):
            raise UserError(
                "an activation or a gradient is NaN or infinite",
                where=f"model {self.context.model.name}",
                fix="use model.gradient_dtype=float32 or wider, or another checkpoint",
            )
        outer, inner = (torch.linalg.eigh(one).eigenvectors for one in (sums.outer, sums.inner))
        return outer.to(self.encoder.dtype), inner.to(self.encoder.dtype)

    def _batches(self, what: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Stream ids and labels, int64 ``[batch, tokens]``, of the texts that have a loss."""
        model, config, rows = self.context.model, self.config, self.hessian_rows()
        # Batches are as small as on a CPU: the sums grow while a batch is at work, so one that did
        # not fit into memory could not be taken back and halved.
        budget = token_budget(config.batch_tokens, torch.device("cpu"))
        with progress.counted(what, len(rows), unit="passages") as advance:
            for start in range(0, len(rows), _TEXTS_AT_ONCE):
                texts = [
                    (int(row), model.passage_tokens(self.context.task.passages[row].text))
                    for row in rows[start : start + _TEXTS_AT_ONCE].tolist()
                ]
                for batch in _by_length(texts, config.batch_size, budget):
                    ids, labels = pad([tokens for _, tokens in batch], self.encoder.device)
                    if config.labels is Labels.sampled:
                        drawn_for = [row for row, _ in batch]
                        with running_in(model.gradient_dtype, model.name):
                            labels = sampled_labels(
                                self.encoder.module, ids, labels, drawn_for, config.seed
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


class _Covariances(Collector):
    """Sums x xᵀ and δ δᵀ over the tokens of ``mask``, in float64; no gradient is formed.

    Attributes:
        mask: the tokens of the batch at work that count, bool ``[batch, tokens]``.
    """

    mask: Tensor

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        self.size, self._dtype = shape, dtype
        m, n = shape
        self.outer = torch.zeros(m, m, dtype=torch.float64, device=device)
        self.inner = torch.zeros(n, n, dtype=torch.float64, device=device)

    def keep(self, x_btn: Tensor) -> Tensor:
        counted = x_btn[self.mask].to(self._dtype)
        self.inner += counted.T @ counted
        return x_btn.new_empty(0)  # nothing of x is needed later

    def add(self, total: Tensor, delta_btm: Tensor, kept: Tensor) -> None:  # noqa: ARG002
        counted = delta_btm[self.mask].to(self._dtype)
        self.outer += counted.T @ counted


class _Eigenvalues(Collector):
    """Sums (Q_Sᵀ G Q_A)² over examples, in float64.

    The factors of G are rotated, not G itself. That takes m² + n² multiplications a token instead
    of m n (m + n) an example, which is less for texts shorter than the matrix is wide.
    """

    def __init__(self, outputs: Tensor, inputs: Tensor, dtype: torch.dtype) -> None:
        self.size = (len(outputs), len(inputs))
        self.outputs, self.inputs, self._dtype = outputs, inputs, dtype
        self.sums = torch.zeros(self.size, dtype=torch.float64, device=outputs.device)
        self._step = formed_at_once(self.size, outputs.device)

    def keep(self, x_btn: Tensor) -> Tensor:
        return x_btn.to(self._dtype) @ self.inputs

    def add(self, total: Tensor, delta_btm: Tensor, kept: Tensor) -> None:  # noqa: ARG002
        rotated = delta_btm.to(self._dtype) @ self.outputs
        for delta, x in zip(rotated.split(self._step), kept.split(self._step), strict=True):
            self.sums += torch.bmm(delta.transpose(1, 2), x).square_().sum(0)


def _write(folder: Path, factors: Sequence[Factors]) -> dict[str, Any]:
    """Write tensors ``NUMBER.inputs`` and so on, in the order of the matrices; no facts to note."""
    tensors = {
        f"{number}.{name}": part.contiguous().cpu()
        for number, one in enumerate(factors)
        for name, part in vars(one).items()
    }
    save_file(tensors, folder / _FACTORS)
    return {}


def _read(folder: Path, n_matrices: int) -> list[Factors]:
    """The factors that ``_write`` wrote, in a folder whose seal holds."""
    stored = load_file(folder / _FACTORS)
    return [
        Factors(*(stored[f"{number}.{name}"] for name in Factors.__dataclass_fields__))
        for number in range(n_matrices)
    ]

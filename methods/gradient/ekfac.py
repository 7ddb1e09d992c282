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

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.core.errors import UserError
from bench.storage.keys import content_key
from bench.storage.locks import exclusive
from bench.storage.sealed import open_or_make
from bench.storage.sealed_arrays import arrays_sha256
from bench.storage.sharing import MergedElsewhereError, inventory, merged_folder
from methods.base import IndexSize
from methods.gradient.ekfac_passes import TEXTS_AT_ONCE, FactorPass
from methods.gradient.gradient_sums import MOST_GROUPS_OF_SUMS
from methods.gradient.groups import cut
from methods.gradient.influence import Influence
from methods.gradient.partial_sums import Sums, added, as_arrays, read_tensors, write_tensors
from methods.gradient.parts import PARTS, PARTS_VERSION, SUFFIX, Handed, PartsFolder
from methods.gradient.settings import EkfacConfig, Labels

# Raised whenever a change of code moves a factor; part of every key.
FACTORS_VERSION = 1

_FACTORS = "factors.safetensors"


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
        parts, mirror = self._factor_parts(), self.context.mirror
        whole = inventory(folder)

        def make(unfinished: Path) -> dict[str, Any]:
            return _write(unfinished, self._fit(parts, whole))

        kind = "EK-FAC factors"
        opened = partial(open_or_make, folder, kind, settings, make)
        merged_folder(mirror, folder, parts.folder, opened)
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

    def _factor_parts(self) -> PartsFolder:
        """The folder of the sums of groups, named by all that they follow from."""
        context = self.context
        key = content_key([PARTS_VERSION, self._factor_settings(), self.encoder.device.type])
        folder = context.cache_dir / PARTS / f"ekfac-{key}"
        return PartsFolder(folder, context.engine, context.mirror)

    def _fit(self, parts: PartsFolder, whole: Path) -> list[Factors]:
        """Find the factors of each matrix in two passes, each in groups of passages.

        Args:
            whole: the file that the store has once the factors are there.

        Raises:
            MergedElsewhereError: another machine has found them in the meantime.
        """
        with exclusive(parts.folder):
            try:
                sums = self._sums(parts, "EK-FAC factors", None, whole)
                # S and A of each matrix, and in their place their eigenvectors Q_S and Q_A.
                bases = [self._basis(one) for one in sums.tensors]
                del sums
                eigenvalues = self._sums(parts, "EK-FAC eigenvalues", bases, whole)
            except MergedElsewhereError:
                shutil.rmtree(parts.folder, ignore_errors=True)
                raise
        shutil.rmtree(parts.folder, ignore_errors=True)
        n_passages, dtype = len(self.hessian_rows()), self.encoder.dtype
        return [
            Factors(inputs, outputs, (one / n_passages).to(dtype))
            for outputs, inputs, one in zip(
                bases[::2], bases[1::2], eigenvalues.tensors, strict=True
            )
        ]

    def _sums(self, parts: PartsFolder, what: str, bases: list[Tensor] | None, whole: Path) -> Sums:
        """The sums of one pass over the passages of the Hessian."""
        rows = self.hessian_rows()
        runs = cut(len(rows), TEXTS_AT_ONCE, MOST_GROUPS_OF_SUMS)
        handed: Handed[list[Tensor]] | None = None
        if bases is not None:
            path = parts.folder / f"bases{SUFFIX}"
            handed = parts.handed(bases, path, write_tensors, read_tensors, len(runs))
        fitting = FactorPass(self.passages(self.config), self.config, what, handed)
        # Another machine may find other eigenvectors, by their last bits or where values repeat.
        stage = "covariances" if bases is None else f"eigenvalues-{_named(bases)}"
        jobs = [
            fitting.job(rows[run.start : run.stop], parts.folder / f"{stage}-{n:05d}{SUFFIX}")
            for n, run in enumerate(runs)
        ]
        return added(parts, jobs, what, whole)

    def _basis(self, covariance: Tensor) -> Tensor:
        """The eigenvectors of A or S of a matrix, a column each."""
        if not torch.isfinite(covariance).all():
            raise UserError(
                "an activation or a gradient is NaN or infinite",
                where=f"model {self.context.model.name}",
                fix="use model.gradient_dtype=float32 or wider, or another checkpoint",
            )
        vectors = torch.linalg.eigh(covariance.to(self.encoder.device)).eigenvectors
        return vectors.to(self.encoder.dtype)


def _named(bases: Sequence[Tensor]) -> str:
    return arrays_sha256(as_arrays(bases))[:8]


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

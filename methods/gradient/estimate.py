"""R from passages and queries in streaming passes, in the form asked for, ready to multiply by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.core import progress
from methods.gradient import hessian, whitening
from methods.gradient.settings import Hessian, HessianForm, HessianSettings
from methods.gradient.source import FeatureSource, rows_by_seed
from methods.gradient.whitening import Whitening


def readings(form: HessianForm) -> int:
    """How often the features of R are gone through: low rank takes the diagonal, then products."""
    return 1 + whitening.LOW_RANK_PRODUCTS if form is HessianForm.low_rank else 1


Features = Callable[[], Iterable[Tensor]]  # gives the features ``[rows, dim]`` from the start again


def estimate_whitening(
    settings: HessianSettings,
    blocks: Sequence[int],
    source: FeatureSource,
    queries: Features,
    rows_at_once: int,
    facts: dict[str, Any],
    device: torch.device,
) -> Whitening | None:
    """R^(-1/2), or None without Hessian.

    Args:
        source: of the passages' features.
        queries: the queries' features.
        rows_at_once: passages in memory together.
        facts: gets the λ in use, the rank of each block, and how many passages R is from.
        device: where R is summed up and decomposed.

    Raises:
        UserError: R cannot be inverted, or a block is too large for it.
    """
    if settings.hessian is Hessian.none:
        return None
    train = _Passages(source, settings, rows_at_once, sum(blocks))
    facts["hessian_passages"] = train.n_rows

    def without_weights() -> Iterator[Tensor]:
        for features in queries():
            yield features[:, : sum(blocks)]

    evaluation = without_weights if settings.hessian is Hessian.mixed else None
    if settings.hessian_form is HessianForm.full:
        return _full(settings, blocks, train, evaluation, facts, device)
    mixing = float(settings.mixing)
    if evaluation is not None:
        facts["mixing"] = mixing

    def of_both(estimate: Callable[[Features], list[Tensor]]) -> list[Tensor]:
        found = estimate(train)
        return found if evaluation is None else hessian.mix(estimate(evaluation), found, mixing)

    (squares,) = of_both(lambda features: [hessian.mean_squares(sum(blocks), features(), device)])
    if settings.hessian_form is HessianForm.diagonal:
        return whitening.diagonal(squares, blocks, settings.damping)
    return whitening.low_rank(
        squares,
        blocks,
        lambda directions: of_both(lambda features: hessian.products(directions, features())),
        components=settings.hessian_components,
        damping=settings.damping,
        seed=settings.seed,
    )


def _full(
    settings: HessianSettings,
    blocks: Sequence[int],
    train: Features,
    evaluation: Features | None,
    facts: dict[str, Any],
    device: torch.device,
) -> Whitening:
    r = hessian.autocorrelation(blocks, train(), device)
    if evaluation is not None:
        r_eval = hessian.autocorrelation(blocks, evaluation(), device)
        auto = settings.mixing == "auto"
        mixing = hessian.crossing_mixing(r, r_eval) if auto else float(settings.mixing)
        facts["mixing"] = mixing
        r = hessian.mix(r_eval, r, mixing)
    found, ranks = whitening.full(r, settings.damping)
    facts["hessian_ranks"] = ranks
    deficient = [(rank, size) for rank, size in zip(ranks, blocks, strict=True) if rank < size]
    if deficient:
        rank, size = min(deficient, key=lambda pair: pair[0] / pair[1])
        progress.say(
            f"R is rank-deficient in {len(deficient)} of {len(blocks)} blocks (the worst has rank "
            f"{rank:,} of {size:,}): there damping={settings.damping:g} decides; more passages or "
            "queries, or a smaller projection_dim, would raise the rank"
        )
    return found


class _Passages:
    """Features of all passages, or of a sample of rows that depends on the seed alone."""

    def __init__(
        self, source: FeatureSource, settings: HessianSettings, rows_at_once: int, dim: int
    ) -> None:
        self._source, self._rows_at_once = source, rows_at_once
        self._dim = dim  # a weight may follow
        n_rows, wanted = source.n_rows, settings.hessian_sample
        self._rows: np.ndarray | None = None
        if wanted is not None and wanted < n_rows:
            self._rows = rows_by_seed(n_rows, wanted, settings.seed)

    @property
    def n_rows(self) -> int:
        """How many passages."""
        return self._source.n_rows if self._rows is None else len(self._rows)

    def __call__(self) -> Iterator[Tensor]:
        size = self._rows_at_once
        if self._rows is None:
            total = self._source.n_blocks(size)
            blocks = self._source.blocks(size)
            for _, block in progress.track(blocks, "Hessian", total=total, unit="blocks"):
                yield block[:, : self._dim]
        else:
            starts = range(0, len(self._rows), size)
            for start in progress.track(starts, "Hessian", unit="blocks"):
                yield self._source.rows(self._rows[start : start + size])[:, : self._dim]

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

    What R is made of goes to ``facts``: ``mixing``, the λ in use, if R is mixed;
    ``hessian_passages`` and ``hessian_queries``, how many R is from; and ``hessian_blocks``, lists
    with a value for each block:

    - ``dims`` and ``damping``, the share of the mean eigenvalue that is added;
    - ``train_trace`` and ``eval_trace`` of R_train and R_eval, before damping;
    - with ``hessian_form=full`` also ``rank`` of R, ``train_rank`` and ``eval_rank``, and
      ``leverage``, a query's mean part in its own R (``hessian.mean_leverage``).

    Those of the queries are there only if R is mixed.

    Args:
        rows_at_once: passages in memory together.
        facts: gets what R is made of.
        device: where R is summed up and decomposed.

    Raises:
        UserError: R cannot be inverted, a block is too large for it, or λ has no automatic value.
    """
    if settings.hessian is Hessian.none:
        return None
    passages = _Passages(source, settings, rows_at_once, sum(blocks))
    asked = _Queries(queries, sum(blocks)) if settings.hessian is Hessian.mixed else None
    dampings = settings.dampings(blocks, passages.n_rows)
    facts["hessian_passages"] = passages.n_rows
    facts["hessian_blocks"] = {"dims": list(blocks), "damping": _rounded(dampings)}
    make = _full if settings.hessian_form is HessianForm.full else _reduced
    return make(settings, blocks, dampings, passages, asked, facts, device)


def _full(
    settings: HessianSettings,
    blocks: Sequence[int],
    dampings: Sequence[float],
    passages: _Passages,
    queries: _Queries | None,
    facts: dict[str, Any],
    device: torch.device,
) -> Whitening:
    about = facts["hessian_blocks"]
    r = hessian.autocorrelation(blocks, passages(), device)
    about["train_trace"] = _traces(r)
    if queries is None:
        _say_if_few(blocks, dampings, passages.n_rows)
        roots, about["rank"] = whitening.full(r, dampings)
        about["train_rank"] = about["rank"]
        return roots
    r_eval = hessian.autocorrelation(blocks, queries(), device)
    facts["hessian_queries"] = queries.n_rows
    about["eval_trace"] = _traces(r_eval)
    _say_if_few(blocks, dampings, passages.n_rows, queries.n_rows)
    of_train = hessian.spectra(r, "passages")
    of_eval = hessian.spectra(r_eval, "queries")
    about["train_rank"] = [hessian.rank(values) for values in of_train]
    about["eval_rank"] = [hessian.rank(values) for values in of_eval]
    mixing = (
        hessian.crossing_mixing(of_train, of_eval)
        if settings.compares_spectra
        else float(settings.mixing)
    )
    facts["mixing"] = mixing
    r = hessian.mix(r_eval, r, mixing)
    roots, about["rank"] = whitening.full(r, dampings)
    about["leverage"] = _rounded(
        hessian.mean_leverage(root, one, mixing, queries.n_rows)
        for root, one in zip(roots.roots, r_eval, strict=True)
    )
    return roots


def _reduced(
    settings: HessianSettings,
    blocks: Sequence[int],
    dampings: Sequence[float],
    passages: _Passages,
    queries: _Queries | None,
    facts: dict[str, Any],
    device: torch.device,
) -> Whitening:
    """The diagonal and the low-rank form, which never hold R."""
    mixing, dim = 0.0 if queries is None else float(settings.mixing), sum(blocks)

    def of_both(estimate: Callable[[Features], list[Tensor]]) -> list[Tensor]:
        train = estimate(passages)
        return train if queries is None else hessian.mix(estimate(queries), train, mixing)

    squares = hessian.mean_squares(dim, passages(), device)
    about = facts["hessian_blocks"]
    about["train_trace"] = _rounded(part.sum() for part in squares.split(list(blocks)))
    if queries is not None:
        of_queries = hessian.mean_squares(dim, queries(), device)
        about["eval_trace"] = _rounded(part.sum() for part in of_queries.split(list(blocks)))
        facts.update(mixing=mixing, hessian_queries=queries.n_rows)
        (squares,) = hessian.mix([of_queries], [squares], mixing)
    if settings.hessian_form is HessianForm.diagonal:
        return whitening.diagonal(squares, blocks, dampings)
    return whitening.low_rank(
        squares,
        blocks,
        lambda directions: of_both(lambda features: hessian.products(directions, features())),
        components=settings.hessian_components,
        dampings=dampings,
        seed=settings.seed,
    )


def _traces(blocks: Sequence[Tensor]) -> list[float]:
    return _rounded(block.trace() for block in blocks)


def _rounded(values: Iterable[Tensor | float]) -> list[float]:
    """Six digits each, for the result."""
    return [float(f"{float(value):.6g}") for value in values]


def _say_if_few(
    blocks: Sequence[int],
    dampings: Sequence[float],
    n_passages: int,
    n_queries: int | None = None,
) -> None:
    """Say, before R is decomposed, that fewer texts than dimensions leave it to damping."""
    size = max(blocks)
    counts = {"passages": n_passages, **({} if n_queries is None else {"queries": n_queries})}
    few = [f"{n:,} {name}" for name, n in counts.items() if n < size]
    if few:
        damping = dampings[list(blocks).index(size)]
        progress.say(
            f"R of a block has {size:,} dimensions and is from {' and '.join(few)}, which are "
            f"fewer: in directions that none of them has, damping ({damping:.3g} of the mean "
            "eigenvalue) decides; more of them, or a smaller method.projection_dim, would fill it"
        )


class _Queries:
    """Features of the queries without weights; how many there are is known once all are read."""

    def __init__(self, queries: Features, dim: int) -> None:
        self._queries, self._dim = queries, dim
        self.n_rows = 0

    def __call__(self) -> Iterator[Tensor]:
        self.n_rows = 0
        for features in self._queries():
            self.n_rows += len(features)
            yield features[:, : self._dim]


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

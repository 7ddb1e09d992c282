"""R from passages and queries in streaming passes, in the form asked for, ready to multiply by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.core import progress
from methods.gradient import hessian, whitening
from methods.gradient.partial_sums import PassageMeans
from methods.gradient.parts import Handed, PartsFolder, SharedSeconds
from methods.gradient.settings import Hessian, HessianForm, HessianSettings
from methods.gradient.source import FeatureSource, rows_by_seed
from methods.gradient.whitening import Whitening


def readings(form: HessianForm) -> int:
    """How often the features of R are gone through: low rank takes the diagonal, then products."""
    return 1 + whitening.LOW_RANK_PRODUCTS if form is HessianForm.low_rank else 1


Features = Callable[[], Iterable[Tensor]]  # gives the features ``[rows, dim]`` from the start again


def passage_means(
    settings: HessianSettings,
    blocks: Sequence[int],
    source: FeatureSource,
    rows_at_once: int,
    device: torch.device,
    parts: PartsFolder,
    counts: Counter[str],
    shared: SharedSeconds,
) -> PassageMeans:
    """The passages that R is of: all, or a sample that depends on the seed alone.

    Args:
        blocks: sizes of the blocks of a row; a weight may follow them.
        rows_at_once, device, parts, counts, shared: as in ``PassageMeans``.
    """
    wanted = settings.hessian_sample
    sampled = wanted is not None and wanted < source.n_rows
    rows = rows_by_seed(source.n_rows, wanted, settings.seed) if sampled else None
    dim = sum(blocks)
    return PassageMeans(source, rows, rows_at_once, dim, device, parts, counts, shared)


def estimate_whitening(
    settings: HessianSettings,
    blocks: Sequence[int],
    passages: PassageMeans,
    queries: Features,
    facts: dict[str, Any],
) -> Whitening:
    """R^(-1/2), on the device of the passages' means; ``settings.hessian`` is not none.

    What R is made of goes to ``facts``: ``mixing``, the λ in use, if R is mixed;
    ``hessian_passages`` and ``hessian_queries``, how many R is from; and ``hessian_blocks``, lists
    with a value for each block:

    - ``dims`` and ``damping``, the share of the mean eigenvalue that is added;
    - ``train_trace`` and ``eval_trace`` of R_train and R_eval, before damping;
    - with ``hessian_form=full`` also ``rank`` of R, ``train_rank`` and ``eval_rank``, and
      ``leverage``, a query's mean part in its own R (``hessian.mean_leverage``).

    Those of the queries are there only if R is mixed.

    Args:
        passages: the passages of R.
        queries: the features of the queries.
        facts: gets what R is made of.

    Raises:
        UserError: R cannot be inverted, a block is too large for it, or λ has no automatic value.
    """
    asked = _Queries(queries, sum(blocks)) if settings.hessian is Hessian.mixed else None
    dampings = settings.dampings(blocks, passages.n_rows)
    facts["hessian_passages"] = passages.n_rows
    facts["hessian_blocks"] = {"dims": list(blocks), "damping": _rounded(dampings)}
    make = _full if settings.hessian_form is HessianForm.full else _reduced
    return make(settings, blocks, dampings, passages, asked, facts)


def _full(
    settings: HessianSettings,
    blocks: Sequence[int],
    dampings: Sequence[float],
    passages: PassageMeans,
    queries: _Queries | None,
    facts: dict[str, Any],
) -> Whitening:
    about = facts["hessian_blocks"]
    statistic = hessian.Outer(blocks)
    r = passages.of(statistic)
    about["train_trace"] = _traces(r)
    if queries is None:
        _say_if_few(blocks, dampings, passages.n_rows)
        roots, about["rank"] = whitening.full(r, dampings)
        about["train_rank"] = about["rank"]
        return roots
    r_eval = statistic.mean(queries(), passages.device)
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
    passages: PassageMeans,
    queries: _Queries | None,
    facts: dict[str, Any],
) -> Whitening:
    """The diagonal and the low-rank form, which never hold R."""
    mixing = 0.0 if queries is None else float(settings.mixing)
    statistic, device = hessian.Squares(sum(blocks)), passages.device

    def multiply(directions: list[Tensor]) -> list[Tensor]:
        train = passages.products(directions)
        if queries is None:
            return train
        return hessian.mix(
            hessian.Products(Handed(directions)).mean(queries(), device), train, mixing
        )

    (squares,) = passages.of(statistic)
    about = facts["hessian_blocks"]
    about["train_trace"] = _rounded(part.sum() for part in squares.split(list(blocks)))
    if queries is not None:
        (of_queries,) = statistic.mean(queries(), device)
        about["eval_trace"] = _rounded(part.sum() for part in of_queries.split(list(blocks)))
        facts.update(mixing=mixing, hessian_queries=queries.n_rows)
        (squares,) = hessian.mix([of_queries], [squares], mixing)
    if settings.hessian_form is HessianForm.diagonal:
        return whitening.diagonal(squares, blocks, dampings)
    return whitening.low_rank(
        squares,
        blocks,
        multiply,
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

"""R, its mixing and R^(-1/2) against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.core.errors import UserError
from methods.gradient import hessian, whitening
from methods.gradient.parts import Handed
from methods.gradient.settings import HessianForm, automatic_damping


def random_features(rows: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def test_autocorrelation_is_the_mean_outer_product_per_block():
    features = random_features(50, 7)
    blocks = hessian.Outer([3, 4]).mean([features[:20], features[20:]])
    for block, part in zip(blocks, (features[:, :3], features[:, 3:]), strict=True):
        expected = sum(torch.outer(row, row) for row in part) / 50
        assert torch.allclose(block, expected, rtol=1e-12)


def test_inverse_sqrt_is_the_inverse_not_the_root():
    """Fault in the field: H applied in place of its inverse."""
    r = torch.diag(torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64))
    (root,) = whitening.full([r], [0.0])[0].roots
    expected = torch.diag(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
    assert torch.allclose(root, expected, atol=1e-12)


def test_inverse_sqrt_whitens():
    features = random_features(400, 6) @ random_features(6, 6, seed=1)
    r = hessian.Outer([6]).mean([features])
    white = whitening.full(r, [0.0])[0].apply(features)
    (found,) = hessian.Outer([6]).mean([white])
    assert torch.allclose(found, torch.eye(6, dtype=torch.float64), atol=1e-8)


def test_damping_is_relative_to_the_mean_eigenvalue():
    r = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    (root,) = whitening.full([r], [0.5])[0].roots
    expected = torch.diag(torch.tensor([4.0**-0.5, 2.0**-0.5], dtype=torch.float64))
    assert torch.allclose(root, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "n_passages", "damping"),
    [
        (256, 2560, 0.1), (4096, 19_600_000, 4096 / 19_600_000), (2304, 2500, 0.9216),
        (256, 256, 1.0), (4096, 1000, 1.0), (256, 10**9, 1e-4),
    ],
)  # fmt: skip
def test_automatic_damping_is_dimensions_over_passages_within_bounds(size, n_passages, damping):
    assert automatic_damping(size, n_passages) == pytest.approx(damping)


def test_automatic_damping_adds_one_mean_passage_to_each_direction():
    features = random_features(30, 6) * torch.arange(1, 7)
    r = hessian.Outer([6]).mean([features])
    (root,) = whitening.full(r, [automatic_damping(6, 30)])[0].roots
    longer = float(features.square().sum(1).mean()) ** 0.5
    with_one_more = torch.cat([features, longer * torch.eye(6, dtype=torch.float64)])
    expected = torch.linalg.inv(with_one_more.T @ with_one_more / 30)
    assert torch.allclose(root @ root, expected, rtol=1e-9)


def test_singular_without_damping_is_an_error_that_says_what_to_do():
    r = hessian.Outer([5]).mean([random_features(2, 5)])
    with pytest.raises(UserError, match="damping"):
        whitening.full(r, [0.0])
    found, ranks = whitening.full(r, [1e-3])
    assert torch.isfinite(found.roots[0]).all()
    assert ranks == [2]


def test_block_too_large_is_an_error():
    with pytest.raises(UserError, match="projection_dim"):
        hessian.Outer([hessian.MAX_BLOCK + 1]).mean([])


@pytest.mark.parametrize(
    ("dim", "k"), [(65_536, 1000), (1024, 16), (16 * 2304, 562), (96, 1), (40, 1), (1, 1)]
)
def test_the_crossing_is_taken_at_the_papers_share_of_the_dimensions(dim, k):
    assert hessian.crossing_component(dim) == k


def crossing(train: torch.Tensor, queries: torch.Tensor, blocks: list[int]) -> float:
    r_train, r_eval = (hessian.Outer(blocks).mean([one]) for one in (train, queries))
    return hessian.crossing_mixing(
        hessian.spectra(r_train, "passages"), hessian.spectra(r_eval, "queries")
    )


def slow_sigmas(features: torch.Tensor, blocks: list[int]) -> list[float]:
    """Squared singular values of each block's features over their number, of all blocks."""
    found: list[float] = []
    for part in np.split(features.numpy(), np.cumsum(blocks)[:-1], axis=1):
        found += list(np.linalg.svd(part, compute_uv=False) ** 2 / len(part))
    return sorted(found, reverse=True)


def test_crossing_rule_against_singular_values():
    blocks = [150, 106]  # k is 4 of 256 dimensions
    train, queries = random_features(700, 256) * 0.3, random_features(30, 256, seed=1)
    queries[:, :150] *= 2
    at_train, at_eval = slow_sigmas(train, blocks)[3], slow_sigmas(queries, blocks)[3]
    expected = at_train / (at_eval + at_train)
    assert 0.001 < expected < 0.5
    assert crossing(train, queries, blocks) == pytest.approx(expected, rel=1e-9)


def test_k_is_not_capped_by_the_rank_of_the_queries():
    """Fault: the last component of a few queries, next to zero, was compared, and λ was .999995.

    Ten queries of unequal norm have rank 10; k is 2 of 130 dimensions, far from their weakest.
    """
    norms = torch.logspace(0, -3, 10, dtype=torch.float64)[:, None]
    queries, train = random_features(10, 130, seed=2) * norms, random_features(500, 130)
    at_train, at_eval = slow_sigmas(train, [130])[1], slow_sigmas(queries, [130])[1]
    assert crossing(train, queries, [130]) == pytest.approx(at_train / (at_eval + at_train))
    last = slow_sigmas(train, [130])[9], slow_sigmas(queries, [130])[9]
    assert last[0] / sum(last) > 0.9999  # what the capped rule gave


def test_a_mixing_that_leaves_the_passages_no_part_is_refused():
    """Fault: λ near 1 was said and used; R_train was dropped."""
    r_train = [torch.tensor([1.0, 1.0], dtype=torch.float64)]
    evaluation = [torch.tensor([0.0, 1 / 99], dtype=torch.float64)]
    assert hessian.crossing_mixing(r_train, evaluation) == pytest.approx(0.99)
    with pytest.raises(UserError, match=r"λ = 0\.990099, .*component 1 .*set method\.mixing to"):
        hessian.crossing_mixing(r_train, [evaluation[0] * 0.99])
    with pytest.raises(UserError, match=r"λ = 1, "):
        hessian.crossing_mixing(r_train, [evaluation[0] * 0])


def test_too_few_queries_for_the_crossing_are_refused_before_any_work():
    hessian.refuse_too_few([4096] * 16, 63)  # 1,008 components, k is 1,000
    with pytest.raises(UserError, match=r"component 1,000.*62 queries has at most 992"):
        hessian.refuse_too_few([4096] * 16, 62)
    hessian.refuse_too_few([2, 60], 1)  # a block has no more components than dimensions


def test_mean_leverage_is_the_part_of_each_query_in_its_own_r():
    """Against a loop of solves, and against Sherman and Morrison's formula without the query."""
    train, queries, mixing = random_features(90, 12), random_features(7, 12, seed=3), 0.4
    r = mixing * queries.T @ queries / 7 + (1 - mixing) * train.T @ train / 90
    damped = r + 0.05 * r.trace() / 12 * torch.eye(12, dtype=torch.float64)
    shares = []
    for query in queries:
        h = mixing / 7 * float(query @ torch.linalg.solve(damped, query))
        rest = damped - mixing / 7 * torch.outer(query, query)
        without = float(query @ torch.linalg.solve(rest, query))
        assert float(query @ torch.linalg.solve(damped, query)) == pytest.approx(without * (1 - h))
        shares.append(h)
    found, _ = whitening.full([r], [0.05])
    evaluation = hessian.Outer([12]).mean([queries])[0]
    leverage = hessian.mean_leverage(found.roots[0], evaluation, mixing, 7)
    assert leverage == pytest.approx(sum(shares) / 7, rel=1e-9)
    assert 0 < leverage < 1


@pytest.mark.parametrize("form", list(HessianForm))
def test_a_zero_autocorrelation_is_named(form):
    """Fault: the hint was to set a positive damping, which there was."""
    squares, zero = torch.zeros(4).double(), [torch.zeros(4, 4).double()]
    make = {
        HessianForm.full: lambda: whitening.full(zero, [1e-3]),
        HessianForm.diagonal: lambda: whitening.diagonal(squares, [4], [1e-3]),
        HessianForm.low_rank: lambda: whitening.low_rank(
            squares, [4], lambda _: zero, components=2, dampings=[1e-3], seed=0
        ),
    }[form]
    with pytest.raises(UserError, match="R is zero: no passage or query"):
        make()


@pytest.mark.parametrize("zero", ["train", "evaluation", "both"])
def test_crossing_rule_without_any_gradient_is_an_error(zero):
    """Fault: λ was 1 or NaN, and R_train played no part."""
    some, none = random_features(9, 4), torch.zeros(9, 4).double()
    train = some if zero == "evaluation" else none
    queries = some if zero == "train" else none
    with pytest.raises(UserError, match=r"method\.mixing"):
        crossing(train, queries, [4])


# ------------------------------------------------------------------ forms of R


def inverse(found: whitening.Whitening, dim: int) -> torch.Tensor:
    """WᵀW, which must be the inverse of R."""
    applied = found.apply(torch.eye(dim, dtype=torch.float64))
    return applied @ applied.T


def with_few_directions(rows: int = 500) -> torch.Tensor:
    """Four strong directions in each block, and unequal noise."""
    noise = random_features(rows, 20) * torch.linspace(0.5, 1, 20)
    strong = random_features(rows, 4, seed=1) @ random_features(4, 20, seed=2) * 5
    return noise + strong


def test_diagonal_form_divides_by_the_root_of_each_mean_square():
    features = with_few_directions()
    (squares,) = hessian.Squares(20).mean([features[:7], features[7:]])
    assert torch.allclose(squares, features.square().mean(0))
    found = whitening.diagonal(squares, [12, 8], dampings=[0.5, 0.5])
    floors = torch.cat([squares[:12].mean().expand(12), squares[12:].mean().expand(8)]) / 2
    assert torch.allclose(inverse(found, 20), torch.diag(1 / (squares + floors)))


def low_rank(features: torch.Tensor, blocks: list[int], components: int) -> whitening.Whitening:
    return whitening.low_rank(
        hessian.Squares(sum(blocks)).mean([features])[0],
        blocks,
        lambda directions: hessian.Products(Handed(directions)).mean(
            [features[:99], features[99:]]
        ),
        components=components,
        dampings=[1e-3] * len(blocks),
        seed=0,
    )


def test_low_rank_form_with_all_components_is_the_full_form():
    features = with_few_directions()
    full, _ = whitening.full(hessian.Outer([12, 8]).mean([features]), [1e-3, 1e-3])
    found = low_rank(features, [12, 8], 12)
    assert torch.allclose(inverse(found, 20), inverse(full, 20), rtol=1e-6, atol=1e-8)


def test_low_rank_form_is_the_inverse_of_components_and_diagonal():
    features = with_few_directions()
    r = hessian.Outer([20]).mean([features])[0]
    values, vectors = torch.linalg.eigh(r)
    strong = vectors[:, -4:] * values[-4:] @ vectors[:, -4:].T
    rest = torch.diag(r - strong) + 1e-3 * r.trace() / 20
    expected = torch.linalg.inv(strong + torch.diag(rest))
    found = inverse(low_rank(features, [20], 4), 20)
    assert torch.allclose(found, expected, rtol=0.02, atol=0.02 * float(expected.max()))


def test_products_are_those_of_the_matrix():
    features, directions = with_few_directions(), random_features(20, 3, seed=5)
    (found,) = hessian.Products(Handed([directions])).mean([features[:3], features[3:]])
    assert torch.allclose(found, hessian.Outer([20]).mean([features])[0] @ directions)

"""R, its mixing and R^(-1/2) against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from bench.core.errors import UserError
from methods.gradient import hessian, whitening
from methods.gradient.settings import HessianForm


def random_features(rows: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def test_autocorrelation_is_the_mean_outer_product_per_block():
    features = random_features(50, 7)
    blocks = hessian.autocorrelation([3, 4], [features[:20], features[20:]])
    for block, part in zip(blocks, (features[:, :3], features[:, 3:]), strict=True):
        expected = sum(torch.outer(row, row) for row in part) / 50
        assert torch.allclose(block, expected, rtol=1e-12)


def test_inverse_sqrt_is_the_inverse_not_the_root():
    """Fault in the field: H applied in place of its inverse."""
    r = torch.diag(torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64))
    (root,) = whitening.full([r], damping=0.0)[0].roots
    expected = torch.diag(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
    assert torch.allclose(root, expected, atol=1e-12)


def test_inverse_sqrt_whitens():
    features = random_features(400, 6) @ random_features(6, 6, seed=1)
    r = hessian.autocorrelation([6], [features])
    white = whitening.full(r, damping=0.0)[0].apply(features)
    (found,) = hessian.autocorrelation([6], [white])
    assert torch.allclose(found, torch.eye(6, dtype=torch.float64), atol=1e-8)


def test_damping_is_relative_to_the_mean_eigenvalue():
    r = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    (root,) = whitening.full([r], damping=0.5)[0].roots
    expected = torch.diag(torch.tensor([4.0**-0.5, 2.0**-0.5], dtype=torch.float64))
    assert torch.allclose(root, expected, atol=1e-12)


def test_singular_without_damping_is_an_error_that_says_what_to_do():
    r = hessian.autocorrelation([5], [random_features(2, 5)])
    with pytest.raises(UserError, match="damping"):
        whitening.full(r, damping=0.0)
    found, ranks = whitening.full(r, damping=1e-3)
    assert torch.isfinite(found.roots[0]).all()
    assert ranks == [2]


def test_block_too_large_is_an_error():
    with pytest.raises(UserError, match="projection_dim"):
        hessian.autocorrelation([hessian.MAX_BLOCK + 1], [])


def test_crossing_rule(monkeypatch):
    monkeypatch.setattr(hessian, "CROSSING_COMPONENTS", 2)
    train = [torch.diag(torch.tensor([9.0, 1.0], dtype=torch.float64)), torch.eye(1).double() * 5]
    evaluation = [torch.diag(torch.tensor([2.0, 3.0], dtype=torch.float64)), torch.eye(1).double()]
    # over all blocks: train 9, 5, 1 and evaluation 3, 2, 1; the second of each crosses at 5/7
    assert hessian.crossing_mixing(train, evaluation) == pytest.approx(5 / 7)


def test_crossing_rule_is_capped_by_the_rank_of_the_queries(capsys):
    """Fault in the field: fewer query dimensions than k drive λ to 1 and drop R_train unseen."""
    train = hessian.autocorrelation([40], [random_features(500, 40)])
    evaluation = hessian.autocorrelation([40], [random_features(3, 40, seed=2)])
    mixing = hessian.crossing_mixing(train, evaluation)
    assert "rank 3" in capsys.readouterr().err
    assert 0.01 < mixing < 0.9


@pytest.mark.parametrize(("spread", "said"), [(1, False), (1000, True)])
def test_crossing_rule_says_when_the_passages_play_no_part(capsys, spread, said):
    """Fault: queries of unequal norm have a tiny last component, and λ came near 1 unseen."""
    train = hessian.autocorrelation([40], [random_features(500, 40)])
    norms = torch.logspace(0, -math.log10(spread), 10, dtype=torch.float64)[:, None]
    queries = random_features(10, 40, seed=2) * norms
    mixing = hessian.crossing_mixing(train, hessian.autocorrelation([40], [queries]))
    message = capsys.readouterr().err
    assert f"λ = {mixing:.4g}" in message
    assert (mixing > 0.99) == said
    assert ("next to no part" in message) == said


@pytest.mark.parametrize("form", list(HessianForm))
def test_a_zero_autocorrelation_is_named(form):
    """Fault: the hint was to set a positive damping, which there was."""
    squares, zero = torch.zeros(4).double(), [torch.zeros(4, 4).double()]
    make = {
        HessianForm.full: lambda: whitening.full(zero, 1e-3),
        HessianForm.diagonal: lambda: whitening.diagonal(squares, [4], 1e-3),
        HessianForm.low_rank: lambda: whitening.low_rank(
            squares, [4], lambda _: zero, components=2, damping=1e-3, seed=0
        ),
    }[form]
    with pytest.raises(UserError, match="R is zero: no passage or query"):
        make()


@pytest.mark.parametrize("zero", ["train", "evaluation", "both"])
def test_crossing_rule_without_any_gradient_is_an_error(zero):
    """Fault: λ was 1 or NaN, and R_train played no part."""
    some, none = hessian.autocorrelation([4], [random_features(9, 4)]), [torch.zeros(4, 4).double()]
    train = some if zero == "evaluation" else none
    evaluation = some if zero == "train" else none
    with pytest.raises(UserError, match=r"method\.mixing"):
        hessian.crossing_mixing(train, evaluation)


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
    squares = hessian.mean_squares(20, [features[:7], features[7:]])
    assert torch.allclose(squares, features.square().mean(0))
    found = whitening.diagonal(squares, [12, 8], damping=0.5)
    floors = torch.cat([squares[:12].mean().expand(12), squares[12:].mean().expand(8)]) / 2
    assert torch.allclose(inverse(found, 20), torch.diag(1 / (squares + floors)))


def low_rank(features: torch.Tensor, blocks: list[int], components: int) -> whitening.Whitening:
    return whitening.low_rank(
        hessian.mean_squares(sum(blocks), [features]),
        blocks,
        lambda directions: hessian.products(directions, [features[:99], features[99:]]),
        components=components,
        damping=1e-3,
        seed=0,
    )


def test_low_rank_form_with_all_components_is_the_full_form():
    features = with_few_directions()
    full, _ = whitening.full(hessian.autocorrelation([12, 8], [features]), 1e-3)
    found = low_rank(features, [12, 8], 12)
    assert torch.allclose(inverse(found, 20), inverse(full, 20), rtol=1e-6, atol=1e-8)


def test_low_rank_form_is_the_inverse_of_components_and_diagonal():
    features = with_few_directions()
    r = hessian.autocorrelation([20], [features])[0]
    values, vectors = torch.linalg.eigh(r)
    strong = vectors[:, -4:] * values[-4:] @ vectors[:, -4:].T
    rest = torch.diag(r - strong) + 1e-3 * r.trace() / 20
    expected = torch.linalg.inv(strong + torch.diag(rest))
    found = inverse(low_rank(features, [20], 4), 20)
    assert torch.allclose(found, expected, rtol=0.02, atol=0.02 * float(expected.max()))


def test_products_are_those_of_the_matrix():
    features, directions = with_few_directions(), random_features(20, 3, seed=5)
    (found,) = hessian.products([directions], [features[:3], features[3:]])
    assert torch.allclose(found, hessian.autocorrelation([20], [features])[0] @ directions)

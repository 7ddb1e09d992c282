"""R, its mixing and R^(-1/2) against closed forms."""

from __future__ import annotations

import pytest
import torch

from bench.errors import UserError
from methods.gradient import hessian


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
    (root,) = hessian.inverse_sqrt([r], damping=0.0)
    expected = torch.diag(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
    assert torch.allclose(root, expected, atol=1e-12)


def test_inverse_sqrt_whitens():
    features = random_features(400, 6) @ random_features(6, 6, seed=1)
    r = hessian.autocorrelation([6], [features])
    white = hessian.apply_blocks(features, hessian.inverse_sqrt(r, damping=0.0))
    (found,) = hessian.autocorrelation([6], [white])
    assert torch.allclose(found, torch.eye(6, dtype=torch.float64), atol=1e-8)


def test_damping_is_relative_to_the_mean_eigenvalue():
    r = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    (root,) = hessian.inverse_sqrt([r], damping=0.5)
    expected = torch.diag(torch.tensor([4.0**-0.5, 2.0**-0.5], dtype=torch.float64))
    assert torch.allclose(root, expected, atol=1e-12)


def test_singular_without_damping_is_an_error_that_says_what_to_do():
    r = hessian.autocorrelation([5], [random_features(2, 5)])
    with pytest.raises(UserError, match="damping"):
        hessian.inverse_sqrt(r, damping=0.0)
    assert torch.isfinite(hessian.inverse_sqrt(r, damping=1e-3)[0]).all()


def test_block_too_large_is_an_error():
    with pytest.raises(UserError, match="projection_dim"):
        hessian.autocorrelation([hessian.MAX_BLOCK + 1], [])


def test_crossing_rule(monkeypatch):
    monkeypatch.setattr(hessian, "CROSSING_COMPONENTS", 2)
    train = [torch.diag(torch.tensor([9.0, 1.0], dtype=torch.float64)), torch.eye(1).double() * 5]
    evaluation = [torch.diag(torch.tensor([2.0, 3.0], dtype=torch.float64)), torch.eye(1).double()]
    # over all blocks: train 9, 5, 1 and evaluation 3, 2, 1; the second of each crosses at 5/7
    assert hessian.crossing_mixing(train, evaluation) == pytest.approx(5 / 7)


def test_crossing_rule_is_capped_by_the_rank_of_the_queries():
    """Fault in the field: fewer query dimensions than k drive λ to 1 and drop R_train unseen."""
    train = hessian.autocorrelation([40], [random_features(500, 40)])
    evaluation = hessian.autocorrelation([40], [random_features(3, 40, seed=2)])
    with pytest.warns(UserWarning, match="rank 3"):
        mixing = hessian.crossing_mixing(train, evaluation)
    assert 0.01 < mixing < 0.9

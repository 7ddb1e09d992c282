"""The encoder against a loop of autograd gradients, formed, divided and projected explicitly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.core.errors import UserError
from bench.models.language_model import LanguageModel, Tokens
from bench.tasks.base import Query
from methods.gradient.batching import encode_all
from methods.gradient.encoder import GradientEncoder
from methods.gradient.parameters import gradient_matrices
from methods.gradient.projection import projection
from tests.fixtures.models import FAMILIES, FLOAT32_INSIDE, TEXTS, load, make_model, with_moments
from tests.fixtures.switches import switches
from tests.oracles.projected_gradients import oracle

DIM = 6


def tolerance(family: Path, float64: float) -> float:
    return 1e-6 if family.parent.name.startswith(FLOAT32_INSIDE) else float64


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "model"
    return make_model(folder, request.param, layers=2, **FAMILIES[request.param])


def texts(model: LanguageModel) -> list[Tokens]:
    return [model.passage_tokens(text) for text in TEXTS]


@pytest.mark.parametrize("kind", [None, "adafactor", "adam"])
@pytest.mark.parametrize("dim", [DIM, None])
def test_equals_autograd_loop(family, tmp_path, kind, dim):
    model = load(family)
    if kind:
        model = with_moments(model, tmp_path, kind)
    encoder = GradientEncoder(model, switches(projection_dim=dim), model.second_moments)
    features = encoder.encode(texts(model))
    expected = torch.stack([oracle(model, t, kind, dim) for t in texts(model)])
    assert features.shape == expected.shape
    error = (features - expected).norm(dim=1) / expected.norm(dim=1)
    assert error.max() < tolerance(family, 1e-10)


@pytest.mark.parametrize("kind", [None, "adafactor", "adam"])
def test_float32_equals_autograd_loop(family, tmp_path, kind):
    """The relative error in float32 stays below the bound of 1e-5."""
    model, exact = load(family, torch.float32), load(family)
    if kind:
        model, exact = (with_moments(m, tmp_path, kind) for m in (model, exact))
    encoder = GradientEncoder(model, switches(projection_dim=DIM), model.second_moments)
    features = encoder.encode(texts(model)).double()
    expected = torch.stack([oracle(exact, t, kind, DIM) for t in texts(model)])
    assert ((features - expected).norm(dim=1) / expected.norm(dim=1)).max() < 1e-5


def test_batch_and_padding_change_nothing(family):
    model = load(family)
    encoder = GradientEncoder(model, switches(projection_dim=DIM))
    together = encoder.encode(texts(model))
    alone = torch.cat([encoder.encode([t]) for t in texts(model)])
    bound = tolerance(family, 1e-12) * together.abs().max()
    assert torch.allclose(together, alone, rtol=0, atol=bound)
    assert torch.equal(together, encoder.encode(texts(model))), "the same bits every time"


def test_dropout_stays_off(tmp_path):
    """Fault in the field: gradients taken in train() mode."""
    model = load(make_model(tmp_path / "model", "gpt2"))
    model.module.train()
    encoder = GradientEncoder(model, switches(projection_dim=DIM))
    assert torch.equal(encoder.encode(texts(model)), encoder.encode(texts(model)))


def test_query_gradient_counts_the_target_only(family):
    model = load(family)
    encoder = GradientEncoder(model, switches(projection_dim=DIM))
    query = model.query_tokens(Query("q", "Al Grey plays the", "trombone"))
    whole = Tokens(query.ids, loss_from=1)
    prompt = Tokens(query.ids[: query.loss_from], loss_from=1)
    parts = encoder.encode([query]) + encoder.encode([prompt])
    assert torch.allclose(parts, encoder.encode([whole]), rtol=1e-5, atol=1e-7)
    assert not torch.allclose(encoder.encode([query]), encoder.encode([whole]), rtol=1e-3)


def test_text_without_loss_has_zero_gradient(family):
    model = load(family)
    encoder = GradientEncoder(model, switches(projection_dim=DIM))
    features = encoder.encode([Tokens([5], 1), Tokens([5, 6, 7], 1), Tokens([], 1)])
    assert features[0].abs().sum() == 0
    assert features[1].abs().sum() > 0
    assert features[2].abs().sum() == 0


def test_matrices_and_blocks(family):
    """They are those of attention and MLP; embeddings are left out, tied ones too."""
    model = load(family)
    matrices = gradient_matrices(model.module, switches(layer_blocks=2))
    names = {m.name for m in matrices}
    parameters = dict(model.module.named_parameters())
    expected = {
        name
        for name, p in parameters.items()
        if p.ndim == 2 and "embed" not in name and "wte" not in name and "wpe" not in name
        and "lm_head" not in name
    }  # fmt: skip
    assert names == expected
    assert {m.block for m in matrices} == {0, 1, 2, 3}
    for m in matrices:
        assert m.block % 2 == int("mlp" in m.name or ".fc" in m.name)
    blocks = [m.block for m in matrices if m.block % 2 == 0]
    assert blocks == sorted(blocks), "layers form consecutive groups"


def test_unknown_matrix_is_refused():
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = torch.nn.ModuleDict({"router": torch.nn.Linear(2, 2)})
            self.layers = torch.nn.ModuleList([layer])

    with pytest.raises(UserError, match=r"layers\.0\.router\.weight"):
        gradient_matrices(Odd(), switches())


# ------------------------------------------------------------------ projection


@pytest.mark.parametrize("shape", [(8, 8), (96, 24), (33, 200)])
def test_projection_keeps_inner_products_whatever_the_shape(shape):
    """E⟨Px, Py⟩ = ⟨x, y⟩ on both sides: wide modules weigh no more than narrow ones."""
    m, n = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(m, n, generator=generator, dtype=torch.float64)
    y = x + torch.randn(m, n, generator=generator, dtype=torch.float64)
    found = []
    for seed in range(400):
        left, right = projection(seed, "w", "out", 8, m), projection(seed, "w", "in", 8, n)
        found.append(((left @ x @ right.T) * (left @ y @ right.T)).sum())
    values = torch.stack(found)
    error = values.std() / len(values) ** 0.5
    assert abs(values.mean() - (x * y).sum()) < 4 * error
    assert error < 0.06 * (x * y).sum()


def test_smaller_projection_is_a_prefix():
    small, large = projection(3, "w", "in", 4, 11), projection(3, "w", "in", 16, 11)
    assert torch.equal(small * 2.0, (large * 4.0)[:4])


def test_projection_differs_by_seed_side_and_name():
    base = projection(0, "w", "in", 4, 8)
    for other in (("w", "out", 0), ("v", "in", 0), ("w", "in", 1)):
        assert not torch.allclose(base, projection(other[2], other[0], other[1], 4, 8))
    assert torch.equal(base, projection(0, "w", "in", 4, 8))


def test_nan_is_named(tmp_path):
    model = load(make_model(tmp_path / "model"))
    next(m for m in model.module.modules() if isinstance(m, torch.nn.Linear)).weight[0, 0] = float(
        "nan"
    )
    encoder = GradientEncoder(model, switches(projection_dim=DIM))
    with pytest.raises(UserError, match="NaN"):
        encode_all(encoder, texts(model), 4)

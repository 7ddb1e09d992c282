"""The gradient engine on CUDA: the same features and rankings as on the CPU, within rounding.

Skipped where there is no such device; CI has none. What else runs on one is covered by the other
tests: their runs take the device that there is.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.models.language_model import LanguageModel, Tokens
from bench.models.placing import place
from methods.gradient import batching, device_copies
from methods.gradient.encoder import GradientEncoder
from methods.gradient.settings import Storage
from tests.fixtures.gradient_methods import QUERIES, make, many_texts, ranked
from tests.fixtures.helpers import make_task
from tests.fixtures.models import FAMILIES, TEXTS, load, make_model, scratch_source, with_moments
from tests.fixtures.switches import switches

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DIM = 6


@pytest.fixture(autouse=True)
def _no_kernel_whose_bits_may_change() -> Iterator[None]:
    """Torch's warning that a kernel is not deterministic is a failure of each test here."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="(?is).*determinis")
            yield
    finally:
        torch.set_warn_always(before)


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "model"
    return make_model(folder, request.param, layers=2, **FAMILIES[request.param])


def on_cuda(model: LanguageModel) -> LanguageModel:
    return replace(model, module=place(copy.deepcopy(model.module), torch.device("cuda")))


def encoder_of(model: LanguageModel, **settings) -> GradientEncoder:
    return GradientEncoder(
        model, switches(**{"projection_dim": DIM, **settings}), model.second_moments
    )


def texts(model: LanguageModel) -> list[Tokens]:
    return [model.passage_tokens(text) for text in TEXTS]


def errors(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    return (found.cpu().double() - expected).norm(dim=1) / expected.norm(dim=1)


@pytest.mark.parametrize("kind", [None, "adafactor", "adam"])
@pytest.mark.parametrize("dim", [DIM, None])
def test_shares_of_tokens_are_those_of_the_cpu(family, tmp_path, kind, dim):
    model = load(family)
    if kind:
        model = with_moments(model, tmp_path, kind)
    here, there = (encoder_of(one, projection_dim=dim) for one in (model, on_cuda(model)))
    query = torch.randn(here.dim, generator=torch.Generator().manual_seed(3)).double()
    for text in texts(model):
        expected = here.shares(text, here.sharing(query))
        found = there.shares(text, there.sharing(query)).cpu()
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("kind", [None, "adafactor", "adam"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_features_are_those_of_the_cpu(family, tmp_path, kind, dtype):
    """Those of the CPU equal a loop of autograd: see test_gradient_encoder.py.

    transformers takes the angles of rotary positions in float32 whatever the model's dtype, and the
    two devices round a cosine differently.
    """
    exact, model = load(family), load(family, dtype)
    if kind:
        exact, model = (with_moments(m, tmp_path, kind) for m in (exact, model))
    found = encoder_of(on_cuda(model)).encode(texts(model))
    assert found.is_cuda
    without_angles = family.parent.name.startswith(("gpt2", "opt"))
    bound = 1e-10 if dtype == torch.float64 and without_angles else 1e-5
    assert errors(found, encoder_of(exact).encode(texts(exact))).max() < bound


@pytest.mark.parametrize("kind", [None, "adafactor", "adam"])
@pytest.mark.parametrize("projection_dim", [DIM, None])
@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama"])
def test_bfloat16_is_near_and_sums_in_float32(tmp_path, architecture, kind, projection_dim):
    folder = make_model(tmp_path / "model", architecture, layers=2)
    exact, model = load(folder), load(folder, torch.bfloat16)
    if kind:
        exact, model = (with_moments(m, tmp_path, kind) for m in (exact, model))
    found = encoder_of(on_cuda(model), projection_dim=projection_dim).encode(texts(model))
    expected = encoder_of(exact, projection_dim=projection_dim).encode(texts(exact))
    assert found.dtype == torch.float32
    assert (torch.cosine_similarity(found.cpu().double(), expected) > 0.98).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["gpt_neox", "llama"])
def test_the_same_bits_every_time(tmp_path, architecture, dtype):
    model = load(make_model(tmp_path / "model", architecture, layers=2, hidden=256), dtype)
    encoder = encoder_of(on_cuda(model), projection_dim=16)
    tokens = [model.passage_tokens(text) for text in many_texts(512)]
    first = batching.encode_all(encoder, tokens, 512)
    for _ in range(3):
        assert torch.equal(first, batching.encode_all(encoder, tokens, 512))


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama"])
def test_a_training_ends_in_the_same_bits_every_time(tmp_path, architecture):
    source = scratch_source(architecture=architecture, epochs=3)
    task = make_task(tmp_path / "task", many_texts(200), QUERIES)
    one, two = (
        source.load(task, tmp_path / cache, "cuda").module.state_dict() for cache in ("a", "b")
    )
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())


def test_running_out_of_memory_makes_batches_smaller(tmp_path, monkeypatch):
    """The allocator's own exception, from a bound on what this process may take."""
    model = on_cuda(load(make_model(tmp_path / "model", "llama", layers=2), torch.float32))
    tokens = [model.passage_tokens(text) for text in many_texts(3000)]
    encoder = encoder_of(model, projection_dim=64)
    expected = batching.encode_all(encoder, tokens, 64)
    torch.cuda.empty_cache()
    allowed = torch.cuda.memory_reserved() + (96 << 20)
    torch.cuda.set_per_process_memory_fraction(
        allowed / torch.cuda.get_device_properties(0).total_memory
    )
    try:
        found = batching.encode_all(encoder, tokens, 1 << 20)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert encoder.fitting_tokens is not None, "it did run out"
    assert errors(found, expected.double()).max() < 1e-4


@pytest.mark.parametrize("storage", ["fp32", "none"])
def test_a_method_ranks_as_on_the_cpu(tmp_path, storage):
    folder = make_model(tmp_path / "model", "llama", layers=2)
    model = with_moments(load(folder), tmp_path, "adafactor")
    task = make_task(tmp_path / "task", many_texts(200), QUERIES)
    settings = {"storage": Storage(storage), "opponents": 5}
    expected = ranked(make(task, model, tmp_path / "cpu", **settings), 20)
    found = ranked(make(task, on_cuda(model), tmp_path / "cuda", **settings), 20)
    for one, other in zip(found, expected, strict=True):
        assert one.rows.tolist() == other.rows.tolist()
        assert one.opponent_rows.tolist() == other.opponent_rows.tolist()
        assert one.scores == pytest.approx(other.scores, abs=1e-5)


def test_blocks_that_are_copied_ahead_are_those_of_the_cpu(monkeypatch):
    monkeypatch.setattr(device_copies, "_PINNED_BYTES", 1 << 10)  # a block is many pieces
    draw = torch.Generator().manual_seed(0)
    blocks = [(7 * n, torch.randn(7, 300, generator=draw)) for n in range(20)]
    for storage in (torch.float32, torch.bfloat16):
        cast = [(row, block.to(storage)) for row, block in blocks]
        found = list(device_copies.copied_ahead(iter(cast), torch.device("cuda")))
        assert [row for row, _ in found] == [row for row, _ in blocks]
        for (_, there), (_, here) in zip(found, cast, strict=True):
            assert there.is_cuda
            assert torch.equal(there.cpu(), here)

"""Mixtures of experts, and XGLM, in every dtype: loaded from a folder as a user's models are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.core.errors import UserError
from bench.models.dtypes import running_in
from bench.models.language_model import LanguageModel, Tokens
from bench.models.loading import load_directory
from bench.tasks.base import Query
from methods.gradient.encoder import GradientEncoder
from methods.gradient.settings import Unsupported
from methods.representation import hidden_states
from metrics.optimizer_step import OptimizerStep
from tests.fixtures.helpers import make_task
from tests.fixtures.models import GROUPED, TEXTS, load, make_model
from tests.fixtures.switches import switches
from tests.fixtures.tail_patches import PROPONENTS, QUERIES, config, serial_patch
from tests.oracles.deep_copy_tail_patch import log_probability, patched
from tests.oracles.projected_gradients import oracle

DIM = 6
HALVES = (torch.bfloat16, torch.float16)
SENT = {"num_experts_per_tok": 2}
# Architecture → options of make_model.
MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": {**GROUPED, **SENT, "num_local_experts": 4},
    "qwen3_moe": {
        **GROUPED, **SENT, "num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8,
    },
    "gpt_oss": {**GROUPED, **SENT, "num_local_experts": 4, "head_dim": 8, "pad_token_id": 0},
}  # fmt: skip
XGLM = {"ffn_dim": 64}


@pytest.fixture(scope="module", params=list(MIXTURES))
def mixture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param) / "model"
    return make_model(folder, request.param, layers=2, **MIXTURES[request.param])


@pytest.fixture(scope="module")
def xglm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("xglm") / "model", "xglm", layers=2, **XGLM)


def loaded(
    folder: Path, gradient_dtype: torch.dtype, dtype: torch.dtype = torch.float32
) -> LanguageModel:
    return load_directory("toy", folder, device="cpu", dtype=dtype, gradient_dtype=gradient_dtype)


def encoder_of(model: LanguageModel, projection_dim: int | None = DIM) -> GradientEncoder:
    return GradientEncoder(
        model, switches(projection_dim=projection_dim, unsupported=Unsupported.skip)
    )


def texts(model: LanguageModel) -> list[Tokens]:
    return [model.passage_tokens(text) for text in TEXTS]


def by_autograd(folder: Path, dim: int | None = DIM) -> torch.Tensor:
    """Gradients in float64, by autograd, with experts that transformers computes one by one."""
    model = load(folder)
    model.module.set_experts_implementation("eager")  # type: ignore[operator]
    rows = [oracle(model, tokens, None, dim, Unsupported.skip) for tokens in texts(model)]
    return torch.stack(rows)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def tail_patch(model: LanguageModel, folder: Path, memory_mib: int = 1024) -> list[float]:
    """The tail-patch of each query with plain steps, passages side by side where that fits."""
    task = make_task(folder / "task", TEXTS, QUERIES)
    settings = config(optimizer="sgd", memory_mib=memory_mib)
    measured = serial_patch(settings, model, task, folder / "cache").measure(QUERIES, PROPONENTS)
    return list(measured.table()["tail_patch_log"])


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((found.double() - expected).norm(dim=1) / expected.norm(dim=1)).max())


# ------------------------------------------------------------------ mixtures of experts


@pytest.mark.parametrize("dim", [DIM, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float64_of_a_mixture_equals_autograd(
    mixture: Path, dtype: torch.dtype, dim: int | None
) -> None:
    """Fault: experts' grouped product, transformers' choice, knows no float64."""
    model = loaded(mixture, torch.float64, dtype)
    found = encoder_of(model, dim).encode(texts(model))
    assert found.dtype == torch.float64
    # transformers routes in float32 whatever the model's dtype; of one text at a time, it is alike.
    assert relative_error(found, by_autograd(mixture, dim)) < 1e-6


def test_float32_of_a_mixture_equals_autograd(mixture: Path) -> None:
    model = loaded(mixture, torch.float32)
    assert relative_error(encoder_of(model).encode(texts(model)), by_autograd(mixture)) < 1e-5


def test_the_mixture_itself_computes_as_before(mixture: Path) -> None:
    """Code outside the encoder uses the model in its own dtype, as transformers made it."""
    model = loaded(mixture, torch.float64)
    chosen = model.module.config._experts_implementation
    ids = torch.tensor([texts(model)[0].ids])
    before = model.module(input_ids=ids).logits
    encoder = encoder_of(model)
    encoder.encode(texts(model))
    assert chosen != "eager"
    assert model.module.config._experts_implementation == chosen
    assert encoder.module.config._experts_implementation == "eager"
    assert torch.equal(model.module(input_ids=ids).logits, before)


def test_a_mixture_that_is_loaded_in_float64_runs(mixture: Path) -> None:
    wide, narrow = loaded(mixture, torch.float64, torch.float64), loaded(mixture, torch.float32)
    ids = torch.tensor([texts(wide)[0].ids])
    logits = [model.module(input_ids=ids).logits.double() for model in (wide, narrow)]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_mixture_in_half_precision(mixture: Path, dtype: torch.dtype) -> None:
    model = loaded(mixture, dtype)
    found = encoder_of(model).encode(texts(model)).double()
    assert (torch.cosine_similarity(found, by_autograd(mixture)) > 0.9).all()


@pytest.mark.parametrize("dtype", [torch.float64, *HALVES])
def test_hidden_states_of_a_mixture(mixture: Path, dtype: torch.dtype) -> None:
    model = loaded(mixture, dtype)
    ids = torch.tensor([texts(model)[0].ids])
    found = hidden_states(model)(ids)[-1]
    assert found.dtype == dtype
    exact = hidden_states(loaded(mixture, torch.float32))(ids)[-1]
    assert torch.cosine_similarity(found[0].float(), exact[0]).min() > 0.9


def test_a_float64_step_on_a_mixture_equals_a_deep_copy(mixture: Path) -> None:
    """Tail-patch runs the model as it is with weights in float64."""
    model, wide = (loaded(mixture, torch.float64, own) for own in (torch.float32, torch.float64))
    chosen = model.module.config._experts_implementation
    query = model.query_tokens(Query("q", "Al Grey plays the", "trombone"))
    passage = texts(model)[0]
    (after,) = OptimizerStep(model, 1e-2, None, clip=None).after([passage], [[query]])
    (found,) = after.log_probs
    stepped = patched(wide.module, passage.ids, 1e-2, None, clip=None)
    prompt, target = query.ids[: query.loss_from], query.ids[query.loss_from :]
    assert found == pytest.approx(log_probability(stepped, prompt, target), rel=1e-6)
    assert abs(found - log_probability(wide.module, prompt, target)) > 1e-3
    assert model.module.config._experts_implementation == chosen


def test_tail_patch_in_float64_of_a_mixture(mixture: Path, tmp_path: Path) -> None:
    """Experts one by one do not run side by side, so it goes on with single passages."""
    exact = tail_patch(loaded(mixture, torch.float64), tmp_path / "float64")
    assert min(map(abs, exact)) > 1e-4
    narrow = tail_patch(loaded(mixture, torch.float32), tmp_path / "float32", memory_mib=0)
    assert exact == pytest.approx(narrow, rel=1e-2)


# ------------------------------------------------------------------ XGLM


def test_xglm_does_not_run_in_float64(xglm: Path, tmp_path: Path) -> None:
    """Its attention makes a number of the default dtype from float64's least one."""
    model = loaded(xglm, torch.float64)
    line = r"model toy: does not run in float64 \(.*overflow\); try model.gradient_dtype=float32"
    with pytest.raises(UserError, match=line):
        encoder_of(model).encode(texts(model))
    with pytest.raises(UserError, match=line):
        hidden_states(model)(torch.tensor([[1, 2]]))
    with pytest.raises(UserError, match=line):
        tail_patch(model, tmp_path)


def test_xglm_in_float32_equals_autograd(xglm: Path) -> None:
    model = loaded(xglm, torch.float32)
    found = encoder_of(model).encode(texts(model))
    with default_dtype(torch.float64):  # in which it does run in float64
        expected = by_autograd(xglm)
    assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("dtype", HALVES)
def test_xglm_in_half_precision_is_as_if_loaded_so(xglm: Path, dtype: torch.dtype) -> None:
    """Fault: its positions, which follow the weights' dtype, were left in float32."""
    found = []
    for own in (torch.float32, dtype):
        model = loaded(xglm, dtype, own)
        found.append(encoder_of(model).encode(texts(model)))
    assert torch.equal(*found)
    exact = loaded(xglm, torch.float32)
    expected = encoder_of(exact).encode(texts(exact))
    assert (torch.cosine_similarity(found[0], expected) > 0.98).all()


@pytest.mark.parametrize(
    "message", ["CUDA error: CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: an illegal memory access"]
)
def test_a_failing_gpu_is_not_taken_for_the_dtype(message: str) -> None:
    with pytest.raises(RuntimeError, match=message), running_in(torch.bfloat16, "toy"):
        raise RuntimeError(message)


# ------------------------------------------------------------------ what passes as it is


def test_only_an_error_of_another_dtype_becomes_a_line() -> None:
    with pytest.raises(RuntimeError, match="shapes"), running_in(torch.float32, "toy"):
        raise RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="memory"), running_in(torch.float64, "toy"):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
    line = r"^model toy: does not run in float16 \(not implemented for 'Half'\); "
    with pytest.raises(UserError, match=line), running_in(torch.float16, "toy"):
        raise NotImplementedError("not implemented for 'Half'\nand more")

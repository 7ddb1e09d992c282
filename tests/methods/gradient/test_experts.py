"""Experts that are one parameter: each one's gradient is that of the tokens sent to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.models.language_model import LanguageModel, Tokens
from bench.models.parameter_names import bare_name
from methods.gradient.encoder import GradientEncoder
from methods.gradient.features import features_version
from methods.gradient.linear import watched
from methods.gradient.mixture import Places, multiplies_once, sent
from methods.gradient.parameters import Matrix, coverage, gradient_matrices
from methods.gradient.projection import projection
from methods.gradient.settings import Adapters, BlockLayout
from tests.fixtures.adapters import adapted
from tests.fixtures.models import GROUPED, TEXTS, load, make_model, with_moments
from tests.fixtures.switches import switches

DIM = 4
EXPERTS = 10  # so many that a short text leaves some out
SENT = {**GROUPED, "num_experts_per_tok": 2, "head_dim": 4, "pad_token_id": 0}
# Architecture → options, and whether experts' matrices are stored as [in, out].
MIXTURES: dict[str, tuple[dict[str, Any], bool]] = {
    "mixtral": ({**SENT, "num_local_experts": EXPERTS}, False),
    "qwen3_moe": ({**SENT, "num_experts": EXPERTS, "moe_intermediate_size": 12}, False),
    "olmoe": ({**SENT, "num_experts": EXPERTS}, False),
    "gpt_oss": ({**SENT, "num_local_experts": EXPERTS}, True),
}


@pytest.fixture(scope="module", params=list(MIXTURES))
def mixture(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LanguageModel, bool]:
    options, transposed = MIXTURES[request.param]
    folder = tmp_path_factory.mktemp(request.param) / "model"
    model = load(make_model(folder, request.param, layers=2, hidden=16, **options))
    model.module.double()
    model.module.set_experts_implementation("eager")  # type: ignore[operator]
    return model, transposed


def texts(model: LanguageModel) -> list[Tokens]:
    return [model.passage_tokens(text) for text in TEXTS]


def gradients(model: LanguageModel, tokens: Tokens) -> dict[str, Tensor]:
    """The gradient of one text's summed loss in every parameter, by autograd alone."""
    named = dict(model.module.requires_grad_(True).named_parameters())
    ids = torch.tensor(tokens.ids)
    scores = model.module(input_ids=ids[None]).logits[0, :-1].log_softmax(-1)
    loss = -scores.gather(1, ids[1:, None]).sum()
    made = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
    model.module.requires_grad_(False)
    return dict(zip(named, made, strict=True))


def counted(gradients: dict[str, Tensor], transposed: bool) -> Iterator[tuple[str, str, Tensor]]:
    """Parameter, name of the projections, and gradient ``[out, in]`` of each matrix of a layer.

    In the order of the model: attention, and of the MLP the router and the experts.
    """
    for name, gradient in gradients.items():
        if ".mlp.experts." in name and gradient.ndim == 3:
            for expert, one in enumerate(gradient):
                yield name, f"{name}.{expert}", one.T if transposed else one
        elif ".layers." in name and gradient.ndim == 2 and not name.endswith("bias"):
            yield name, name, gradient


def projected(name: str, gradient: Tensor) -> Tensor:
    left = projection(0, name, "out", DIM, gradient.shape[0])
    right = projection(0, name, "in", DIM, gradient.shape[1])
    return (left @ gradient @ right.T).flatten()


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


def reached(model: LanguageModel, tokens: Tokens) -> Tensor:
    """How many of a text's tokens each expert of the first layer is sent, but for the last token.

    No loss depends on the last.
    """
    chosen: list[Tensor] = []
    experts = model.module.model.layers[0].mlp.experts  # type: ignore[union-attr]
    handle = experts.register_forward_pre_hook(lambda _, given: chosen.append(given[1]))
    model.module(input_ids=torch.tensor([tokens.ids]))
    handle.remove()
    return torch.bincount(chosen[0][:-1].flatten(), minlength=EXPERTS)


def test_projected_gradients_equal_autograd(mixture: tuple[LanguageModel, bool]) -> None:
    """In a padded batch: two layers in one group, so that a block is attention or MLP."""
    model, transposed = mixture
    encoder = GradientEncoder(model, switches(projection_dim=DIM, layer_blocks=1))
    assert encoder.block_sizes == [DIM * DIM] * 2
    rows = []
    for tokens in texts(model):
        blocks = torch.zeros(2, DIM * DIM, dtype=torch.float64)
        for parameter, name, gradient in counted(gradients(model, tokens), transposed):
            blocks[int(".mlp." in parameter)] += projected(name, gradient)
        rows.append(blocks.flatten())
    found = encoder.encode(texts(model))
    assert relative_error(found, torch.stack(rows)) < 1e-12


@pytest.mark.parametrize("kind", [None, "adafactor", "adam"])
def test_exact_gradients_equal_autograd(
    mixture: tuple[LanguageModel, bool], tmp_path: Path, kind: str | None
) -> None:
    """Each expert's matrix is a block; V is that of the parameter that holds them all."""
    model, transposed = mixture
    moments = None if kind is None else with_moments(model, tmp_path, kind).second_moments
    encoder = GradientEncoder(
        model, switches(block_layout=BlockLayout.matrices), second_moments=moments
    )
    found = encoder.encode(texts(model))
    assert len(encoder.block_sizes) == len(encoder.matrices) == 2 * (4 + 1 + 2 * EXPERTS)
    for number, tokens in enumerate(texts(model)):
        made = gradients(model, tokens)
        divided = {name: one / root(moments, name) for name, one in made.items()}
        parts = {name: one for _, name, one in counted(divided, transposed)}
        own = dict(
            zip(
                [one.name for one in encoder.matrices],
                found[number].split(encoder.block_sizes),
                strict=True,
            )
        )
        assert own.keys() == parts.keys()
        for name, one in own.items():
            want = parts[name].flatten()
            assert (one - want).norm() <= 1e-12 * want.norm(), name
        for expert, count in enumerate(reached(model, tokens).tolist()):
            for name in ("gate_up_proj", "down_proj"):
                any_gradient = own[f"model.layers.0.mlp.experts.{name}.{expert}"].any()
                assert bool(any_gradient) == (count > 0)
    idle = [bool((reached(model, tokens) == 0).any()) for tokens in texts(model)]
    assert any(idle), "no text that leaves an expert without a token"


def root(moments: Any, name: str) -> Tensor | float:
    """√V of a parameter, with Adam's ε, of the parameter's own shape."""
    if moments is None:
        return 1.0
    moment = moments.by_name[name]
    if hasattr(moment, "value"):
        return moment.value.double().sqrt() + 1e-8
    row, col = moment.row.double(), moment.col.double()
    return (row[..., :, None] * col[..., None, :] / row.mean(-1)[..., None, None]).sqrt()


@pytest.mark.parametrize("kind", ["adafactor", "adam"])
def test_corrected_projections_equal_autograd(
    mixture: tuple[LanguageModel, bool], tmp_path: Path, kind: str
) -> None:
    """Where each parameter is a block, the experts of one add up, each by its own projections."""
    model, transposed = mixture
    moments = with_moments(model, tmp_path, kind).second_moments
    encoder = GradientEncoder(
        model,
        switches(projection_dim=DIM, block_layout=BlockLayout.matrices),
        second_moments=moments,
    )
    assert encoder.block_sizes == [DIM * DIM] * 2 * (4 + 1 + 2)
    rows = []
    for tokens in texts(model):
        blocks: dict[str, Tensor] = {}
        made = gradients(model, tokens)
        divided = {name: one / root(moments, name) for name, one in made.items()}
        for parameter, name, gradient in counted(divided, transposed):
            blocks[parameter] = blocks.get(parameter, 0) + projected(name, gradient)
        order = dict.fromkeys(matrix.parameter for matrix in encoder.matrices)
        rows.append(torch.cat([blocks[parameter] for parameter in order]))
    assert relative_error(encoder.encode(texts(model)), torch.stack(rows)) < 1e-12


@pytest.mark.parametrize("dim", [DIM, None])
def test_shares_of_tokens_sum_to_the_inner_product(
    mixture: tuple[LanguageModel, bool], dim: int | None
) -> None:
    """And the token that no loss depends on, the last, has none."""
    model, _ = mixture
    encoder = GradientEncoder(model, switches(projection_dim=dim))
    query, *passages = encoder.encode(texts(model))
    collectors = encoder.sharing(query)
    for tokens, passage in zip(texts(model)[1:], passages, strict=True):
        shares = encoder.shares(tokens, collectors)
        torch.testing.assert_close(shares.sum(), passage @ query, rtol=1e-9, atol=1e-9)
        assert shares[-1] == 0
        assert (shares[:-1] != 0).all()


def test_no_parameter_of_a_mixture_is_left_out(mixture: tuple[LanguageModel, bool]) -> None:
    model, _ = mixture
    found = coverage(model.module, switches())
    assert (found["share"], found["left_out"]) == (1.0, [])
    assert found["parameters"] == sum(
        parameter.numel()
        for name, parameter in model.module.named_parameters()
        if ".layers." in name and parameter.ndim > 1 and not name.endswith("bias")
    )


def test_only_the_keys_of_mixtures_have_their_version(
    mixture: tuple[LanguageModel, bool], tmp_path: Path
) -> None:
    plain = features_version(load(make_model(tmp_path / "plain")))
    assert isinstance(plain, int)
    assert features_version(mixture[0]) == [plain, 1]


def test_the_mixture_is_left_as_it_was(mixture: tuple[LanguageModel, bool]) -> None:
    model, _ = mixture
    encoder = GradientEncoder(model, switches(projection_dim=DIM))
    encoder.encode(texts(model))
    assert not any("forward" in module.__dict__ for module in encoder.module.modules())
    assert all(p.grad is None and not p.requires_grad for p in encoder.module.parameters())


def test_the_chosen_layers_alone_are_watched(mixture: tuple[LanguageModel, bool]) -> None:
    """The experts of the layers below run as transformers runs them."""
    model, _ = mixture
    settings = switches(block_layout=BlockLayout.matrices)
    every = GradientEncoder(model, settings)
    some = GradientEncoder(model, replace(settings, layers=[-1]))
    above = torch.cat(
        [
            part
            for matrix, part in zip(
                every.matrices, every.encode(texts(model)).split(every.block_sizes, 1), strict=True
            )
            if ".layers.1." in matrix.name
        ],
        dim=1,
    )
    torch.testing.assert_close(some.encode(texts(model)), above, rtol=1e-10, atol=1e-10)


# ------------------------------------------------------------------ who is sent where


def test_tokens_are_laid_out_by_text() -> None:
    """Two texts of three tokens, two experts a token; number 3 stands for no expert."""
    chosen = torch.tensor([[0, 1], [1, 0], [1, 3], [1, 0], [3, 3], [0, 1]])
    found = dict(sent(chosen, 3, (2, 3)))
    assert found.keys() == {0, 1}, "no token is sent to the last"
    one = found[0]
    assert one.tokens.tolist() == [0, 1, 3, 5]
    assert one.choices.tolist() == [0, 1, 1, 0]
    rows = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    assert one.by_text(rows, positioned=False)[..., 0].tolist() == [[1, 2], [3, 4]]
    assert one.by_text(rows, positioned=True)[..., 0].tolist() == [[1, 2, 0], [3, 0, 4]]
    assert found[1].by_text(torch.ones(5, 1), positioned=False).shape == (2, 3, 1)


def test_experts_of_another_list_of_tokens_are_refused(
    mixture: tuple[LanguageModel, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = mixture
    encoder = GradientEncoder(model, switches(projection_dim=DIM))
    mlp = encoder.module.model.layers[0].mlp  # type: ignore[union-attr]
    before = type(mlp).forward
    monkeypatch.setattr(type(mlp), "forward", lambda self, x: before(self, x[:, :2]))
    with pytest.raises(UserError, match=r"experts.gate_up_proj get 2 rows for|gets 2 rows for"):
        encoder.encode(texts(model)[:1])


# ------------------------------------------------------------------ routers


class Converting(nn.Module):
    """A router that multiplies by a converted weight, as DeepSeek's does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.float(), self.weight.type(torch.float32))


class Normed(Converting):
    """A router that uses its weight in another place, too."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight) / torch.linalg.norm(self.weight)


class Plain(Converting):
    """A router that looks at its weight and multiplies by it."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype).reshape(-1, self.weight.shape[1])
        return nn.functional.linear(x, self.weight).softmax(-1)


class Choosing(Converting):
    """A router that is given a number for each expert, and does more on more tokens."""

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        if len(x) > 2:
            x = x + torch.linalg.norm(self.weight)
        return (nn.functional.linear(x, self.weight) + bias).topk(2, dim=-1).values


class Noting:
    """A sink that keeps nothing."""

    used = False

    def keep(self, inputs: Tensor) -> Tensor:
        return inputs

    def add(self, delta: Tensor, kept: Tensor) -> None: ...

    def of_some(self, places: Places) -> Noting:
        return self


def test_a_router_that_does_otherwise_when_it_runs_is_refused() -> None:
    router = Choosing().requires_grad_(False)
    matrix = Matrix("router.weight", router, 0, transposed=False)
    with watched([matrix], [Noting()], (1, 2)):
        assert router(torch.ones(2, 4), torch.zeros(3)).shape == (2, 2)
        with pytest.raises(UserError, match="Choosing uses its weight beside the product"):
            router(torch.ones(3, 4), torch.zeros(3))


def test_routers_are_told_apart_by_what_they_do_with_their_weight() -> None:
    assert multiplies_once(Plain())
    assert multiplies_once(Plain().to("meta"))
    assert multiplies_once(Converting())
    assert multiplies_once(Converting().double())
    assert multiplies_once(Choosing())
    assert not multiplies_once(Normed())


# ------------------------------------------------------------------ what is refused


def test_experts_of_eight_bits_are_refused(tmp_path: Path) -> None:
    options, _ = MIXTURES["mixtral"]
    model = load(make_model(tmp_path / "model", "mixtral", layers=1, hidden=16, **options))
    experts = model.module.model.layers[0].mlp.experts  # type: ignore[union-attr]
    narrow = experts.down_proj.detach().to(torch.float8_e4m3fn)
    experts.down_proj = nn.Parameter(narrow, requires_grad=False)
    with pytest.raises(UserError, match=r"mlp\.experts\.gate_up_proj \(quantised\)"):
        gradient_matrices(model.module, switches())


@pytest.mark.parametrize("adapters", list(Adapters))
def test_a_lora_of_experts_is_refused(tmp_path: Path, adapters: Adapters) -> None:
    """peft adds it to the parameter within a forward of its own."""
    options, _ = MIXTURES["mixtral"]
    folder = make_model(tmp_path / "model", "mixtral", layers=1, hidden=16, **options)
    module = adapted(folder, target_modules=[], target_parameters=["experts.gate_up_proj"])
    with pytest.raises(UserError, match=r"mlp\.experts\.\S+ \(mixture-of-experts\)"):
        gradient_matrices(module, switches(adapters=adapters))


def test_a_lora_of_attention_leaves_the_experts_as_they_are(
    mixture: tuple[LanguageModel, bool], tmp_path: Path
) -> None:
    model, _ = mixture
    model.module.save_pretrained(tmp_path / "model")
    module = adapted(tmp_path / "model", target_modules=["q_proj"])
    own = gradient_matrices(model.module, switches())
    base = gradient_matrices(module, switches(adapters=Adapters.base))
    assert [bare_name(one.name) for one in base] == [one.name for one in own]

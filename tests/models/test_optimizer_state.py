"""Moments belong to names: those that a state records, whatever its order; and its own step."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.models.moment_files import write_moments
from bench.models.second_moments import Factored, Full, load_moments
from metrics.optimizer_step import OptimizerStep
from tests.fixtures.models import directory_source, make_model
from tests.fixtures.models import load as load_model
from tests.fixtures.states import take_steps

Q, K = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"
Order = Callable[[list[tuple[str, nn.Parameter]]], list[tuple[str, nn.Parameter]]]


@pytest.fixture
def module(tmp_path: Path) -> nn.Module:
    return load_model(make_model(tmp_path / "model", "llama", layers=2)).module


def exchanged(named: list[tuple[str, nn.Parameter]]) -> list[tuple[str, nn.Parameter]]:
    """Query and key matrices of layer 0, of one shape, in each other's place."""
    other = {Q: K, K: Q}
    values = dict(named)
    return [(other.get(name, name), values[other.get(name, name)]) for name, _ in named]


def by_name(named: list[tuple[str, nn.Parameter]]) -> list[tuple[str, nn.Parameter]]:
    return sorted(named)


def split(named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    return [{"params": named[::2]}, {"params": named[1::2]}]


def stepped(
    module: nn.Module,
    make: Callable[..., torch.optim.Optimizer],
    order: Order = list,
    steps: int = 3,
    **settings: Any,
) -> dict[nn.Parameter, dict[str, Any]]:
    """The state of an optimizer over ``named_parameters()`` in some order, saved beside it."""
    module.requires_grad_(True)
    optimizer = make(order(list(module.named_parameters())), **settings)
    take_steps(optimizer, list(module.parameters()), steps)
    module.requires_grad_(False)
    torch.save(optimizer.state_dict(), folder_of(module) / "optimizer.pt")
    return dict(optimizer.state)


def folder_of(module: nn.Module) -> Path:
    return Path(module.config._name_or_path)  # type: ignore[union-attr]


def loaded(module: nn.Module, **settings: float) -> dict[str, Factored | Full]:
    return dict(load_moments(folder_of(module) / "optimizer.pt", module, **settings).by_name)


def edit(module: nn.Module, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder_of(module) / "optimizer.pt"
    checkpoint = torch.load(path, weights_only=True)
    torch.save(change(checkpoint) or checkpoint, path)


def assert_own(
    module: nn.Module, state: dict[nn.Parameter, dict[str, Any]], steps: int = 3
) -> None:
    found = loaded(module)
    named = dict(module.named_parameters())
    assert set(found) == set(named)
    for name, parameter in named.items():
        moment = found[name]
        assert isinstance(moment, Full)
        want = state[parameter]["exp_avg_sq"].double() / (1 - 0.999**steps)
        torch.testing.assert_close(moment.value, want.float(), rtol=1e-6, atol=0)


# ------------------------------------------------------------------ names


@pytest.mark.parametrize(
    "order", [list, exchanged, by_name, lambda named: split(by_name(named)), split]
)
def test_recorded_names_win_over_any_order(module: nn.Module, order: Order) -> None:
    """Fault: V of two matrices of one shape, exchanged in the optimizer's order, were exchanged."""
    assert_own(module, stepped(module, torch.optim.AdamW, order))


def test_the_exchange_matters(module: nn.Module) -> None:
    state = stepped(module, torch.optim.AdamW, exchanged)
    own = {name: state[p]["exp_avg_sq"] for name, p in module.named_parameters()}
    assert own[Q].shape == own[K].shape
    assert not torch.equal(own[Q], own[K])


@pytest.mark.parametrize("order", [list, exchanged, by_name])
def test_ids_that_are_names(module: nn.Module, order: Order) -> None:
    """As FSDP writes them: the ids of groups and state are the names themselves."""
    state = stepped(module, torch.optim.AdamW, order)

    def renamed(checkpoint: dict) -> None:
        (group,) = checkpoint["param_groups"]
        names = group.pop("param_names")
        checkpoint["state"] = {names[n]: fields for n, fields in checkpoint["state"].items()}
        group["params"] = names

    edit(module, renamed)
    assert_own(module, state)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_of_a_wrapped_model(module: nn.Module, prefix: str) -> None:
    state = stepped(module, torch.optim.AdamW)

    def wrapped(checkpoint: dict) -> None:
        (group,) = checkpoint["param_groups"]
        group["param_names"] = [f"{prefix}{name}" for name in group["param_names"]]

    edit(module, wrapped)
    assert_own(module, state)


def test_the_other_name_of_a_tied_parameter(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "tied", "llama", layers=1, tie_word_embeddings=True)
    module = load_model(folder).module
    state = stepped(module, torch.optim.AdamW)

    def renamed(checkpoint: dict) -> None:
        names = checkpoint["param_groups"][0]["param_names"]
        names[names.index("model.embed_tokens.weight")] = "lm_head.weight"

    edit(module, renamed)
    assert_own(module, state)


def test_numbers_alone_go_by_the_usual_order(module: nn.Module) -> None:
    state = stepped(module, torch.optim.AdamW)
    edit(module, lambda checkpoint: checkpoint["param_groups"][0].pop("param_names") and None)
    assert_own(module, state)


def test_foreign_names_are_refused(module: nn.Module) -> None:
    stepped(module, torch.optim.AdamW)

    def renamed(checkpoint: dict) -> None:
        checkpoint["param_groups"][0]["param_names"][3] = "transformer.h.0.attn.weight"

    edit(module, renamed)
    with pytest.raises(UserError, match=r"parameter transformer\.h\.0\.attn\.weight is not in the"):
        loaded(module)


def test_names_that_do_not_cover_the_state(module: nn.Module) -> None:
    stepped(module, torch.optim.AdamW)
    edit(module, lambda checkpoint: checkpoint["param_groups"][0]["param_names"].pop() and None)
    with pytest.raises(UserError, match=r"a group has \d+ parameters and \d+ param_names"):
        loaded(module)


def test_a_name_that_is_there_twice(module: nn.Module) -> None:
    stepped(module, torch.optim.AdamW)

    def renamed(checkpoint: dict) -> None:
        names = checkpoint["param_groups"][0]["param_names"]
        names[names.index(K)] = f"module.{Q}"

    edit(module, renamed)
    with pytest.raises(UserError, match="is there under another name, too"):
        loaded(module)


# ------------------------------------------------------------------ no second moments


def momentum(checkpoint: dict) -> None:
    checkpoint["state"] = {
        number: {"momentum_buffer": fields["exp_avg"]}
        for number, fields in checkpoint["state"].items()
    }


def lion(checkpoint: dict) -> None:
    for fields in checkpoint["state"].values():
        del fields["exp_avg_sq"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda checkpoint: checkpoint.update(state={}), "its state is empty, as before the first"),
        (momentum, "it keeps momentum alone, as SGD and Muon do"),
        (lion, "it keeps exp_avg alone"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_state_without_second_moments_says_why(
    module: nn.Module, change: Callable[[dict], Any], reason: str, named: bool
) -> None:
    """Fault: "fit no known order", or "no second moment for parameter …"."""
    stepped(module, torch.optim.AdamW)
    edit(module, lambda checkpoint: change(checkpoint) and None)
    if not named:
        edit(module, lambda checkpoint: checkpoint["param_groups"][0].pop("param_names") and None)
    with pytest.raises(UserError, match=f"there are no second moments in it: {reason}") as caught:
        loaded(module)
    assert "\n" not in str(caught.value)


def test_sgd_and_muon_themselves(module: nn.Module) -> None:
    for settings in ({"momentum": 0.9}, {}):
        stepped(module, torch.optim.SGD, lr=0.1, **settings)
        with pytest.raises(
            UserError, match=r"there are no second moments in it: its? (keeps|state)"
        ):
            loaded(module)

    def matrices(named: list[tuple[str, nn.Parameter]]) -> list[tuple[str, nn.Parameter]]:
        return [(name, parameter) for name, parameter in named if parameter.ndim == 2]

    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch is older than its Muon")
    stepped(module, torch.optim.Muon, matrices)
    with pytest.raises(UserError, match="it keeps momentum alone, as SGD and Muon do"):
        loaded(module)


def test_zeros_alone_are_refused(module: nn.Module) -> None:
    stepped(module, torch.optim.AdamW)

    def emptied(checkpoint: dict) -> None:
        for fields in checkpoint["state"].values():
            fields["exp_avg_sq"].zero_()

    edit(module, emptied)
    with pytest.raises(UserError, match="all second moments in it are zero"):
        loaded(module)
    path = folder_of(module) / "zero.safetensors"
    save_file({f"{Q}.exp_avg_sq": torch.zeros(32, 32)}, path)
    with pytest.raises(UserError, match=f"^{path}: all second moments in it are zero"):
        load_moments(path, module)


@pytest.mark.parametrize(
    "change",
    [
        lambda checkpoint: checkpoint.update(param_groups=[{}]),
        lambda checkpoint: checkpoint.update(param_groups=7),
        lambda checkpoint: checkpoint.update(state=[1, 2]),
        lambda checkpoint: checkpoint.update(state=dict.fromkeys(checkpoint["state"], 3)),
        lambda checkpoint: checkpoint["param_groups"][0].update(params=[[1]]),
    ],
)
def test_a_file_of_another_form_is_one_line(module: nn.Module, change: Callable) -> None:
    stepped(module, torch.optim.AdamW)
    edit(module, lambda checkpoint: change(checkpoint) and None)
    with pytest.raises(UserError, match=r"are not as torch writes them|and \d+ param_names"):
        loaded(module)


# ------------------------------------------------------------------ Adam's correction


def reference_step(gradient: Tensor, average: Tensor, step: int, beta2: float) -> Tensor:
    """What Adam divides a gradient by after so many steps, written out (Kingma & Ba, Alg. 1)."""
    corrected = average.double() / (1 - beta2**step)
    return gradient.double() / (corrected.sqrt() + 1e-8)


@pytest.mark.parametrize(("steps", "beta2"), [(1, 0.999), (7, 0.999), (5, 0.95)])
def test_v_is_corrected_with_the_states_own_step(
    module: nn.Module, steps: int, beta2: float
) -> None:
    state = stepped(module, torch.optim.AdamW, steps=steps, betas=(0.9, beta2))
    found = loaded(module, adam_beta2=0.5)
    for name, parameter in module.named_parameters():
        gradient = torch.ones(parameter.shape)
        want = reference_step(gradient, state[parameter]["exp_avg_sq"], steps, beta2)
        torch.testing.assert_close(found[name].inverse_sqrt(), want, rtol=1e-6, atol=0)
        assert found[name].beta2 == beta2, "the state's own wins over the setting"


def test_after_255_steps_uncorrected_steps_were_twice_too_long(module: nn.Module) -> None:
    """Fault: 1 / sqrt(1 - 0.999^255) = 2.1."""
    state = stepped(module, torch.optim.Adam, steps=255)
    ratio = state[module.lm_head.weight]["exp_avg_sq"].double().sqrt() * (
        loaded(module)["lm_head.weight"].inverse_sqrt()
    )
    assert ratio.mean().item() == pytest.approx(math.sqrt(1 - 0.999**255), rel=1e-3)
    assert 1 / ratio.mean().item() == pytest.approx(2.11, abs=0.01)


def test_the_step_that_tail_patch_takes_is_adams(tmp_path: Path) -> None:
    """Through the model's settings to the metric: Adam's own next step, without its momentum."""
    folder = make_model(tmp_path / "model", "llama", layers=1)
    state = stepped(load_model(folder).module, torch.optim.AdamW, steps=4, betas=(0.9, 0.99))
    source = directory_source(folder, optimizer_state=str(folder / "optimizer.pt"), dtype="float64",
                              gradient_dtype="float64")  # fmt: skip
    model = source.load(None, folder, "cpu")  # type: ignore[arg-type]
    passage = model.passage_tokens("Al Grey plays the trombone.")
    after, *_ = OptimizerStep(model, 1e-3, model.second_moments, clip=None)._stepped([passage])
    own = dict(model.module.named_parameters())
    module = model.module.requires_grad_(True)
    ids = torch.tensor([passage.ids])
    module(input_ids=ids, labels=ids).loss.backward()
    stored = dict(zip(own, state.values(), strict=True))
    for name, parameter in own.items():
        scaled = reference_step(parameter.grad, stored[name]["exp_avg_sq"], 4, 0.99)
        want = parameter.detach() - 1e-3 * scaled
        torch.testing.assert_close(after[name][0], want, rtol=1e-5, atol=1e-7)


def test_without_betas_the_setting_counts(module: nn.Module) -> None:
    state = stepped(module, torch.optim.AdamW)
    edit(module, lambda checkpoint: checkpoint["param_groups"][0].pop("betas") and None)
    found, other = loaded(module, adam_beta2=0.9), loaded(module, adam_beta2=0.99)
    want = state[module.lm_head.weight]["exp_avg_sq"].double() / (1 - 0.9**3)
    torch.testing.assert_close(found["lm_head.weight"].value, want.float(), rtol=1e-6, atol=0)
    assert not torch.equal(found["lm_head.weight"].value, other["lm_head.weight"].value)
    path = folder_of(module) / "optimizer.pt"
    identities = [load_moments(path, module, adam_beta2=b).identity for b in (0.9, 0.99)]
    assert identities[0] != identities[1], "it moves every feature"


def test_a_state_that_says_no_step(module: nn.Module) -> None:
    stepped(module, torch.optim.AdamW)

    def without(checkpoint: dict) -> None:
        for fields in checkpoint["state"].values():
            del fields["step"]

    edit(module, without)
    with pytest.raises(UserError, match=r"has no step, so that its exp_avg_sq cannot be corrected"):
        loaded(module)


def test_a_file_by_name_is_corrected_once(module: nn.Module) -> None:
    """Written with its step, V is the running mean and is corrected; without, it is V itself."""
    average, path = torch.rand(32, 32) + 0.1, folder_of(module) / "named.safetensors"
    write_moments({Q: {"exp_avg_sq": average, "step": torch.tensor(4.0), "beta2": 0.9}}, path)
    found = load_moments(path, module, adam_beta2=0.5)
    want = (average.double() / (1 - 0.9**4)).float()
    torch.testing.assert_close(found[Q].value, want, rtol=1e-6, atol=0)
    write_moments({Q: {"exp_avg_sq": found[Q].value}}, path)
    again = load_moments(path, module)
    assert torch.equal(again[Q].value, found[Q].value)
    assert again[Q].beta2 is None
    save_file({f"{Q}.exp_avg_sq": average, f"{Q}.step": torch.tensor(4)}, path)
    setting = load_moments(path, module, adam_beta2=0.9)
    assert torch.equal(setting[Q].value, found[Q].value), "the setting, where the file says none"


# ------------------------------------------------------------------ Adafactor


@pytest.mark.parametrize("order", [list, exchanged, by_name])
def test_torchs_own_adafactor(module: nn.Module, order: Order) -> None:
    """V = r cᵀ / mean(r), never less than ε²: the update of the very optimizer."""
    state = stepped(module, torch.optim.Adafactor, order)
    found = loaded(module)
    for name, parameter in module.named_parameters():
        fields = state[parameter]
        if parameter.ndim == 2:
            v = fields["row_var"] @ fields["col_var"] / fields["row_var"].mean(-2, keepdim=True)
            assert isinstance(found[name], Factored)
        else:
            v = fields["variance"]
        floor = torch.finfo(torch.float32).eps ** 2
        want = v.double().clamp_min(floor).rsqrt()
        torch.testing.assert_close(found[name].inverse_sqrt(), want, rtol=1e-5, atol=0)


def test_torchs_adafactor_where_its_floor_counts(module: nn.Module) -> None:
    """Of a row without gradient V is ε², and not the least number that can be divided by."""
    stepped(module, torch.optim.Adafactor, eps=(1e-4, 1e-3))
    number = [name for name, _ in module.named_parameters()].index(Q)

    def emptied(checkpoint: dict) -> None:
        checkpoint["state"][number]["row_var"][3] = 0.0

    edit(module, emptied)
    moment = loaded(module)[Q]
    assert moment.inverse_sqrt()[3].tolist() == pytest.approx([1e4] * 32)
    assert moment.inverse_sqrt().max().item() == pytest.approx(1e4)


def test_a_stack_of_matrices_has_a_mean_of_its_own() -> None:
    """As the experts of a layer are kept: each of a row and a column."""
    row, col = torch.rand(3, 4) + 0.1, torch.rand(3, 5) + 0.1
    found = Factored(row, col).inverse_sqrt()
    for expert in range(3):
        v = torch.outer(row[expert], col[expert]) / row[expert].mean()
        torch.testing.assert_close(found[expert], v.double().rsqrt(), rtol=1e-5, atol=0)

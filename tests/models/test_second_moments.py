"""Second moments: formulas, formats, the mapping of integer ids, and refusals."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers.optimization import Adafactor

from bench.core.errors import UserError
from bench.models.moment_files import write_moments
from bench.models.second_moments import Factored, Full
from bench.models.second_moments import load_moments as load
from tests.fixtures.models import load as load_model
from tests.fixtures.models import make_model


class Net(nn.Module):
    """Two matrices, a bias and a norm, with no two shapes alike."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(3, 5)
        self.norm = nn.LayerNorm(5)
        self.down = nn.Linear(5, 2, bias=False)


def stepped(optimizer_class, groups, **settings):
    torch.manual_seed(0)
    module = Net()
    optimizer = optimizer_class(groups(module), **settings)
    for _ in range(3):
        module.down(module.norm(module.up(torch.randn(4, 3)))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return module, optimizer


def one_group(module):
    return list(module.parameters())


def decay_groups(module):
    """As the usual trainers do it: matrices first, biases and norms second."""
    return [
        {"params": [module.up.weight, module.down.weight], "weight_decay": 0.1},
        {"params": [module.up.bias, module.norm.weight, module.norm.bias], "weight_decay": 0.0},
    ]


def test_factored_formula():
    """V = r cᵀ / mean(r), divided as sqrt(V): against the matrix written out."""
    r, c = torch.tensor([1.0, 4.0]), torch.tensor([9.0, 1.0, 0.25])
    v = torch.outer(r, c) / r.mean()
    expected = (1 / v.sqrt()).double()
    moment = Factored(r, c)
    assert torch.allclose(moment.inverse_sqrt(), expected)
    left, right = moment.inverse_sqrt_sides()
    assert torch.allclose(torch.outer(left, right), expected)
    assert not torch.allclose(moment.inverse_sqrt(), 1 / v.double()), "sqrt(V), not V"


def test_adam_formula():
    moment = Full(torch.tensor([4.0, 0.0]), epsilon=0.5)
    assert torch.allclose(moment.inverse_sqrt(), torch.tensor([1 / 2.5, 2.0]).double())


def test_equals_the_step_that_adafactor_takes():
    """The update of the very optimizer, read back from its state, is g / sqrt(V)."""
    module, optimizer = stepped(
        Adafactor, one_group, lr=1e-2, scale_parameter=False, relative_step=False,
        clip_threshold=1e9, decay_rate=-0.8,
    )  # fmt: skip
    before = module.up.weight.detach().clone()
    gradient = torch.randn(5, 3)
    module.up.weight.grad = gradient.clone()
    optimizer.step()
    state = optimizer.state[module.up.weight]
    moment = Factored(state["exp_avg_sq_row"], state["exp_avg_sq_col"])
    update = before - module.up.weight.detach()
    expected = 1e-2 * gradient.double() * moment.inverse_sqrt()
    assert torch.allclose(update.double(), expected, rtol=1e-3)


@pytest.mark.parametrize("groups", [one_group, decay_groups])
@pytest.mark.parametrize("kind", ["adamw", "adafactor"])
def test_integer_ids_map_to_names(tmp_path, groups, kind):
    if kind == "adamw":
        module, optimizer = stepped(torch.optim.AdamW, groups)
    else:
        module, optimizer = stepped(Adafactor, groups)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    moments = load(tmp_path / "optimizer.pt", module)
    for name, parameter in module.named_parameters():
        state, moment = optimizer.state[parameter], moments[name]
        if isinstance(moment, Factored):
            assert torch.equal(moment.row, state["exp_avg_sq_row"])
            assert torch.equal(moment.col, state["exp_avg_sq_col"])
        else:
            corrected = state["exp_avg_sq"].double() / (1 - 0.999**3 if kind == "adamw" else 1)
            assert torch.equal(moment.value, corrected.float())
            assert moment.epsilon == (1e-8 if kind == "adamw" else 0.0)


def test_round_trip_by_name(tmp_path):
    module, optimizer = stepped(Adafactor, one_group)
    names = {p: n for n, p in module.named_parameters()}
    write_moments({names[p]: s for p, s in optimizer.state.items()}, tmp_path / "m.safetensors")
    moments = load(tmp_path / "m.safetensors", module)
    assert set(moments.by_name) == {n for n, _ in module.named_parameters()}
    assert torch.equal(
        moments["up.weight"].row, optimizer.state[module.up.weight]["exp_avg_sq_row"]
    )


def test_order_of_the_file_plays_no_part(tmp_path):
    """Fault in the field: moments matched by position."""
    state = {"down.weight": torch.full((2, 5), 2.0), "up.weight": torch.full((5, 3), 3.0)}
    save_file({f"{n}.exp_avg_sq": t for n, t in state.items()}, tmp_path / "m.safetensors")
    moments = load(tmp_path / "m.safetensors", Net())
    assert moments["up.weight"].value[0, 0] == 3.0
    assert moments["down.weight"].value[0, 0] == 2.0


def test_ambiguous_or_foreign_ids_say_how_to_write_the_named_file(tmp_path):
    module = Net()
    optimizer = torch.optim.AdamW([module.down.weight, module.up.weight])
    for parameter in (module.down.weight, module.up.weight):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    with pytest.raises(UserError, match="write a safetensors file with"):
        load(tmp_path / "optimizer.pt", module)
    reversed_order = torch.optim.AdamW(list(module.parameters())[::-1])
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    reversed_order.step()
    torch.save(reversed_order.state_dict(), tmp_path / "optimizer.pt")
    with pytest.raises(UserError, match="fit no known order"):
        load(tmp_path / "optimizer.pt", module)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"up.weight.exp_avg_sq": torch.ones(3, 5)}, r"up\.weight: exp_avg_sq has shape"),
        ({"up.weight.exp_avg_sq_row": torch.ones(5)}, "has neither"),
        ({"side.weight.exp_avg_sq": torch.ones(3)}, "side.weight is not in the model"),
        ({"up.weight.exp_avg": torch.ones(5, 3)}, "is no second moment"),
        ({"up.weight.exp_avg_sq": torch.full((5, 3), float("nan"))}, "finite"),
        ({"up.weight.exp_avg_sq": -torch.ones(5, 3)}, "not negative"),
    ],
)
def test_wrong_content_is_named(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "m.safetensors", Net())


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "optimizer.pt", Net())
    for name in ("optimizer.pt", "m.safetensors"):
        (tmp_path / name).write_bytes(b"not what it says")
        with pytest.raises(UserError):
            load(tmp_path / name, Net())
    torch.save({"weights": 1}, tmp_path / "optimizer.pt")
    with pytest.raises(UserError, match="param_groups"):
        load(tmp_path / "optimizer.pt", Net())


def test_nothing_in_a_file_is_executed(tmp_path):
    """Fault in the field: pickle loaded from files."""

    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    torch.save({"state": Bomb(), "param_groups": []}, tmp_path / "optimizer.pt")
    with pytest.raises(UserError):
        load(tmp_path / "optimizer.pt", Net())
    assert not (tmp_path / "exploded").exists()


def test_trainer_grouping_of_a_real_architecture(tmp_path):
    model = load_model(make_model(tmp_path / "model", "gpt2"))
    module = model.module.requires_grad_(True)
    norms = {"ln_1", "ln_2", "ln_f"}
    decayed, others = [], []
    for name, parameter in module.named_parameters():
        plain = name.endswith("bias") or name.split(".")[-2] in norms
        (others if plain else decayed).append(parameter)
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}])
    module(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    moments = load(tmp_path / "optimizer.pt", module)
    for name, parameter in module.named_parameters():
        state = optimizer.state[parameter]["exp_avg_sq"]
        torch.testing.assert_close(moments[name].value, state / (1 - 0.999))


# ------------------------------------------------------------------ folders of several files


def ones_of(*names):
    shapes = {name: p.shape for name, p in Net().named_parameters()}
    return {f"{name}.exp_avg_sq": torch.full(shapes[name], 4.0) for name in names}


def folder_of(folder, *files):
    folder.mkdir()
    for number, tensors in enumerate(files, start=1):
        save_file(tensors, folder / f"moments-{number:05}-of-{len(files):05}.safetensors")
    return folder


MATRICES, VECTORS = ("up.weight", "down.weight"), ("up.bias", "norm.weight", "norm.bias")


def test_a_folder_is_the_sum_of_its_files(tmp_path):
    folder = folder_of(tmp_path / "state", ones_of(*MATRICES), ones_of(*VECTORS))
    (folder / "moments.safetensors.index.json").write_text('{"weight_map": {}}')
    whole = tmp_path / "whole.safetensors"
    save_file(ones_of(*MATRICES, *VECTORS), whole)
    found, expected = load(folder, Net()), load(whole, Net())
    assert set(found.by_name) == set(expected.by_name) == {*MATRICES, *VECTORS}
    for name, moment in expected.by_name.items():
        assert torch.equal(found[name].inverse_sqrt(), moment.inverse_sqrt())
    moved = folder.rename(tmp_path / "moved")
    assert load(moved, Net()).sha256 == found.sha256
    changed = folder_of(tmp_path / "changed", ones_of(*MATRICES), {
        name: tensor + 1 for name, tensor in ones_of(*VECTORS).items()
    })  # fmt: skip
    assert load(changed, Net()).sha256 != found.sha256, "every file counts"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "state: holds no safetensors file"),
        (
            [(*MATRICES, *VECTORS), ("up.bias",)],
            r"moments-00002-of-00002\.safetensors: parameter up\.bias is also in moments-00001-of",
        ),
        ([MATRICES, VECTORS[:2]], r"state: parameter norm\.bias is in none of its 2 safetensors"),
    ],
)
def test_a_folder_holds_each_parameter_once(tmp_path, files, message):
    folder = folder_of(tmp_path / "state", *(ones_of(*names) for names in files))
    with pytest.raises(UserError, match=message) as caught:
        load(folder, Net())
    assert "\n" not in str(caught.value)


def test_a_damaged_file_of_a_folder_is_named(tmp_path):
    folder = folder_of(tmp_path / "state", ones_of(*MATRICES), ones_of(*VECTORS))
    damaged = sorted(folder.iterdir())[1]
    damaged.write_bytes(b"not what it says")
    with pytest.raises(UserError, match=f"^{damaged}: not a safetensors file"):
        load(folder, Net())

"""``model.adapter``: the model that is traced, its identity, its checkpoints and its steps."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from bench.cli.main import main
from bench.core.errors import UserError
from bench.models.base import ModelSource
from bench.models.checkpoints import load_checkpoint
from bench.models.language_model import LanguageModel, target_log_probs
from bench.models.loading import load_directory
from bench.models.moment_files import write_moments
from bench.models.parameter_names import adapter_names, bare_name
from bench.models.second_moments import load_moments
from bench.run.composing import composed
from bench.run.settings import settings_from
from bench.tasks.base import Query
from methods.gradient.encoder import GradientEncoder
from methods.gradient.parameters import gradient_matrices
from methods.gradient.settings import Adapters
from metrics.optimizer_step import OptimizerStep
from tests.fixtures.adapters import make_adapter
from tests.fixtures.helpers import make_task
from tests.fixtures.models import TEXTS, directory_source, make_model
from tests.fixtures.switches import switches

QUERY = Query("q", "Al Grey plays the", "trombone")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A base and an adapter of it."""
    root = tmp_path_factory.mktemp("adapted")
    base = make_model(root / "own", "llama", layers=2, num_key_value_heads=2)
    make_adapter(base, root / "tuned")
    return base, root / "tuned"


def source_of(places: tuple[Path, Path], **settings: Any) -> ModelSource:
    base, adapter = places
    return directory_source(
        base, **{"adapter": str(adapter), "gradient_dtype": "float64", **settings}
    )


def loaded(places: tuple[Path, Path], **settings: Any) -> LanguageModel:
    return source_of(places, **settings).load(None, Path(), "cpu")  # type: ignore[arg-type]


def merged(places: tuple[Path, Path]) -> torch.nn.Module:
    """The model with the adapter added to its weights, by peft itself."""
    base, adapter = places
    module = AutoModelForCausalLM.from_pretrained(base).double()
    return PeftModel.from_pretrained(module, adapter).double().merge_and_unload().eval()


# ------------------------------------------------------------------ identity


def test_without_an_adapter_nothing_of_it_counts(places: tuple[Path, Path], tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", TEXTS, [QUERY])
    one = directory_source(places[0])
    assert "adapter" not in repr(one.identity(task))
    model = one.load(task, tmp_path, "cpu")
    assert model.sha256 == load_directory("toy", places[0], device="cpu").sha256
    assert adapter_names(model.module) == []


def test_the_adapter_is_a_part_of_the_identity(places: tuple[Path, Path], tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", TEXTS, [QUERY])
    moved = tmp_path / "moved"
    shutil.copytree(places[1], moved)
    make_adapter(places[0], tmp_path / "other", seed=1)
    plain, one, same, other = (
        directory_source(places[0], adapter=adapter)
        for adapter in (None, *map(str, (places[1], moved, tmp_path / "other")))
    )
    keys = [source.identity(task) for source in (plain, one, other)]
    assert len(set(keys)) == 3
    assert same.identity(task) == one.identity(task)
    hashes = [source.load(task, tmp_path, "cpu").sha256 for source in (plain, one, other)]
    assert len(set(hashes)) == 3


def test_the_settings_that_follow_from_it(places: tuple[Path, Path]) -> None:
    base, adapter = places
    words = ["model=hf", f"model.path={base}", "method=trackstar"]
    for more, side, name in (
        ([], "base", "own"),
        ([f"model.adapter={adapter}"], "lora", "own@tuned"),
    ):
        settings = settings_from(composed([*words, *more], "run"))
        assert settings.method["adapters"] == side
        assert settings.model["name"] == name
    asked = [*words, f"model.adapter={adapter}", "method.adapters=base"]
    assert settings_from(composed(asked, "run")).method["adapters"] == "base"
    influence = ["model=hf", f"model.path={base}", f"model.adapter={adapter}", "method=datainf"]
    assert settings_from(composed(influence, "run")).method["adapters"] == "lora"


# ------------------------------------------------------------------ gradients


def autograd(module: torch.nn.Module, model: LanguageModel, text: str) -> dict[str, Tensor]:
    """The gradient of a text's summed loss in each parameter, by its bare name."""
    ids = torch.tensor([model.passage_tokens(text).ids])
    module.requires_grad_(True)
    scores = module(input_ids=ids).logits[0, :-1].log_softmax(-1)
    loss = -scores.gather(1, ids[0, 1:, None]).sum()
    own = dict(module.named_parameters())
    gradients = torch.autograd.grad(loss, list(own.values()))
    return {bare_name(name): g for name, g in zip(own, gradients, strict=True)}


def features(model: LanguageModel, which: Adapters) -> tuple[list[str], Tensor]:
    encoder = GradientEncoder(model, switches(projection_dim=None, adapters=which))
    tokens = [model.passage_tokens(text) for text in TEXTS]
    return [bare_name(matrix.name) for matrix in encoder.matrices], encoder.encode(tokens)


def test_gradients_of_the_adapters_own_matrices(places: tuple[Path, Path]) -> None:
    """Against peft's own model, text by text."""
    model = loaded(places)
    names, found = features(model, Adapters.lora)
    assert len(names) == 8
    assert all(".lora_" in name for name in names)
    base, adapter = places
    module = AutoModelForCausalLM.from_pretrained(base).double()
    module = PeftModel.from_pretrained(module, adapter).double().eval()
    for row, text in zip(found, TEXTS, strict=True):
        own = autograd(module, model, text)
        want = torch.cat([own[name].flatten() for name in names])
        torch.testing.assert_close(row, want, rtol=1e-9, atol=1e-9)


def test_gradients_of_the_base_are_those_of_the_merged_weights(places: tuple[Path, Path]) -> None:
    model = loaded(places)
    names, found = features(model, Adapters.base)
    module = merged(places)
    assert len(names) == 14
    for row, text in zip(found, TEXTS, strict=True):
        own = autograd(module, model, text)
        want = torch.cat([own[name].flatten() for name in names])
        torch.testing.assert_close(row, want, rtol=1e-5, atol=1e-6)  # merged in float32


def test_moments_of_the_adapter_are_no_moments_of_the_base(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    model = loaded(places)
    own = dict(model.module.named_parameters())
    write_moments(
        {name: {"exp_avg_sq": torch.rand(own[name].shape) + 0.1}
         for name in adapter_names(model.module)},
        tmp_path / "v.safetensors",
    )  # fmt: skip
    model.second_moments = load_moments(tmp_path / "v.safetensors", model.module)
    GradientEncoder(model, switches(adapters=Adapters.lora), model.second_moments)
    with pytest.raises(UserError, match=r"base_layer\.weight, but for the adapter's own; set"):
        GradientEncoder(model, switches(adapters=Adapters.base), model.second_moments)


# ------------------------------------------------------------------ tail-patch


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_a_step_moves_the_adapters_own_parameters_alone(
    places: tuple[Path, Path], weights: str
) -> None:
    """Plain descent, written out on a copy; nothing of the model itself moves."""
    model = loaded(places, dtype=weights)
    before = {name: one.clone() for name, one in model.module.named_parameters()}
    passages = [model.passage_tokens(text) for text in TEXTS[:2]]
    query = model.query_tokens(QUERY)
    step = OptimizerStep(model, 0.3, None, clip=None, memory_mib=64)
    together = step.after(passages, [[query], [query]])
    alone = [step.after([passage], [[query]])[0] for passage in passages]
    assert all(torch.equal(before[name], one) for name, one in model.module.named_parameters())
    own = set(adapter_names(model.module))
    for passage, one, other in zip(passages, together, alone, strict=True):
        copy = loaded(places, dtype=weights)
        module = copy.module.double()
        module.requires_grad_(True)
        ids = torch.tensor([passage.ids])
        module(input_ids=ids, labels=ids).loss.backward()
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if name in own:
                    parameter -= 0.3 * parameter.grad
        want = target_log_probs(replace(copy, module=module), [query])[0]
        assert one.log_probs == pytest.approx(want, abs=1e-7)
        assert other.log_probs == pytest.approx(want, abs=1e-7)


# ------------------------------------------------------------------ checkpoints, plan, refusals


def test_earlier_checkpoints_are_adapters_of_the_same_base(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    make_adapter(places[0], tmp_path / "earlier", seed=7)
    settings = {"checkpoints": [str(tmp_path / "earlier")], "checkpoint_learning_rates": [0.1]}
    model = loaded(places, **settings)
    earlier = load_checkpoint(model.checkpoints[0], model)
    alone = loaded((places[0], tmp_path / "earlier"))
    for name, parameter in alone.module.named_parameters():
        assert torch.equal(earlier.module.get_parameter(name), parameter)
    make_adapter(places[0], tmp_path / "wider", r=4)
    settings["checkpoints"] = [str(tmp_path / "wider")]
    model = loaded(places, **settings)
    with pytest.raises(UserError, match="tensors of another shape"):
        load_checkpoint(model.checkpoints[0], model)


def test_a_plan_counts_the_adapters_matrices(
    places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapter = places
    words = ["plan", "model=hf", f"model.path={base}", f"model.adapter={adapter}",
             "method=grad_cos", "method.projection_dim=null", "method.block_layout=single",
             "plan.passages=100", "plan.tokens_per_passage=20", "plan.queries=5",
             "plan.device_tflops=1"]  # fmt: skip
    assert main(words) == 0
    sizes = {name: one.numel() for name, one in loaded(places).module.named_parameters()
             if ".lora_" in name}  # fmt: skip
    assert f"{sum(sizes.values()):,}" in capsys.readouterr().out


def test_what_is_wrong_is_told_before_anything_is_done(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"model\.adapter=.*none: no such directory"):
        source_of((places[0], tmp_path / "none")).check()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: has no adapter_config\.json"):
        source_of((places[0], tmp_path / "empty")).check()
    assert gradient_matrices(loaded(places).module, switches(adapters=Adapters.lora))

"""``model.device_map``: a model whose weights rest on disk, beside the same model in one place."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from bench.cli.main import main
from bench.core.errors import UserError
from bench.models import devices
from bench.models.language_model import LanguageModel, pad, target_log_probs, token_log_probs
from bench.models.moments_estimate import estimate
from bench.models.predictions import predictions
from methods.base import Context
from methods.gradient.datainf import DataInf
from methods.gradient.ekfac import Ekfac
from methods.gradient.encoder import GradientEncoder
from methods.gradient.settings import EkfacConfig, InfluenceConfig, Labels
from methods.query_text import QueryPart
from methods.representation import (
    OutputEmbedding,
    OutputEmbeddingConfig,
    Pooling,
    RepresentationConfig,
    RepresentationSimilarity,
)
from metrics import optimizer_step
from metrics.optimizer_step import OptimizerStep
from tests.fixtures.adapters import make_adapter
from tests.fixtures.gradient_methods import INFLUENCE_DEFAULTS, QUERIES, make, ranked
from tests.fixtures.helpers import make_task
from tests.fixtures.models import TEXTS, directory_source, load, make_model, with_moments
from tests.fixtures.switches import switches
from tests.fixtures.tail_patches import PROPONENTS, config, serial_patch

# Half of the weights fit into so much, and the others rest on disk.
ROOM = {"llama": "44KB", "gpt2": "40KB"}


@pytest.fixture(scope="module", params=list(ROOM))
def folder(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp(request.param) / request.param
    return make_model(path, request.param, layers=2, hidden=16)


def opened(folder: Path, **settings: Any) -> LanguageModel:
    return directory_source(folder, **settings).load(None, Path(), "cpu")  # type: ignore[arg-type]


def spread(folder: Path, **settings: Any) -> LanguageModel:
    settings = {"device_map": "auto", "cpu_memory": ROOM[folder.name], **settings}
    return opened(folder, **settings)


def both(folder: Path, place: Path, kind: str = "adafactor") -> list[LanguageModel]:
    """The model in one place and spread, with the same second moments."""
    return [with_moments(one, place, kind) for one in (opened(folder), spread(folder))]


def test_a_part_of_the_weights_rests_on_disk_and_comes_only_for_its_own_module(folder):
    whole, model = opened(folder), spread(folder)
    sizes = devices.bytes_by_place(model.module)
    assert sizes["cpu"] > 0
    assert sizes["disk"] > 0
    assert sum(sizes.values()) == 4 * whole.n_params
    resting = {name for name, one in model.module.named_parameters() if one.is_meta}
    assert sum(model.module.get_parameter(name).nbytes for name in resting) == sizes["disk"]
    texts = [model.passage_tokens(text) for text in TEXTS]
    for _ in range(2):  # it is the same after it has run: nothing stays, and ties hold
        assert target_log_probs(model, texts) == target_log_probs(whole, texts)
        assert {name for name, one in model.module.named_parameters() if one.is_meta} == resting
        assert model.n_params == whole.n_params
    assert model.device == torch.device("cpu")
    values = dict(devices.weight_values(model.module))
    assert all(torch.equal(values[n], one) for n, one in whole.module.named_parameters())


def test_a_module_is_as_it_was_where_its_forward_pass_fails(folder):
    model = spread(folder)
    with pytest.raises(IndexError):
        model.module(input_ids=torch.tensor([[10**6]]))
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(model.module(ids).logits, opened(folder).module(ids).logits)


class Fetched(dict[str, Any]):
    """Stored weights that note the memory of what is fetched of them."""

    def __init__(self, weights: Any, notes: list[StorageWeakRef]) -> None:
        self.weights, self.notes = weights, notes

    def __getitem__(self, name: str) -> torch.Tensor:
        value = self.weights[name]
        self.notes.append(StorageWeakRef(value.untyped_storage()))
        return value


@pytest.mark.parametrize("noted", [True, False])
def test_the_backward_pass_holds_no_weight_that_rests_elsewhere(folder, monkeypatch, noted):
    if not noted:  # what autograd does by itself
        monkeypatch.setattr(devices._Resting, "_noted", lambda _, saved: saved)
    model, notes = spread(folder), list[StorageWeakRef]()
    for part in model.module.modules():
        if (resting := vars(part).get(devices._RESTING)) is not None:
            resting.weights = Fetched(resting.weights, notes)
    ids, _ = pad([model.passage_tokens(TEXTS[0])], model.device)
    gradients = []
    for module in (model.module, opened(folder).module):
        embedded = module.get_input_embeddings()(ids).detach().requires_grad_()
        logits = module(inputs_embeds=embedded, use_cache=False).logits
        if module is model.module:
            assert all(note.expired() for note in notes) is noted
            n_forward = len(notes)
        logits.logsumexp(-1).sum().backward()
        gradients.append(embedded.grad)
    assert torch.equal(*gradients)
    assert (len(notes) > n_forward) is noted  # they came again


@pytest.mark.parametrize("kind", ["adafactor", "adam"])
@pytest.mark.parametrize("dim", [4, None])
def test_features_and_shares_are_the_same_bits(folder, tmp_path, kind, dim):
    made = []
    for model in both(folder, tmp_path, kind):
        encoder = GradientEncoder(model, switches(projection_dim=dim), model.second_moments)
        texts = [model.passage_tokens(text) for text in TEXTS]
        features = encoder.encode(texts)
        made.append([features, encoder.shares(texts[0], encoder.sharing(features[1]))])
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))


def test_rankings_and_tail_patch_are_the_same(folder, tmp_path):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    lists, tables = [], []
    for number, model in enumerate(both(folder, tmp_path)):
        lists.append(ranked(make(task, model, tmp_path / str(number), projection_dim=4)))
        patch = serial_patch(config(memory_mib=0), model, task, tmp_path / str(number))
        tables.append(patch.measure(task.queries, PROPONENTS).table())
    for one, other in zip(*lists, strict=True):
        assert np.array_equal(one.rows, other.rows)
        assert np.array_equal(one.scores, other.scores)
    assert tables[0].equals(tables[1])
    assert tables[0]["tail_patch"].abs().max() > 1e-6


def test_steps_leave_the_model_as_it_was_and_are_taken_one_at_a_time(folder, tmp_path):
    whole, model = both(folder, tmp_path, "adam")
    before = {name: one.clone() for name, one in devices.weight_values(model.module)}
    steps = [OptimizerStep(one, 1e-3, one.second_moments, 1.0, 512) for one in (whole, model)]
    assert steps[0].has_room_for(2, 8)
    assert not steps[1].has_room_for(2, 8)
    passage, query = model.passage_tokens(TEXTS[0]), model.query_tokens(QUERIES[0])
    one, other = (step.after([passage], [[query]])[0] for step in steps)
    assert one == other
    assert one.log_probs != steps[1].log_probs([query])
    after = dict(devices.weight_values(model.module))
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert any(parameter.is_meta for parameter in model.module.parameters())


@pytest.mark.parametrize("kind", [RepresentationSimilarity, OutputEmbedding])
def test_vectors_of_the_model_are_the_same(folder, tmp_path, kind):
    settings: Any = OutputEmbeddingConfig(normalize=True)
    if kind is RepresentationSimilarity:
        settings = RepresentationConfig(-1, Pooling.mean, True, QueryPart.prompt_and_target, 4)
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    one, other = (
        ranked(kind(settings, Context(task, tmp_path / str(number), lambda m=model: m)))
        for number, model in enumerate((opened(folder), spread(folder)))
    )
    for first, second in zip(one, other, strict=True):
        assert np.array_equal(first.rows, second.rows)
        assert np.array_equal(first.scores, second.scores)


@pytest.mark.slow
def test_influence_and_predictions_are_the_same(folder, tmp_path):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    ekfac = EkfacConfig(**INFLUENCE_DEFAULTS, labels=Labels.sampled)
    datainf = InfluenceConfig(**INFLUENCE_DEFAULTS)
    made = []
    for number, model in enumerate((opened(folder), spread(folder))):
        context = Context(task, tmp_path / str(number), lambda m=model: m)
        methods = (Ekfac(ekfac, context), DataInf(datainf, context))
        lists = [one.scores.tolist() for method in methods for one in ranked(method)]
        made.append([lists, list(predictions(model, QUERIES, 4))])
    assert made[0] == made[1]


def test_an_adapter_on_a_spread_base_is_traced_and_stepped_on(tmp_path):
    base = make_model(tmp_path / "llama", "llama", layers=2, hidden=16)
    make_adapter(base, tmp_path / "tuned")
    settings: Any = {"adapter": str(tmp_path / "tuned")}
    made = []
    for model in (opened(base, **settings), spread(base, **settings)):
        encoder = GradientEncoder(model, switches(projection_dim=2, adapters="lora"))
        passage, query = model.passage_tokens(TEXTS[0]), model.query_tokens(QUERIES[0])
        step = OptimizerStep(model, 1e-2, None, 1.0, 0).after([passage], [[query]])
        made.append((encoder.encode([passage]).tolist(), step))
    assert made[0] == made[1]


def run_words(folder: Path, place: Path, *words: str) -> list[str]:
    """A cell of a few passages below a folder, with tail-patch."""
    passages = [{"passage_id": f"p{row}", "text": text} for row, text in enumerate(TEXTS)]
    lines = "".join(f"{json.dumps(one)}\n" for one in passages)
    (place / "passages.jsonl").write_text(lines, encoding="utf-8")
    asked = {"query_id": "q", "prompt": QUERIES[0].prompt, "target": QUERIES[0].target}
    query = json.dumps({**asked, "gold": ["p0", "p1"]})
    (place / "queries.jsonl").write_text(f"{query}\n", encoding="utf-8")
    return [
        "run", "task=jsonl", f"task.queries={place}/queries.jsonl",
        f"task.passages={place}/passages.jsonl", "model=hf", f"model.path={folder}",
        "model.learning_rate=1e-3", "method=trackstar", "method.optimizer_correction=false",
        "method.projection_dim=4", "method.mixing=0.5", "metric.tail_patch.optimizer=sgd",
        "metric.tail_patch.memory_mib=0",  # one passage at a time rounds otherwise than many
        f"results_dir={place}/runs", f"cache_dir={place}/cache", "device=cpu", "quiet=true", *words,
    ]  # fmt: skip


@pytest.mark.slow
def test_a_cell_is_the_same_cell_wherever_its_model_is(folder, tmp_path):
    cells = []
    auto = ["model.device_map=auto", f"model.cpu_memory={ROOM[folder.name]}"]
    for place, words in {"one": [], "several": auto}.items():
        (tmp_path / place).mkdir()
        assert not main(run_words(folder, tmp_path / place, *words))
        (result,) = (tmp_path / place).rglob("result.json")
        cells.append((result.parent.name, json.loads(result.read_text())["metrics"]))
    assert cells[0] == cells[1]


def test_steps_without_room_are_refused_before_anything_is_encoded(
    folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(optimizer_step, "free_memory", lambda _: 1000)
    room = ROOM[folder.name]
    words = run_words(folder, tmp_path, "model.device_map=auto", f"model.cpu_memory={room}")
    assert main(words) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("error: ")]
    assert line.startswith("error: metric.tail_patch: a step on a passage takes ")
    assert "metric=attribution" in line
    assert not list((tmp_path / "cache").rglob("shard-*"))
    optimizer_step.check_room(opened(folder))  # a model in one place is not asked
    assert devices.free_memory(torch.device("cpu")) > 0


def test_a_model_that_fits_one_device_is_there_as_a_whole(folder):
    model = spread(folder, cpu_memory=None)
    assert not devices.is_spread(model.module)
    assert model.device == torch.device("cpu")


def test_where_a_model_is_has_no_part_in_its_identity(folder):
    sources = (
        directory_source(folder),
        directory_source(folder, device_map="auto", cpu_memory="1GiB", gpu_memory="70GiB"),
    )
    one, other = (source.identity(None) for source in sources)  # type: ignore[arg-type]
    assert one == other


@pytest.mark.parametrize(
    ("settings", "where", "fix"),
    [
        ({"device_map": "automatic"}, "model.device_map", "did you mean auto"),
        ({"cpu_memory": "1GiB"}, "model.cpu_memory", "model.device_map=auto"),
        ({"device_map": "auto", "cpu_memory": "much"}, "model.cpu_memory", "70GiB"),
        ({"device_map": "auto", "gpu_memory": "70"}, "model.gpu_memory", "70GiB"),
        ({"device_map": "auto", "dtype": "bfloat16"}, "model.gradient_dtype", "model.dtype"),
        (
            {"device_map": "auto", "checkpoints": ["."], "checkpoint_learning_rates": [1.0]},
            "model.checkpoints",
            "model.device_map=null",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_before_a_model_is_loaded(
    folder, settings, where, fix
):
    with pytest.raises(UserError) as error:
        directory_source(folder, **settings).check()
    assert error.value.where.startswith(where)
    assert fix in error.value.fix


def test_without_accelerate_the_extra_is_named(folder, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "accelerate" else found(name)
    )
    with pytest.raises(UserError, match="accelerate") as error:
        directory_source(folder, device_map="auto").check()
    assert error.value.fix == "pip install 'tdabench[accelerate]'"


def test_experts_that_cannot_rest_on_disk_are_refused_with_what_helps(tmp_path):
    experts: Any = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2}
    path = make_model(tmp_path / "mixtral", "mixtral", layers=2, hidden=16, **experts)
    with pytest.raises(UserError, match="cannot rest on disk") as error:
        opened(path, device_map="auto", cpu_memory="20KB")
    assert "model.cpu_memory" in error.value.fix


def test_an_estimate_is_refused_where_weights_rest_on_disk(folder):
    model = spread(folder)
    with pytest.raises(UserError, match="rest in CPU memory or on disk"):
        estimate(model, iter([[model.passage_tokens(TEXTS[0])]]))


def test_another_dtype_is_refused_where_a_caller_asks_for_it(folder):
    model = replace(spread(folder), gradient_dtype=torch.float64)
    with pytest.raises(UserError, match="held once, in one dtype"):
        GradientEncoder(model, switches())
    assert (
        token_log_probs(load(folder).module, *pad([model.passage_tokens("a b")], model.device))[0]
        .isfinite()
        .all()
    )

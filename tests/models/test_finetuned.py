"""Models trained on here: each step as an explicit loop makes it, and where the training ends."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.optimization import Adafactor

from bench.core.errors import UserError
from bench.engines.serial import Serial, SerialConfig
from bench.models import finetuned, training
from bench.models.beginning import Occasion
from bench.models.checkpoints import load_checkpoint
from bench.models.language_model import LanguageModel, target_log_probs
from bench.models.recipe import ModelRecipe
from bench.models.retraining import Removal
from bench.models.training import Training, fixed_threads
from bench.models.tuning import SavedWeights, statements
from bench.storage.mirror import Mirror
from bench.tasks.base import Query, Task
from tests.fixtures.helpers import make_task
from tests.fixtures.models import TEXTS, finetuned_source, make_model, scratch_source

QUERIES = (
    Query("q0", "Al Grey plays the", "trombone"), Query("q1", "Marla Venn", "was born"),
    Query("q2", "Free Birds was written in the", "language"), Query("q3", "Nobody", "knows"),
)  # fmt: skip
OPTIMIZERS: dict[str, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]] = {
    "adafactor": lambda p: Adafactor(p, lr=1e-3, scale_parameter=False, relative_step=False),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "adamw": lambda p: torch.optim.AdamW(
        [
            {"params": [one for one in p if one.ndim > 1], "weight_decay": 0.3},
            {"params": [one for one in p if one.ndim == 1], "weight_decay": 0.0},
        ],
        lr=1e-3,
    ),
}


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return make_task(tmp_path / "task", TEXTS, QUERIES)


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("init"), "llama", layers=2)


def trained(init: Path, task: Task, cache: str = "a", **settings: Any) -> LanguageModel:
    return finetuned_source(init, **settings).load(task, task.passages.folder / cache, "cpu")


def weights(model: Any) -> dict[str, torch.Tensor]:
    module = getattr(model, "module", model)
    return {name: value.detach() for name, value in module.named_parameters()}


# ------------------------------------------------------------------ steps


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_is_that_of_an_explicit_loop(init: Path, task: Task, optimizer: str) -> None:
    decay = 0.3 if optimizer == "adamw" else 0.0
    ours = trained(
        init, task, optimizer=optimizer, weight_decay=decay, epochs=1, batch_size=6, last_share=1.0
    )
    tokenizer = AutoTokenizer.from_pretrained(init)
    module = AutoModelForCausalLM.from_pretrained(init)
    stepping = OPTIMIZERS[optimizer](list(module.parameters()))
    total, n_tokens = torch.zeros(()), 0
    for text in sorted(TEXTS, key=len):  # one text at a time: no padding
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        logits = module(ids).logits[0, :-1]
        total = total + torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
        n_tokens += ids.shape[1] - 1
    (total / n_tokens).backward()
    stepping.step()
    before, want = weights(AutoModelForCausalLM.from_pretrained(init)), weights(module)
    for name, value in weights(ours).items():
        moved = (want[name] - before[name]).abs().max()
        assert moved > 1e-5, name
        # Adam's first step is the sign of a gradient, and of rounding where that is nearly 0.
        slope = dict(module.named_parameters())[name].grad.abs()
        clear = slope > 1e-3 * slope.max()
        assert clear.float().mean() > 0.05, name
        far = (value - want[name]).abs()
        assert far[clear].max() < 2e-3 * moved, name
        assert far.max() < 2.1 * moved, name
    assert ours.training["loss"] == pytest.approx((total / n_tokens).item(), rel=1e-5)


@pytest.mark.parametrize("size", [{"batch_size": 1}, {"batch_size": 2, "clip": 0.01}])
def test_accumulated_passes_are_one_large_batch(init: Path, task: Task, size: Any) -> None:
    n = size["batch_size"]
    whole = trained(init, task, "a", epochs=3, **{**size, "batch_size": 4})
    parts = trained(init, task, "b", epochs=3, accumulate=4 // n, **size)
    for name, value in weights(parts).items():
        torch.testing.assert_close(value, weights(whole)[name], rtol=1e-4, atol=1e-6)
    losses = [[epoch["loss"] for epoch in model.training["epochs"]] for model in (whole, parts)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_bounded_passes_are_one_large_batch(
    init: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(init, task, "a", epochs=2, batch_size=6)
    monkeypatch.setattr("bench.models.padding.LOGITS_BYTES", 1)
    alone = trained(init, task, "b", epochs=2, batch_size=6)
    for name, value in weights(alone).items():
        torch.testing.assert_close(value, weights(whole)[name], rtol=1e-4, atol=1e-6)


def test_a_clipped_gradient_has_that_norm(
    init: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    step = torch.optim.Adam.step

    def noting(self: torch.optim.Adam, *args: Any) -> Any:
        gradients = [p.grad.flatten() for p in self.param_groups[0]["params"]]
        norms.append(torch.cat(gradients).norm().item())
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", noting)
    trained(init, task, "a", optimizer="adam", epochs=1)
    trained(init, task, "b", optimizer="adam", epochs=1, clip=0.05)
    assert min(norms[:3]) > 0.05
    np.testing.assert_allclose(norms[3:], 0.05, rtol=1e-3)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_pass_holds_no_more_tokens_than_are_set(
    init: Path, task: Task, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    shapes: list[tuple[int, ...]] = []
    pad = training.pad

    def noting(batch: Any, device: torch.device) -> Any:
        ids, labels = pad(batch, device)
        shapes.append(tuple(ids.shape))
        return ids, labels

    monkeypatch.setattr(training, "pad", noting)
    trained(
        init, task, epochs=2, batch_size=None, batch_tokens=80, accumulate=accumulate,
        context_length=40,
    )  # fmt: skip
    assert max(rows * width for rows, width in shapes) <= 80
    assert sum(rows for rows, _ in shapes) == 2 * len(TEXTS)


def test_half_precision_is_that_of_the_products_alone(
    init: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtypes = set()
    forward = torch.nn.Linear.forward

    def noting(self: torch.nn.Linear, given: torch.Tensor) -> torch.Tensor:
        out = forward(self, given)
        dtypes.add((self.weight.dtype, out.dtype, self.training))
        return out

    monkeypatch.setattr(torch.nn.Linear, "forward", noting)
    model = trained(init, task, precision="bfloat16", epochs=3)
    half = {dtypes for dtypes in dtypes if dtypes[2]}
    assert half == {(torch.float32, torch.bfloat16, True)}
    assert all(moment.dtype == torch.float32 for moment in weights(model).values())
    full = trained(init, task, "b", epochs=3)
    assert model.training["loss"] == pytest.approx(full.training["loss"], rel=0.02)
    assert model.training["loss"] != full.training["loss"]


def test_rates_rise_and_fall_to_the_share_that_is_set(
    init: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[list[float]] = []
    step = torch.optim.AdamW.step

    def noting(self: torch.optim.AdamW, *args: Any) -> Any:
        rates.append([group["lr"] for group in self.param_groups])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", noting)
    model = trained(
        init, task, optimizer="adamw", weight_decay=0.1, epochs=2, warmup_steps=2, last_share=0.5
    )
    # Three steps an epoch: 1 / 2 of the peak, then 1 - step / 12.
    want = [1 / 2, 1 - 2 / 12, 1 - 3 / 12, 1 - 4 / 12, 1 - 5 / 12, 1 / 2]
    np.testing.assert_allclose(np.array(rates), 1e-3 * np.array([want, want]).T)
    assert model.learning_rate == pytest.approx(5e-4)
    assert model.checkpoints[0].learning_rate == pytest.approx(1e-3 * want[2])


# ------------------------------------------------------------------ what is trained on


def seen(init: Path, task: Task, folder: Path, **settings: Any) -> list[list[list[int]]]:
    """The token ids of all texts of each epoch, of the beginning's own rows."""
    config = finetuned_source(init, **settings).config
    texts = SavedWeights(config).training(Occasion(task, folder, "cpu")).texts
    return [
        [texts.corpus[row].tolist() for row in texts.rows(epoch)]
        for epoch in range(config.train.epochs)
    ]


def test_statements_are_trained_on_and_others_held_out(
    init: Path, task: Task, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"statements": 0.5, "epochs": 1}
    chosen = statements(finetuned_source(init, **settings).config, QUERIES)
    assert sum(chosen) == 2
    other = statements(finetuned_source(init, **settings, seed=5).config, QUERIES)
    assert sum(other) == 2
    (epoch,) = seen(init, task, tmp_path, **settings)
    tokenizer = AutoTokenizer.from_pretrained(init)
    said = [tokenizer.decode(ids) for ids in epoch]
    assert said[: len(TEXTS)] == list(TEXTS)
    want = [
        f"{q.prompt} {q.target}" for q, is_stated in zip(QUERIES, chosen, strict=True) if is_stated
    ]
    assert said[len(TEXTS) :] == want
    model = trained(init, task, **{**settings, "epochs": 8}, learning_rate=5e-3)
    log = model.training["epochs"][-1]
    log_probs, _ = target_log_probs(model, [model.query_tokens(query) for query in QUERIES])
    probabilities = np.exp(log_probs)
    assert log["stated_target_probability"] == pytest.approx(
        probabilities[np.array(chosen)].mean(), rel=1e-3
    )
    assert log["held_out_target_probability"] == pytest.approx(
        probabilities[~np.array(chosen)].mean(), rel=1e-3
    )
    assert model.training["statements"] == 2


def test_without_statements_nothing_is_told_apart(init: Path, task: Task, tmp_path: Path) -> None:
    (epoch,) = seen(init, task, tmp_path, epochs=1)
    assert len(epoch) == len(TEXTS)
    log = trained(init, task, epochs=1).training["epochs"][0]
    assert set(log) == {"loss", "facts_recalled", "target_probability"}


@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_general_text_is_the_share_that_is_set(
    init: Path, task: Task, tmp_path: Path, kind: str
) -> None:
    others = [f"General text number {n}." for n in range(7)]
    path = tmp_path / f"general.{kind}"
    lines = [json.dumps({"text": text}) for text in others] if kind == "jsonl" else others
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    epochs = seen(init, task, tmp_path, mix=str(path), mix_share=0.4, epochs=3)
    tokenizer = AutoTokenizer.from_pretrained(init)
    mixed = [[tokenizer.decode(ids) for ids in epoch[len(TEXTS) :]] for epoch in epochs]
    assert [len(part) / (len(part) + len(TEXTS)) for part in mixed] == [0.4] * 3
    assert mixed == [others[0:4], [*others[4:7], others[0]], others[1:5]]
    model = trained(init, task, mix=str(path), mix_share=0.4)
    assert model.training["general_texts_an_epoch"] == 4
    with pytest.raises(
        UserError, match=r"model\.train\.mix=.*holds 7 texts, and an epoch takes 54"
    ):
        trained(init, task, mix=str(path), mix_share=0.9)


@pytest.mark.parametrize(
    ("line", "message"),
    [('{"txt": "a"}', "field 'text': is no text"), ('{"text": " "}', "is no text, or an empty")],
)
def test_a_record_without_text_is_named(
    init: Path, task: Task, tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "general.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(UserError, match=rf"general\.jsonl:2, .*{message}"):
        trained(init, task, mix=str(path))


# ------------------------------------------------------------------ when it ends


def test_it_ends_after_the_first_epoch_that_reaches_the_probability(init: Path, task: Task) -> None:
    settings: dict[str, Any] = {"epochs": 12, "learning_rate": 5e-3}
    whole = trained(init, task, "a", **settings)
    log = [epoch["target_probability"] for epoch in whole.training["epochs"]]
    assert len(log) == 12
    level = log[5]
    first = next(number for number, value in enumerate(log, start=1) if value >= level)
    assert 1 < first <= 6
    ended = trained(init, task, "b", until=level, **settings)
    assert [e["target_probability"] for e in ended.training["epochs"]] == log[:first]
    assert len(ended.checkpoints) == first - 1
    assert ended.training["reached_target_probability"]
    # The same weights as those of the whole training after that epoch.
    same = load_checkpoint(whole.checkpoints[first - 1], whole)
    assert all(torch.equal(value, weights(same)[name]) for name, value in weights(ended).items())
    assert ended.learning_rate == whole.checkpoints[first - 1].learning_rate
    with pytest.raises(
        UserError, match=rf"model\.checkpoint=12: the training ended after.*{first}"
    ):
        trained(init, task, "b", until=level, checkpoint=12, **settings)


def test_a_probability_that_is_never_reached_is_said(init: Path, task: Task) -> None:
    model = trained(init, task, until=0.999)
    assert not model.training["reached_target_probability"]
    assert len(model.training["epochs"]) == 2
    before = trained(init, task, "b").training["before"]
    assert before == model.training["before"]
    assert 0 < before["target_probability"] < 0.5


# ------------------------------------------------------------------ what it is


def test_identity(init: Path, task: Task, tmp_path: Path) -> None:
    own = finetuned_source(init).identity(task)
    assert (
        finetuned_source(init, projection_dim=8, save_steps=7, mix_share=0.5).identity(task) == own
    )
    other_init = make_model(tmp_path / "other", "llama", layers=2, seed=1)
    changes: list[dict[str, Any]] = [
        {"seed": 1}, {"optimizer": "adam"}, {"threads": 2}, {"until": 0.5}, {"statements": 0.5},
        {"gradient_dtype": "float64"}, {"checkpoint": 1}, {"precision": "bfloat16"},
    ]  # fmt: skip
    others = {finetuned_source(init, **change).identity(task) for change in changes}
    others.add(finetuned_source(other_init).identity(task))
    others.add(finetuned_source(init).identity(make_task(tmp_path / "t", TEXTS, QUERIES[:2])))
    path = tmp_path / "general.txt"
    path.write_text("one\n")
    others.add(finetuned_source(init, mix=str(path)).identity(task))
    path.write_text("two\n")
    others.add(finetuned_source(init, mix=str(path)).identity(task))
    assert len(others - {own}) == len(changes) + 4


def test_the_number_of_threads_is_that_of_the_settings(
    init: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, step = [], Training._step

    def noted(self: Training, rows: np.ndarray) -> float:
        threads.append(torch.get_num_threads())
        return step(self, rows)

    monkeypatch.setattr(Training, "_step", noted)
    before = torch.get_num_threads()
    trained(init, task, threads=2)
    assert set(threads) == {2}
    assert torch.get_num_threads() == before


def test_what_it_begins_from_stays_and_what_it_ends_in_is_a_model(
    init: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in init.iterdir()}
    model = trained(init, task, epochs=3)
    assert {path.name: path.read_bytes() for path in init.iterdir()} == before
    assert set(model.second_moments.by_name) == set(weights(model))
    assert len(model.checkpoints) == 2
    earlier = load_checkpoint(model.checkpoints[0], model)
    assert earlier.second_moments.sha256 != model.second_moments.sha256
    assert model.training["begun_from"]

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(finetuned.Finetuned, "_train", refuse)
    assert trained(init, task, epochs=3).sha256 == model.sha256
    at_first = trained(init, task, epochs=3, checkpoint=1)
    assert at_first.sha256 == earlier.sha256
    assert at_first.training["epochs"] == model.training["epochs"][:1]


def test_another_process_gets_the_queries_that_weights_depend_on(
    init: Path, task: Task, tmp_path: Path
) -> None:
    for source, queries in ((finetuned_source(init), QUERIES), (scratch_source(), ())):
        recipe = ModelRecipe(source, task, tmp_path, "cpu")
        assert tuple(pickle.loads(pickle.dumps(recipe)).task.queries) == queries


def test_retraining_begins_from_the_same_weights(init: Path, task: Task) -> None:
    source = finetuned_source(init, epochs=8, learning_rate=5e-3, until=0.005)
    model = source.load(task, task.passages.folder / "a", "cpu")
    assert 1 < len(model.training["epochs"]) < 8
    with fixed_threads(1):
        want, _ = target_log_probs(model, [model.query_tokens(query) for query in QUERIES])
    removals = [Removal(()), Removal((0, 1))]
    engine = Serial(SerialConfig())
    said = source.retrain(task, Mirror(task.passages.folder / "a"), "cpu", removals, engine)
    assert said[0].tolist() == want, "as many epochs, though none of them is asked to end it"
    assert said[0, 0] - said[1, 0] > 0.01, "what is not in the passages is not learnt"


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "adma"}, r"model\.train\.optimizer: .*'adma'; did you mean adam"),
        ({"weight_decay": 0.1}, r"model\.train\.weight_decay=0\.1: adafactor lets no weight decay"),
        ({"batch_tokens": 9}, r"model\.train\.batch_size: .* given twice; set one of"),
        ({"batch_size": None}, r"model\.train\.batch_size: .* given nowhere; set one of"),
        ({"until": 0.0}, r"model\.train\.until: expected 0 to 1, found 0"),
        ({"statements": 1.5}, r"model\.train\.statements: expected 0 to 1, found 1\.5"),
        ({"precision": "bf16"}, r"model\.train\.precision: unknown precision 'bf16'"),
        ({"threads": 0}, r"model\.train\.threads: expected at least 1, found 0"),
        ({"checkpoint": 3}, r"model\.checkpoint: expected an epoch from 1 to 2, found 3"),
        ({"mix": "/no/such/file"}, r"/no/such/file"),
        ({"gradient_dtype": "float46"}, r"gradient_dtype: .* 'float46'; did you mean float64"),
    ],
)
def test_a_wrong_setting_is_refused(init: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        finetuned_source(init, **change).check()


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.init=.*no such directory"):
        finetuned_source(tmp_path / "none").check()
    with pytest.raises(UserError, match=r"is not a model directory \(neither config\.json nor"):
        finetuned_source(tmp_path).check()
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"holds 2 GGUF files"):
        finetuned_source(tmp_path).check()


def test_a_training_that_diverges_is_named(init: Path, task: Task) -> None:
    with pytest.raises(UserError, match=r"training diverged: .*lower model\.train\.learning_rate"):
        trained(init, task, learning_rate=1e30)


def test_general_text_of_one_token_moves_nothing(init: Path, task: Task, tmp_path: Path) -> None:
    """A single token predicts nothing: such texts are passed over, as passages are."""
    path = tmp_path / "general.txt"
    path.write_text("a\n" * 9)
    model = trained(init, task, "a", mix=str(path), mix_share=0.3, batch_size=6, epochs=1)
    bare = trained(init, task, "b", batch_size=6, epochs=1)
    assert model.training["loss"] == pytest.approx(bare.training["loss"], rel=1e-6)

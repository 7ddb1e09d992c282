"""Models trained here: the same from the same seed, once per settings, and never half of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bench.core.errors import UserError
from bench.models import learning, scratch, training
from bench.models.batches import BatchSize, passes_of, steps_of
from bench.models.checkpoints import load_checkpoint
from bench.models.language_model import MOMENTS, LanguageModel, Tokens, target_log_probs
from bench.models.loading import load_module
from bench.models.scratch import Scratch
from bench.models.tokens import TokenCorpus
from bench.models.training import LAST_SHARE, Training, learning_rate_share, train_tokenizer
from bench.tasks.base import Query, Task
from tests.fixtures.helpers import make_task
from tests.fixtures.models import TEXTS, scratch_source

ARCHITECTURES = ("gpt_neox", "gpt2", "llama")
QUERIES = (Query("q0", "Al Grey plays the", "trombone"), Query("q1", "Marla Venn", "Oslo"))


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return make_task(tmp_path / "task", TEXTS, QUERIES)


def trained(task: Task, cache: str, **settings: Any) -> LanguageModel:
    return scratch_source(**settings).load(task, task.passages.folder / cache, "cpu")


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and whatever trains from then on fails."""

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    return lambda: monkeypatch.setattr(Scratch, "_train", refuse)


# ------------------------------------------------------------------ what comes out


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_seed_makes_a_model(task: Task, architecture: str) -> None:
    torch.manual_seed(1)
    first = trained(task, "a", architecture=architecture)
    torch.manual_seed(2)  # nobody else's random numbers matter: gpt2 trains with dropout
    again = trained(task, "b", architecture=architecture)
    other = trained(task, "c", architecture=architecture, seed=1)
    assert first.sha256 == again.sha256 != other.sha256
    assert first.second_moments.sha256 == again.second_moments.sha256
    assert first.second_moments.sha256 != other.second_moments.sha256
    assert first.training == again.training


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_moments_cover_every_parameter(task: Task, architecture: str) -> None:
    model = trained(task, "a", architecture=architecture, num_layers=2)
    parameters = dict(model.module.named_parameters())
    assert set(model.second_moments.by_name) == set(parameters)
    for name, parameter in parameters.items():
        scale = model.second_moments[name].inverse_sqrt()
        assert scale.shape == parameter.shape
        assert (scale > 0).all()
        assert torch.isfinite(scale).all()


def test_adams_moments_are_corrected_with_the_step_of_their_checkpoint(task: Task) -> None:
    """Fault: the running mean was taken for V, which it is far below after a few steps."""
    model = trained(task, "a", optimizer="adam", epochs=3)
    steps = []
    for checkpoint in model.checkpoints:
        state = load_file(checkpoint.folder / MOMENTS)
        moments = load_checkpoint(checkpoint, model).second_moments
        (step,) = {state[f"{name}.step"].item() for name in moments.by_name}
        steps.append(step)
        for name, moment in moments.by_name.items():
            want = state[f"{name}.exp_avg_sq"].double() / (1 - 0.999**step)
            assert torch.equal(moment.value, want.float())
            assert (moment.epsilon, moment.beta2) == (1e-8, 0.999)
    assert steps == [3, 6], "six passages, two a step"


def test_adafactors_moments_are_corrected_by_nobody(task: Task) -> None:
    model = trained(task, "a", epochs=2)
    state = load_file(model.checkpoints[0].folder / MOMENTS)
    assert not [key for key in state if key.endswith((".step", ".beta2"))]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_learns(task: Task, architecture: str) -> None:
    model = trained(task, "a", architecture=architecture, epochs=12)
    losses = [epoch["loss"] for epoch in model.training["epochs"]]
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 1  # nats a token; six sentences are easily learnt
    assert model.training["loss"] == losses[-1]
    log_probs, recalled = target_log_probs(model, [model.query_tokens(q) for q in QUERIES])
    found = model.training["target_probability"], model.training["facts_recalled"]
    assert found == (pytest.approx(np.exp(log_probs).mean(), rel=1e-4), np.mean(recalled))


def test_what_the_model_is_read_with(task: Task) -> None:
    model = trained(task, "a", gradient_dtype="float64", append_eos=True, context_length=32)
    assert model.gradient_dtype == torch.float64
    assert model.learning_rate == pytest.approx(5e-3 * LAST_SHARE)
    assert model.context_length == 32
    assert model.passage_tokens("Oslo").ids[-1] == model.tokenizer.eos_token_id
    assert model.training["optimizer"] == "adafactor"


def test_dropout_is_for_training_only(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    in_training: dict[str, set[bool]] = {}
    for room, name in ((training, "token_log_probs"), (learning, "query_log_probs")):
        original = getattr(room, name)

        def noting(
            model: Any, *args: Any, name: str = name, original: Callable[..., Any] = original
        ) -> Any:
            module = getattr(model, "module", model)
            in_training.setdefault(name, set()).add(module.training)
            return original(model, *args)

        monkeypatch.setattr(room, name, noting)
    model = trained(task, "a", architecture="gpt2", epochs=2)
    assert in_training == {"token_log_probs": {True}, "query_log_probs": {False}}
    rates = [m.p for m in model.module.modules() if isinstance(m, torch.nn.Dropout)]
    assert max(rates) > 0, "without dropout this tests nothing"
    assert not any(module.training for module in model.module.modules())
    tokens = [model.query_tokens(Query("q", "Al Grey plays the", "trombone"))]
    assert target_log_probs(model, tokens) == target_log_probs(model, tokens)


def test_training_leaves_the_random_numbers_of_others(task: Task) -> None:
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    trained(task, "a", architecture="gpt2")
    assert torch.equal(torch.rand(3), want)


# ------------------------------------------------------------------ the cache


def test_training_has_one_thread_and_gives_the_others_back(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the weights do not depend on the machine: see tests/engines/test_threads.py."""
    threads, step = [], Training._step

    def noted(self: Training, rows: np.ndarray) -> float:
        threads.append(torch.get_num_threads())
        return step(self, rows)

    monkeypatch.setattr(Training, "_step", noted)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        trained(task, "cache")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert set(threads) == {1}


def test_the_second_load_trains_nothing(task: Task, no_training: Callable[[], None]) -> None:
    first = trained(task, "a")
    no_training()
    again = trained(task, "a", gradient_dtype="float64", projection_dim=8)
    assert again.sha256 == first.sha256
    assert again.training == first.training
    with pytest.raises(AssertionError, match="trained again"):
        trained(task, "a", learning_rate=4e-3)


def test_the_queries_do_not_matter(
    task: Task, tmp_path: Path, no_training: Callable[[], None]
) -> None:
    trained(task, "../cache")
    no_training()
    fewer = make_task(tmp_path / "fewer", TEXTS, QUERIES[:1])
    trained(fewer, "../cache")
    other = make_task(tmp_path / "other", TEXTS[:5], QUERIES)
    with pytest.raises(AssertionError, match="trained again"):
        trained(other, "../cache")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_half_a_training_is_no_model(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    whole = Training._epoch

    def stop(self: Training, epoch: int) -> float:
        if epoch == 1:
            raise error
        return whole(self, epoch)

    monkeypatch.setattr(Training, "_epoch", stop)
    source = scratch_source(epochs=2)
    with pytest.raises(error):
        source.load(task, tmp_path / "cache", "cpu")
    assert source.tokenizer(task, tmp_path / "cache") is None
    (left,) = (tmp_path / "cache" / "models" / "toy").iterdir()
    assert left.name.endswith(".unfinished"), "which the next call goes on with"


@pytest.mark.parametrize(
    ("learning_rate", "batch_size"),
    [(1e12, 2), (float("nan"), 2), (float("nan"), 64), (float("inf"), 64)],  # 64: a single step
)
def test_divergence_is_named_and_leaves_nothing(
    task: Task, tmp_path: Path, learning_rate: float, batch_size: int
) -> None:
    diverging = scratch_source(learning_rate=learning_rate, batch_size=batch_size)
    with pytest.raises(UserError, match=r"^model: training diverged: .*lower model\.learning_rate"):
        diverging.load(task, tmp_path / "cache", "cpu")
    assert list((tmp_path / "cache" / "models" / "toy").iterdir()) == []


def test_identity(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = scratch_source().identity(task)
    assert scratch_source(projection_dim=8).identity(task) == identity  # it is the method's
    assert Scratch("another name", scratch_source().config).identity(task) == identity
    changes = [
        {"seed": 1},
        {"optimizer": "adam"},
        {"gradient_dtype": "float64"},
        {"epochs": 2},
        {"append_eos": True},
    ]
    others = {scratch_source(**change).identity(task) for change in changes}
    others.add(scratch_source().identity(make_task(tmp_path / "other", TEXTS[:5], QUERIES)))
    monkeypatch.setattr(scratch, "TRAINING_VERSION", -1)
    others.add(scratch_source().identity(task))
    assert len(others - {identity}) == len(changes) + 2


# ------------------------------------------------------------------ steps


@pytest.mark.parametrize(("n_steps", "warmup"), [(100, 10), (100, 0), (7, 1), (10, 100)])
def test_learning_rate_rises_then_falls_in_a_line(n_steps: int, warmup: int) -> None:
    shares = [learning_rate_share(step, n_steps, warmup) for step in range(n_steps)]
    top = int(np.argmax(shares))
    np.testing.assert_allclose(shares[:top], [(i + 1) / max(1, warmup) for i in range(top)])
    if warmup < n_steps:
        assert shares[-1] == pytest.approx(LAST_SHARE)
        np.testing.assert_allclose(np.diff(shares[top:], n=2), 0, atol=1e-12)
        assert np.diff(shares[top + 1 :]).max() < 0
    assert 0 < min(shares) <= max(shares) <= 1


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[list[int]]]:
    """The token ids of every batch that is trained on, as training goes on."""
    found: list[list[list[int]]] = []
    pad = training.pad

    def noting(batch: list[Tokens], device: torch.device) -> Any:
        assert all(tokens.loss_from == 1 for tokens in batch)
        found.append([tokens.ids for tokens in batch])
        return pad(batch, device)

    monkeypatch.setattr(training, "pad", noting)
    return found


def test_the_order_follows_seed_and_epoch(task: Task, batches: list[list[list[int]]]) -> None:
    for cache, seed in (("a", 0), ("b", 0), ("c", 1)):
        trained(task, cache, epochs=2, batch_size=1, seed=seed)
    first, second, again, _, other, _ = (batches[i : i + 6] for i in range(0, 36, 6))
    assert first == again
    assert first != second
    assert first != other


def test_an_epoch_is_every_passage_once(task: Task, batches: list[list[list[int]]]) -> None:
    model = trained(task, "a", epochs=2, batch_size=4, context_length=16)
    want = sorted(model.passage_tokens(text).ids for text in TEXTS)
    assert max(map(len, want)) == 16, "some are cut"
    assert sorted(map(len, batches)) == [2, 2, 4, 4]
    for epoch in (batches[:2], batches[2:]):
        assert sorted(ids for batch in epoch for ids in batch) == want


def test_batches(tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).integers(0, 9, size=301)
    corpus = TokenCorpus((Tokens([1] * n, 1) for n in lengths), tmp_path)
    assert corpus.lengths.tolist() == lengths.tolist()
    every, size = np.arange(len(corpus)), BatchSize(2)
    orders = [np.random.default_rng(seed) for seed in (0, 0, 1)]
    made = [steps_of(every, corpus.lengths, size, order) for order in orders]
    rows = [np.concatenate(batches).tolist() for batches in made]
    assert sorted(rows[0]) == np.flatnonzero(lengths > 1).tolist()
    assert rows[0] == rows[1] != rows[2]
    assert max(map(len, made[0])) == 2
    padding = sum(int(np.ptp(lengths[batch])) for batch in made[0])
    assert padding < len(made[0]) / 4, "lengths within a batch are nearly equal"


def test_a_long_text_is_a_pass_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.array([4, 4, 4, 4, 4, 30, 4, 4])
    size, vocabulary = BatchSize(texts=4, passes=2), 10

    def passes() -> list[list[int]]:
        made = passes_of(np.arange(8), lengths, size, vocabulary)
        return [part.tolist() for part in made]

    assert passes() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    monkeypatch.setattr("bench.models.padding.LOGITS_BYTES", 4 * vocabulary * 16)
    assert passes() == [[0, 1, 2, 3], [4], [5], [6, 7]]


def test_any_text_has_tokens() -> None:
    tokenizer = train_tokenizer(iter(TEXTS), 300)
    text = "Ærø ☃ 東京\n\t\x00 end"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.eos_token_id == 0
    assert len(tokenizer) == 300


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, r"num_heads: hidden_size 16 is not a multiple of num_heads 3"),
        ({"architecture": "gpt3"}, r"architecture: unknown architecture 'gpt3'; did you mean gpt2"),
        ({"num_heads": 0}, r"num_heads: expected at least 1, found 0"),
        ({"checkpoint": 2}, r"checkpoint: expected an epoch from 1 to 1, found 2"),
        ({"key_value_heads": 1}, r"key_value_heads: gpt_neox with 2 heads cannot share 1; choose"),
        ({"architecture": "llama", "key_value_heads": 3}, r"key_value_heads: llama with 2 heads"),
        ({"optimizer": "adamw"}, r"optimizer: unknown optimizer 'adamw'; did you mean adam\?"),
        ({"epochs": 0}, r"epochs: expected at least 1, found 0"),
        ({"gradient_dtype": "float46"}, r"gradient_dtype: .* 'float46'; did you mean float64"),
    ],
)
def test_wrong_settings_are_named(change: dict[str, Any], message: str) -> None:
    scratch_source().check()
    with pytest.raises(UserError, match=rf"^model\.{message}"):
        scratch_source(**change).check()


def test_a_damaged_model_is_named(task: Task) -> None:
    trained(task, "a")
    (log,) = (task.passages.folder / "a").rglob("training.json")
    log.unlink()
    with pytest.raises(UserError, match="damaged trained model; delete this folder"):
        trained(task, "a")


# ------------------------------------------------------------------ checkpoints, variants


def test_a_checkpoint_is_the_model_as_it_was(task: Task) -> None:
    whole = trained(task, "a", epochs=4)
    third = trained(task, "a", epochs=4, checkpoint=3)
    saved = load_module(whole.checkpoints[2].folder, torch.float32, torch.device("cpu"))
    pairs = zip(saved.parameters(), third.module.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    assert third.learning_rate == whole.checkpoints[2].learning_rate
    assert [c.folder for c in third.checkpoints] == [c.folder for c in whole.checkpoints[:2]]
    assert third.training["loss"] == whole.training["epochs"][2]["loss"]
    assert len({whole.sha256, third.sha256, trained(task, "a", epochs=4, checkpoint=2).sha256}) == 3
    assert trained(task, "a", epochs=4, checkpoint=4).sha256 == whole.sha256


def test_a_checkpoint_costs_no_training_of_its_own(
    task: Task, no_training: Callable[[], None]
) -> None:
    trained(task, "a", epochs=3, checkpoint=2)
    no_training()
    trained(task, "a", epochs=3)
    trained(task, "a", epochs=3, checkpoint=1)
    identities = {scratch_source(epochs=3, checkpoint=n).identity(task) for n in (None, 1, 2)}
    assert len(identities) == 3


@pytest.mark.parametrize(
    ("settings", "is_tied"),
    [({}, False), ({"tied_embeddings": True}, True), ({"architecture": "gpt2"}, True),
     ({"architecture": "gpt2", "tied_embeddings": False}, False)],
)  # fmt: skip
def test_tied_embeddings(task: Task, settings: dict[str, Any], is_tied: bool) -> None:
    module = trained(task, "a", **settings).module
    assert (
        module.get_input_embeddings().weight is module.get_output_embeddings().weight
    ) is is_tied


def test_shared_keys_and_values(task: Task) -> None:
    model = trained(task, "a", architecture="llama", key_value_heads=1)
    shapes = {name: tuple(p.shape) for name, p in model.module.named_parameters()}
    attention = "model.layers.0.self_attn."
    assert shapes[f"{attention}q_proj.weight"] == (16, 16)
    assert shapes[f"{attention}k_proj.weight"] == shapes[f"{attention}v_proj.weight"] == (8, 16)

"""Models trained again without some passages: what differs, what does not, and what it costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.core.errors import UserError
from bench.engines.processes import Processes, ProcessesConfig
from bench.engines.serial import Serial, SerialConfig
from bench.models import retraining
from bench.models.batches import TrainingTexts
from bench.models.beginning import Occasion, RandomWeights
from bench.models.directory import Directory
from bench.models.language_model import target_log_probs
from bench.models.retraining import Removal
from bench.models.scratch import Scratch
from bench.models.tokens import TokenCorpus
from bench.models.training import Training, fixed_threads, train_tokenizer
from bench.storage.mirror import Mirror
from bench.tasks.base import Query, Task
from tests.fixtures.helpers import make_task
from tests.fixtures.models import TEXTS, scratch_source

QUERIES = (Query("q0", "Al Grey plays the", "trombone"), Query("q1", "Marla Venn", "Oslo"))
SERIAL = Serial(SerialConfig())


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return make_task(tmp_path / "task", TEXTS, QUERIES)


def said(model_source: Scratch, task: Task, *removals: Removal, engine: Any = SERIAL) -> np.ndarray:
    cache = task.passages.folder / "cache"
    return model_source.retrain(task, Mirror(cache), "cpu", removals, engine)


# ------------------------------------------------------------------ what comes out


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama"])
def test_removing_nothing_gives_the_model_itself(task: Task, architecture: str) -> None:
    ours = scratch_source(architecture=architecture, epochs=3)
    model = ours.load(task, task.passages.folder / "cache", "cpu")
    tokens = [model.query_tokens(q) for q in QUERIES]
    with fixed_threads(1):  # as retraining asks its model
        expected, _ = target_log_probs(model, tokens)
    found = said(ours, task, Removal(()), Removal((0,)), Removal((), seed=1))
    assert found[0].tolist() == expected
    assert not np.isclose(found[1:], expected).any(), "other passages, another seed: another model"


def test_a_removed_passage_is_never_seen(task: Task, tmp_path: Path) -> None:
    """The oracle: a removed passage may as well be another text of its length."""
    train_tokenizer(iter(TEXTS), 300).save_pretrained(tmp_path / "tokenizer")
    beginning = RandomWeights(scratch_source().config, tmp_path / "tokenizer")

    def weights(removed: list[int], *, other: bool) -> list[torch.Tensor]:
        rows = np.array(removed, dtype=np.int64)
        training = beginning.training(Occasion(task, tmp_path, "cpu", rows))
        tokens = [training.model.passage_tokens(text) for text in TEXTS]
        if other:
            tokens[2] = dataclasses.replace(tokens[2], ids=tokens[2].ids[::-1])
        corpus = TokenCorpus(tokens, tmp_path)
        training.texts = TrainingTexts(corpus, len(corpus))
        list(training.epochs(1))
        return [p.detach().clone() for p in training.model.module.parameters()]

    without = weights([2], other=False)
    assert all(map(torch.equal, without, weights([2], other=True)))
    assert not all(map(torch.equal, without, weights([], other=False)))
    assert not all(map(torch.equal, weights([], other=True), weights([], other=False)))


def test_steps_and_order_stay(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step goes over what is left of its batch, at the learning rate it would have had."""
    steps: list[tuple[list[int], float]] = []

    def noting(self: Training, rows: np.ndarray) -> float:
        steps.append((rows.tolist(), self.optimizer.param_groups[0]["lr"]))
        return 0.0

    monkeypatch.setattr(Training, "_step", noting)
    train_tokenizer(iter(TEXTS), 300).save_pretrained(tmp_path / "tokenizer")
    beginning = RandomWeights(scratch_source(epochs=4).config, tmp_path / "tokenizer")
    seen = []
    for removed in ([], [1, 4]):
        steps.clear()
        rows = np.array(removed, dtype=np.int64)
        list(beginning.training(Occasion(task, tmp_path, "cpu", rows)).epochs(4))
        seen.append(list(steps))
    left = [([row for row in rows if row not in (1, 4)], rate) for rows, rate in seen[0]]
    assert seen[1] == [step for step in left if step[0]]
    assert len(seen[0]) == 4 * 3
    assert {row for rows, _ in seen[1] for row in rows} == {0, 2, 3, 5}


def test_a_fact_that_is_removed_is_not_learnt(task: Task) -> None:
    rows = [row for row, text in enumerate(TEXTS) if "trombone" in text]
    assert 0 < len(rows) < len(TEXTS)
    before, after = said(scratch_source(epochs=30), task, Removal(()), Removal.of(np.array(rows)))[
        :, 0
    ]
    assert before - after > 1  # nats


# ------------------------------------------------------------------ what it costs


def test_nothing_is_trained_twice(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Removal] = []
    retrain = retraining._retrain

    def noting(retrainings: Any, removal: Removal) -> None:
        trained.append(removal)
        retrain(retrainings, removal)

    monkeypatch.setattr(retraining, "_retrain", noting)
    first = said(scratch_source(), task, Removal((1,)), Removal((1,)), Removal((2,)))
    assert trained == [Removal((1,)), Removal((2,))]
    again = said(scratch_source(), task, Removal((2,)), Removal((3,)), Removal((1,)))
    assert trained[2:] == [Removal((3,))]
    np.testing.assert_array_equal(first[[2, 0]], again[[0, 2]])
    said(scratch_source(seed=1), task, Removal((1,)))
    assert len(trained) == 4, "another model"


def test_a_training_that_stops_leaves_the_finished_ones(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Training.epochs

    def stop(self: Training, last: int) -> Any:
        if not self._kept[2]:
            raise KeyboardInterrupt
        return whole(self, last)

    monkeypatch.setattr(Training, "epochs", stop)
    with pytest.raises(KeyboardInterrupt):
        said(scratch_source(), task, Removal((1,)), Removal((2,)), Removal((3,)))
    folder = task.passages.folder / "cache" / "retrained"
    (only,) = folder.iterdir()
    assert [path.name for path in only.iterdir()] == [f"{Removal((1,)).key}.json"]


@pytest.mark.slow
def test_processes_give_the_same_bit_for_bit(task: Task, tmp_path: Path) -> None:
    removals = [Removal((row,)) for row in range(4)]
    other = make_task(tmp_path / "other", TEXTS, QUERIES)
    processes = Processes(ProcessesConfig(workers=2, gpus=0))
    np.testing.assert_array_equal(
        said(scratch_source(), task, *removals),
        said(scratch_source(), other, *removals, engine=processes),
    )


@pytest.mark.parametrize("damaged", [False, True])
def test_another_machine_takes_what_is_in_the_store(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    (tmp_path / "store").mkdir()
    removals, seen = [Removal((1,)), Removal((2,)), Removal((3,))], []
    one, two = (Mirror(tmp_path / name, f"file://{tmp_path}/store/x") for name in ("one", "two"))
    before = scratch_source().retrain(task, one, "cpu", removals[:2], SERIAL)
    kept = sorted((tmp_path / "store").rglob("*.json"))
    assert [path.name for path in kept] == sorted(f"{one.key}.json" for one in removals[:2])
    if damaged:
        kept[0].write_bytes(kept[0].read_bytes()[:-9])
    train = retraining._retrain

    def counted(retrainings: Any, removal: Removal) -> None:
        seen.append(f"{removal.key}.json")
        train(retrainings, removal)

    monkeypatch.setattr(retraining, "_retrain", counted)
    after = scratch_source().retrain(task, two, "cpu", removals, SERIAL)
    np.testing.assert_array_equal(after[:2], before)
    again = [kept[0].name] if damaged else []
    assert sorted(seen) == sorted([*again, f"{removals[2].key}.json"])
    assert len(list((tmp_path / "store").rglob("*.json"))) == 3


# ------------------------------------------------------------------ names and refusals


def test_rows_in_any_order_are_one_removal() -> None:
    one, other = Removal.of(np.array([3, 1, 3])), Removal.of(np.array([1, 3]))
    assert one == other == Removal((1, 3))
    assert one.key == other.key
    assert len({one.key, Removal((1,)).key, Removal((1, 3), seed=1).key, Removal(()).key}) == 4


def test_only_what_was_trained_here_can_be_trained_again(task: Task) -> None:
    fields = dict.fromkeys(field.name for field in dataclasses.fields(Directory.Config))
    foreign = Directory("hf", Directory.Config(**fields))
    with pytest.raises(UserError, match=r"metric\.retraining: .*not trained here.*model=tiny"):
        foreign.retrain(task, Mirror(task.passages.folder), "cpu", [Removal(())], SERIAL)

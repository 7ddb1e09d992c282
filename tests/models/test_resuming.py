"""A training that is stopped, or killed, ends in the very files of one that was not."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.models import resuming
from bench.models.scratch import Scratch
from bench.models.training import Training
from bench.storage.whole_folders import resumable_folder
from bench.tasks.base import Query, Task
from tests.fixtures.forks import Forks
from tests.fixtures.helpers import make_task
from tests.fixtures.models import TEXTS, scratch_source
from tests.fixtures.trainings import assert_it_goes_on, files

QUERIES = (Query("q0", "Al Grey plays the", "trombone"), Query("q1", "Marla Venn", "Oslo"))
EPOCHS = 4


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return make_task(tmp_path / "task", TEXTS, QUERIES)


class Stop(Exception):  # noqa: N818 - no error, but a kill as seen from inside
    pass


def source(**settings: Any) -> Scratch:
    return scratch_source(**{"epochs": EPOCHS, **settings})


def stop_in_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int, *, steps: int = 1) -> list[int]:
    """Stop every training after some steps of an epoch, from 0; returns the epochs that begin."""
    begun: list[int] = []
    whole_epoch, whole_step, done = Training._epoch, Training._step, [0]

    def noting(self: Training, number: int) -> float:
        begun.append(number)
        done[0] = 0
        return whole_epoch(self, number)

    def stopping(self: Training, rows: Any) -> float:
        if begun[-1] == epoch and done[0] == steps:
            raise Stop
        done[0] += 1
        return whole_step(self, rows)

    monkeypatch.setattr(Training, "_epoch", noting)
    monkeypatch.setattr(Training, "_step", stopping)
    return begun


def unfinished(cache: Path) -> Path:
    (folder,) = (cache / "models" / "toy").glob(".*.unfinished")
    return folder / "folder"


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "llama"])  # gpt2 has dropout
@pytest.mark.parametrize("optimizer", ["adafactor", "adam"])
@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_a_stopped_training_ends_in_the_same_files(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    architecture: str, optimizer: str, epoch: int,
) -> None:  # fmt: skip
    settings = {"architecture": architecture, "optimizer": optimizer}
    whole = files(source(**settings).train(task, tmp_path / "whole", "cpu"))
    assert len([name for name in whole if name.endswith("model.safetensors")]) == EPOCHS
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, epoch)
        with pytest.raises(Stop):
            source(**settings).train(task, tmp_path / "stopped", "cpu")
    torch.manual_seed(99)  # another process has other random numbers
    with monkeypatch.context() as patch:
        begun = stop_in_epoch(patch, EPOCHS)
        folder = source(**settings).train(task, tmp_path / "stopped", "cpu")
    assert begun == list(range(epoch, EPOCHS)), "only what was missing"
    assert files(folder) == whole
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_several_stops(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = files(source().train(task, tmp_path / "whole", "cpu"))
    for epoch in (1, 1, 2):
        with monkeypatch.context() as patch:
            stop_in_epoch(patch, epoch, steps=2)
            with pytest.raises(Stop):
                source().train(task, tmp_path / "stopped", "cpu")
    states = list(unfinished(tmp_path / "stopped").glob("resume-*"))
    assert [path.name for path in states] == ["resume-002.safetensors"], "only the last is kept"
    assert files(source().train(task, tmp_path / "stopped", "cpu")) == whole


def test_a_run_goes_on_too(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, 2)
        with pytest.raises(Stop):
            source().load(task, tmp_path / "a", "cpu")
    begun = stop_in_epoch(monkeypatch, EPOCHS)
    model = source(checkpoint=3).load(task, tmp_path / "a", "cpu")
    assert begun == [2, 3]
    assert model.sha256 == source(checkpoint=3).load(task, tmp_path / "b", "cpu").sha256
    assert model.training["epochs"][0].keys() == model.training["epochs"][2].keys()


@pytest.mark.parametrize("damaged", ["resume-*.safetensors", "progress.json", "checkpoints/*/*.s*"])
def test_what_cannot_be_read_starts_anew(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    whole = files(source().train(task, tmp_path / "whole", "cpu"))
    with monkeypatch.context() as patch:
        stop_in_epoch(patch, 2)
        with pytest.raises(Stop):
            source().train(task, tmp_path / "stopped", "cpu")
    for path in unfinished(tmp_path / "stopped").glob(damaged):
        path.write_bytes(path.read_bytes()[:20])
    begun = stop_in_epoch(monkeypatch, EPOCHS)
    assert files(source().train(task, tmp_path / "stopped", "cpu")) == whole
    assert begun == list(range(EPOCHS))


def test_moments_of_adam_are_its_own(task: Task, tmp_path: Path) -> None:
    model = source(optimizer="adam").load(task, tmp_path / "cache", "cpu")
    assert model.training["optimizer"] == "adam"
    for name, parameter in model.module.named_parameters():
        moment = model.second_moments[name]
        assert moment.value.shape == parameter.shape  # type: ignore[union-attr]
        assert moment.epsilon == 1e-8  # type: ignore[union-attr]


def test_another_process_that_came_first_is_waited_for(task: Task, tmp_path: Path) -> None:
    """What a second process sees that waited for the lock: the model is there."""
    folder = source().train(task, tmp_path / "cache", "cpu")
    before = files(folder)
    with resumable_folder(folder) as ours:
        assert ours is None
    assert files(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_forget_leaves_a_model_alone(tmp_path: Path) -> None:
    kept = ("model.safetensors", "training.json")
    gone = ("progress.json", "resume-003.safetensors", ".progress.json.partial-ab-1-")
    for name in (*kept, *gone):
        (tmp_path / name).touch()
    resuming.forget(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


@pytest.mark.slow
def test_a_killed_process_ends_in_the_same_files(tmp_path: Path, forks: Forks) -> None:
    words = (
        "train", "model=micro", "model.epochs=6", "task=factworld", "task.n_passages=600",
        "task.n_facts=60", "model.hidden_size=32",
    )  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert forks.run(*words, f"cache_dir={whole}").returncode == 0
    for epoch in (2, 4):
        process = forks.start(*words, f"cache_dir={killed}")
        pattern = f"models/micro/.*.unfinished/folder/resume-{epoch:03}.safetensors"
        while process.runs(0.01) and not list(killed.glob(pattern)):
            continue
        process.send(signal.SIGKILL)
        assert process.end().returncode == -signal.SIGKILL, "it was killed while it trained"
    assert_it_goes_on(forks, words, killed, whole)

"""A model that is trained on, stopped or killed anywhere, ends in the very files of a whole run."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.models import learning, resuming
from bench.models.training import Training
from bench.tasks.base import Query, Task
from tests.fixtures.forks import Forks
from tests.fixtures.helpers import make_task
from tests.fixtures.models import TEXTS, finetuned_source, make_model
from tests.fixtures.trainings import assert_it_goes_on, files

QUERIES = (Query("q0", "Al Grey plays the", "trombone"), Query("q1", "Marla Venn", "was born"))
STEPS = 6 * 3  # one passage a step, three epochs
SETTINGS: dict[str, Any] = {"epochs": 3, "batch_size": 1, "save_steps": 2}


class Stop(Exception):  # noqa: N818 - no error, but a kill as seen from inside
    pass


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return make_task(tmp_path / "task", TEXTS, QUERIES)


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("init"), "gpt2", layers=1)  # it has dropout


def stop_before(monkeypatch: pytest.MonkeyPatch, step: int) -> list[int]:
    """Stop the next training before a step, from 0; returns a list of one number for each done."""
    done: list[int] = []
    whole = Training._step

    def stopping(self: Training, rows: Any) -> float:
        if len(done) == step:
            raise Stop
        done.append(len(done))
        return whole(self, rows)

    monkeypatch.setattr(Training, "_step", stopping)
    return done


@pytest.mark.parametrize("optimizer", ["adafactor", "adam", "adamw"])
@pytest.mark.parametrize("step", [1, 3, 6, 9, 17])
def test_a_stop_within_an_epoch_loses_the_steps_since_it_was_saved(
    task: Task, init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    optimizer: str, step: int,
) -> None:  # fmt: skip
    settings = {**SETTINGS, "optimizer": optimizer}
    whole = files(finetuned_source(init, **settings).train(task, tmp_path / "whole", "cpu"))
    with monkeypatch.context() as patch:
        stop_before(patch, step)
        with pytest.raises(Stop):
            finetuned_source(init, **settings).train(task, tmp_path / "stopped", "cpu")
    torch.manual_seed(99)  # another process has other random numbers
    with monkeypatch.context() as patch:
        done = stop_before(patch, STEPS)
        folder = finetuned_source(init, **settings).train(task, tmp_path / "stopped", "cpu")
    assert len(done) == STEPS - step // 2 * 2
    assert files(folder) == whole
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("room", "call"),
    [
        ((learning, "save_model"), 0), ((learning, "save_model"), 1), ((resuming, "save_file"), 0),
        ((resuming, "save_file"), 3), ((resuming, "seal"), 0), ((resuming, "seal"), 3),
        ((resuming, "forget"), 0),
    ],
)  # fmt: skip
def test_a_stop_while_it_saves(
    task: Task, init: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    room: tuple[Any, str], call: int,
) -> None:  # fmt: skip
    """What was being written is there, cut short, and names nothing that is read."""
    whole = files(finetuned_source(init, **SETTINGS).train(task, tmp_path / "whole", "cpu"))
    place, name = room
    original: Callable[..., Any] = getattr(place, name)
    calls = []

    def stopping(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == call + 1:
            if name == "save_file":
                arguments[1].write_bytes(b"cut short")
            elif name == "save_model":
                original(*arguments)
                for path in arguments[1].glob("*.safetensors"):
                    path.write_bytes(path.read_bytes()[:50])
            raise Stop
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, stopping)
        with pytest.raises(Stop):
            finetuned_source(init, **SETTINGS).train(task, tmp_path / "stopped", "cpu")
    for step in (3, 1):  # and stopped twice more
        with monkeypatch.context() as patch:
            stop_before(patch, step)
            try:
                finetuned_source(init, **SETTINGS).train(task, tmp_path / "stopped", "cpu")
            except Stop:
                continue
    folder = finetuned_source(init, **SETTINGS).train(task, tmp_path / "stopped", "cpu")
    assert files(folder) == whole


@pytest.mark.slow
def test_a_process_that_is_killed_ten_times_ends_in_the_same_files(
    tmp_path: Path, forks: Forks
) -> None:
    init = make_model(tmp_path / "init", "llama", layers=2)
    words = (
        "train", "model=finetuned", f"model.init={init}", "task=factworld", "task.n_passages=400",
        "task.n_facts=40", "model.train.epochs=8", "model.train.until=null",
        "model.train.batch_size=2", "model.train.save_steps=7",
    )  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert forks.run(*words, f"cache_dir={whole}").returncode == 0
    moments = random.Random(0)
    pattern = "models/finetuned-init/.*.unfinished/folder/progress.json"
    for _ in range(10):
        states = [path.read_bytes() for path in killed.glob(pattern)]
        process = forks.start(*words, f"cache_dir={killed}")
        while process.runs(0.005):  # until it trains, and has saved something new
            now = [path.read_bytes() for path in killed.glob(pattern)]
            if now and now != states:
                break
        time.sleep(moments.uniform(0, 0.3))
        process.send(signal.SIGKILL)
        assert process.end().returncode == -signal.SIGKILL, "it was killed while it trained"
    assert_it_goes_on(forks, words, killed, whole)

"""Tail-patch on every engine: the same numbers, kept whatever ends a run, and damage made again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.core.errors import UserError
from bench.engines import Engine
from bench.models.language_model import LanguageModel
from bench.storage.mirror import Mirror
from bench.storage.score_parts import part_folder
from metrics import optimizer_step, patch_jobs
from metrics.patch_jobs import Patcher
from metrics.tail_patch import Patched, TailPatch
from tests.fixtures.engine_jobs import engine
from tests.fixtures.gradient_methods import ToyRecipe
from tests.fixtures.helpers import make_task
from tests.fixtures.models import TEXTS
from tests.fixtures.tail_patches import PROPONENTS, QUERIES, config, serial_patch

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("processes", "ray", "slurm")]


@pytest.fixture(scope="module", autouse=True)
def no_ray_afterwards() -> Iterator[None]:
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def measured(
    model: LanguageModel, folder: Path, on: Engine, load: ToyRecipe | None = None
) -> Patched:
    task = make_task(folder / "task", TEXTS, QUERIES)
    load = load or (lambda: model)
    patch = TailPatch(config(memory_mib=1), model, task, folder / "cache", on, load, Mirror(folder))
    return patch.measure(QUERIES, PROPONENTS)


@pytest.mark.parametrize("name", ["serial", "sent", *SLOW])
def test_numbers_are_those_of_one_process(
    tmp_path: Path, model: LanguageModel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    alone = measured(model, tmp_path / "alone", engine("serial"))
    monkeypatch.setattr(optimizer_step, "_MOST_PASSAGES", 2)  # three jobs or more
    apart = measured(model, tmp_path / "apart", engine(name, tmp_path), ToyRecipe(tmp_path))
    assert apart == alone
    assert not list(tmp_path.glob("apart/cache/tail_patch/*.parts/*"))


def test_another_model_is_refused(
    tmp_path: Path, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizer_step, "_MOST_PASSAGES", 2)
    model.context_length -= 1  # the recipe brings the model as it was
    with pytest.raises(UserError, match="another process finds another model"):
        measured(model, tmp_path / "run", engine("sent"), ToyRecipe(tmp_path))


@pytest.mark.parametrize("damaged", [False, True])
def test_a_run_that_ends_early_loses_no_finished_batch(
    tmp_path: Path,
    model: LanguageModel,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    damaged: bool,
) -> None:
    expected = measured(model, tmp_path / "expected", engine("serial"))
    monkeypatch.setattr(optimizer_step, "_MOST_PASSAGES", 1)
    write, written, most = Patcher.write, [], 3

    def counting(self: Patcher, path: Path, batch: tuple) -> None:
        if len(written) == most:
            raise KeyboardInterrupt
        write(self, path, batch)
        written.append(path)

    monkeypatch.setattr(Patcher, "write", counting)
    with pytest.raises(KeyboardInterrupt):
        measured(model, tmp_path, engine("serial"))
    assert [path.exists() for path in written] == [True] * 3
    if damaged:
        content = written[0].read_bytes()
        written[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    most = len(TEXTS) + damaged  # as many as are missing, and not one more
    assert measured(model, tmp_path, engine("serial")) == expected
    assert len(written) == most
    assert ("damaged scores of a job" in capsys.readouterr().err) == damaged
    assert not list(tmp_path.glob("cache/tail_patch/*.parts/*"))


def test_a_folder_of_a_run_that_goes_on_is_left_alone(tmp_path: Path, model: LanguageModel) -> None:
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    patch = serial_patch(config(), model, task, tmp_path / "cache")
    with part_folder(patch._cache._file) as folder:
        (folder / "other.safetensors").write_bytes(b"half of a file")
        again = serial_patch(config(), model, task, tmp_path / "cache")
        again.measure(QUERIES, PROPONENTS)
        assert (folder / "other.safetensors").exists()


def test_batches_depend_on_the_passages_alone(
    tmp_path: Path, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizer_step, "_MOST_PASSAGES", 2)
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    patcher = serial_patch(config(), model, task, tmp_path / "cache")._patcher
    query = {"q0": model.query_answers(QUERIES[0])}
    asked = [patch_jobs.Asked(row, query) for row in range(len(TEXTS))]
    batches = [job.arguments[2] for job in patcher.jobs(asked, tmp_path)]
    assert sorted(one.row for batch in batches for one in batch) == list(range(len(TEXTS)))
    assert [len(batch) for batch in batches] == [2, 2, 2]
    lengths = [len(model.passage_tokens(TEXTS[one.row]).ids) for b in batches for one in b]
    assert lengths == sorted(lengths), "passages of about one length share a batch"
    other = replace(patcher, key="of another model")
    paths = {job.target for p in (patcher, other) for job in p.jobs(asked, tmp_path)}
    assert len(paths) == 2 * len(batches)


def test_a_passage_without_tokens_to_predict_goes_alone() -> None:
    step = SimpleNamespace(has_room_for=lambda n, _: n <= 3)
    tokens = [patch_jobs.Tokens([1] * n, loss_from=1) for n in (1, 4, 4, 4, 4, 1)]
    asked = patch_jobs.Asked(0, {"q": [tokens[1]]})
    waiting = [(asked, one) for one in tokens]
    sizes = []
    while waiting:
        sizes.append(patch_jobs._side_by_side(waiting, step))
        waiting = waiting[sizes[-1] :]
    assert sizes == [1, 3, 1, 1]

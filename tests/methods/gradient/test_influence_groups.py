"""EK-FAC and DataInf in groups of passages: the same scores, bit for bit, on every engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.engines.processes import Processes, ProcessesConfig
from bench.engines.serial import Serial, SerialConfig
from methods.base import Context
from methods.gradient import groups, recipes
from methods.gradient.datainf import DataInf
from methods.gradient.ekfac import Ekfac
from methods.gradient.influence import Influence
from methods.gradient.settings import EkfacConfig, InfluenceConfig, Labels
from tests.fixtures.engines import Sent
from tests.fixtures.gradient_methods import INFLUENCE_DEFAULTS, QUERIES, many_texts
from tests.fixtures.helpers import make_task
from tests.fixtures.models import load, make_model

PASSAGES = [*many_texts(29), "", many_texts(1)[0]]  # one without loss, and two alike


@dataclass(frozen=True)
class Loads:
    """Brings the model of a folder, in any process."""

    folder: Path

    def __call__(self) -> Any:
        return load(self.folder)


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model", layers=1, hidden=8)


@pytest.fixture
def task(tmp_path: Path):
    return make_task(tmp_path / "task", PASSAGES, QUERIES)


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch):
    """31 passages are five groups of seven at most, and no encoder is open from an earlier test."""
    monkeypatch.setattr(groups, "LEAST_TEXTS", 7)
    monkeypatch.setattr("methods.gradient.ekfac.TEXTS_AT_ONCE", 7)
    recipes._open.clear()
    yield
    recipes._open.clear()


def make(kind: type[Influence], task, folder: Path, cache: Path, engine=None, **settings):
    values = {**INFLUENCE_DEFAULTS, "opponents": 3, **settings}
    config = InfluenceConfig(**values)
    if kind is Ekfac:
        config = EkfacConfig(**values, labels=Labels.sampled)
    recipe = Loads(folder)
    engine = engine or Serial(SerialConfig())
    context = Context(task, cache, load_model=recipe, engine=engine, model_recipe=recipe)
    return kind(config, context)


def lists(method: Influence) -> list[tuple]:
    method.index()
    return [
        (r.rows.tolist(), r.scores.tolist(), r.opponent_rows.tolist(), r.opponent_scores.tolist())
        for r in method.search(QUERIES, 9)
    ]


@pytest.mark.parametrize("kind", [Ekfac, DataInf])
@pytest.mark.parametrize("sample", [None, 17])
def test_scores_are_equal_on_every_engine(
    tmp_path, task, model_folder, small_groups, kind, sample
) -> None:
    here = make(kind, task, model_folder, tmp_path / "here", sample=sample)
    expected = lists(here)
    for seed in range(2):
        engine = Sent(seed)
        cache = tmp_path / f"sent-{seed}"
        method = make(kind, task, model_folder, cache, engine, sample=sample)
        assert lists(method) == expected
        assert engine.n_jobs == 5 + 2 * (5 if sample is None else 3)
        assert method.context.counts == here.context.counts
        left = {path.name.split("-")[0] for path in (cache / "parts").rglob("*.safetensors")}
        assert left == {"scan"}


@pytest.mark.parametrize("kind", [Ekfac, DataInf])
def test_groups_change_no_more_than_last_bits(
    tmp_path, task, model_folder, monkeypatch, kind
) -> None:
    whole = lists(make(kind, task, model_folder, tmp_path / "whole"))
    monkeypatch.setattr(groups, "LEAST_TEXTS", 7)
    monkeypatch.setattr("methods.gradient.ekfac.TEXTS_AT_ONCE", 7)
    for one, other in zip(
        lists(make(kind, task, model_folder, tmp_path / "cut")), whole, strict=True
    ):
        assert one[0] == other[0]
        np.testing.assert_allclose(one[1], other[1], rtol=1e-5)


class Killed(Sent):
    """Dies when it has done three jobs of a phase that has this name."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self._label = label

    def _finished(self, jobs, label, unit):
        if label != self._label:
            yield from super()._finished(jobs, label, unit)
            return
        yield from super()._finished(jobs[:3], label, unit)
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("kind", "phase", "left"),
    [
        (Ekfac, "EK-FAC factors", 2 + 5 + 5),
        (Ekfac, "EK-FAC eigenvalues", 2 + 5),
        (Ekfac, "search", 2),
        (DataInf, "gradient norms", 2 + 5 + 5),
        (DataInf, "DataInf", 5 + 2 + 5),  # the norms are found again
        (DataInf, "search", 5 + 2),  # and H⁻¹ g is read
    ],
)
def test_a_killed_pass_goes_on(
    tmp_path, task, model_folder, small_groups, kind, phase, left
) -> None:
    expected = lists(make(kind, task, model_folder, tmp_path / "here"))
    with pytest.raises(KeyboardInterrupt):
        lists(make(kind, task, model_folder, tmp_path / "cache", Killed(phase)))
    engine = Sent()
    assert lists(make(kind, task, model_folder, tmp_path / "cache", engine)) == expected
    assert engine.n_jobs == left


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Ekfac, DataInf])
def test_processes_give_the_scores_of_serial(
    tmp_path, task, model_folder, small_groups, kind
) -> None:
    expected = lists(make(kind, task, model_folder, tmp_path / "here"))
    engine = Processes(ProcessesConfig(2, gpus=0))
    found = lists(make(kind, task, model_folder, tmp_path / "there", engine))
    assert found == expected

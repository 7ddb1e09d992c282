"""Judging on every engine: the same scores and counts, and finished jobs are not done again."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.core.errors import UserError
from bench.engines import Engine
from bench.run.judging import Judgement, judge_rankings
from bench.storage.mirror import Mirror
from bench.tasks.base import Query, Task
from methods.base import Ranking
from metrics.judges import jobs
from metrics.judges.jobs import PairJudge
from metrics.settings import MetricConfig
from tests.fixtures.composing import settings_of
from tests.fixtures.engine_jobs import engine
from tests.fixtures.helpers import make_task
from tests.fixtures.judge_models import make_classifier

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("processes", "ray", "slurm")]
QUERIES = tuple(Query(f"q{n}", "Al Grey plays the", word) for n, word in enumerate(["horn", "a"]))
TEXTS = [f"{n} " + "Al Grey plays the trombone , they say . " * (1 + n % 12) for n in range(30)]


@pytest.fixture(scope="module", autouse=True)
def no_ray_afterwards() -> Iterator[None]:
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


@pytest.fixture(autouse=True)
def small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PAIRS_A_JOB", 16)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return make_task(tmp_path / "task", TEXTS, QUERIES)


@pytest.fixture
def nli(tmp_path: Path) -> MetricConfig:
    model = make_classifier(tmp_path / "model")
    words = ("metric=nli", f"metric.judge.model={model}", "metric.judge.batch_size=4")
    return settings_of(tmp_path, *words).metric


def judged(config: MetricConfig, task: Task, cache: Path, on: Engine) -> Judgement:
    rows = np.arange(len(TEXTS))
    rankings = [Ranking(q.query_id, rows, -rows.astype(np.float64)) for q in QUERIES]
    return judge_rankings(config, task, rankings, cache, "cpu", on, Mirror(cache))


@pytest.mark.parametrize("name", ["sent", *SLOW])
def test_scores_and_counts_are_those_of_one_process(
    tmp_path: Path, task: Task, nli: MetricConfig, name: str
) -> None:
    alone = judged(nli, task, tmp_path / "alone", engine("serial"))
    apart = judged(nli, task, tmp_path / "apart", engine(name, tmp_path))
    assert apart == alone
    counts = alone.record["counts"]
    assert counts["pairs_distinct"] == 2 * len(TEXTS)
    assert counts["pairs_cut_at_max_length"] > 0
    assert not list(tmp_path.glob("apart/judgements/*.parts/*"))


def test_a_run_that_ends_early_loses_no_finished_job(
    tmp_path: Path, task: Task, nli: MetricConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = judged(nli, task, tmp_path / "expected", engine("serial"))
    write, scored, most = PairJudge.write, [], 32

    def counting(self: PairJudge, path: Path, chosen: Sequence[Any]) -> None:
        if sum(scored) == most:
            raise KeyboardInterrupt
        write(self, path, chosen)
        scored.append(len(chosen))

    monkeypatch.setattr(PairJudge, "write", counting)
    with pytest.raises(KeyboardInterrupt):
        judged(nli, task, tmp_path / "cache", engine("serial"))
    most = 0
    again = judged(nli, task, tmp_path / "cache", engine("serial"))
    assert sum(scored) == 2 * len(TEXTS)
    assert again.record["counts"]["pairs_from_cache"] == 32
    # Other pairs share the batches of the second run, whose padding moves last bits in float32.
    for ours, theirs in zip(again.scores, expected.scores, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.slow
def test_a_judge_of_a_file_is_found_by_other_processes(tmp_path: Path, task: Task) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    config = settings_of(tmp_path, f"metric.judge={{name: '{file}:Own', threshold: 0.2}}").metric
    alone = judged(config, task, tmp_path / "alone", engine("serial"))
    apart = judged(config, task, tmp_path / "apart", engine("processes"))
    assert apart == alone


OWN = """
from dataclasses import dataclass
import numpy as np
from metrics.judges.base import Judge, identity_of

@dataclass
class Config:
    threshold: float = 0.5

class Own(Judge):
    Config = Config
    name = "own"

    def identity(self):
        return identity_of(self)

    def score(self, pairs):
        return np.array([len(pair.passage) % 10 / 10 for pair in pairs])
"""


@pytest.mark.slow
def test_another_judge_is_refused(
    tmp_path: Path, task: Task, nli: MetricConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metrics.judges.nli.Nli.version", 99)
    with pytest.raises(UserError, match="another process finds another judge"):
        judged(nli, task, tmp_path / "cache", engine("processes"))

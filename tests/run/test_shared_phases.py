"""Every long phase through a store: machines share its jobs, and the numbers are those of one."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.cli.main import main
from bench.engines.base import Engine, Job
from bench.engines.serial import Serial, SerialConfig
from bench.run.judging import judge_rankings
from bench.storage.mirror import Mirror
from methods import bm25, bm25_jobs, embedding_index, embedding_search, word_jobs
from methods.base import Context, Ranking
from methods.bm25 import BM25, BM25Config, Scoring, Tokenizer
from methods.bm25_scoring import Variant
from methods.embedding_index import DenseVectors, Embedder, open_or_embed
from methods.embedding_search import search_dense
from methods.gradient import groups, recipes
from methods.gradient import index as index_module
from methods.gradient.datainf import DataInf
from methods.gradient.ekfac import Ekfac
from methods.gradient.method import Gradient
from methods.gradient.settings import (
    EkfacConfig,
    GradientConfig,
    Hessian,
    InfluenceConfig,
    Labels,
)
from methods.gradient.source import EncodedFeatures
from methods.query_text import QueryPart
from metrics import optimizer_step
from metrics.judges import jobs as judge_jobs
from metrics.tail_patch import TailPatch
from tests.fixtures.composing import settings_of
from tests.fixtures.engines import Sent
from tests.fixtures.gradient_methods import (
    DEFAULTS,
    INFLUENCE_DEFAULTS,
    QUERIES,
    ToyRecipe,
    index_files,
    many_texts,
    toy_model,
)
from tests.fixtures.helpers import make_task
from tests.fixtures.runs import SMALL, cells
from tests.fixtures.stores import machine
from tests.fixtures.tail_patches import config as patch_config


@dataclass
class Bench:
    """What all machines have: a task and a model, which is in a folder, too."""

    task: Any
    model: Any
    folder: Path
    engine: Engine = field(default_factory=lambda: Serial(SerialConfig()))

    @property
    def recipe(self) -> ToyRecipe:
        return ToyRecipe(self.folder)

    def context(self, mirror: Mirror) -> Context:
        return Context(
            self.task, mirror.local, lambda: self.model, engine=self.engine,
            model_recipe=self.recipe, mirror=mirror,
        )  # fmt: skip


def _lists(method: Any) -> list[tuple]:
    method.index()
    return [
        (one.rows.tolist(), one.scores.tolist(), one.opponent_rows.tolist())
        for one in method.search(QUERIES, 9)
    ]


def bm25_lists(bench: Bench, mirror: Mirror) -> Any:
    query, words = QueryPart.prompt_and_target, Tokenizer.words
    config = BM25Config(Variant.atire_robertson, 1.5, 0.75, words, query, Scoring.inverted_index)
    return _lists(BM25(config, bench.context(mirror)))


def embed(texts: list[str]) -> tuple[np.ndarray, dict[str, int]]:
    return np.array([[len(text), len(text) % 7, 1] for text in texts], np.float32), {"cut": 1}


def load_embed() -> Any:
    return embed


def vectors(bench: Bench, mirror: Mirror) -> Any:
    embedder = Embedder(bench.task.passages, DenseVectors(), load_embed)
    index = open_or_embed(mirror.local / "index" / "dense" / "key", embedder, bench.engine, mirror)
    asked = np.array([[1, 2, 3], [-1, 0.5, 0]], np.float32)
    found = search_dense(index, asked, 5, bench.engine, mirror)
    return [(rows.tolist(), scores.tolist()) for rows, scores in found], index.counts


def gradient(bench: Bench, mirror: Mirror) -> Any:
    settings = GradientConfig(**{**DEFAULTS, "opponents": 3})
    return _lists(Gradient(settings, bench.context(mirror)))


def ekfac(bench: Bench, mirror: Mirror) -> Any:
    settings = {**INFLUENCE_DEFAULTS, "opponents": 3, "labels": Labels.sampled}
    return _lists(Ekfac(EkfacConfig(**settings), bench.context(mirror)))


def datainf(bench: Bench, mirror: Mirror) -> Any:
    settings = {**INFLUENCE_DEFAULTS, "opponents": 3}
    return _lists(DataInf(InfluenceConfig(**settings), bench.context(mirror)))


def patched(bench: Bench, mirror: Mirror) -> Any:
    patch = TailPatch(
        patch_config(memory_mib=1), bench.model, bench.task, mirror.local, bench.engine,
        bench.recipe, mirror,
    )  # fmt: skip
    rows = {query.query_id: [n, n + 1, n + 2, 9] for n, query in enumerate(QUERIES)}
    return patch.measure(QUERIES, rows)


def judged(bench: Bench, mirror: Mirror) -> Any:
    config = settings_of(bench.folder, "metric=lexical").metric
    rows = np.arange(20)
    rankings = [Ranking(q.query_id, rows, -rows.astype(np.float64)) for q in QUERIES]
    named = [replace(q, subject_names=("Al",), answer_names=(q.target,)) for q in QUERIES]
    task = replace(bench.task, queries=named)
    cache, engine = mirror.local, bench.engine
    return judge_rankings(config, task, rankings, cache, "cpu", engine, mirror).scores


@dataclass(frozen=True)
class Phase:
    """A piece of a run, with the jobs that it has, and after how many of them it is killed.

    Attributes:
        stays: the names, without numbers, of the files of jobs that stay in the store.
    """

    run: Callable[[Bench, Mirror], Any]
    n_jobs: int
    kills: tuple[int, ...]
    stays: frozenset[str]


PHASES = {
    "bm25": Phase(bm25_lists, 4 + 2, (2, 5), frozenset({"rows"})),
    "vectors": Phase(vectors, 4 + 4, (2, 6), frozenset({"best"})),
    "gradient": Phase(gradient, 5 + 5 + 5, (2, 7, 12), frozenset({"sums", "scan", "exact"})),
    "ekfac": Phase(ekfac, 5 + 5 + 5, (2, 7, 12), frozenset({"scan"})),
    "datainf": Phase(datainf, 5 + 5 + 5, (2, 7, 12), frozenset({"sums", "scan"})),
    "tail-patch": Phase(patched, 5, (3,), frozenset()),
    "judge": Phase(judged, 4, (2,), frozenset()),
}


@dataclass
class Work:
    """The jobs that were done, by the file that each leaves, and when they are to end.

    Attributes:
        most: after so many jobs the process is killed.
        meanwhile: called once, within the second job.
    """

    done: list[Path] = field(default_factory=list)
    most: int | None = None
    meanwhile: Callable[[], None] | None = None

    def noted(self, job: Job) -> Job:
        """The same job, whose work is noted here; shards are not."""
        if job.target.suffix == ".json":
            return job

        def work(*arguments: Any) -> None:
            if len(self.done) == self.most:
                raise KeyboardInterrupt
            if self.meanwhile is not None and len(self.done) == 1:
                meanwhile, self.meanwhile = self.meanwhile, None
                meanwhile()
            job.work(*arguments)
            self.done.append(job.target)

        return replace(job, work=work)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    counted, run = Work(), Job.run
    monkeypatch.setattr(Job, "run", lambda job: run(counted.noted(job)))
    return counted


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    texts = [*many_texts(32), *many_texts(3)]  # with ties
    return Bench(make_task(folder / "task", texts, QUERIES), toy_model(folder), folder)


@pytest.fixture(autouse=True)
def small_jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The 35 passages are 9 shards, and 5 groups of 7 or 8."""
    for where, name, value in (
        (bm25, "QUERIES_A_JOB", 2), (bm25_jobs, "QUERIES_A_JOB", 2),
        (word_jobs, "BYTES_A_JOB", 600),
        (embedding_index, "CHUNK", 10), (embedding_search, "ROWS_A_JOB", 10),
        (index_module, "SHARD_ROWS", 4), (groups, "LEAST_SHARDS", 2), (groups, "LEAST_TEXTS", 7),
        (judge_jobs, "PAIRS_A_JOB", 16), (optimizer_step, "_MOST_PASSAGES", 2),
    ):  # fmt: skip
        monkeypatch.setattr(where, name, value)
    monkeypatch.setattr("methods.gradient.ekfac.TEXTS_AT_ONCE", 7)
    recipes._open.clear()
    yield
    recipes._open.clear()


def left_in(store: Path) -> set[str]:
    """The names, without numbers, of parts in the store; merged folders have an inventory."""
    inventories = {path.parent for path in store.rglob("INVENTORY.json")}
    return {
        path.name.partition(".")[0].partition("-")[0]
        for path in store.rglob("*.safetensors")
        if not inventories.intersection(path.parents) and not path.parent.name.endswith(".shared")
    }


def without_a_store(phase: Phase, bench: Bench, work: Work, tmp_path: Path) -> Any:
    """What a phase comes to on one machine alone; its jobs are counted, and then forgotten."""
    found = phase.run(bench, Mirror(tmp_path / "alone"))
    assert len(work.done) == phase.n_jobs
    work.done.clear()
    return found


def killed_after(n_jobs: int, phase: Phase, bench: Bench, work: Work, mirror: Mirror) -> None:
    """Run a phase on a machine that is killed after so many jobs."""
    work.most = n_jobs
    with pytest.raises(KeyboardInterrupt):
        phase.run(bench, mirror)
    work.most = None


@pytest.mark.parametrize("name", PHASES)
def test_another_machine_does_no_job_again(
    bench: Bench, work: Work, store: Path, tmp_path: Path, name: str
) -> None:
    phase = PHASES[name]
    alone = without_a_store(phase, bench, work, tmp_path)
    assert phase.run(bench, machine(store, "one")) == alone
    assert len(work.done) == phase.n_jobs
    assert left_in(store) == phase.stays
    assert phase.run(bench, machine(store, "two")) == alone
    assert len(work.done) == phase.n_jobs, "those of the first machine"


KILLS = [
    pytest.param(name, kill, marks=[] if kill == phase.kills[-1] else pytest.mark.slow)
    for name, phase in PHASES.items()
    for kill in phase.kills
]


@pytest.mark.parametrize(("name", "kill"), KILLS)
def test_another_machine_goes_on_with_what_a_killed_one_has_finished(
    bench: Bench, work: Work, store: Path, tmp_path: Path, name: str, kill: int
) -> None:
    phase = PHASES[name]
    alone = without_a_store(phase, bench, work, tmp_path)
    killed_after(kill, phase, bench, work, machine(store, "one"))
    assert phase.run(bench, machine(store, "two")) == alone
    assert len(work.done) == phase.n_jobs
    assert left_in(store) == phase.stays
    assert phase.run(bench, machine(store, "one")) == alone


@pytest.mark.parametrize("name", PHASES)
def test_a_damaged_part_in_the_store_is_made_again(
    bench: Bench, work: Work, store: Path, tmp_path: Path, capsys: Any, name: str
) -> None:
    phase = PHASES[name]
    alone = without_a_store(phase, bench, work, tmp_path)
    killed_after(phase.kills[-1], phase, bench, work, machine(store, "one"))
    (part,) = store.rglob(work.done[-1].name)
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    capsys.readouterr()
    assert phase.run(bench, machine(store, "two")) == alone
    assert len(work.done) == phase.n_jobs + 1
    assert capsys.readouterr().err.count("and is made again") == 1


@pytest.mark.parametrize("name", PHASES)
def test_a_machine_at_work_takes_what_another_has_merged(
    bench: Bench, work: Work, store: Path, tmp_path: Path, name: str
) -> None:
    """While one machine is at its second job, another one does all that is left."""
    phase = PHASES[name]
    alone = without_a_store(phase, bench, work, tmp_path)
    results: list[Any] = []

    def other() -> None:
        thread = threading.Thread(
            target=lambda: results.append(phase.run(bench, machine(store, "two")))
        )
        thread.start()
        thread.join()

    work.meanwhile = other
    assert phase.run(bench, machine(store, "one")) == alone
    assert results == [alone]
    assert len(work.done) == phase.n_jobs + 1, "the job that it was at, and no other"
    assert left_in(store) == phase.stays


def test_machines_that_encode_at_once_share_the_shards(
    bench: Bench, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, encoded = EncodedFeatures.encode, list[int]()

    def other() -> None:
        thread = threading.Thread(target=index, args=(machine(store, "two"),))
        thread.start()
        thread.join()

    def index(mirror: Mirror) -> dict[str, bytes]:
        settings = {**DEFAULTS, "hessian": Hessian.none}
        Gradient(GradientConfig(**settings), bench.context(mirror)).index()
        return index_files(mirror.local)

    def noted(self: EncodedFeatures, texts: list[str]) -> Any:
        encoded.append(len(texts))
        if len(encoded) == 2:
            other()
        return encode(self, texts)

    monkeypatch.setattr(EncodedFeatures, "encode", noted)
    assert index(machine(store, "one")) == index_files(tmp_path / "two")
    assert len(encoded) == 9 + 1, "the shard that it was at, and no other"
    assert index(Mirror(tmp_path / "alone")) == index_files(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("name", PHASES)
def test_jobs_that_are_sent_to_other_processes_are_shared(
    bench: Bench, store: Path, tmp_path: Path, name: str
) -> None:
    phase, first, second = PHASES[name], Sent(), Sent()
    alone = phase.run(bench, Mirror(tmp_path / "alone"))
    assert phase.run(replace(bench, engine=first), machine(store, "one")) == alone
    assert phase.run(replace(bench, engine=second), machine(store, "two")) == alone
    assert first.n_jobs >= phase.n_jobs
    assert second.n_jobs == 0
    assert left_in(store) == phase.stays


@pytest.mark.slow
def test_a_cell_is_made_again_from_the_store_without_a_job(
    work: Work, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its finished results are missing there; features, R, lists and steps are not."""
    monkeypatch.undo()
    run = Job.run

    def counted(job: Job) -> None:
        run(work.noted(job))

    monkeypatch.setattr(Job, "run", counted)
    cells_of = {}
    for name in ("one", "two"):
        here = tmp_path / name
        places = (f"results_dir={here}/runs", f"cache_dir={here}/cache")
        words = (*SMALL, "method=trackstar", *places, f"remote_dir='file://{store}'")
        work.done.clear()
        assert main(["run", *words]) == 0
        assert bool(work.done) == (name == "one")
        cells_of[name] = cells(here / "runs")["trackstar"]
        shutil.rmtree(store / "results")
    for file in ("retrievals.jsonl", "per_query.parquet"):
        one, two = ((cells_of[name] / file).read_bytes() for name in ("one", "two"))
        assert one == two

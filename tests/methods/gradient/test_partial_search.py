"""Search in groups of shards: the same lists, bit for bit, whoever makes the parts and when."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.engines.processes import Processes, ProcessesConfig
from bench.engines.serial import Serial, SerialConfig
from bench.storage.mirror import Mirror
from methods.base import Sibling
from methods.device_topk import DeviceTopK
from methods.gradient import groups, partial_search
from methods.gradient import index as index_module
from methods.gradient.partial_search import _packed
from methods.gradient.search import MemoryPlan
from methods.gradient.settings import Hessian, Storage
from methods.gradient.source import BYTES_READ
from methods.topk import TopK
from tests.fixtures.engines import Sent
from tests.fixtures.gradient_methods import QUERIES, ToyRecipe, make, many_texts, toy_model
from tests.fixtures.helpers import make_task


@pytest.fixture
def model(tmp_path: Path):
    return toy_model(tmp_path)


@pytest.fixture
def task(tmp_path: Path):
    return make_task(tmp_path / "task", [*many_texts(), *many_texts(3)], QUERIES)  # with ties


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """63 passages are nine shards, and five groups."""
    monkeypatch.setattr(index_module, "SHARD_ROWS", 7)
    monkeypatch.setattr(groups, "LEAST_SHARDS", 2)
    monkeypatch.setattr(groups, "LEAST_TEXTS", 14)


def lists(method, top_k: int = 9) -> list[tuple]:
    method.index()
    return [
        (r.query_id, r.rows.tolist(), r.scores.tolist(), r.opponent_rows.tolist(),
         r.opponent_scores.tolist())
        for r in method.search(method.context.task.queries, top_k)
    ]  # fmt: skip


CASES = [
    {"hessian": Hessian.none},
    {"hessian": Hessian.mixed, "opponents": 4},
    {"storage": Storage.int8, "rerank": 12, "opponents": 3},
    {"storage": Storage.sign, "hessian": Hessian.train},
    {"storage": Storage.none, "opponents": 2},
]


@pytest.mark.parametrize("settings", CASES)
def test_lists_are_equal_on_every_engine_and_in_every_grouping(
    tmp_path, model, task, monkeypatch, settings
) -> None:
    recipe = ToyRecipe(tmp_path)
    expected = lists(make(task, model, tmp_path / "here", **settings))
    for seed in range(2):
        engine = Sent(seed)
        method = make(
            task, model, tmp_path / f"sent-{seed}", engine=engine, recipe=recipe, **settings
        )
        assert lists(method) == expected
        assert engine.n_jobs >= 5
        left = {path.name.split("-")[0] for path in tmp_path.rglob("parts/search-*/*.safetensors")}
        assert left <= {"scan", "exact"}, "what jobs were handed is gone"
    # Another grouping may move last bits of R; there is none without.
    for shards in (1, 4, 100) if settings.get("hessian") is Hessian.none else ():
        monkeypatch.setattr(groups, "LEAST_SHARDS", shards)
        assert lists(make(task, model, tmp_path / f"in-{shards}", **settings)) == expected


@pytest.mark.parametrize("settings", CASES)
def test_lists_that_stay_on_a_device_are_the_same(
    tmp_path, model, task, monkeypatch, settings
) -> None:
    model = replace(model, gradient_dtype=torch.float32)  # of the scores that lists are made of
    expected = lists(make(task, model, tmp_path / "numpy", **settings))
    made: list[DeviceTopK] = []

    class Noted(DeviceTopK):
        def __init__(self, *args, **named) -> None:
            super().__init__(*args, **named)
            made.append(self)

    monkeypatch.setattr(partial_search, "_stay_on_device", lambda _: True)
    monkeypatch.setattr(partial_search, "DeviceTopK", Noted)
    assert lists(make(task, model, tmp_path / "torch", **settings)) == expected
    assert made


def test_groups_of_queries_are_searched_one_after_the_other(
    tmp_path, model, task, monkeypatch
) -> None:
    expected = lists(make(task, model, tmp_path / "a", opponents=3))
    plan = MemoryPlan(2, 100, 100)
    monkeypatch.setattr(MemoryPlan, "of", lambda *_: plan)
    engine, recipe = Sent(), ToyRecipe(tmp_path)
    found = lists(make(task, model, tmp_path / "b", opponents=3, engine=engine, recipe=recipe))
    for one, other in zip(found, expected, strict=True):
        assert one[:2] == other[:2]
        np.testing.assert_allclose(one[2], other[2], rtol=1e-5)


@pytest.mark.slow
def test_processes_give_the_lists_of_serial(tmp_path, model, task) -> None:
    recipe, settings = ToyRecipe(tmp_path), {"opponents": 4, "storage": Storage.none}
    expected = lists(make(task, model, tmp_path / "here", **settings))
    engine = Processes(ProcessesConfig(2, gpus=0))
    method = make(task, model, tmp_path / "there", engine=engine, recipe=recipe, **settings)
    assert lists(method) == expected


def test_merging_lists_of_any_groups_gives_the_lists_of_one(monkeypatch) -> None:
    """Property: scores with many ties, cut into groups at drawn places."""
    draw = np.random.default_rng(0)
    for _ in range(50):
        n_rows, k = int(draw.integers(1, 60)), int(draw.integers(1, 12))
        scores = draw.integers(0, 5, (3, n_rows)).astype(np.float32)
        whole = TopK(3, k)
        whole.push(scores, np.arange(n_rows))
        cuts = sorted(set(draw.integers(0, n_rows + 1, 4).tolist()) | {0, n_rows})
        spans = [range(a, b) for a, b in itertools.pairwise(cuts)]
        merged = TopK(3, k)
        for span in random.Random(0).sample(spans, len(spans)):
            part = TopK(3, k)
            part.push(scores[:, span.start : span.stop], np.arange(span.start, span.stop))
            merged.push(part.scores, part.rows)
        assert np.array_equal(merged.rows, whole.rows)
        assert np.array_equal(merged.scores, whole.scores)


def test_candidates_are_packed_and_found_again() -> None:
    rows = np.array([[7, 1, 9, 3], [2, 4, 8, 0], [5, 6, 7, 7]])
    inside = rows >= 5
    packed, filled = _packed(rows, inside)
    assert packed.tolist() == [[7, 9, 7, 7], [8, 7, 7, 7], [5, 6, 7, 7]]
    scores = np.zeros(rows.shape)
    scores[inside] = packed[filled] * 10
    assert np.array_equal(scores, np.where(inside, rows * 10, 0))


class Killed(Sent):
    """Dies when it has done two jobs of a phase that has this name."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self._label = label

    def _finished(self, jobs, label, unit):
        if label != self._label:
            yield from super()._finished(jobs, label, unit)
            return
        yield from super()._finished(jobs[:2], label, unit)
        raise KeyboardInterrupt


@pytest.mark.parametrize("phase", ["Hessian", "search", "score candidates in float64"])
def test_a_killed_search_goes_on(tmp_path, model, task, phase) -> None:
    recipe, settings = ToyRecipe(tmp_path), {"opponents": 2}
    whole = make(task, model, tmp_path / "here", **settings)
    expected = lists(whole)
    first = make(task, model, tmp_path, engine=Killed(phase), recipe=recipe, **settings)
    with pytest.raises(KeyboardInterrupt):
        lists(first)
    engine = Sent()
    again = make(task, model, tmp_path, engine=engine, recipe=recipe, **settings)
    assert lists(again) == expected
    # Of each phase five groups: none that was done is done again.
    done = {"Hessian": 2, "search": 7, "score candidates in float64": 12}[phase]
    assert engine.n_jobs == 15 - done
    # What an earlier run read of a phase that it finished is not read, and not counted, again.
    assert 0 < again.context.counts[BYTES_READ] <= whole.context.counts[BYTES_READ]


@pytest.mark.parametrize("name", ["scan-0-00001", "exact-0-*-00002"])
def test_a_damaged_part_is_made_again(tmp_path, model, task, capsys, name) -> None:
    settings = {"opponents": 2}
    expected = lists(make(task, model, tmp_path, **settings))
    (path,) = tmp_path.rglob(f"{name}.safetensors")
    stored = path.read_bytes()
    path.write_bytes(stored[: len(stored) // 2])
    assert lists(make(task, model, tmp_path, **settings)) == expected
    assert "is made again" in capsys.readouterr().err


def test_a_finished_search_is_read_from_its_parts(tmp_path, model, task, monkeypatch) -> None:
    settings = {"opponents": 2}
    expected = lists(make(task, model, tmp_path, **settings))
    monkeypatch.setattr("methods.gradient.partial_search._scan", None)
    again = make(task, model, tmp_path, **settings)
    assert lists(again) == expected


@pytest.mark.parametrize(
    "change", [{"unit_norm": False}, {"damping": 0.5}, {"mixing": 0.5}, {"opponents": 3}]
)
def test_other_settings_are_another_search(tmp_path, model, task, change) -> None:
    lists(make(task, model, tmp_path, opponents=2))
    before = {path.name for path in tmp_path.rglob("parts/search-*")}
    found = lists(make(task, model, tmp_path, **{"opponents": 2, **change}))
    assert len({path.name for path in tmp_path.rglob("parts/search-*")} - before) == 1
    assert found == lists(make(task, model, tmp_path / "alone", **{"opponents": 2, **change}))


def test_other_queries_are_another_search(tmp_path, model, task) -> None:
    method = make(task, model, tmp_path)
    method.index()
    (one,) = method.search(QUERIES[:1], 5)
    (other,) = method.search(QUERIES[1:2], 5)
    assert (one.query_id, other.query_id) == ("q0", "q1")
    assert not np.array_equal(one.scores, other.scores)
    accepting = replace(QUERIES[0], accepted=(QUERIES[1].target, QUERIES[2].target, " a"))
    before = {path.name for path in tmp_path.rglob("parts/search-*")}
    assert len(list(method.search([accepting], 5))) == 1
    assert len({path.name for path in tmp_path.rglob("parts/search-*")} - before) == 1
    assert torch.is_tensor(method.encode_queries(QUERIES))


def test_bytes_read_are_those_of_both_stages_and_of_r(tmp_path, model, task) -> None:
    plain = make(task, model, tmp_path, hessian=Hessian.none, engine=Serial(SerialConfig()))
    lists(plain)
    a_row = plain._encoder.dim * 4
    # The second stage asks for the candidates of three queries: all rows, since 9 + 32 are kept.
    assert 63 * a_row < plain.context.counts[BYTES_READ] <= 2 * 63 * a_row
    mixed = make(task, model, tmp_path, hessian=Hessian.mixed)
    lists(mixed)
    assert mixed.context.counts[BYTES_READ] > 2 * 63 * a_row


# ------------------------------------------------------------------ several searches together


def siblings(first, *others) -> None:
    """Tell a method of the cells that come after its own."""
    cells = [Sibling(type(one), one.config, 9) for one in others]
    first.context.siblings = lambda: cells


THREE = (
    {"hessian": Hessian.none, "unit_norm": False},
    {"hessian": Hessian.mixed, "opponents": 3},
    {"hessian": Hessian.train, "damping": 0.5},
)


@pytest.mark.parametrize("apart", [False, True])
def test_methods_of_the_same_features_are_searched_together(tmp_path, model, task, apart) -> None:
    recipe = ToyRecipe(tmp_path)
    alone = [lists(make(task, model, tmp_path / "alone", **settings)) for settings in THREE]
    engines = [Sent(number) for number in range(3)]
    methods = [
        make(task, model, tmp_path, engine=engine if apart else None, recipe=recipe, **settings)
        for engine, settings in zip(engines, THREE, strict=True)
    ]
    siblings(methods[0], *methods[1:])
    assert [lists(method) for method in methods] == alone
    if apart:  # shards, sums of R and groups of the first; the others score their candidates
        assert [engine.n_jobs for engine in engines] == [9 + 5 + 5 + 5, 5, 5]
    size = 63 * methods[0]._encoder.dim * 4
    scanned = [method.context.counts[BYTES_READ] for method in methods]
    assert 2 * size < scanned[0] <= 3 * size, "R, the scan, and candidates"
    # Candidates alone: at one end and at the other, and at one end.
    assert scanned[1] <= 2 * size
    assert scanned[2] <= size
    assert methods[0].context.facts["seconds_for_others"] > 0
    assert all(one.context.facts["seconds_by_others"] > 0 for one in methods[1:])
    assert not list(tmp_path.glob("cache/parts/search-*/whitening*"))


@pytest.mark.slow
def test_what_is_searched_together_is_shared_through_a_store(
    tmp_path, model, task, monkeypatch
) -> None:
    """The other machine has one of the cells alone, then as one that comes after its own."""
    alone = [lists(make(task, model, tmp_path / "alone", **settings)) for settings in THREE]
    (tmp_path / "store").mkdir()

    def on(name: str, settings: dict):
        method = make(task, model, tmp_path / name, **settings)
        cache = method.context.cache_dir
        method.context.mirror = Mirror(cache, f"file://{tmp_path}/store/tda")
        return method

    first = on("one", THREE[0])
    siblings(first, on("one", THREE[1]), on("one", THREE[2]))
    assert lists(first) == alone[0]
    scan, scans = partial_search._scan, list[int]()

    def noted(group, number, asked) -> None:
        scans.append(len(asked))
        scan(group, number, asked)

    monkeypatch.setattr(partial_search, "_scan", noted)
    second = on("two", THREE[1])
    assert lists(second) == alone[1]
    assert second.context.facts["seconds_by_others"] > 0
    third = on("three", {**THREE[0], "opponents": 2})  # which is new, and has two after it
    siblings(third, on("three", THREE[1]), on("three", THREE[2]))
    lists(third)
    assert scans == [1] * 5, "of the new one alone"


def test_who_is_not_searched_beside_another(tmp_path, model, task, monkeypatch) -> None:
    """Other features, another format, what is wrong with itself, and what memory does not hold."""
    settings = [
        {"projection_dim": 4}, {"storage": Storage.bf16}, {"correct_queries": False},
        {"memory_mib": 1}, {"damping": 0.0, "hessian": Hessian.train, "hessian_sample": 3},
    ]  # fmt: skip
    others = [make(task, model, tmp_path, **one) for one in settings]
    first = make(task, model, tmp_path, hessian=Hessian.none)
    siblings(first, *others)
    lists(first)
    assert len(list(tmp_path.glob("cache/parts/search-*/scan-0-00000*"))) == 1
    roomy = make(task, model, tmp_path, hessian=Hessian.none, unit_norm=False)
    siblings(roomy, make(task, model, tmp_path, hessian=Hessian.train))
    monkeypatch.setattr("methods.gradient.method.query_bytes", lambda *_: 20 << 20)
    lists(roomy)
    assert len(list(tmp_path.glob("cache/parts/search-*/scan-0-00000*"))) == 2

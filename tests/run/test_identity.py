"""The key of a cell: what moves it, and what must not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.run import identity
from bench.run.cell import MethodCell
from bench.run.parts import Parts
from bench.run.settings import settings_from
from tests.fixtures.composing import composed

FILES = {
    "q.jsonl": '{"query_id": "q", "prompt": "a", "target": "b", "entity0": "a", "gold": ["p"]}\n',
    "p.jsonl": '{"passage_id": "p", "text": "a b"}\n{"passage_id": "r", "text": "c"}\n',
}


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A cell of two passages, by the words in which it differs from the others."""
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text)
    task = ("task=jsonl", "task.queries=q.jsonl", "task.passages=p.jsonl", "device=cpu")
    places = (f"cache_dir={tmp_path}/cache", f"results_dir={tmp_path}/runs")

    def make(*words: str, method: str = "bm25") -> MethodCell:
        settings = settings_from(composed(*task, *places, f"method={method}", *words))
        return MethodCell(Parts(settings), [], "single")

    return make


def key(cell: MethodCell) -> str:
    return cell.identity().key


@pytest.mark.parametrize(
    "word",
    [
        "seed=1", "top_k=50", "method.k1=1", "method.query=prompt", "metric=attribution",
        "metric.no_gold=zero",
        "metric.bootstrap_samples=5", "metric.attribution=[mrr]", "metric.tail_patch.top=3",
        "metric.tail_patch.optimizer=sgd", "metric.tail_patch.opponents=true", "metric=retraining",
        "metric.judge=lexical", "model=micro", "model.epochs=3", "task.n_queries=1",
    ],
)  # fmt: skip
def test_what_moves_a_number_moves_the_key(cell, word: str) -> None:
    if word == "task.n_queries=1":  # the same task by other settings: the same numbers
        assert key(cell(word)) == key(cell())
    else:
        assert key(cell(word)) != key(cell())


@pytest.mark.parametrize(
    "word",
    [
        "metric.tail_patch.memory_mib=64", "engine=processes", "quiet=true",
        "results_dir=elsewhere", "cache_dir=elsewhere", "logger=wandb",
        "remote_dir='memory://x/y'", "plan.devices=8",
    ],
)  # fmt: skip
def test_what_moves_no_number_leaves_the_key(cell, word: str) -> None:
    assert key(cell(word)) == key(cell())


def test_shares_of_tokens_move_no_number(cell) -> None:
    assert key(cell("spans=true", method="grad_dot")) == key(cell(method="grad_dot"))


def test_a_part_of_a_method_counts_as_the_method_would(cell) -> None:
    members = ("~method.members.dense", "+method@method.members.x=repsim", "metric=attribution")

    def fused(*words: str) -> str:
        return key(cell(*members, *words, method="fusion"))

    assert fused("method.members.x.batch_size=3") == fused()
    assert fused("method.members.trackstar.batch_size=3") == fused()
    assert fused("method.members.x.pooling=last") != fused()
    assert fused("method.members.bm25.k1=1") != fused()
    assert fused("method.k=3") != fused()


def test_settings_of_a_step_that_is_not_made_are_none(cell) -> None:
    words = ("metric=attribution", "metric.tail_patch.top=3")
    assert key(cell(*words)) == key(cell("metric=attribution"))


def test_speed_of_a_judge_leaves_the_key(cell) -> None:
    judged = cell("metric.judge=lexical")
    assert key(judged) != key(cell("metric.judge={name: lexical, threshold: 0.2}"))
    assert key(judged) == key(cell("metric.judge={name: lexical, threshold: 0.5}"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CELL_VERSION", ("metric=attribution",)),
        ("STEP_VERSION", ()),
        ("RETRAINING_VERSION", ("metric=retraining",)),
    ],
)
def test_a_raised_version_moves_the_keys_that_rest_on_it(
    cell, name: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = key(cell("metric=attribution"))
    before = key(cell(*words))
    monkeypatch.setattr(identity, name, -1)
    assert key(cell(*words)) != before
    assert (key(cell("metric=attribution")) != plain) is (name == "CELL_VERSION")


def test_every_part_of_an_identity_counts(cell) -> None:
    one = cell("metric=attribution").identity()
    keys = {one.key}
    for part in ("ranking", "metric", "task", "model", "seed"):
        keys.add(replace(one, **{part: "other"}).key)
    assert len(keys) == 6

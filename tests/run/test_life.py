"""The order of a cell's life: what can be refused early is refused before the task or the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.models.scratch import Scratch
from bench.run import parts
from tests.fixtures.runs import cells, error_line, run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.k1=-1"], "method.k1"),
        (["method=trackstar", "method.damping=-1"], "method.damping"),
        (["method=trackstar", "method.mixing=2"], "method.mixing"),
        (["top_k=5"], "top_k=10"),
        (["metric.attribution=[mmr]"], "unknown metric 'mmr'"),
        (["metric.tail_patch.top=0"], "metric.tail_patch.top"),
        (["metric=retraining", "metric.retraining.lds_subsets=1"], "metric.retraining.lds_subsets"),
        (["metric=nli"], "metric.judge.model"),
        (["metric=lexical", "metric.judge.threshold=2"], "metric.judge.threshold"),
        (["metric=lexical", "metric.attribution=[map]"], "nothing to score"),
        (["model.epochs=0"], "model.epochs"),
        (["engine=processes", "engine.workers=0"], "engine.workers"),
        (["logger.name=wanb"], "unknown logger 'wanb'"),
        (["model=hf", "model.path=/"], "learning rate of the model's training is not known"),
    ],
)
def test_wrong_settings_are_refused_before_the_task_is_prepared(
    tmp_path: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Fault: minutes of a corpus were read, and then a setting was refused."""
    monkeypatch.setattr(parts, "load_task", lambda *_: pytest.fail("prepared"))
    first = [] if any(word.startswith("method=") for word in words) else ["method=bm25"]
    small = "model=hf" not in words
    assert run(tmp_path, tmp_path / "cache", *first, *words, small=small) == 2
    assert message in error_line(capsys)
    assert cells(tmp_path) == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["metric=retraining", "metric.retraining.qld_queries=1",
          "metric.retraining.qld_share=0.9"], "metric.retraining.qld_share"),
        (["metric=lexical", "task=jsonl", "task.queries=q.jsonl", "task.passages=p.jsonl"],
         "metric.judge.require_subject"),
    ],
)  # fmt: skip
def test_what_the_task_shows_is_refused_before_a_model_is_trained(
    tmp_path: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("q.jsonl").write_text('{"query_id": "q", "prompt": "a", "target": "b", "gold": ["p"]}\n')
    Path("p.jsonl").write_text('{"passage_id": "p", "text": "a b"}\n')
    monkeypatch.setattr(Scratch, "load", lambda *_: pytest.fail("trained"))
    small = "task=jsonl" not in words
    assert run(tmp_path, tmp_path / "cache", "method=trackstar", *words, small=small) == 2
    assert message in error_line(capsys)

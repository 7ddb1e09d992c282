"""What a finished cell says of its model: how texts are read, and which matrices were looked at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fixtures.models import TEXTS, make_model
from tests.fixtures.reports import boards_of
from tests.fixtures.runs import cells, result, run

QUERIES = [
    {"query_id": "q0", "prompt": "Al Grey plays the", "target": "trombone", "gold": ["p0"]},
    {"query_id": "q1", "prompt": "Marla Venn was born in ", "target": "Oslo", "gold": ["p3"]},
]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    lines = "\n".join(map(json.dumps, QUERIES))
    (tmp_path / "queries.jsonl").write_text(lines)
    passages = [{"passage_id": f"p{row}", "text": text} for row, text in enumerate(TEXTS)]
    (tmp_path / "passages.jsonl").write_text("\n".join(map(json.dumps, passages)))
    folder = make_model(tmp_path / "llama4", "llama4_text", layers=2, num_local_experts=4,
                        num_experts_per_tok=1, intermediate_size_mlp=48, num_key_value_heads=2,
                        head_dim=8)  # fmt: skip
    return [
        "task=jsonl", f"task.queries={tmp_path}/queries.jsonl",
        f"task.passages={tmp_path}/passages.jsonl", "model=hf", f"model.path={folder}",
        "model.projection_dim=4", "metric=attribution",
    ]  # fmt: skip


def test_of_experts_that_are_left_out(tmp_path: Path, words: list[str]) -> None:
    """Fault: nothing in result or row said that attention alone was looked at."""
    results, cache = tmp_path / "results", tmp_path / "cache"
    skip = "method.unsupported=skip"
    assert run(results, cache, *words, "-m", "method=grad_cos,datainf", skip, small=False) == 0
    for folder in cells(results).values():
        found = result(folder)["method"]["facts"]["gradient_parameters"]
        assert 0.1 < found["share"] < 0.5
        assert (
            "model.layers.0-1.feed_forward.experts.down_proj (mixture-of-experts)"
            in found["left_out"]
        )
    # Each layer's attention, shared expert and router; its four experts are left out.
    taken, experts = 3 * 32 * 32 + 3 * 32 * 64 + 4 * 32, 4 * 3 * 32 * 64
    share = taken / (taken + experts)
    (board,) = boards_of(results)
    assert {row.label.rpartition("(")[2] for row in board.rows} == {f"{share:.1%} of the matrices)"}


def test_of_how_texts_are_read(tmp_path: Path, words: list[str], capsys) -> None:
    results, cache = tmp_path / "results", tmp_path / "cache"
    assert run(results, cache, *words, "-m", "method=repsim,bm25", small=False) == 0
    folders = cells(results)
    assert result(folders["repsim"])["model"]["reading"] == {
        "begin_tokens": [], "begin_token_not_added": None, "end_tokens": [],
        "context_length": 64, "context_length_from": "max_position_embeddings of config.json",
    }  # fmt: skip
    assert result(folders["bm25"])["model"]["reading"] == {}, "no model was needed"
    for folder in folders.values():
        task = result(folder)["task"]
        assert task["separators"] == ["", " "]
        assert task["counts"]["prompts_ending_in_white_space"] == 1
    assert "prompts that end in white space get no separator: 1 of 2" in capsys.readouterr().err
    before = set(folders.values())
    script = 'task.separator=""'
    assert run(results, cache, *words, "-m", "method=bm25", script, small=False) == 0
    (new,) = set(results.glob("*/*/*/*")) - before
    assert result(new)["task"]["separators"] == [""]
    assert "prompts_ending_in_white_space" not in result(new)["task"]["counts"]

"""Settings as keywords become the words of the command, and compose to the very values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from bench.api.words import words_of
from bench.core.errors import UserError
from bench.run.composing import composed, sweep


def test_mappings_are_spelled_out_and_lists_sweep() -> None:
    given = {
        "task": {"name": "factworld", "n_passages": 2000},
        "model": "tiny",
        "method": ["bm25", "trackstar"],
        "metric": {"tail_patch": {"enabled": False}, "attribution": ("mrr", "hit@10")},
        "metric.bootstrap_samples": np.int64(50),
        "task.seed": None,
    }
    assert words_of(given) == [
        "task=factworld", "task.n_passages=2000", "model=tiny", "method=bm25,trackstar",
        "metric.tail_patch.enabled=false", 'metric.attribution=[mrr,"hit@10"]',
        "metric.bootstrap_samples=50", "task.seed=null",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [
        "/tmp/a b/c,d=e", "it's", 'say "so"', "back\\slash\\", "true", "null", "1e-5", "inf", "",
        "[a]", "{a:b}", "ends in \\", "ü", "a.b-c", 0.1, 1e-30, -3, True, None,
        Path("/x y"), (1, 2), ("a,b", "c"), (),
    ],
    ids=repr,
)  # fmt: skip
def test_any_value_is_composed_as_it_is(value: Any) -> None:
    (word,) = words_of({"task.queries": value})
    config = composed(["task=jsonl", word], "run")
    read = OmegaConf.to_container(config.task, throw_on_missing=False)["queries"]
    expected = str(value) if isinstance(value, Path) else value
    assert read == (list(expected) if isinstance(expected, tuple) else expected)
    assert type(read) is (list if isinstance(expected, tuple) else type(expected))


def test_items_of_a_list_are_swept_as_they_are() -> None:
    paths = ["/a b/1,2", "plain", '"quoted"']
    cells = sweep(words_of({"task": "jsonl", "task.queries": paths, "seed": [0, 1]}))
    read = [(composed(words, "run").task.queries, composed(words, "run").seed) for words in cells]
    assert read == [(path, seed) for path in paths for seed in (0, 1)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": {"n_facts": 1}, "task.n_facts": 2}, "task.n_facts: is given twice"),
        ({"method": []}, "method: an empty list sweeps over nothing"),
        ({"top_k": {1}}, "top_k: expected a text, a number, None or a tuple, found {1}"),
        ({"top_k": [[1]]}, "top_k: expected a text"),
        ({"task": {1: 2}}, "task: expected the name of a setting, found 1"),
    ],
)
def test_what_is_no_setting_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        words_of(settings)
    assert str(error.value).startswith(message)

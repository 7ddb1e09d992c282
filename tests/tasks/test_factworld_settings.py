"""Settings of the invented worlds: each with its reason, and what is refused."""

from __future__ import annotations

import re
from dataclasses import fields
from itertools import pairwise

import pytest

from bench.core.errors import UserError
from bench.core.registry import DESCRIPTION
from bench.tasks.factworld.sentences import MAX_FREQUENCY
from tests.fixtures.factworlds import CONF, WORLDS, build


@pytest.mark.parametrize("name", WORLDS)
def test_yaml_names_each_setting_and_says_why(name: str) -> None:
    lines = (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    keys = [line.partition(":")[0] for line in lines if re.match(r"\w+:", line)]
    assert keys[0] == "name"
    assert set(keys[1:]) - set(DESCRIPTION) == {f.name for f in fields(WORLDS[name].Config)}
    for before, line in pairwise(lines):
        key = re.match(r"(\w+):", line)
        if key and key[1] not in DESCRIPTION:
            assert before.startswith("#"), line


@pytest.mark.parametrize(
    ("name", "changes", "key"),
    [
        ("factworld", {"n_facts": 3}, "n_facts"),
        ("factworld", {"n_passages": 0}, "n_passages"),
        ("factworld", {"n_passages": 100}, "n_passages"),
        ("factworld", {"n_facts": 1000, "n_passages": 5000}, "n_passages"),
        ("factworld", {"n_queries": 0}, "n_queries"),
        ("factworld", {"n_queries": 5000}, "n_queries"),
        ("factworld", {"max_frequency": 0}, "max_frequency"),
        ("factworld", {"max_frequency": MAX_FREQUENCY + 1}, "max_frequency"),
        ("factworld", {"n_objects": 1}, "n_objects"),
        ("factworld", {"zipf_exponent": -1.0}, "zipf_exponent"),
        ("factworld", {"zipf_exponent": float("nan")}, "zipf_exponent"),
        ("factworld", {"alias_rate": 1.5}, "alias_rate"),
        ("factworld", {"alias_introductions": 0}, "alias_introductions"),
        ("factworld", {"near_name_rate": -0.1}, "near_name_rate"),
        ("factworld", {"denied_rate": 0.9}, "denied_rate"),
        ("factworld", {"prompt": 3}, "prompt"),
        ("factworld", {"seed": -1}, "seed"),
        ("replaced", {"bridge_rate": 1.0}, "bridge_rate"),
        ("factworld", {"n_facts": 1_200_000}, "n_facts"),
    ],
)
def test_bad_settings_are_refused_where_they_are(name: str, changes: dict, key: str) -> None:
    with pytest.raises(UserError) as caught:
        build(name, **changes)
    assert caught.value.where == f"task.{key}"
    assert caught.value.fix


def test_too_few_passages_are_answered_with_a_number_that_suffices() -> None:
    with pytest.raises(UserError) as caught:
        build(n_facts=1000, n_passages=5000)
    needed = int(re.search(r"task.n_passages=(\d+)", caught.value.fix)[1])
    assert len(list(build(n_facts=1000, n_passages=needed).passages())) == needed
    with pytest.raises(UserError):
        build(n_facts=1000, n_passages=needed - 20)

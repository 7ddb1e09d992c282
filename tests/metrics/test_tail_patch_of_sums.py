"""Tail-patch of queries of several answers: the change of their summed probability."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metrics import optimizer_step, patch_jobs
from tests.fixtures.helpers import make_task
from tests.fixtures.models import TEXTS, load, make_model, with_moments
from tests.fixtures.tail_patches import PROPONENTS, QUERIES, config, serial_patch
from tests.oracles.deep_copy_tail_patch import patched
from tests.oracles.summed_answers import loss

RATE = 3e-3
SUMMED = (
    replace(QUERIES[0], accepted=("Oslo", "a band"), summed=True),
    QUERIES[1],
    replace(QUERIES[2], accepted=("Virginia",), summed=True),
)


@pytest.mark.parametrize("at_once", [1, 2, 64])
def test_equals_the_sum_over_answers_in_a_deep_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """A query's answers may be asked in different forward passes."""
    for room in (optimizer_step, patch_jobs):
        monkeypatch.setattr(room, "QUERIES_AT_ONCE", at_once)
    model = with_moments(
        load(make_model(tmp_path / "model", layers=1, hidden=16)), tmp_path, "adafactor"
    )
    task = make_task(tmp_path / "task", TEXTS, SUMMED)
    patch = serial_patch(config(learning_rate=RATE), model, task, tmp_path / "cache")
    measured = patch.measure(SUMMED, PROPONENTS)
    module = copy.deepcopy(model.module).double()
    moments = {name: (m.row, m.col) if hasattr(m, "row") else (m.value,)
               for name, m in model.second_moments.by_name.items()}  # fmt: skip
    twins = {
        row: patched(module, model.passage_tokens(TEXTS[row]).ids, RATE, moments)
        for row in range(len(TEXTS))
    }
    for query in SUMMED:
        prompt = model.tokenizer(query.prompt)["input_ids"]
        answers = [
            model.tokenizer(f"{query.prompt} {name}")["input_ids"][len(prompt) :]
            for name in (query.target, *query.accepted)
        ]
        with torch.no_grad():
            before = -float(loss(module, prompt, answers))
            after = [
                -float(loss(twins[row], prompt, answers)) for row in PROPONENTS[query.query_id]
            ]
        assert measured.before[query.query_id] == pytest.approx(before, abs=1e-6)
        found = [one.log_probability for one in measured.after[query.query_id]]
        np.testing.assert_allclose(found, after, atol=1e-5)
        assert np.abs(np.array(after) - before).max() > 1e-3
        changes = [math.exp(value) - math.exp(before) for value in after]
        np.testing.assert_allclose(measured.changes()[query.query_id], changes, atol=1e-6)

"""What tail-patch keeps of its steps and takes again, and which settings it refuses."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from bench.core.errors import UserError
from bench.core.typed import typed
from bench.models.second_moments import SecondMoments
from metrics import patch_jobs
from metrics.optimizer_step import OptimizerStep
from metrics.settings import TailPatchConfig
from tests.fixtures.helpers import make_task
from tests.fixtures.models import TEXTS, load, make_model, with_moments
from tests.fixtures.tail_patches import PROPONENTS, QUERIES, config, serial_patch

# ------------------------------------------------------------------ what is kept


def test_the_cache_knows_all_that_moves_a_number(tmp_path):
    model = with_moments(load(make_model(tmp_path / "model")), tmp_path, "adam")
    task = make_task(tmp_path / "task", TEXTS, QUERIES)

    def path():
        return serial_patch(config(), model, task, tmp_path)._cache._file.path

    seen = {path()}
    seen.add(serial_patch(config(clip="none"), model, task, tmp_path)._cache._file.path)
    for change in ("weights", "gradients", "context", "epsilon"):
        if change == "weights":
            model.module.to(torch.bfloat16)
        elif change == "gradients":
            model.gradient_dtype = torch.float32
        elif change == "context":
            model.context_length -= 1
        else:
            moments = {k: replace(m, epsilon=1e-6) for k, m in model.second_moments.by_name.items()}
            model.second_moments = replace(model.second_moments, by_name=moments)
        seen.add(path())
    assert len(seen) == 6


def test_version_is_part_of_the_cache(tmp_path, model, monkeypatch):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    first = serial_patch(config(), model, task, tmp_path)._cache._file.path
    monkeypatch.setattr(patch_jobs, "STEP_VERSION", 999)
    assert serial_patch(config(), model, task, tmp_path)._cache._file.path != first


def test_each_passage_is_stepped_once_and_known_pairs_never(tmp_path, model, monkeypatch):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    stepped: list[int] = []
    original = OptimizerStep.after
    rows = {tuple(model.passage_tokens(text).ids): row for row, text in enumerate(TEXTS)}

    def counting(self, passages, queries):
        stepped.extend(rows[tuple(passage.ids)] for passage in passages)
        return original(self, passages, queries)

    monkeypatch.setattr(OptimizerStep, "after", counting)
    patch = serial_patch(config(), model, task, tmp_path / "cache")
    first = patch.measure(QUERIES, PROPONENTS).table()
    assert sorted(stepped) == [0, 1, 2, 3, 4, 5]
    stepped.clear()
    again = (
        serial_patch(config(), model, task, tmp_path / "cache").measure(QUERIES, PROPONENTS).table()
    )
    assert not stepped
    assert first.equals(again)
    more = {**PROPONENTS, "q1": [4]}
    serial_patch(config(), model, task, tmp_path / "cache").measure(QUERIES, more).table()
    assert stepped == [4], "only the new pair costs a step"
    serial_patch(config(learning_rate=1e-4), model, task, tmp_path / "cache").measure(
        QUERIES, PROPONENTS
    ).table()
    assert len(stepped) == 7, "another learning rate is another measurement"


def test_a_passage_without_a_finite_loss_is_named_and_not_averaged(tmp_path, model, monkeypatch):
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    bad = PROPONENTS[QUERIES[0].query_id][0]
    stepped = OptimizerStep._stepped

    def failing(self, passages):
        weights, losses, *facts = stepped(self, passages)
        ids = model.passage_tokens(TEXTS[bad]).ids
        losses = [
            math.nan if passage.ids == ids else loss
            for passage, loss in zip(passages, losses, strict=True)
        ]
        return weights, losses, *facts

    sound = serial_patch(config(), model, task, tmp_path / "sound").measure(QUERIES, PROPONENTS)
    assert sound.not_finite == []
    monkeypatch.setattr(OptimizerStep, "_stepped", failing)
    for _ in range(2):  # the second time from the cache, which must not hold what is no number
        patched = serial_patch(config(), model, task, tmp_path / "cache").measure(
            QUERIES, PROPONENTS
        )
        assert patched.not_finite == [f"p{bad}"]
        found = patched.table().set_index("query_id")["tail_patch"]
        expected = sound.table().set_index("query_id")["tail_patch"]
        for query in QUERIES:
            if bad in PROPONENTS[query.query_id][:10]:
                assert np.isnan(found[query.query_id])
            else:
                assert found[query.query_id] == expected[query.query_id]
    assert np.isnan(patched.changes()[QUERIES[0].query_id][0])
    assert np.isfinite(patched.changes()[QUERIES[0].query_id][1:]).all()


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "adamw"}, r"metric\.tail_patch\.optimizer: unknown optimizer 'adamw'"),
        ({"learning_rate": 0.0}, r"metric\.tail_patch\.learning_rate: expected more than 0"),
        *(
            ({"clip": clip}, r"metric\.tail_patch\.clip: expected more than 0 or 'none', found")
            for clip in (0, -1.0, "off", "1")
        ),
        *(({"clip": clip}, r"clip: expected a finite number") for clip in (math.inf, math.nan)),
        *(({"clip": clip}, r"metric\.tail_patch\.clip: ") for clip in (None, True, [1])),
    ],
)
def test_wrong_settings_are_named(change, message):
    with pytest.raises(UserError, match=message):
        typed(TailPatchConfig, {**asdict(config()), **change}, "metric.tail_patch").check()


def test_a_whole_number_clips_like_the_number():
    for clip, at in ((1, 1.0), (0.5, 0.5), ("none", None)):
        settings = typed(TailPatchConfig, {**asdict(config()), "clip": clip}, "metric.tail_patch")
        settings.check()
        assert settings.clip_at == at
        assert not isinstance(settings.clip, int), "or it would be told by another key"


def test_an_unknown_learning_rate_is_named(tmp_path, model):
    model.learning_rate = None
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    with pytest.raises(UserError, match=r"metric\.tail_patch\.learning_rate"):
        serial_patch(config(learning_rate=None), model, task, tmp_path)


def test_no_second_moments_says_what_to_do(tmp_path):
    model = load(make_model(tmp_path / "model"))
    task = make_task(tmp_path / "task", TEXTS, QUERIES)
    with pytest.raises(UserError, match="optimizer=sgd"):
        serial_patch(config(), model, task, tmp_path)


def test_a_missing_moment_is_named(model):
    partial = SecondMoments({}, "")
    with pytest.raises(UserError, match=r"no second moment for parameter gpt_neox\.embed_in"):
        OptimizerStep(model, 0.1, partial, clip=1.0)

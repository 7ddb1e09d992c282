"""``spans=true``: shares of tokens beside the lists, and nothing else that moves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.core.errors import UserError
from bench.results.verify import verify
from bench.run.spans import spans_of_lists, tolerance
from methods.base import TokenShares
from tests.fixtures.gradient_methods import QUERIES, make, ranked, toy_model
from tests.fixtures.helpers import make_task
from tests.fixtures.models import TEXTS
from tests.fixtures.runs import cells, error_line, result, run

SHARES = ("proponent_spans", "opponent_spans")


def lists(folder: Path) -> list[dict]:
    lines = (folder / "retrievals.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_shares_are_added_and_nothing_moves(tmp_path: Path, capsys) -> None:
    cache = tmp_path / "cache"
    words = ("method=trackstar", "metric=attribution", "task.n_queries=12")
    assert run(tmp_path / "plain", cache, *words) == 0
    assert run(tmp_path / "apart", cache, *words, "spans=true") == 0
    plain, apart = (cells(tmp_path / name)["trackstar"] for name in ("plain", "apart"))
    assert plain.name == apart.name
    assert verify(tmp_path / "apart") == []
    one, other = result(plain), result(apart)
    for part in ("metrics", "slices", "identity", "index", "task", "model"):
        assert one[part] == other[part], part
    facts = dict(other["method"]["facts"])
    assert 1e-4 < facts.pop("spans_tolerance") < 1e-3
    facts.pop("seconds_by_others", None)  # there, where parts of the index were done before
    assert facts == one["method"]["facts"]
    assert (plain / "per_query.parquet").read_bytes() == (apart / "per_query.parquet").read_bytes()
    for before, after in zip(lists(plain), lists(apart), strict=True):
        spans = {name: after.pop(name) for name in SHARES}
        assert before == after
        assert [one is not None for one in spans["proponent_spans"]] == [True] * 10 + [False] * 90
        assert all(spans["opponent_spans"])
        for side in ("proponent", "opponent"):
            listed = zip(after[f"{side}s"], after[f"{side}_scores"], spans[f"{side}_spans"],
                         strict=True)  # fmt: skip
            for text, score, own in list(listed)[:10]:
                covered = "".join(text[start:end] for start, end, _ in own)
                assert covered == text, "the tokens of an ASCII text follow each other"
                shares = [share for _, _, share in own]
                assert sum(shares) == pytest.approx(score, abs=3.5e-4 * np.abs(shares).sum())
    # A cell that is there already is as it was written.
    capsys.readouterr()
    assert run(tmp_path / "plain", cache, *words, "spans=true") == 2
    line = error_line(capsys)
    assert "is finished, without the shares of tokens that spans=true asks for" in line
    assert run(tmp_path / "apart", cache, *words) == 0


def test_shares_that_do_not_sum_up_are_one_line(tmp_path: Path, monkeypatch) -> None:
    model = toy_model(tmp_path)
    method = make(make_task(tmp_path / "task", TEXTS, QUERIES), model, tmp_path)
    method.context.spans = True
    rankings = ranked(method)
    assert [len(one.proponents) for one in spans_of_lists(method, QUERIES, rankings)] == [6] * 3
    right = method.shares

    def wrong(*arguments):
        for one in right(*arguments):
            yield TokenShares([1.1 * shares for shares in one.proponents], one.opponents)

    monkeypatch.setattr(method, "shares", wrong)
    with pytest.raises(UserError, match=r"query q0, passage p\d: the shares of its tokens sum to"):
        list(spans_of_lists(method, QUERIES, rankings))


def test_the_tolerance_follows_the_rounding_of_the_gradients() -> None:
    import torch

    assert tolerance(torch.float64) == tolerance(torch.float32) == pytest.approx(3.45e-4, rel=1e-2)
    assert tolerance(torch.float32) < tolerance(torch.float16) < tolerance(torch.bfloat16) < 0.1

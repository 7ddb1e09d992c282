"""λ by the paper's rule on a model that was trained: near what was measured, never near 1."""

from __future__ import annotations

import pytest

from bench.run.cell import run_cell
from bench.run.composing import composed
from bench.run.settings import settings_from


@pytest.mark.slow
def test_factworld_at_1024_dimensions(tmp_path):
    """Fault: k was capped by the rank of R of the queries, λ was .999995, and MRR .139."""
    words = (
        "task=factworld", "task.n_passages=2000", "task.n_queries=200", "model=micro",
        "method=trackstar", "metric=attribution", "quiet=true",
        f"results_dir={tmp_path / 'runs'}", f"cache_dir={tmp_path / 'cache'}",
    )  # fmt: skip
    result = run_cell(settings_from(composed(words, "test"))).cell.result
    facts = result.method["facts"]
    assert facts["mixing"] == pytest.approx(0.29, abs=0.05)
    assert facts["hessian_blocks"]["dims"] == [256] * 4
    assert facts["hessian_blocks"]["damping"] == [0.128] * 4
    traces = (sum(facts["hessian_blocks"][f"{side}_trace"]) for side in ("train", "eval"))
    assert next(traces) / next(traces) == pytest.approx(0.8, abs=0.1)
    assert result.metrics["mrr"].value > 0.28

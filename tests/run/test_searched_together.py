"""A sweep whose methods share features reads the index once for all, and changes no list."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.report.costs import own_seconds
from bench.results.schema import read_result
from methods.gradient import groups
from methods.gradient import index as index_module
from methods.gradient import search as search_module
from methods.gradient.source import BYTES_READ
from tests.fixtures.runs import cells, result, run

QUICK = (
    "quiet=true",
    "top_k=3", "metric=attribution", "metric.attribution=[hit@1,mrr]", "task.n_queries=4",
    "method.opponents=0",
)  # fmt: skip


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """400 passages are eight shards, and four groups; few candidates are scored again."""
    monkeypatch.setattr(index_module, "SHARD_ROWS", 50)
    monkeypatch.setattr(groups, "LEAST_SHARDS", 2)
    monkeypatch.setattr(search_module, "MARGIN", 0)


def by_settings(results: Path) -> dict[tuple, Path]:
    """Cells by method, damping and what else was swept."""
    found = {}
    for path in results.glob("*/*/*/*/result.json"):
        method = result(path.parent)["method"]
        config = method["config"]
        found[config["name"], config["damping"], config["hessian"]] = path.parent
    return found


@pytest.mark.slow
def test_six_methods_read_the_index_little_more_than_twice(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    together, alone = tmp_path / "together", tmp_path / "alone"
    methods, dampings = "method=grad_dot,cos_hessian", "method.damping=0.001,0.01,0.1"
    assert run(together, cache, "-m", *QUICK, methods, dampings) == 0
    swept = by_settings(together)
    assert len(swept) == 6
    counts = {name: result(one)["method"]["counts"] for name, one in swept.items()}
    read = sum(one.get(BYTES_READ, 0) for one in counts.values())
    size = result(next(iter(swept.values())))["index"]["bytes"]
    assert 2 * 0.98 * size < read <= 2.2 * size
    # Each alone, from the same index, with nothing found that another has left.
    (cache / "parts").rename(tmp_path / "of-the-sweep")
    for number, name in enumerate(swept):
        words = (f"method={name[0]}", f"method.damping={name[1]}")
        assert run(alone, cache, *QUICK, *words) == 0
        (cache / "parts").rename(tmp_path / f"parts-{number}")
    single = by_settings(alone)
    assert set(single) == set(swept)
    for name, folder in single.items():
        other = swept[name]
        assert folder.name == other.name, "a cell's key does not depend on its neighbours"
        for file in ("retrievals.jsonl", "per_query.parquet"):
            assert (folder / file).read_bytes() == (other / file).read_bytes()
        assert result(folder)["metrics"] == result(other)["metrics"]
        own, shared = (dict(result(one)["method"]["facts"]) for one in (folder, other))
        for facts in (own, shared):
            for seconds in ("encoding_seconds", "seconds_by_others", "seconds_for_others"):
                facts.pop(seconds, None)
        assert own == shared
        assert result(folder)["method"]["counts"][BYTES_READ] >= 0.98 * size
    first, *rest = (result(one)["method"]["facts"] for one in swept_in_order(together))
    assert first["seconds_for_others"] > 0
    assert all(facts["seconds_by_others"] > 0 for facts in rest)
    assert all((own_seconds(read_result(one / "result.json")) or 0) > 0 for one in swept.values())


def swept_in_order(results: Path) -> list[Path]:
    paths = results.glob("*/*/*/*/result.json")
    return [path.parent for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns)]


@pytest.mark.slow
def test_a_sweep_of_single_cells_is_what_it_was(tmp_path: Path, capsys) -> None:
    """Cells of one method have no neighbour; a faulty neighbour says so itself."""
    words = (*QUICK, "method=grad_cos,cos_hessian", "method.damping=0.1,-1")
    assert run(tmp_path / "results", tmp_path / "cache", "-m", *words) == 1
    assert capsys.readouterr().err.count("method.damping") >= 2
    assert len(by_settings(tmp_path / "results")) == 2
    assert set(cells(tmp_path / "results")) == {"grad_cos", "cos_hessian"}

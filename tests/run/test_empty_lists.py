"""A query that matches no passage: its list is empty in every file, metric and format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ir_measures
import pandas as pd
import pytest
from ir_measures import RR, Success

from bench.cli.main import main
from bench.results.verify import verify
from bench.tasks.records import read_retrievals
from tests.fixtures.models import make_model
from tests.fixtures.runs import cells, result
from tests.fixtures.viewer_data import Data

# A sentence without spaces is one word, which no other sentence has.
PASSAGES = (
    "東京は日本の首都です。",
    "京都は古い都です。",
    "Al Grey plays the trombone.",
    "Marla Venn was born in Oslo.",
    "Nobody knows why.",
)
QUERIES: tuple[dict[str, Any], ...] = (
    {"query_id": "q0", "prompt": "日本の首都は", "target": "東京", "gold": ["p0"]},
    {"query_id": "q1", "prompt": "Al Grey plays the", "target": "trombone", "gold": ["p2"]},
    {"query_id": "q2", "prompt": "Marla Venn comes from", "target": "Oslo", "gold": ["p3"]},
)


def write_lines(path: Path, records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells of methods that match words, and of one that does not."""
    folder = tmp_path_factory.mktemp("empty")
    passages = [{"passage_id": f"p{i}", "text": text} for i, text in enumerate(PASSAGES)]
    write_lines(folder / "passages.jsonl", passages)
    write_lines(folder / "queries.jsonl", QUERIES)
    model = make_model(folder / "model", layers=1)
    words = (
        "task=jsonl", f"task.queries={folder}/queries.jsonl",
        f"task.passages={folder}/passages.jsonl", "model=hf", f"model.path={model}",
        "metric.tail_patch.optimizer=sgd", "metric.tail_patch.learning_rate=0.1",
        f"results_dir={folder}/runs", f"hydra.sweep.dir={folder}/jobs", f"cache_dir={folder}/cache",
    )  # fmt: skip
    assert main(["run", "-m", "method=bm25,verbatim,random", *words]) == 0
    return folder / "runs"


@pytest.mark.parametrize("method", ["bm25", "verbatim"])
def test_it_earns_nothing_and_is_counted(results: Path, method: str) -> None:
    """Listed in the order of the file, the gold passage at its head had a reciprocal rank of 1."""
    folder = cells(results)[method]
    first, *others = read_retrievals(folder / "retrievals.jsonl")
    assert (first.proponents, first.proponent_ids, first.proponent_scores) == ([], [], [])
    assert first.proponent_correct == []
    assert [record.proponent_ids[0] for record in others] == ["p2", "p3"]
    assert all(len(record.proponent_ids) < len(PASSAGES) for record in others)
    table = pd.read_parquet(folder / "per_query.parquet").set_index("query_id")
    assert table["mrr"].tolist() == [0, 1, 1]
    assert table["tail_patch"].isna().tolist() == [True, False, False]
    metrics, counts = result(folder)["metrics"], result(folder)["method"]["counts"]
    assert (metrics["mrr"]["value"], metrics["mrr"]["n"]) == (pytest.approx(2 / 3), 3)
    assert metrics["tail_patch"]["n"] == 2
    assert counts["queries_with_an_empty_list"] == 1
    assert counts["tail_patch_queries_without_proponents"] == 1


def test_lists_that_are_never_empty_count_none(results: Path) -> None:
    counts = result(cells(results)["random"])["method"]["counts"]
    assert not {"queries_with_an_empty_list", "tail_patch_queries_without_proponents"} & set(counts)


def test_verify_and_every_format_of_the_report_take_it(results: Path, capsys: Any) -> None:
    assert verify(results) == []
    assert main(["report", str(results)]) == 0
    assert "bm25" in capsys.readouterr().out
    data = Data(results / "report" / "viewer")
    (group,) = data.groups
    labels = [method["label"] for method in group["methods"]]
    entry = data.ranking(data.queries()["id"].index("q0"), labels.index("bm25"))
    assert (entry["p"], entry["n"]) == ([], 0)


def test_evaluation_tools_see_it(results: Path, tmp_path: Path) -> None:
    assert main(["export", "trec", str(results), "--out", str(tmp_path / "trec")]) == 0
    (qrels,) = (tmp_path / "trec" / "qrels").iterdir()
    (run,) = (tmp_path / "trec" / "runs").glob("*bm25*")
    read = ir_measures.read_trec_qrels(str(qrels)), ir_measures.read_trec_run(str(run))
    found = ir_measures.calc_aggregate([RR, Success @ 1], *read)
    assert found[RR] == found[Success @ 1] == pytest.approx(2 / 3)


def test_it_comes_back_from_its_own_file(results: Path, tmp_path: Path) -> None:
    file = cells(results)["bm25"] / "retrievals.jsonl"
    folder = results.parent
    places = (f"results_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache")
    task = (
        "task=jsonl", f"task.queries={folder}/queries.jsonl",
        f"task.passages={folder}/passages.jsonl", "metric.attribution=[mrr,hit@1]",
    )  # fmt: skip
    for kind in (task, ("task=none", "metric.attribution=[mrr,hit@1]")):
        assert main(["import", str(file), "name=mine", *kind, *places]) == 0
    found = [result(path)["metrics"]["mrr"] for path in (tmp_path / "runs").glob("*/*/*/*")]
    assert len(found) == 2
    assert all((one["value"], one["n"]) == (pytest.approx(2 / 3), 3) for one in found)
    assert verify(tmp_path / "runs") == []

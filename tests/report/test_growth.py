"""What is new in a copy of the project: a metric takes two files, a format of the report one."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fixtures.forks import Forks
from tests.fixtures.runs import SMALL
from tests.fixtures.trees import copied, touched

RANKING_RECORD = """\
    _attribution("mrr@k", "MRR that does not see past the top k", title="MRR@k"),
"""
RANKING_FORMULA = '''def _mrr_at_k(correct: np.ndarray, n_gold: int, k: int) -> float:
    """1 / rank of the first correct passage, 0 if none is among the ``k`` strongest."""
    return _mrr(correct, n_gold, k)


'''
STEP_RECORD = """    MetricRecord(
        "tail_patch_best", "best tail-patch", "largest change by one of the top proponents",
        MetricKind.influence, unit="pp", scale=100.0, signed=True, needs_model=True,
    ),
"""
STEP_COLUMN = """\
        "tail_patch_best": max(map(math.exp, log_probs)) - math.exp(base) if after else math.nan,
"""
FORMAT = '''"""Tables as JSON."""

import json

from bench.report.formats import Content, ReportFormat


class JsonFiles(ReportFormat):
    """The leaderboards as records."""

    def files(self, content: Content) -> dict[str, str]:
        """``leaderboard.json``."""
        records = [record for table in content.leaderboards for record in table.records()]
        return {"leaderboard.json": json.dumps(records)}
'''


def insert(path: Path, before: str, text: str) -> None:
    """Put text into a file, before the one place where ``before`` stands."""
    source = path.read_text(encoding="utf-8")
    assert source.count(before) == 1, before
    path.write_text(source.replace(before, text + before), encoding="utf-8")


def command(tdabench: Forks, *words: str) -> str:
    """What a command of the copy prints; fails if the command does."""
    done = tdabench.run(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_metric_is_two_files_and_a_format_one(tmp_path: Path) -> None:
    tree = copied(tmp_path / "tree")
    measures = tree / "metrics" / "measures.py"
    attribution = tree / "metrics" / "attribution.py"
    insert(measures, '    _attribution(\n        "hit@k"', RANKING_RECORD)
    insert(attribution, "_WHOLE_LIST: dict", RANKING_FORMULA)
    insert(attribution, '    "ndcg": _ndcg,\n', '    "mrr": _mrr_at_k,\n')
    files = {*touched(tree)}
    print("a metric of rankings:", sorted(files))
    assert files == {"metrics/measures.py", "metrics/attribution.py"}

    insert(measures, '    MetricRecord(\n        "lds"', STEP_RECORD)
    insert(tree / "metrics" / "tail_patch.py", '        "tail_patch": ', STEP_COLUMN)
    of_step = {*touched(tree)} - {"metrics/attribution.py"}
    print("a metric of the step:", sorted(of_step))
    assert of_step == {"metrics/measures.py", "metrics/tail_patch.py"}

    before = {*touched(tree)}
    path = tree / "bench" / "report" / "formats" / "json_files.py"
    path.write_text(FORMAT, encoding="utf-8")
    print("a format:", sorted({*touched(tree)} - before))
    assert {*touched(tree)} - before == {"bench/report/formats/json_files.py"}

    results, report = tmp_path / "results", tmp_path / "results" / "report"
    places = (
        f"results_dir={results}",
        f"cache_dir={tmp_path}/cache",
        f"hydra.sweep.dir={tmp_path}/hydra",
    )
    asked = "metric.attribution=[mrr,mrr@2]"
    with Forks(tree) as tdabench:
        command(tdabench, "run", "-m", *SMALL, asked, "method=bm25,random", *places)
        listed = command(tdabench, "list", "metrics")
        command(tdabench, "report", str(results), "--no-figures")
        verified = command(tdabench, "verify", str(results))
    assert "mrr@k" in listed
    assert "tail_patch_best" in listed
    head = next(
        line
        for line in (report / "leaderboard.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| method")
    )
    assert [cell.strip() for cell in head.split("|")[2:7]] == [
        "MRR", "MRR@2", "tail-patch (pp)", "tail-patch (log p)", "best tail-patch (pp)",
    ]  # fmt: skip
    records = {
        record["method"]: record
        for record in json.loads((report / "leaderboard.json").read_text(encoding="utf-8"))
    }
    assert 0 < records["bm25"]["mrr@2"] <= records["bm25"]["mrr"]
    for record in records.values():
        assert record["tail_patch_best"] >= record["tail_patch"]
    assert "all hold" in verified

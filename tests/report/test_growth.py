"""What is new in a copy of the project: a metric takes two files, a format of the report one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.runs import SMALL

ROOT = Path(__file__).parents[2]
PACKAGES = ("bench", "methods", "metrics", "conf")

RANKING_RECORD = """\
    _attribution("mrr@k", "MRR that does not see past the top k", title="MRR@k"),
"""
RANKING_CLASS = '''@dataclass(frozen=True)
class MRRAtK(_AtK):
    """1 / rank of the first correct passage, 0 if none is among the ``k`` strongest."""

    kind = "mrr"

    def score(self, correct: np.ndarray, n_gold: int) -> float:
        """See ``Metric.score``."""
        return MRR().score(correct[: self.k], n_gold)


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


def touched(tree: Path) -> set[str]:
    """The files of a copy that the project has not, or has with another content."""
    paths = [path.relative_to(tree) for name in PACKAGES for path in (tree / name).rglob("*")]
    return {
        path.as_posix()
        for path in paths
        if path.suffix != ".pyc" and (tree / path).is_file()
        if not (ROOT / path).is_file() or (ROOT / path).read_bytes() != (tree / path).read_bytes()
    }


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    for name in PACKAGES:
        leave_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=leave_out)
    shutil.copy(ROOT / "tdabench.py", folder)
    return folder


def tdabench(tree: Path, *words: str) -> str:
    """Run a command of the copy, which is what Python finds first there."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words],
        cwd=tree, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_metric_is_two_files_and_a_format_one(tree: Path) -> None:
    measures = tree / "metrics" / "measures.py"
    attribution = tree / "metrics" / "attribution.py"
    insert(measures, '    _attribution(\n        "hit@k"', RANKING_RECORD)
    insert(attribution, "_WHOLE_LIST: dict", RANKING_CLASS)
    insert(attribution, "    NDCG.kind: NDCG,\n", "    MRRAtK.kind: MRRAtK,\n")
    files = touched(tree)
    print("a metric of rankings:", sorted(files))
    assert files == {"metrics/measures.py", "metrics/attribution.py"}

    insert(measures, '    MetricRecord(\n        "lds"', STEP_RECORD)
    insert(tree / "metrics" / "tail_patch.py", '        "tail_patch": ', STEP_COLUMN)
    of_step = touched(tree) - {"metrics/attribution.py"}
    print("a metric of the step:", sorted(of_step))
    assert of_step == {"metrics/measures.py", "metrics/tail_patch.py"}

    before = touched(tree)
    path = tree / "bench" / "report" / "formats" / "json_files.py"
    path.write_text(FORMAT, encoding="utf-8")
    print("a format:", sorted(touched(tree) - before))
    assert touched(tree) - before == {"bench/report/formats/json_files.py"}

    results, report = tree / "results", tree / "results" / "report"
    places = (f"results_dir={results}", f"cache_dir={tree}/cache", f"hydra.sweep.dir={tree}/hydra")
    asked = "metric.attribution=[mrr,mrr@2]"
    tdabench(tree, "run", "-m", *SMALL, asked, "method=bm25,random", *places)
    listed = tdabench(tree, "list", "metrics")
    assert "mrr@k" in listed
    assert "tail_patch_best" in listed
    tdabench(tree, "report", str(results), "--no-figures")
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
    assert "all hold" in tdabench(tree, "verify", str(results))

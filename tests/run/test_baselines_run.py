"""The baselines through ``tdabench run`` and ``tdabench list``, as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli.main import main
from bench.results.verify import verify
from tests.fixtures.models import make_model

METHODS = ("length", "output_embedding", "popularity", "repsim", "verbatim")
GOLD = "Al Grey plays the trombone."
PASSAGES = ("Paris is a city.", GOLD, "The Dewarists were broadcast for years, as was said.", "")


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    """A task of ten passages and one query, and a model directory."""
    passages = [
        {"passage_id": f"p{i}", "text": text} for i, text in enumerate((*PASSAGES, *("Oslo.",) * 6))
    ]
    query = {"query_id": "q", "prompt": "Al Grey plays the", "target": "trombone", "gold": ["p1"]}
    for name, records in (("passages", passages), ("queries", [query])):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return (
        "run", "task=jsonl", f"task.queries={tmp_path}/queries.jsonl",
        f"task.passages={tmp_path}/passages.jsonl", "model=hf",
        f"model.path={make_model(tmp_path / 'model')}", "metric=attribution", "top_k=10",
        f"cache_dir={tmp_path}/cache",
    )  # fmt: skip


def run(results: Path, words: tuple[str, ...], *more: str) -> dict[str, dict]:
    """Method → the line of its rankings, after a sweep over all of them."""
    places = (f"results_dir={results}", f"hydra.sweep.dir={results}/.jobs")
    assert main([*words, *places, "-m", f"method={','.join(METHODS)}", *more]) == 0
    found = {path.parents[1].name: path for path in results.glob("*/*/*/*/retrievals.jsonl")}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in found.items()}


def test_every_baseline_is_a_cell(tmp_path: Path, words: tuple[str, ...]) -> None:
    first = run(tmp_path / "a", words)
    assert sorted(first) == sorted(METHODS)
    assert verify(tmp_path / "a") == []
    assert first["verbatim"]["proponent_ids"][0] == "p1"
    assert first["repsim"]["proponent_ids"][0] == "p1"
    assert first["length"]["proponent_ids"][:3] == ["p2", "p1", "p0"]
    assert first["popularity"]["proponent_ids"][0] == "p4"
    for method, line in first.items():
        assert len(line["proponent_ids"]) == (2 if method == "verbatim" else 10), "what matched"
    assert run(tmp_path / "b", words) == first  # with the indexes of the first


@pytest.mark.parametrize(
    ("method", "word", "message"),
    [
        ("repsim", "layer=9", "method.layer: the model has 3 layers, found 9"),
        ("repsim", "pooling=max", "method.pooling: Invalid value 'max'"),
        ("verbatim", "max_n=0", "method.max_n: expected at least 1, found 0"),
        ("popularity", "tokenizer=bytes", "method.tokenizer: Invalid value 'bytes'"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path, words, method, word, message, capsys) -> None:
    more = (f"results_dir={tmp_path}/r", f"method={method}", f"method.{word}")
    assert main([*words, *more]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert message in line


def test_list_shows_them_without_importing_torch() -> None:
    code = (
        "import sys; from bench.cli.main import main; main(['list', 'methods'])\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line[1:2].strip()]
    families = {row[0]: row[1] for row in rows if len(row) > 1}
    assert {name: families[name] for name in METHODS} == {
        "length": "control",
        "popularity": "control",
        "output_embedding": "representation",
        "repsim": "representation",
        "verbatim": "retrieval",
    }
    for word in ("model", "forward pass", "Hanawa", "2401.17377", "2006.04528", "the text"):
        assert word in done.stdout

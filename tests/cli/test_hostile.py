"""A stranger's results folder: every command over it ends, in one line that says what is wrong."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.cli.main import main
from bench.results.schema import CONFIG, FIRST_PASSAGES, PER_QUERY, RESULT, RETRIEVALS
from tests.fixtures.cells import edit_result, edit_table, write_cell
from tests.fixtures.hostile import ALIASES

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _within_seconds() -> Iterator[None]:
    """A command that does not end fails its test, and none of the others."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it does not end"))
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    results = tmp_path / "results"
    write_cell(results, "bm25", strength=0.2)
    return write_cell(results, "trackstar", strength=0.6, tail_patch=0.01)


def said(command: str, cell: Path, capsys: Capture) -> str:
    """The one line about what is wrong that a command over the folder of a cell ends with."""
    results = cell.parents[3]
    words = {
        "report": ["report", str(results), "--quiet"],
        "verify": ["verify", str(results), "--quiet"],
        "reproduce": ["reproduce", str(results)],
        "trec": ["export", "trec", str(results), "--out", str(results.parent / "out")],
        "card": ["export", "card", str(results), "--out", str(results.parent / "out"),
                 "--license", "mit"],
        "import": ["import", str(cell / RETRIEVALS), "task=none", "quiet=true",
                   f"results_dir={results.parent / 'imported'}"],
    }[command]  # fmt: skip
    status = main(words)
    captured = capsys.readouterr()
    text = captured.out if command == "verify" else captured.err
    assert "Traceback" not in captured.err
    assert status == (1 if command == "verify" else 2), captured
    (line,) = text.strip().splitlines()
    return line


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


COMMANDS = ["report", "verify", "reproduce", "trec", "card"]


@pytest.mark.parametrize("settings", [
    "metric:\n  " + ALIASES.replace("\n", "\n  "), "metric: &r {extra: *r}",
])  # fmt: skip
def test_settings_that_stand_for_too_much(cell: Path, capsys: Capture, settings: str) -> None:
    """Settings that cannot be read are no reason to refuse the numbers; they do not hold."""
    (cell / CONFIG).write_text(settings)
    assert f"{CONFIG}: cannot read it" in said("verify", cell, capsys)
    assert f"{CONFIG}: cannot read it" in said("card", cell, capsys)
    for words in (["report", "--quiet"], ["reproduce"]):
        assert main([*words, str(cell.parents[3])]) == 0


@pytest.mark.parametrize("file", [RESULT, PER_QUERY])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_pipe_is_no_file(cell: Path, capsys: Capture, command: str, file: str) -> None:
    fifo(cell / file)
    line = said(command, cell, capsys)
    assert file in line
    assert "a device, a pipe or a socket" in line


@pytest.mark.parametrize("file", [CONFIG, RETRIEVALS])
def test_verify_tells_of_a_pipe(cell: Path, capsys: Capture, file: str) -> None:
    fifo(cell / file)
    assert f"{file}: cannot read it (a device, a pipe" in said("verify", cell, capsys)
    # No reason to refuse the numbers: they are shown without the settings, or without the lists.
    assert main(["report", str(cell.parents[3]), "--quiet"]) == 0


@pytest.mark.parametrize("file", [RESULT, RETRIEVALS, PER_QUERY, CONFIG])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_link_out_of_the_folder(cell: Path, capsys: Capture, command: str, file: str) -> None:
    secret = cell.parents[4] / "secret"
    secret.write_text("my own")
    for target in ("/dev/zero", str(secret)):
        link(cell / file, target)
        line = said(command, cell, capsys)
        assert file in line
        assert "leads out of the folder" in line


def test_first_passages_that_are_a_link_out_of_the_folder(cell: Path, capsys: Capture) -> None:
    (cell / FIRST_PASSAGES).symlink_to(cell.parents[4] / "secret")
    for command in COMMANDS:
        assert f"{FIRST_PASSAGES}: is a link" in said(command, cell, capsys)


@pytest.mark.parametrize("name", ["report", "report/figures", "report/viewer"])
def test_a_report_that_is_a_link_out_of_the_folder(cell: Path, capsys: Capture, name: str) -> None:
    outside, place = cell.parents[4] / "mine", cell.parents[3] / name
    outside.mkdir()
    (outside / "mrr.csv").write_text("my own")
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(outside)
    for command in ("report", "reproduce"):
        assert f"{name}: is a link" in said(command, cell, capsys)
    assert [path.name for path in outside.iterdir()] == ["mrr.csv"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["metrics"]["mrr"].update(value="1"), "expected a finite number, found '1'"),
        (lambda r: r["metrics"]["mrr"].update(n=-1), "expected a count, found -1"),
        (lambda r: r["metrics"]["mrr"].update(n=10**400), "expected a count, found inf"),
        (lambda r: r["task"].update(n_queries=10**400), "task.n_queries is no count"),
        (lambda r: r["task"].update(n_queries=True), "task.n_queries is no count"),
        (lambda r: r.update(seed=-1), "seed is no count"),
        (lambda r: r.update(top_k=1.5), "top_k is no count"),
        (lambda r: r["phases"][0].update(seconds=float("inf")), "phases[0].seconds is no number"),
        (lambda r: r["index"].update(bytes=-1), "index.bytes is no size"),
        (lambda r: r["method"].update(config=[1]), "method.config is no table"),
        (lambda r: r["model"].update(n_params="many"), "model.n_params is no count"),
        (lambda r: r["slices"].update(relation={"x": {"mrr": 1}}), "slices.relation.x.mrr is no"),
        (lambda r: r.update(date=None), "date is no text"),
        (lambda r: r.update(glory=1), "glory"),
        (lambda r: r.pop("top_k"), "top_k"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(
    cell: Path, capsys: Capture, command: str, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    edit_result(cell, change)
    line = said(command, cell, capsys)
    assert RESULT in line
    assert message in line


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("number", ["9" * 400, "-" + "9" * 400, "1e999", "NaN", "-Infinity"])
@pytest.mark.parametrize("field", ["value", "ci95"])
def test_a_number_of_no_size(
    cell: Path, capsys: Capture, command: str, number: str, field: str
) -> None:
    """Fault: 400 digits ended in an OverflowError; then the row led the table, with MRR inf."""
    edit_result(cell, lambda record: record["metrics"]["mrr"].update({field: "HERE"}))
    put = number if field == "value" else f"[0, {number}]"
    (cell / RESULT).write_text((cell / RESULT).read_text().replace('"HERE"', put))
    line = said(command, cell, capsys)
    assert RESULT in line
    assert "expected a finite number, found " in line


def test_a_billion_resamples(cell: Path, capsys: Capture) -> None:
    config = (cell / CONFIG).read_text()
    (cell / CONFIG).write_text(
        config.replace("bootstrap_samples: 200", "bootstrap_samples: 1000000000")
    )
    line = said("verify", cell, capsys)
    assert "metric.bootstrap_samples: expected 1 to 10000, found 1000000000" in line


@pytest.mark.parametrize("command", COMMANDS)
def test_a_table_of_more_rows_than_queries(cell: Path, capsys: Capture, command: str) -> None:
    edit_table(cell, lambda columns: [values.append(values[-1]) for values in columns.values()])
    line = said(command, cell, capsys)
    assert PER_QUERY in line
    assert "has 41 rows, and 40 are the most" in line


def test_a_clusters_column_of_texts(cell: Path, capsys: Capture) -> None:
    edit_table(cell, lambda columns: columns.update({"cluster=relation": ["x"] * 40}))
    for command in COMMANDS:
        assert "cluster=relation is no column of numbers" in said(command, cell, capsys)


@pytest.mark.parametrize("counts", [["3"] * 40, [-1] * 40, [0.5] * 40, [float("inf")] * 40])
def test_a_column_of_gold_that_is_no_counts(
    cell: Path, capsys: Capture, counts: list[object]
) -> None:
    edit_table(cell, lambda columns: columns.update(n_gold=counts))
    for command in COMMANDS:
        assert "n_gold is no column of counts" in said(command, cell, capsys)


def test_a_model_seed_of_another_type_is_told_like_any_setting(cell: Path, capsys: Capture) -> None:
    config = (cell / CONFIG).read_text()
    (cell / CONFIG).write_text(f"{config}\nmodel: {{seed: {{a: [1]}}}}\n")
    assert main(["report", str(cell.parents[3]), "--quiet"]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_gold_that_would_fill_the_disk(cell: Path, capsys: Capture) -> None:
    shutil.rmtree(cell.parents[1] / "bm25")  # which counts otherwise
    edit_table(cell, lambda columns: columns.update(n_gold=[9_000_000] * 40))
    assert "more than 10,000,000 correct passages" in said("trec", cell, capsys)


def test_import_of_a_line_of_gigabytes(cell: Path, capsys: Capture) -> None:
    with open(cell / RETRIEVALS, "ab") as stream:
        stream.truncate(40 << 20)  # holes alone
    assert f"{RETRIEVALS}:41: has more than" in said("import", cell, capsys)

"""What a row is charged with, and what it is called where cells differ in seeds alone."""

from __future__ import annotations

import csv
from pathlib import Path

from bench.report.write import report
from tests.fixtures.cells import edit_config, edit_result, write_cell
from tests.fixtures.reports import Page, boards_of, labels


def test_shared_work_is_charged_to_no_row(tmp_path: Path) -> None:
    """Fault: the first row was the dearest: it trained the model and made the index."""
    phases = {
        "random": [("model", 150.0), ("index", 150.5), ("search", 1.0), ("tail_patch", 2.0)],
        "grad_cos": [("model", 0.5), ("index", 20.5), ("search", 1.0), ("tail_patch", 2.0)],
        "grad_dot": [("model", 0.5), ("index", 1.0), ("search", 1.0), ("tail_patch", 2.0)],
    }
    for method, times in phases.items():
        folder = write_cell(tmp_path, method, tail_patch=0.01)
        records = [{"name": name, "seconds": s, "peak_mib": 1.0} for name, s in times]
        edit_result(folder, lambda r, p=records: r.update(phases=p))
        if method != "random":
            made = {"encoding_seconds": 19.5}
            edit_result(folder, lambda r, f=made: r["method"].update(facts=f))
    paths = report(tmp_path, quiet=True)
    with open(paths.folder / "leaderboard.csv", encoding="utf-8", newline="") as stream:
        rows = {row["method"]: row for row in csv.DictReader(stream)}
    assert {name: float(row["seconds"]) for name, row in rows.items()} == {
        "random": 3.5, "grad_cos": 3.5, "grad_dot": 3.5,
    }  # fmt: skip
    assert [rows[n]["shared_seconds"] for n in phases] == ["", "19.5", "19.5"]
    assert "Training or loading the model took 150 s" in " ".join(Page(paths.html).text)


def test_what_the_model_knows_is_said(tmp_path: Path) -> None:
    """Fault: nobody saw on a board whether its model knew the facts that it was traced for."""
    logs = {
        "bm25": {"facts_recalled": 0.59, "target_probability": 0.4537},
        "random": {"facts_recalled": 0.4, "target_probability": 0.4537},
        "grad_dot": {"facts_recalled": "all", "target_probability": float("inf")},
    }
    for method, log in logs.items():
        edit_result(write_cell(tmp_path, method), lambda r, t=log: r["model"].update(training=t))
    text = " ".join(Page(report(tmp_path, quiet=True).html).text)
    assert (
        "After training 40% to 59% of the facts asked were recalled, at a mean probability of the "
        "target of 0.454."
    ) in text
    write_cell(tmp_path / "b", "bm25")
    assert "recalled" not in " ".join(Page(report(tmp_path / "b", quiet=True).html).text)


def test_models_of_other_seeds_are_told_apart_by_the_seed(tmp_path: Path) -> None:
    """Fault: rows of re-seeded models were called by digits of a hash, or by their keys."""
    for method in ("bm25", "trackstar"):
        for seed in (0, 1):
            folder = write_cell(tmp_path, method, config={"x": seed})
            edit_config(folder, lambda c, s=seed: (c["model"].update(seed=s), c["method"].pop("x")))
            edit_result(
                folder,
                lambda r, s=seed, reads=method == "trackstar": (
                    r["method"]["config"].pop("x"),
                    r["model"].update(sha256=f"{s}" * 64 if reads else None),
                ),
            )
    assert sorted(labels(boards_of(tmp_path)[0])) == [
        "bm25 (model.seed=0)", "bm25 (model.seed=1)",
        "trackstar (model.seed=0)", "trackstar (model.seed=1)",
    ]  # fmt: skip

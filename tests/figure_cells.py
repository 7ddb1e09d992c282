"""Results folders with data for every figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.cells import edit_result, write_cell

GRADIENT = {
    "projection_dim": 16, "mixing": 0.9, "hessian": "mixed", "storage": "fp32", "rerank": None,
}  # fmt: skip
KINDS = ("entails", "denied", "unrelated")
BUCKETS = ("16-32", "2-3", "1")


def figure_cell(
    results: Path,
    method: str = "trackstar",
    *,
    config: dict[str, Any] | None = None,
    metric: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """A cell with slices by frequency and by kind of support, and settings of its metrics.

    Args:
        metric: settings of ``metric.tail_patch``.
    """
    config = {**(GRADIENT if method == "trackstar" else {}), **(config or {})}
    folder = write_cell(
        results, method, config=config, **{"tail_patch": 0.005, "n_queries": 12, **settings}
    )
    key = f"{abs(hash_of(folder.relative_to(results).parts, config, metric)):016x}"[:16]
    folder = folder.rename(folder.with_name(key))
    path = folder / "config.yaml"
    settings_of_cell = yaml.safe_load(path.read_text())
    settings_of_cell["metric"]["tail_patch"] = metric or {"top": 10}
    settings_of_cell["model"] = {"projection_dim": 16}
    path.write_text(yaml.safe_dump(settings_of_cell))
    edit_result(folder, _with_slices)
    return folder


def hash_of(*parts: Any) -> int:
    return sum(31**i * ord(c) for i, c in enumerate(repr(parts))) % (1 << 63)


def _with_slices(record: dict[str, Any]) -> None:
    both = {name: record["metrics"][name] for name in ("mrr", "tail_patch")}
    record["slices"]["frequency"] = dict.fromkeys(BUCKETS, both)
    share = {"value": 1 / len(KINDS), "ci95": [0.2, 0.5], "n": 12}
    record["slices"]["top10_support"] = {kind: {"share": share} for kind in KINDS}


def everything(results: Path) -> None:
    """Cells that every figure of the catalog has data from."""
    truth = {"value": 0.02, "ci95": [0.01, 0.03], "n": 12}
    for method in ("bm25", "gold", "grad_cos"):
        folder = figure_cell(results, method, strength=0.8)
        edit_result(folder, lambda r: r["metrics"].update(removal_effect=truth))
    figure_cell(results)
    figure_cell(results, config={"projection_dim": 4})
    for mixing in (0.1, "auto"):
        folder = figure_cell(results, config={"mixing": mixing})
        edit_result(folder, lambda r: r["method"].update(facts={"mixing": 0.4}))
    figure_cell(results, config={"storage": "sign"})
    figure_cell(results, metric={"top": 1})
    figure_cell(results, metric={"top": 10, "learning_rate": 0.001})
    figure_cell(results, metric={"top": 10, "learning_rate": 0.01})
    folder = figure_cell(results, model="small")
    edit_result(folder, lambda r: r["model"].update(n_params=9_000_000, sha256="ef" * 32))

"""The default damping on what was swept: better than a thousandth where R is thin."""

from __future__ import annotations

import csv
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest

from methods.gradient.settings import automatic_damping
from tests.fixtures.sources import ROOT

FOLDER = ROOT / "results" / "damping"
LISTED = 100  # ranks beyond it earn nothing
BEFORE = 1e-3  # the default that cost a fifth of the MRR where passages are as many as dimensions


def curves() -> dict[tuple[str, int, int], dict[float, float]]:
    """MRR by damping for each data, dimensions and passages: TrackStar at λ = 0, one model."""
    with (FOLDER / "damping.csv").open(encoding="utf-8", newline="") as stream:
        rows = [
            row for row in csv.DictReader(stream)
            if not row["label"] and row["optimizer_correction"] == "True"
            and (row["mixing"], row["model_seed"]) == ("0.0", "0")
        ]  # fmt: skip
    halves: dict[tuple[str, int, int], dict[float, list[float]]] = defaultdict(dict)
    for row in rows:
        of = halves[row["data"], int(row["dims"]), int(row["passages"])]
        of.setdefault(float(row["damping"]), []).append(float(row["mrr"]))
    return {
        key: {damping: float(np.mean(both)) for damping, both in of.items()}
        for key, of in halves.items()
    }


def at(curve: dict[float, float], damping: float) -> float:
    """MRR between the two swept dampings next to one, on a logarithmic scale."""
    swept = sorted(curve)
    return float(np.interp(np.log(damping), np.log(swept), [curve[one] for one in swept]))


def test_the_table_follows_from_the_ranks() -> None:
    ranks = pd.read_parquet(FOLDER / "ranks.parquet")
    chosen = ranks[
        (ranks["data"] == "trex") & (ranks["side"] == 48) & (ranks["n_passages"] == 3000)
        & (ranks["label"] == "") & ranks["corrected"] & (ranks["seed"] == 0)
        & (ranks["mixing"] == 0.0) & (ranks["asked"] != "none") & (ranks["asked"] != "auto")
    ]  # fmt: skip
    (row,) = chosen.itertuples()
    curve = curves()["trex", 2304, 3000]
    of_dampings = np.asarray(row.ranks, dtype=float).reshape(len(curve), -1)
    scores = np.where(of_dampings <= LISTED, 1 / of_dampings, 0).mean(axis=1)
    np.testing.assert_allclose(scores, [curve[one] for one in sorted(curve)], atol=1e-5)


def test_damping_too_small_where_passages_are_about_as_many_as_dimensions() -> None:
    """Fault: .239 at a thousandth, where .295 and .311 were seen at a tenth and at one."""
    curve = curves()["trex", 2304, 3000]
    assert automatic_damping(2304, 3000) == pytest.approx(0.768)
    assert curve[BEFORE] < 0.29
    assert min(curve[0.1], curve[1.0], at(curve, 0.768)) > 0.3


def test_the_default_gains_wherever_passages_are_about_as_many_as_dimensions() -> None:
    found = {key: curve for key, curve in curves().items() if 0.7 < key[1] / key[2] < 1.5}
    assert {data for data, _, _ in found} == {"factworld", "trex"}
    for (_, dims, passages), curve in found.items():
        assert at(curve, automatic_damping(dims, passages)) > curve[BEFORE] + 0.02

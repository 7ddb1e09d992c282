"""Does TrackStar exceed its ablations? Five models, settings chosen on one half of the queries.

    python benchmarks/mixing.py results/damping/ranks.parquet --out results/mixing

Reads the five seeds that ``damping_sweep.py`` ran at 3,000 passages, and writes ``ablations.csv``
and ``ablations.md``. Two comparisons, both reported on the half of the queries that nothing was
chosen on: all methods at their defaults, and each at the damping (TrackStar also at the λ) that had
the highest MRR over the five models on the other half. A third, no honest setting, bounds what a
choice could gain: TrackStar's best cell of the whole grid on the reporting half itself, beside the
ablation as chosen. Intervals resample models, and clusters of queries of one relation and answer.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from swept import DAMPINGS, NO_R, SCORES, Swept, estimate, read

from methods.gradient.settings import automatic_damping
from metrics.stats.bootstrap import Estimate

N_PASSAGES = 3000
TRACKSTAR = "trackstar"
# Whether gradients are divided by √V, and the λ that a method may choose from, its default first.
METHODS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "grad_cos": (False, (NO_R,)),
    "cos_hessian": (False, ("0.0",)),
    "cos_optimizer": (True, (NO_R,)),
    "cos_optimizer_hessian": (True, ("0.0",)),
    TRACKSTAR: (True, ("auto", "0.1", "0.3", "0.9")),
}


@dataclass(frozen=True)
class Setting:
    """What a method is run with: λ, and damping as a share of the mean eigenvalue."""

    mixing: str
    damping: float

    def __str__(self) -> str:
        mixing = {NO_R: "no R", "0.0": "λ = 0"}.get(self.mixing, f"λ = {self.mixing}")
        return mixing if self.mixing == NO_R else f"{mixing}, damping {self.damping:.2g}"


@dataclass(frozen=True)
class Board:
    """The models of one corpus and projection.

    Attributes:
        data, side: which.
        models: swept features by whether √V divides them, a model each.
    """

    data: str
    side: int
    models: dict[bool, list[Swept]]

    @property
    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the queries to choose on, and of those to report on; alike for all models."""
        return self.models[True][0].halves

    def scores(self, method: str, setting: Setting, score: str) -> np.ndarray:
        """Scores of all queries, ``[models, queries]``."""
        models = self.models[METHODS[method][0]]
        return np.stack([one.at(setting.mixing, setting.damping, SCORES[score]) for one in models])

    def default(self, method: str) -> Setting:
        """λ and damping as the preset has them."""
        one = self.models[True][0]
        return Setting(METHODS[method][1][0], automatic_damping(one.dims, one.n_passages))

    def grid(self, method: str) -> list[Setting]:
        """All settings that a method may choose from."""
        corrected, mixings = METHODS[method]
        known = [m for m in mixings if all(m in one.ranks for one in self.models[corrected])]
        dampings = DAMPINGS if known != [NO_R] else DAMPINGS[:1]
        return [Setting(*pair) for pair in itertools.product(known, dampings)]

    def chosen(self, method: str, rows: np.ndarray) -> Setting:
        """The setting with the highest MRR over all models on some queries."""
        return max(
            self.grid(method), key=lambda one: self.scores(method, one, "mrr")[:, rows].mean()
        )


def main() -> None:
    """Write the CSV and the Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("ranks", type=Path, help="what damping_sweep.py --pack wrote")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    boards = _boards(read(options.ranks))
    rows = [row for board in boards for row in _rows(board)]
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "ablations.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    lines = [
        "# TrackStar beside its ablations",
        "",
        f"Made by `python {shlex.join(sys.argv)}`, from what `benchmarks/damping_sweep.py` ran.",
        f"{N_PASSAGES:,} passages, `micro`, five models; means over the models and the half of the "
        "queries that nothing was chosen on, 95% intervals over models and clusters of queries. "
        "Models: in how many of them TrackStar is higher.",
        *_tables(rows),
    ]
    (options.out / "ablations.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _boards(swept: Sequence[Swept]) -> Iterator[Board]:
    usual = [one for one in swept if not one.label and one.n_passages == N_PASSAGES]
    for data, side in sorted({(one.data, one.side) for one in usual}):
        models: dict[bool, list[Swept]] = {True: [], False: []}
        for one in sorted(usual, key=lambda one: one.seed):
            if (one.data, one.side) == (data, side):
                models[one.corrected].append(one)
        if [one.seed for one in models[True]] == [one.seed for one in models[False]]:
            yield Board(data, side, models)


def _rows(board: Board) -> Iterator[dict[str, str]]:
    """A row for each comparison, method and score."""
    choose, report = board.halves
    for comparison in ("default", "chosen", "bound"):
        for method in METHODS:
            setting = (
                board.default(method)
                if comparison == "default"
                else board.chosen(method, choose)
                if comparison == "chosen" or method != TRACKSTAR
                else board.chosen(method, report)
            )
            star = {
                "default": board.default(TRACKSTAR),
                "chosen": board.chosen(TRACKSTAR, choose),
                "bound": board.chosen(TRACKSTAR, report),
            }[comparison]
            for score in SCORES:
                own = board.scores(method, setting, score)[:, report]
                theirs = board.scores(TRACKSTAR, star, score)[:, report]
                yield _row(board, comparison, method, setting, score, own, theirs - own)


def _row(
    board: Board,
    comparison: str,
    method: str,
    setting: Setting,
    score: str,
    own: np.ndarray,
    gain: np.ndarray,
) -> dict[str, str]:
    clusters = board.models[True][0].clusters[board.halves[1]]
    value, difference = estimate(own, clusters), estimate(gain, clusters)
    return {
        "data": board.data,
        "side": str(board.side),
        "comparison": comparison,
        "method": method,
        "setting": str(setting),
        "score": score,
        "models": str(len(own)),
        "queries": str(own.shape[1]),
        "clusters": str(len(np.unique(clusters))),
        **_numbers("value", value),
        **_numbers("trackstar_minus", difference),
        "models_higher": str(int((gain.mean(axis=1) > 0).sum())),
    }


def _numbers(name: str, one: Estimate) -> dict[str, str]:
    return {
        name: f"{one.value:.5f}",
        f"{name}_low": f"{one.ci95[0]:.5f}",
        f"{name}_high": f"{one.ci95[1]:.5f}",
    }


def _tables(rows: Sequence[dict[str, str]]) -> Iterator[str]:
    titles = {
        "default": "all at their defaults",
        "chosen": "each at what the other half of the queries chose",
        "bound": "TrackStar's best on the reporting half itself (no honest setting: a bound)",
    }
    for (data, side, comparison), group in itertools.groupby(
        rows, key=lambda row: (row["data"], row["side"], row["comparison"])
    ):
        members = list(group)
        first = members[0]
        yield from ("", f"## {data}, {side} × {side} a block: {titles[comparison]}", "")
        yield (
            f"{first['queries']} queries in {first['clusters']} clusters, {first['models']} models."
        )
        yield ""
        yield (
            "| method | setting | MRR | hit@1 | hit@10 | TrackStar − it, MRR | models "
            "| TrackStar − it, hit@10 |"
        )
        yield "| :-- | :-- | --: | --: | --: | :-- | --: | :-- |"
        for method in METHODS:
            of = {row["score"]: row for row in members if row["method"] == method}
            values = " | ".join(f"{float(of[score]['value']):.3f}" for score in SCORES)
            differences = ["–", "–", "–"]
            if method != TRACKSTAR:
                mrr, hits = of["mrr"], of["hit@10"]
                models = f"{mrr['models_higher']} of {mrr['models']}"
                differences = [_difference(mrr), models, _difference(hits)]
            yield f"| {method} | {of['mrr']['setting']} | {values} | {' | '.join(differences)} |"


def _difference(row: dict[str, str]) -> str:
    value, low, high = (float(row[f"trackstar_minus{end}"]) for end in ("", "_low", "_high"))
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


if __name__ == "__main__":
    main()

"""Which damping R needs: tables and a figure of what ``damping_sweep.py`` wrote.

    python benchmarks/damping.py results/damping/ranks.parquet --figure docs/damping.png

Writes ``damping.csv``, all settings and both halves, and ``damping.md`` beside the ranks. A rule is
chosen on one half of the queries, by the mean of MRR over all corpora, projections and the λ of the
presets (0, of the ablations, and ``auto``), each corpus and projection counting alike; everything
is reported on the other half.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from swept import DAMPINGS, NO_R, SCORES, Swept, estimate, read, reciprocal, rule

from methods.gradient.settings import LEAST_DAMPING, MOST_DAMPING, automatic_damping

CHOOSE, REPORT = 0, 1  # the half of the queries that a rule is chosen on, and the other one
SHARES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # c of the rule
BEFORE = 1e-3  # what the default was
SHOWN = (1e-3, 1e-2, 0.1, 1.0)
COLOURS = {16: "#1b6ca8", 32: "#d1495b", 48: "#66a182", 64: "#6a4c93"}

Damping = Callable[[Swept], float]


def main() -> None:
    """Write the CSV, the Markdown and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("ranks", type=Path, help="what damping_sweep.py --pack wrote")
    parser.add_argument("--figure", type=Path, required=True)
    options = parser.parse_args()
    swept = read(options.ranks)
    usual = [one for one in swept if not one.label]
    _write_csv(options.ranks.with_name("damping.csv"), swept)
    lines = [
        "# Damping",
        "",
        f"Made by `python {shlex.join(sys.argv)}`, from what `benchmarks/damping_sweep.py` ran. "
        "MRR is of the half of the queries that nothing was chosen on, unless a column says so.",
        *_rules(usual),
        *_settings(usual),
        *_worlds(swept),
    ]
    (options.ranks.with_name("damping.md")).write_text("\n".join(lines) + "\n", encoding="utf-8")
    _draw(options.figure, [one for one in usual if one.corrected and one.seed == 0])


def _write_csv(path: Path, swept: Sequence[Swept]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([
            "data", "label", "optimizer_correction", "passages", "queries", "side", "dims",
            "model_seed", "mixing", "lambda", "damping", "half", "n", *SCORES, "leverage",
        ])  # fmt: skip
        for one in swept:
            about = (one.data, one.label, one.corrected, one.n_passages, one.n_queries, one.side)
            for mixing in one.mixings:
                ranks = one.ranks[mixing]
                for number, damping in enumerate(DAMPINGS):
                    for half in (CHOOSE, REPORT):
                        rows = one.halves[half]
                        means = [score(ranks[number][rows]).mean() for score in SCORES.values()]
                        writer.writerow([
                            *about, one.dims, one.seed, mixing, f"{one.mixings[mixing]:.5g}",
                            f"{damping:g}", ("choose", "report")[half], len(rows),
                            *(f"{mean:.5f}" for mean in means),
                            f"{one.leverage[mixing][number]:.4g}",
                        ])  # fmt: skip


def _mixings(one: Swept) -> list[str]:
    """λ of the presets: R of the passages alone, and with √V also TrackStar's."""
    return [
        name for name in ("0.0", "auto") if name in one.ranks and (one.corrected or name == "0.0")
    ]


def _mean(swept: Sequence[Swept], half: int, damping: Damping) -> float:
    """MRR on a half, each corpus, projection and λ counting alike, however many seeds it has."""
    cells = defaultdict(list)
    for one in swept:
        for mixing in _mixings(one):
            key = (one.data, one.corrected, one.n_passages, one.side, mixing)
            values = one.at(mixing, damping(one), reciprocal)
            cells[key].append(values[one.halves[half]].mean())
    return float(np.mean([np.mean(values) for values in cells.values()]))


def _rules(swept: Sequence[Swept]) -> Iterator[str]:
    yield from ("", "## One number, or one that scales", "")
    yield "| damping | MRR, choosing half | MRR, reporting half |"
    yield "| :-- | --: | --: |"
    candidates: dict[str, Damping] = {f"{d:g}": lambda _, d=d: d for d in DAMPINGS}
    for c in SHARES:
        name = f"{c:g} · dims / passages, {LEAST_DAMPING:g} to {MOST_DAMPING:g}"
        candidates[name] = lambda one, c=c: rule(
            c, one.dims, one.n_passages, LEAST_DAMPING, MOST_DAMPING
        )
    for name, damping in candidates.items():
        means = [_mean(swept, half, damping) for half in (CHOOSE, REPORT)]
        yield f"| {name} | {means[0]:.4f} | {means[1]:.4f} |"


def _settings(swept: Sequence[Swept]) -> Iterator[str]:
    yield from ("", "## Each corpus and projection", "")
    yield (
        "`auto` is the default rule; its difference to 1e-3, the default before, comes with a 95% "
        "interval over clusters of relation and answer. The best of the grid is chosen on the "
        "other half."
    )
    yield ""
    shown = " | ".join(f"{damping:g}" for damping in SHOWN)
    yield (
        f"| data | √V | passages | side | dims / passages | λ | {shown} | auto | best "
        "| auto − 1e-3 |"
    )
    yield f"| :-- | :-- | --: | --: | --: | --: |{' --: |' * len(SHOWN)} :-- | :-- | :-- |"
    order = {"factworld": 0, "trex": 1}
    for one in sorted(
        (one for one in swept if one.seed == 0),
        key=lambda one: (order[one.data], not one.corrected, one.n_passages, one.side),
    ):
        for mixing in _mixings(one):
            yield _setting(one, mixing)


def _setting(one: Swept, mixing: str) -> str:
    choose, rows = one.halves
    auto = automatic_damping(one.dims, one.n_passages)
    best = max(DAMPINGS, key=lambda d: one.at(mixing, d, reciprocal)[choose].mean())
    at = {d: one.at(mixing, d, reciprocal)[rows] for d in (*SHOWN, auto, best, BEFORE)}
    change = estimate(at[auto] - at[BEFORE], one.clusters[rows])
    shown = " | ".join(f"{at[damping].mean():.3f}" for damping in SHOWN)
    return (
        f"| {one.data} | {'yes' if one.corrected else 'no'} | {one.n_passages:,} | {one.side} "
        f"| {one.dims / one.n_passages:.3g} | {one.mixings[mixing]:.2g} | {shown} "
        f"| {at[auto].mean():.3f} ({auto:.2g}) | {at[best].mean():.3f} ({best:g}) "
        f"| {change.value:+.3f} [{change.ci95[0]:+.3f}, {change.ci95[1]:+.3f}] |"
    )


def _worlds(swept: Sequence[Swept]) -> Iterator[str]:
    yield from ("", "## Other worlds, and fewer queries in R", "")
    yield (
        "3,000 passages, with √V, damping by the rule. `group25`: R of the queries is from 25 at a "
        "time, and every query is asked; `objects4`: four objects of each kind. Leverage is a "
        "query's mean part in its own R, at λ = `auto`."
    )
    yield ""
    yield (
        "| data | side | world | answers a fact | tr R_train / tr R_eval | auto λ | leverage "
        "| λ = 0 | .1 | .3 | .9 | auto | no R |"
    )
    yield "| :-- | --: | :-- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |"
    for one in sorted(swept, key=lambda one: (one.data, one.side, _natural(one.label))):
        if one.corrected and one.seed == 0 and one.n_passages == 3000 and one.side <= 32:
            yield _world(one)


def _natural(label: str) -> tuple[str, int]:
    """Order of labels such as ``group25``: by name, then by number."""
    name = label.rstrip("0123456789")
    return name, int(label[len(name) :] or 0)


def _world(one: Swept) -> str:
    rows = one.halves[REPORT]
    damping = automatic_damping(one.dims, one.n_passages)
    answers = len(np.unique(one.clusters)) / one.n_queries
    means = [
        f"{one.at(m, damping, reciprocal)[rows].mean():.3f}" if m in one.ranks else "refused"
        for m in ("0.0", "0.1", "0.3", "0.9", "auto")
    ]
    leverage, mixing = "–", "refused"
    if "auto" in one.ranks:
        logs = np.log(DAMPINGS)
        leverage = f"{np.interp(np.log(damping), logs, one.leverage['auto']):.2f}"
        mixing = f"{one.mixings['auto']:.2f}"
    return (
        f"| {one.data} | {one.side} | {one.label or 'usual'} | {answers:.2f} "
        f"| {one.trace_ratio:.2g} | {mixing} | {leverage} | {' | '.join(means)} "
        f"| {one.at(NO_R, 0, reciprocal)[rows].mean():.3f} |"
    )


def _draw(path: Path, swept: Sequence[Swept]) -> None:
    """MRR over damping: a row for each corpus, a column for each number of passages."""
    sizes = sorted({one.n_passages for one in swept})
    figure = Figure(figsize=(3 * len(sizes), 5.6), layout="constrained")
    axes = figure.subplots(2, len(sizes), sharex=True, sharey="row", squeeze=False)
    for row, data in enumerate(("factworld", "trex")):
        for column, n_passages in enumerate(sizes):
            axis = axes[row][column]
            axis.set_xscale("log")
            axis.set_title(f"{data}, {n_passages:,} passages", fontsize=9)
            axis.grid(alpha=0.25)
            for one in swept:
                if (one.data, one.n_passages) == (data, n_passages):
                    _draw_lines(axis, one)
    axes[0][0].set_ylabel("MRR, reporting half")
    axes[1][0].set_ylabel("MRR, reporting half")
    for axis in axes[1]:
        axis.set_xlabel("damping, share of the mean eigenvalue")
    handles, names = axes[0][1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


def _draw_lines(axis, one: Swept) -> None:  # type: ignore[no-untyped-def]
    colour, rows = COLOURS[one.side], one.halves[REPORT]
    for mixing, style in (("auto", "-"), ("0.0", ":")):
        if mixing in one.ranks:
            means = reciprocal(one.ranks[mixing])[:, rows].mean(axis=1)
            name = f"{one.side} × {one.side} a block, λ = {mixing.removesuffix('.0')}"
            axis.plot(DAMPINGS, means, style, color=colour, label=name, linewidth=1.3)
            auto = automatic_damping(one.dims, one.n_passages)
            at = one.at(mixing, auto, reciprocal)[rows].mean()
            axis.plot([auto], [at], "o", color=colour, markersize=4)


if __name__ == "__main__":
    main()

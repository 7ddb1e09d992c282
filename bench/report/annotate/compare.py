"""The answers of people beside the automatic judgements of the cells, judge by judge."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.core.errors import UserError
from bench.report.annotate.sheet import all_records, claim_of, pair_id
from bench.results.rankings import correct_of
from bench.results.schema import Cell, read_cells
from bench.storage.jsonlines import Place
from metrics.stats import agreement
from metrics.stats.agreement import Agreement

ANNOTATION = "annotation"


@dataclass
class JudgedCells:
    """The cells that one judge, or the annotation, has judged.

    Attributes:
        said: claim and judgement of each pair, by its id.
        agreement: the agreement with the people; None if they share no pair.
        contradictions: number of pairs that are judged differently in two cells, of which the first
            counts: two facts may make one claim.
    """

    said: dict[str, tuple[str, bool]] = field(default_factory=dict)
    agreement: Agreement | None = None
    contradictions: int = 0


@dataclass
class Report:
    """What came of an answered sheet.

    Attributes:
        answers: how many pairs were answered with ``y``, ``n``, ``unsure`` or nothing.
        groups: the judged cells by the name of their judge.
    """

    answers: Counter[str]
    groups: dict[str, JudgedCells]


def compare_with_people(
    answers: Mapping[str, tuple[Place, str]], results_dir: Path, seed: int = 0
) -> Report:
    """Compare a sheet with the cells below a folder.

    Raises:
        UserError: a pair that no cell lists, or no pair that both sides have judged.
    """
    groups: dict[str, JudgedCells] = {}
    listed: set[str] = set()
    for cell, record in all_records(read_cells(results_dir)):
        claim = claim_of(record)
        names = [pair_id(passage, claim) for passage in record.proponents]
        listed.update(name for name in names if name in answers)
        correct = correct_of(record, cell.result.threshold)
        if correct is None:
            continue
        group = groups.setdefault(_judge(cell), JudgedCells())
        for name, value in zip(names, correct.tolist(), strict=True):
            if name in answers:
                _, before = group.said.setdefault(name, (claim, value))
                group.contradictions += before != value
    for name, (place, _) in answers.items():
        if name not in listed:
            raise place.error(
                "pair_id", f"no cell lists the pair {name!r:.40}", "give the results it was made of"
            )
    people = {name: given == "y" for name, (_, given) in answers.items() if given in ("y", "n")}
    for group in groups.values():
        shared = [name for name in people if name in group.said]
        if shared:
            group.agreement = agreement.compare(
                truth=[people[name] for name in shared],
                judged=[group.said[name][1] for name in shared],
                clusters=[group.said[name][0] for name in shared],
                seed=seed,
            )
    if not any(group.agreement for group in groups.values()):
        raise UserError(
            "no pair is judged by both people and cells",
            where=str(results_dir),
            fix="answer some lines with y or n, and give results that are annotated or judged",
        )
    return Report(Counter(given for _, given in answers.values()), groups)


def comparison_lines(report: Report) -> Iterator[str]:
    """The lines that ``tdabench annotate import`` prints."""
    counts = report.answers
    yield (
        f"{counts.total():,} pairs: {counts['y']:,} yes, {counts['n']:,} no, "
        f"{counts['unsure']:,} unsure, {counts['']:,} without an answer"
    )
    for name, group in sorted(report.groups.items()):
        if group.agreement is None:
            yield f"{name}: judges none of the answered pairs"
            continue
        measures = ", ".join(
            f"{key} {_shown(group.agreement, key)}" for key in ("kappa", "precision", "recall")
        )
        both, extra, missed, neither = group.agreement.table
        yield f"{name}: {group.agreement.n:,} pairs: {measures}"
        one_side = f"only cells {extra:,}, only people {missed:,}"
        yield f"  yes: both {both:,}, {one_side}, neither {neither:,}"
        if group.contradictions:
            yield f"  {group.contradictions:,} judged differently in another cell: the first counts"
    yield "recall is of the listed pairs alone; intervals resample claims"


def _shown(agreed: Agreement, name: str) -> str:
    one = agreed.measures[name]
    if math.isnan(one.value):
        return "undefined"
    return f"{one.value:.3f} [{one.ci95[0]:.3f}, {one.ci95[1]:.3f}]"


def _judge(cell: Cell) -> str:
    judge = cell.result.judge
    if not judge:
        return ANNOTATION
    return f"{judge.get('name')} {str(judge.get('identity'))[:8]}"

"""``tdabench reproduce``: what the paper reports beside what the cells show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment
from rich.table import Table
from rich.text import Text

from bench.cli.commands import add_results, parser_of
from bench.core import console
from bench.core.escape import clean
from bench.report.board import make_boards
from bench.report.folder import report_folder
from bench.report.reproduction.check import CheckedClaim, Verdict, check
from bench.report.reproduction.claims import read_claims
from bench.results.schema import read_cells
from bench.storage.whole_files import whole_file

_STYLES = {
    Verdict.ok: "green", Verdict.close: "yellow", Verdict.undecided: "yellow",
    Verdict.differs: "red",
}  # fmt: skip


def main(words: Sequence[str]) -> int:
    """Print the verdicts and write ``RESULTS/report/reproduction.html``; returns 0.

    Raises:
        UserError: no cells, a damaged one, or a claims file that is not well formed.
    """
    parser = parser_of("reproduce")
    add_results(parser)
    parser.add_argument("--claims", type=Path, metavar="FILE", help="a YAML of claims of your own")
    options = parser.parse_args(words)
    checked = check(read_claims(options.claims), make_boards(read_cells(options.results)))
    path = report_folder(options.results) / "reproduction.html"
    with whole_file(path) as stream:
        stream.write(page(checked))
    console.stdout().print(_table(checked))
    print(summary(checked))
    print(f"page: {clean(path)}")
    return 0


def summary(checked: Sequence[CheckedClaim]) -> str:
    """How many claims there are of each verdict, and how many comparisons they rest on."""
    n = sum(len(one.findings) for one in checked)
    told = _counted(one.verdict for one in checked)
    return f"Claims: {told}, of {len(checked)}. They rest on {n} comparison{'' if n == 1 else 's'}."


def _counted(verdicts: Iterable[Verdict]) -> str:
    counts = Counter(verdicts)
    return ", ".join(f"{counts[one]} {one.value}" for one in Verdict if counts[one])


def _table(checked: Sequence[CheckedClaim]) -> Table:
    table = console.titled_table("reproduction")
    for head in ("verdict", "claim, and what was compared", "seen", "where"):
        table.add_column(head, no_wrap=head == "verdict")
    for one in checked:
        style = _STYLES.get(one.verdict, "")
        told = _counted(finding.verdict for finding in one.findings) or f"Run: {one.claim.command}"
        verdict = Text(one.verdict.value, style=f"bold {style}".strip())
        table.add_row(verdict, Text(clean(one.claim.claim)), Text(clean(told)), "")
        for finding in one.findings:
            rest = (f"  {finding.what}", finding.seen, finding.where)
            of_it = Text(f"  {finding.verdict.value}", style=_STYLES[finding.verdict])
            table.add_row(of_it, *(Text(clean(cell)) for cell in rest))
    return table


def page(checked: Sequence[CheckedClaim]) -> str:
    """The claims with what was found, as a self-contained page."""
    template = (resources.files("bench.report") / "templates" / "reproduction.html").read_text(
        "utf-8"
    )
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["clean"] = clean
    return environment.from_string(template).render(checked=checked, summary=summary(checked))

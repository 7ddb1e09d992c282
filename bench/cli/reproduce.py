"""``tdabench reproduce``: what the paper reports beside what the cells show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment
from rich.table import Table
from rich.text import Text

from bench.cli.commands import add_results, parser_of
from bench.core import console
from bench.core.escape import clean
from bench.report.board import make_boards
from bench.report.reproduction.check import Finding, Verdict, check
from bench.report.reproduction.claims import Claim, read_claims
from bench.results.schema import read_cells
from bench.storage.whole_files import whole_file

_STYLES = {Verdict.ok: "green", Verdict.close: "yellow", Verdict.differs: "red"}


def main(words: Sequence[str]) -> int:
    """Print the verdicts and write ``RESULTS/report/reproduction.html``; returns 0.

    Raises:
        UserError: no cells, a damaged one, or a claims file that is not well formed.
    """
    parser = parser_of("reproduce")
    add_results(parser)
    parser.add_argument("--claims", type=Path, metavar="FILE", help="a YAML of claims of your own")
    options = parser.parse_args(words)
    claims = read_claims(options.claims)
    findings = check(claims, make_boards(read_cells(options.results)))
    path = options.results / "report" / "reproduction.html"
    with whole_file(path) as stream:
        stream.write(page(claims, findings))
    console.stdout().print(_table(findings))
    print(summary(findings))
    print(f"page: {clean(path)}")
    return 0


def summary(findings: Sequence[Finding]) -> str:
    """How many findings there are of each verdict."""
    counts = Counter(finding.verdict for finding in findings)
    return ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict) + "."


def _table(findings: Sequence[Finding]) -> Table:
    table = console.titled_table("reproduction")
    for head in ("verdict", "what", "found", "where"):
        table.add_column(head, no_wrap=head == "verdict")
    for finding in findings:
        known = finding.verdict is not Verdict.absent
        what = finding.what if known else f"{finding.claim.claim} Run: {finding.claim.command}"
        verdict = Text(finding.verdict.value, style=_STYLES.get(finding.verdict, ""))
        rest = (what, finding.found, finding.where)
        table.add_row(verdict, *(Text(clean(cell)) for cell in rest))
    return table


def page(claims: Sequence[Claim], findings: Sequence[Finding]) -> str:
    """The claims with what was found, as a self-contained page."""
    template = (resources.files("bench.report") / "templates" / "reproduction.html").read_text(
        "utf-8"
    )
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["clean"] = clean
    groups = [(claim, [f for f in findings if f.claim is claim]) for claim in claims]
    return environment.from_string(template).render(groups=groups, summary=summary(findings))

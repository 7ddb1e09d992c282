"""``tdabench annotate export`` and ``tdabench annotate import``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.cli.commands import Parser, parser_of
from bench.core.escape import clean


def _parser() -> Parser:
    """The parser of both actions."""
    parser = parser_of("annotate")
    actions = parser.add_subparsers(dest="action", required=True, metavar="export|import")
    help_text = "write a blinded sheet (CSV) and a page to answer it on"
    export = actions.add_parser("export", help=help_text, description=help_text)
    export.add_argument("results", type=Path, metavar="RESULTS", help="folder of finished cells")
    export.add_argument(
        "--queries", type=int, default=20, metavar="N", help="claims to sample (%(default)s)"
    )
    export.add_argument(
        "--top", type=int, default=10, metavar="K", help="proponents of each method (%(default)s)"
    )
    export.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of sample and order (%(default)s)"
    )
    export.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where both files go"
    )
    help_text = "compare the answers with the automatic judgement of the cells"
    answers = actions.add_parser("import", help=help_text, description=help_text)
    answers.add_argument("sheet", type=Path, metavar="SHEET.csv", help="answered: y, n or unsure")
    answers.add_argument("results", type=Path, metavar="RESULTS", help="folder of finished cells")
    return parser


def main(words: Sequence[str]) -> int:
    """Run one action; returns 0.

    Raises:
        UserError: anything that the user can mend.
    """
    options = _parser().parse_args(words)
    if options.action == "export":
        from bench.report.annotate.sheet import make_sheet
        from bench.report.annotate.write import write

        items = make_sheet(options.results, options.queries, options.top, options.seed)
        sheet, page = write(items, options.out)
        claims = len({item.claim for item in items})
        print(f"{len(items):,} pairs of {claims:,} claims")
        print(f"sheet: {clean(sheet)}")
        print(f"page:  {clean(page)}")
        return 0
    from bench.report.annotate.compare import compare_with_people, comparison_lines
    from bench.report.annotate.read import read_answers

    answers = read_answers(options.sheet)
    for line in comparison_lines(compare_with_people(answers, options.results)):
        print(clean(line))
    return 0

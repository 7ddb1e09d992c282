"""``tdabench report``: the leaderboard of a results folder in every format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.cli.commands import add_results, parser_of
from bench.core.escape import clean


def main(words: Sequence[str]) -> int:
    """Write the report, and print the leaderboard unless told not to; returns 0.

    Raises:
        UserError: wrong words, no cells, a damaged one, or a folder that cannot be written.
    """
    parser = parser_of("report")
    add_results(parser)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the files go (default: RESULTS/report)"
    )
    parser.add_argument("--quiet", action="store_true", help="write files, print nothing")
    parser.add_argument(
        "--no-figures", dest="figures", action="store_false", help="draw no figures"
    )
    parser.add_argument(
        "--no-viewer",
        dest="viewer",
        action="store_false",
        help="read no rankings, write no viewer",
    )
    parser.add_argument(
        "--cells",
        action="store_true",
        help="copy the cells beside the tables, less their lists: `tdabench verify DIR` can then "
        "make the tables again",
    )
    options = parser.parse_args(words)
    if options.cells and options.out is None:
        parser.error("--cells needs --out DIR")
    from bench.report.recorded import record_cells
    from bench.report.write import report

    paths = report(
        options.results,
        options.out,
        quiet=options.quiet,
        figures=options.figures,
        viewer=options.viewer,
    )
    if options.cells:
        record_cells(options.results, options.out)
    if not options.quiet:
        print(f"report: {clean(paths.html)}")
    return 0

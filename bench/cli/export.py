"""``tdabench export trec`` and ``tdabench export card``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.cli.commands import Parser, parser_of
from bench.core.escape import clean


def _parser() -> Parser:
    """The parser of both formats."""
    parser = parser_of("export")
    formats = parser.add_subparsers(dest="format", required=True, metavar="trec|card")
    summaries = {
        "trec": "write a TREC run a cell and qrels a task, for trec_eval, ir_measures and the "
        "like; ids are percent-encoded (README.md there says how)",
        "card": "write a data set for the Hugging Face Hub: card, leaderboard, rankings as Parquet",
    }
    for name, summary in summaries.items():
        part = formats.add_parser(name, help=summary, description=summary)
        part.add_argument("results", type=Path, metavar="RESULTS", help="folder of finished cells")
        part.add_argument(
            "--out", type=Path, required=True, metavar="DIR", help="a new folder for the files"
        )
        if name == "card":
            part.add_argument(
                "--license",
                required=True,
                metavar="ID",
                help="the Hub's identifier of the licence that you publish under, such as "
                "cc-by-4.0; the rankings quote the corpora, whose own licences hold, too",
            )
    return parser


def main(words: Sequence[str]) -> int:
    """Write one format; returns 0.

    Raises:
        UserError: anything that the user can mend.
    """
    options = _parser().parse_args(words)
    if options.format == "trec":
        from bench.report.export.trec import export_trec

        counts = export_trec(options.results, options.out)
        print(f"{counts.runs:,} runs, {counts.qrels:,} qrels: {clean(options.out)}")
        return 0
    from bench.report.export.card import export_card

    n_cells = export_card(options.results, options.out, options.license)
    print(f"{n_cells:,} cells: {clean(options.out)}")
    return 0

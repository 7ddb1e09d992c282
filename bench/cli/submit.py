"""``tdabench submit``: finished cells as a checked bundle for a public board."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.cli.commands import add_results, parser_of
from bench.core.escape import clean


def main(words: Sequence[str]) -> int:
    """Write a bundle; returns 0, or 1 and the problems, if a number does not hold.

    Raises:
        UserError: anything that the user can mend.
    """
    parser = parser_of("submit")
    add_results(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="BUNDLE",
        help="a new file whose name ends in .zip, or a new folder",
    )  # fmt: skip
    parser.add_argument(
        "--by", required=True, metavar="NAME", help="the person or group that the rows are by"
    )
    parser.add_argument(
        "--link", default="", metavar="URL", help="an address that tells more, such as the code's"
    )
    options = parser.parse_args(words)
    from bench.report.publishing.bundle import write_bundle

    problems = write_bundle(options.results, options.out, options.by, options.link)
    for problem in problems:
        print(problem)
    if problems:
        n = len(problems)
        print(f"{n} problem{'s' if n > 1 else ''}: nothing is written")
        return 1
    n = problems.n_cells
    print(
        f"{n} cell{'s' if n > 1 else ''}, {problems.n_numbers:,} numbers recomputed: "
        f"{clean(options.out)}"
    )
    return 0

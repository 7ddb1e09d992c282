"""``tdabench verify``: every number of a results folder, or a bundle, recomputed from rankings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.commands import add_results, parser_of
from bench.core import progress

if TYPE_CHECKING:
    from bench.results.problems import Problems


def main(words: Sequence[str]) -> int:
    """Print what does not hold; returns 0 if all does, else 1.

    Raises:
        UserError: wrong words, or no cells.
    """
    parser = parser_of("verify")
    add_results(parser)
    parser.add_argument("--quiet", action="store_true", help="print problems only")
    options = parser.parse_args(words)
    from bench.report.publishing.bundle import is_bundle, verify_path
    from bench.report.recorded import recorded_boards, verify_recorded
    from bench.results.problems import verdict_lines
    from bench.results.verify import verify

    check: Callable[[Path], Problems] = verify
    if is_bundle(options.results):
        check = verify_path
    elif recorded_boards(options.results):
        check = verify_recorded
    with progress.silenced(options.quiet):
        problems = check(options.results)
    for line in map(str, problems) if options.quiet else verdict_lines(problems):
        print(line)
    return 1 if problems else 0

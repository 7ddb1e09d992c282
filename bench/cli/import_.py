"""``tdabench import``: each ranking of the files becomes a cell, written whole or not at all."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.cli.commands import parser_of
from bench.core import progress
from bench.core.errors import UserError
from bench.core.escape import clean
from bench.importing.settings import parse
from bench.importing.sources import find_rankings
from bench.run.parts import Parts


def main(words: Sequence[str]) -> int:
    """Import every ranking that is named.

    Returns:
        0 = all are in place; 1 = some are; the others' errors have been printed.

    Raises:
        UserError: wrong words, or nothing could be imported.
    """
    parser = parser_of("import")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="FILE|KEY=VALUE",
        help="files, globs or score folders of bergson; task=NAME whose queries and passages were "
        "ranked, or task=none to believe the file's own judgement; name=NAME for the leaderboard, "
        "format=release|trec|bergson (default: by content), missing=error|skip|empty for what "
        "only one of file and task has, top_k=N to cut lists; model=NAME metric=default to "
        "measure tail-patch; else as of `tdabench run`",
    )
    request = parse(parser.parse_args(words).words)
    progress.set_quiet(request.settings.quiet)
    sources = find_rankings(request.files, request.format)
    if request.name is not None and len(sources) > 1:
        raise UserError(
            f"is one name for {len(sources)} rankings",
            where="name",
            fix="leave it out (they are called as their files), or import them one by one",
        )
    parts = Parts(request.settings)
    if request.has_task:
        parts.check_files()
    from bench.importing.cells import import_ranking  # imports torch: not needed before

    errors = []
    for source in sources:
        try:
            import_ranking(parts, request, source)
        except UserError as error:
            errors.append(error)
            if len(sources) > 1:
                print(f"error: {clean(source.paths[0])}: {clean(error)}", file=sys.stderr)
    if len(errors) < len(sources):
        return 1 if errors else 0
    if len(errors) > 1:
        raise UserError(f"none of {len(sources)} rankings could be imported", fix="see above")
    raise errors[0]

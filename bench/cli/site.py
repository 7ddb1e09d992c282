"""``tdabench site``: the static site of all boards."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from bench.cli.commands import parser_of
from bench.core.escape import clean

_RESULTS, _DOCS = Path("results"), Path("docs")


def main(words: Sequence[str]) -> int:
    """Build the site; returns 0, or 1 if a bundle was refused and left out.

    Raises:
        UserError: anything that the user can mend.
    """
    parser = parser_of("site")
    parser.add_argument(
        "results", nargs="*", type=Path, default=[_RESULTS], metavar="RESULTS",
        help="folders of finished cells, or of leaderboards kept by `tdabench report --cells` "
        "(default: results)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="a new folder for the site"
    )
    parser.add_argument(
        "--bundles", nargs="+", type=Path, default=[], metavar="DIR",
        help="bundles, or folders of bundles, whose rows join the boards of equal task and model",
    )  # fmt: skip
    parser.add_argument(
        "--docs", type=Path, metavar="DIR",
        help="folder of the documents' Markdown (default: docs, if it is there)",
    )  # fmt: skip
    parser.add_argument(
        "--no-figures", dest="figures", action="store_false", help="draw no figures"
    )
    options = parser.parse_args(words)
    from bench.report.publishing.site import build_site

    docs = options.docs or (_DOCS if _DOCS.is_dir() else None)
    site = build_site(options.out, options.results, options.bundles, docs, figures=options.figures)
    for one in site.refused:
        print(clean(one), file=sys.stderr)
    without = "" if docs else ", no documents: there is no folder docs here"
    print(f"{len(site.boards)} boards, {site.n_pages} pages{without}: {clean(options.out)}")
    return 1 if site.refused else 0

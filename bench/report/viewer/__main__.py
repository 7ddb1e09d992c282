"""``python -m bench.report.viewer FILE… --out DIR``: a viewer of ranking files anywhere."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.core.errors import UserError
from bench.core.escape import clean
from bench.report.viewer.build import write_viewer
from bench.report.viewer.sources import group_of_files


def main(argv: Sequence[str] | None = None) -> int:
    """Write a viewer; 0 done, 2 the user's input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.report.viewer", description=__doc__)
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="ranking files, or folders of cells"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("viewer"), metavar="DIR", help="default: %(default)s"
    )
    options = parser.parse_args(argv)
    try:
        page = write_viewer([group_of_files(options.files)], options.out)
    except UserError as error:
        print(f"error: {clean(error)}", file=sys.stderr)
        return 2
    print(f"viewer: {clean(page)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

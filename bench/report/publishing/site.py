"""The static site: all boards with the rows of bundles, what follows from the package, documents.

    index.html               the boards, the bundles, how to hand in one's own
    results/NAME/index.html  a board's page with figures and files, as ``tdabench report`` writes it
    docs/*.html              documents, at the places of their Markdown; settings, methods, metrics

Every link is relative, so that the site works at any address, and from disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath

from markupsafe import Markup

from bench.core import escape, progress
from bench.core.errors import UserError
from bench.report.board import Board, make_boards
from bench.report.export.cells import check_new
from bench.report.formats import SitePlace
from bench.report.formats.page import PAGE
from bench.report.publishing.arrivals import Refused, Taken, arrivals, bundles_in
from bench.report.publishing.documents import Documents, page_of, read_documents, relative
from bench.report.publishing.joining import joined, unlike, without_a_board
from bench.report.publishing.prose import Prose, prose, table
from bench.report.publishing.reference import methods_section, metrics_page, settings_page
from bench.report.recorded import CELLS, recorded_boards
from bench.report.rendering import rendered
from bench.report.write import write_boards
from bench.results.schema import Cell, read_cells
from bench.storage.keys import path_part
from bench.storage.whole_files import whole_file
from bench.storage.whole_folders import whole_folder
from metrics import measures

_RESULTS, _OTHERS, _RUNS = "results", "handed-in", Path("runs")
_SETTINGS, _METHODS, _METRICS = "docs/settings.html", "docs/methods.html", "docs/metrics.html"
# Titles of the navigation; a page that the site does not have is left out.
_NAVIGATION = {
    "Boards": PAGE, "Start": "README.html", "Concepts": "docs/concepts.html",
    "Guide": "docs/guide.html", "Methods": _METHODS, "Metrics": _METRICS,
    "Bring your own": "README.html#your-own", "Engines": "docs/engines.html",
    "Findings": "docs/findings.html", "Settings": _SETTINGS, "Python": "docs/api.html",
    "Models of real size": "docs/scale.html", "Hand in results": "docs/publishing.html",
    "Architecture": "docs/architecture.html", "Security": "docs/security.html",
}  # fmt: skip


@dataclass(frozen=True)
class BoardPage:
    """The boards of one folder of results, which stand on one page.

    Attributes:
        name: the folder's name on the site.
    """

    name: str
    boards: Sequence[Board]

    @property
    def address(self) -> str:
        """The address of the page from the root of the site."""
        return f"{_RESULTS}/{self.name}/{PAGE}"


@dataclass(frozen=True)
class Site:
    """The site that was built.

    Attributes:
        n_pages: pages of text.
        refused: bundles that were left out.
    """

    boards: Sequence[BoardPage]
    n_pages: int
    refused: Sequence[Refused]


def build_site(
    out: Path,
    results: Sequence[Path],
    bundles: Sequence[Path] = (),
    docs: Path | None = None,
    *,
    figures: bool = True,
) -> Site:
    """Build the site into a new folder, whole or not at all.

    Args:
        results: folders of finished cells, or of leaderboards that are kept with their cells.
        bundles: bundles, or folders of bundles. One that does not hold is left out, and named.
        docs: the folder of the documents' Markdown; None for a site without.
        figures: whether figures are drawn, which takes a second or two each.

    Raises:
        UserError: no cell, a damaged one, a document that links to nothing, or a folder that is
            there already or cannot be written.
    """
    check_new(out)
    with ExitStack() as stack:
        cells = _cells_of(results)
        arrived, refused = arrivals(bundles_in(bundles), stack)
        taken: list[Taken] = []
        for one in arrived:
            known = [
                *chain.from_iterable(cells.values()),
                *chain.from_iterable(t.cells for t in taken),
            ]
            if reason := unlike(known, one.cells):
                refused.append(Refused(one.name, reason))
            else:
                taken.append(one)
        pages = _board_pages(cells, [cell for one in taken for cell in one.cells])
        kept = {f"{_RESULTS}/{page.name}/leaderboard.md": page.address for page in pages}
        documents = _documents(docs, kept)
        texts = {page_of(path): text for path, text in documents.pages.items()}
        texts |= _references(texts)
        texts[PAGE] = prose(_home(pages, taken, refused, texts))
        if out.exists():
            out.rmdir()  # it is empty
        with whole_folder(out) as folder:
            for page in progress.track(pages, "boards", unit="boards"):
                links = _links({*texts, page.address}, page.address)
                place = SitePlace(page.name, {title: address for title, address, _ in links})
                folder_of = folder / _RESULTS / page.name
                write_boards(page.boards, folder_of, _RUNS, True, figures=figures, site=place)
            for path, content in documents.files.items():
                with whole_file(folder / path, "wb") as stream:
                    stream.write(content)
            for address, text in texts.items():
                with whole_file(folder / address) as stream:
                    stream.write(_page(address, text, set(texts)))
    return Site(pages, len(texts), refused)


# ------------------------------------------------------------------ boards


def _cells_of(results: Sequence[Path]) -> dict[str, list[Cell]]:
    """The cells of each folder, by the name that it has on the site."""
    cells: dict[str, list[Cell]] = {}
    for folder in results:
        recorded = recorded_boards(folder)
        named = [(one, one / CELLS) for one in recorded] if recorded else [(folder, folder)]
        for place, inside in named:
            name = path_part(place.resolve().name)
            if name in cells or name == _OTHERS:
                raise UserError(
                    f"two folders would be {_RESULTS}/{name} of the site",
                    where=str(place),
                    fix="rename one of them",
                )
            cells[name] = read_cells(inside)
    return cells


def _board_pages(cells: Mapping[str, Sequence[Cell]], handed_in: Sequence[Cell]) -> list[BoardPage]:
    """The boards of each folder of cells, with rows of others; and boards of others alone."""
    pages = {name: joined(own, handed_in) for name, own in cells.items()}
    if left := without_a_board(cells.values(), handed_in):
        pages[_OTHERS] = left
    if not pages:
        raise UserError("nothing to build", fix="give a folder of results, or --bundles")
    return [BoardPage(name, make_boards(of_page)) for name, of_page in pages.items()]


def _documents(docs: Path | None, kept: Mapping[str, str]) -> Documents:
    if docs is None:
        return Documents()
    return read_documents(docs, kept, {"conf": _SETTINGS, _RESULTS: PAGE})


# ------------------------------------------------------------------ pages of text


def _references(texts: Mapping[str, Prose]) -> dict[str, Prose]:
    """The pages that follow from the package; that of methods goes on below the document."""
    methods = prose(methods_section())
    if above := texts.get(_METHODS):
        methods = Prose(above.title, above.html + methods.html)
    else:
        methods = prose(f"# Methods\n\n{methods_section()}")
    return {_METHODS: methods, _METRICS: prose(metrics_page()), _SETTINGS: prose(settings_page())}


def _links(pages: set[str], here: str) -> list[tuple[str, str, bool]]:
    """The navigation of a page: title, address relative to it, and whether it is this page."""
    there = {PAGE, *pages}
    return [
        (title, relative(address, here), address == here)
        for title, address in _NAVIGATION.items()
        if address.partition("#")[0] in there
    ]


def _page(address: str, text: Prose, pages: set[str]) -> str:
    body = Markup(text.html)  # noqa: S704 - made of this project's own text, the rest escaped
    title = text.title or PurePosixPath(address).stem
    links = _links(pages, address)
    return rendered("site", scripts=None, title=title, body=body, links=links)


def _home(
    pages: Sequence[BoardPage],
    taken: Sequence[Taken],
    refused: Sequence[Refused],
    texts: Mapping[str, Prose],
) -> str:
    """The first page, as Markdown."""
    about, has_readme = "results/README.html", "README.html" in texts
    lines = [
        "# tdabench",
        "",
        "Which training passages made a language model complete a fact as it does? Methods of "
        "training-data attribution rank the training corpus, and their lists are judged twice: "
        "by whether they find the passages that *state* the fact (attribution), and those that "
        "*cause* the prediction (influence). Every number has an interval, and methods of a "
        "board are tested against each other.",
        "",
        "## Run it",
        "",
        "In a checkout, with Python 3.10 to 3.13 and no GPU:",
        "",
        "    pip install .",
        "    tdabench run -m experiment=quickstart",
        "    tdabench report runs",
        "",
        *(
            ["[Start](README.html) says more, and [how to cite](README.html#cite).", ""]
            * has_readme
        ),
        "## Boards",
        "",
        "Rows can be compared where the hashes of task and model are equal. Best of each board, "
        "controls aside, on both sides of the benchmark:",
        "",
        *_boards_table(pages),
        "",
    ]
    if about in texts:
        lines += [f"The command and the data of each: [results]({about}).", ""]
    lines += [
        "Lists of passages are not on this site where only tables are kept: they quote corpora, "
        "whose licences differ. A board whose lists are here has a viewer of them.",
        "",
        "## Rows of others",
        "",
        *_handed_in(taken, refused),
    ]
    if "docs/publishing.html" in texts:
        lines += ["", "How to hand in yours: [publishing](docs/publishing.html)."]
    return "\n".join(lines)


def _boards_table(pages: Sequence[BoardPage]) -> list[str]:
    heads = ["board", "task × model", "rows", *(measures.of(one).title for one in measures.SIDES)]
    rows = []
    for page in pages:
        for board in page.boards:
            best = [_best(board, metric) for metric in measures.SIDES]
            words = [f"{board.task} × {board.model}", str(len(board.rows)), *best]
            name = f"[{escape.markdown(page.name)}]({page.address})"
            rows.append([name, *map(escape.markdown, words)])
    return table(heads, rows)


def _best(board: Board, metric: str) -> str:
    """Who is best by a metric: rows or, where these are many, such as seeds, their methods."""
    best = [row for row in board.rows if metric in row.best]
    names = dict.fromkeys(row.label if len(best) < 3 else row.method for row in best)
    return ", ".join(names) or "–"


def _handed_in(taken: Sequence[Taken], refused: Sequence[Refused]) -> Iterator[str]:
    if not taken and not refused:
        yield "None yet."
    for one in taken:
        n = len(one.cells)
        yield (
            f"- {escape.markdown(one.source.by)}: {n} row{'s' if n != 1 else ''} of "
            f"{escape.markdown(one.name)}, verified {one.source.verified} by tdabench "
            f"{one.source.version}."
        )
    for other in refused:
        yield f"- Left out, {escape.markdown(other)}."

"""What tests of reports read them with."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from bench.leaderboard import Board, make_boards
from bench.result import read_cells
from tests.cells import write_cell

HOSTILE = "a\"'><script>alert(1)</script>|*b*\u202ec\x1b[31m`&\\_${}"


class Page(HTMLParser):
    """Tags with their attributes, visible text, and the content of scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open:
            self.scripts += [data] if self._open[-1] == "script" else []
        elif data.strip():
            self.text.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def boards_of(results: Path) -> list[Board]:
    return make_boards(read_cells(results))


def labels(board: Board) -> list[str]:
    return [row.label for row in board.rows]


def three_cells(tmp_path: Path) -> Path:
    """Two methods and a control, measured on both sides."""
    for method, strength, patch in (("bm25", 0.9, 0.002), ("trackstar", 0.4, 0.006)):
        write_cell(tmp_path, method, strength=strength, tail_patch=patch)
    write_cell(tmp_path, "gold", strength=9, tail_patch=0.004)
    return tmp_path

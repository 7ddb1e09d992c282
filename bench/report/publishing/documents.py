"""The Markdown of a checkout as pages of the site, at the same places, with links that hold."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

from bench.core.errors import UserError
from bench.report.publishing.prose import Prose, prose
from bench.storage.bounds import check_inside, read_bytes

MOST_BYTES = 64 << 20  # of a page of text, or of a file that a page shows
README = "README.md"


@dataclass
class Documents:
    """Pages of text, and the files that they show or link to.

    Attributes:
        pages: by the path of their Markdown, relative to the root.
        files: the content of other files, by their paths.
    """

    pages: dict[str, Prose] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


def page_of(path: str) -> str:
    """The address of the page of a Markdown file, from the root of the site."""
    return str(PurePosixPath(path).with_suffix(".html"))


def read_documents(
    folder: Path, others: Mapping[str, str], folders: Mapping[str, str]
) -> Documents:
    """Every page below ``folder``, the README above it, and whatever they lead to.

    Args:
        folder: such as ``docs`` of a checkout, whose root is the folder above.
        others: addresses of pages that the site has instead of a file, by the file's path.
        folders: addresses that stand for folders, which have no page, by their paths.

    Raises:
        UserError: a link leads to nothing, or out of the root.
    """
    root = folder.resolve().parent
    starts = sorted(path.relative_to(root).as_posix() for path in folder.resolve().glob("*.md"))
    if not starts:
        raise UserError("holds no Markdown", where=str(folder), fix="give --docs its folder")
    documents = Documents()
    waiting = [*starts, *([README] if (root / README).is_file() else [])]
    while waiting:
        path = waiting.pop()
        if path not in documents.pages:
            links = _Links(root, path, others, folders)
            text = read_bytes(root / path, MOST_BYTES).decode("utf-8")
            documents.pages[path] = prose(text, links.address)
            waiting += links.pages
            for file in links.files - documents.files.keys():
                documents.files[file] = read_bytes(root / file, MOST_BYTES)
    return documents


class _Links:
    """The links of one page, as the site has them; notes what they need to be there."""

    def __init__(
        self, root: Path, page: str, others: Mapping[str, str], folders: Mapping[str, str]
    ) -> None:
        self._root, self._page, self._others, self._folders = root, page, others, folders
        self.pages: list[str] = []
        self.files: set[str] = set()

    def address(self, target: str) -> str:
        """The address on the site of what a link names.

        Raises:
            UserError: there is no such thing.
        """
        parts = urlsplit(target)
        if parts.scheme or parts.netloc or not parts.path:
            return target
        path = os.path.normpath(PurePosixPath(self._page).parent / unquote(parts.path))
        place = self._root / path
        if path in self._others:
            goal = self._others[path]
        elif place.is_dir() and (above := _nearest(path, self._folders)):
            goal = self._folders[above]
        elif place.is_file():
            check_inside(place, self._root)
            if place.suffix == ".md":
                self.pages.append(path)
                goal = page_of(path)
            else:
                self.files.add(path)
                goal = path
        else:
            raise UserError(
                f"links to {target}, which is not there", where=str(self._root / self._page)
            )
        anchor = f"#{parts.fragment}" if parts.fragment else ""
        goal, _, own = goal.partition("#")
        anchor = anchor or (f"#{own}" if own else "")
        return quote(relative(goal, page_of(self._page))) + anchor


def relative(address: str, page: str) -> str:
    """An address from the root of the site, as a link on a page has it."""
    return os.path.relpath(address, PurePosixPath(page).parent)


def _nearest(path: str, folders: Collection[str]) -> str:
    """The folder of these that a path names or lies in; empty if there is none."""
    above = [path, *map(str, PurePosixPath(path).parents)]
    return next((one for one in above if one in folders), "")

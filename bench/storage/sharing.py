"""Work of one phase that machines share through a store, file by file.

What a job has finished is copied to the store at once, by whoever did it, and a job that another
machine has finished there is not done again. So machines that work on the same phase at the same
time share it out: each looks at the store just before it begins a job. What jobs leave for a merge
has a copy there only until the store has the whole that it was merged into; a machine that is at
work on the rest at that moment finds the whole, and takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from bench.core import progress
from bench.core.errors import UserError
from bench.storage.mirror import INVENTORY, Mirror
from bench.storage.sealed import move_aside_if

T = TypeVar("T")


class MergedElsewhereError(UserError):
    """Another machine has merged the phase that a job belongs to; what it merged is in the store.

    Args:
        whole: what it was merged into.
    """

    def __init__(self, whole: Path) -> None:
        super().__init__(
            "another machine has finished this in the meantime",
            where=str(whole),
            fix="run again, and it is taken from the store",
        )
        self.whole = whole

    def __reduce__(self) -> tuple:
        return MergedElsewhereError, (self.whole,)


@dataclass(frozen=True)
class Sharing:
    """How the files of a phase's jobs are shared; plain data, so that workers can have it.

    Attributes:
        mirror: a folder that the files are in, and its copy in a store.
        whole: the file that is in the store once the phase is merged; None where nothing is merged
            and the files stay there.
        lasting: whether a job's file may serve other runs; a function of a module. None: each does.
    """

    mirror: Mirror
    whole: Path | None = None
    lasting: Callable[[Path], bool] | None = None

    def exchange(self, paths: Collection[Path], read: Callable[[Path], Any]) -> frozenset[Path]:
        """Bring files that are missing here, and keep those that the store lacks.

        The store is asked once for each folder.

        Args:
            read: raises ``DamagedError`` for a file that is not what was written. Such a copy is
                not believed: it is moved aside, and said.

        Returns:
            the files whose copies are damaged.

        Raises:
            UserError: the store cannot be reached.
        """
        if self.mirror.url is None:
            return frozenset()
        held = {folder: self.mirror.names(folder) for folder in {path.parent for path in paths}}
        away = []
        for path in paths:
            is_held, is_here = path.name in held[path.parent], path.exists()
            if is_held and not is_here:
                away.append(path)
            elif is_here and not is_held:
                self._keep(path)
        tracked = progress.track(away, "bring from the store", unit="files") if away else ()
        return frozenset(path for path in tracked if not bring_sound(self.mirror, path, read))

    def do(
        self,
        path: Path,
        beside: Sequence[Path],
        work: Callable[[], None],
        *,
        read: Callable[[Path], Any],
        is_damaged: bool,
    ) -> None:
        """Bring the file of a job if another machine has finished it by now; else work and keep it.

        Args:
            beside: other files that the work leaves, for other phases.
            read: as of ``exchange``.
            is_damaged: whether the store's copy is known to be damaged.

        Raises:
            MergedElsewhereError: the store has the whole already.
            UserError: the store cannot be reached.
        """
        if not is_damaged and self.mirror.holds(path):
            if bring_sound(self.mirror, path, read):
                return
            is_damaged = True
        if self.whole is not None and self.mirror.holds(self.whole):
            raise MergedElsewhereError(self.whole)
        work()
        for one in (path, *beside):
            if (is_damaged and one == path) or not self.mirror.holds(one):
                self._keep(one)

    def _keep(self, path: Path) -> None:
        if self.lasting is None or self.lasting(path):
            self.mirror.keep(path)


# For jobs whose files are no other machine's business.
NOT_SHARED = Sharing(Mirror(Path()))


def bring_sound(mirror: Mirror, path: Path, read: Callable[[Path], Any]) -> bool:
    """Bring a file from the store; returns whether it is now here.

    It is not if somebody has removed its copy, or if that is damaged: then it is moved aside, and
    said.

    Raises:
        UserError: the store cannot be reached.
    """
    try:
        mirror.bring(path, path.name)
    except UserError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return False
        raise
    move_aside_if(path, partial(read, path))
    return path.exists()


def merged_file(
    mirror: Mirror,
    whole: Path,
    read: Callable[[Path], T],
    write: Callable[[Path, T], None],
    merge: Callable[[Path | None], T],
) -> tuple[T, bool]:
    """What a phase comes to, which is one file: brought from the store, or merged and kept there.

    Without a store it is merged, and not written.

    Args:
        whole: the file, which is not here yet.
        merge: does the jobs and merges what they leave; it is given what the jobs may find in the
            store instead (``Sharing.whole``).

    Returns:
        what the phase comes to, and whether it was merged here.

    Raises:
        UserError: the store cannot be reached, or the disk does not take the file.
    """
    if mirror.url is None:
        return merge(None), True
    is_damaged = False
    if mirror.holds(whole):
        if bring_sound(mirror, whole, read):
            return read(whole), False
        is_damaged = True
    try:
        value = merge(None if is_damaged else whole)
    except MergedElsewhereError:
        if bring_sound(mirror, whole, read):
            return read(whole), False
        value = merge(None)
    write(whole, value)
    mirror.keep(whole)
    return value, True


def merged_folder(mirror: Mirror, folder: Path, parts: Path, make: Callable[[], T]) -> T:
    """What ``make`` returns of a folder that it merges from parts; it is shared as a whole.

    Args:
        folder: the folder, which is brought if the store has it, and kept there.
        parts: the folder of the parts, which are nobody's any more once the whole is kept.
        make: opens the folder, or makes it first.

    Raises:
        UserError: the store cannot be reached, or its copy of the folder is damaged.
    """
    is_new = not folder.exists()
    mirror.bring_folder(folder)
    try:
        made = make()
    except MergedElsewhereError:
        mirror.bring_folder(folder)
        made = make()
    mirror.keep_folder(folder)
    if is_new:
        mirror.drop(parts)
    return made


def inventory(folder: Path) -> Path:
    """The file that is in the store once a folder's copy is whole."""
    return folder / INVENTORY

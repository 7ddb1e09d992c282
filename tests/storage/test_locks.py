"""One process at a time in a folder."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from bench.storage.locks import exclusive, exclusive_if_free


def test_who_waits_for_a_folder_that_is_removed_has_a_new_one(tmp_path: Path) -> None:
    had, go = threading.Event(), threading.Event()

    def hold_and_remove() -> None:
        with exclusive(tmp_path / "f"):
            had.set()
            go.wait(30)
            shutil.rmtree(tmp_path / "f")

    other = threading.Thread(target=hold_and_remove)
    other.start()
    assert had.wait(30)
    threading.Timer(0.3, go.set).start()  # by then we wait for the lock
    with exclusive(tmp_path / "f"):
        (tmp_path / "f" / "ours").touch()
    other.join()
    assert (tmp_path / "f" / "ours").exists()


def test_who_does_not_wait_is_told(tmp_path: Path) -> None:
    with exclusive_if_free(tmp_path / "f") as is_ours:
        assert is_ours
        with exclusive_if_free(tmp_path / "f") as again:
            assert not again
    with exclusive_if_free(tmp_path / "f") as is_ours:
        assert is_ours

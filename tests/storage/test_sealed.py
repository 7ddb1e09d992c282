"""Sealed folders and files: used as they were written, or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from bench.core.errors import UserError
from bench.storage import hashes
from bench.storage.sealed import (
    MANIFEST,
    DamagedError,
    move_aside_if,
    open_or_make,
    open_sealed,
    read_record,
    seal,
    sealed_folder,
    write_record,
)

MADE_FROM = {"passages": 3, "settings": [1, 2.5, None]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "key"
    with sealed_folder(target, "index of things", MADE_FROM) as draft:
        (draft.folder / "a.bin").write_bytes(b"0123456789")
        (draft.folder / "deep").mkdir()
        (draft.folder / "deep" / "empty").touch()
        draft.facts["seconds"] = 1.5
    return target


def opened(folder: Path) -> dict[str, Any]:
    return open_sealed(folder, "index of things", MADE_FROM)


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_sound_folder_tells_its_facts(folder: Path) -> None:
    assert opened(folder) == {"seconds": 1.5}
    record = json.loads((folder / MANIFEST).read_text())
    assert record["format"] == 1
    assert (record["kind"], record["name"]) == ("index of things", "key")
    assert record["made_from"] == MADE_FROM
    assert list(record["files"]) == ["a.bin", "deep/empty"]
    assert record["files"]["a.bin"]["bytes"] == 10


def test_the_manifest_is_written_last(tmp_path: Path) -> None:
    class Stop(Exception):  # noqa: N818
        pass

    def stopped() -> None:
        with sealed_folder(tmp_path / "key", "index of things", MADE_FROM) as draft:
            assert list(draft.folder.iterdir()) == []
            raise Stop

    with pytest.raises(Stop):
        stopped()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda f: (f / "a.bin").write_bytes(b"0123456788"), "a.bin holds other bytes"),
        (lambda f: (f / "a.bin").write_bytes(b"01234"), "a.bin has 5 bytes, and 10 were written"),
        (lambda f: (f / "a.bin").unlink(), "a.bin is missing"),
        (lambda f: (f / "more").touch(), "more is not in manifest.json"),
        (lambda f: (f / "deep/empty").write_bytes(b"x"), "deep/empty has 1 bytes"),
        (lambda f: (f / MANIFEST).unlink(), "manifest.json is missing"),
        (lambda f: (f / MANIFEST).write_text(""), "manifest.json is no sealed file"),
        (lambda f: (f / MANIFEST).write_text("[" * 5000), "manifest.json is no sealed file"),
        (lambda f: (f / MANIFEST).write_text("[1]"), "manifest.json is no sealed file"),
        (lambda f: edited(f / MANIFEST, format=2), "says other things than were written"),
        (lambda f: edited(f / MANIFEST, facts={"seconds": 9}), "says other things"),
        (lambda f: edited(f / MANIFEST, files={}), "says other things"),
        (lambda f: edited(f / MANIFEST, seal=None), "says other things"),
    ],
)
def test_damage_is_one_line_that_names_the_file_and_the_folder(
    folder: Path, damage: Any, fault: str
) -> None:
    damage(folder)
    with pytest.raises(DamagedError) as caught:
        opened(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder}: damaged index of things; delete this folder and run")
    assert fault in message
    assert "\n" not in message


def test_another_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="its kind differs"):
        open_sealed(folder, "task", MADE_FROM)
    with pytest.raises(DamagedError, match="its made_from differs"):
        open_sealed(folder, "index of things", {**MADE_FROM, "passages": 4})
    folder.rename(tmp_path / "other")
    with pytest.raises(DamagedError, match="its name differs"):
        opened(tmp_path / "other")


def test_hidden_files_do_not_matter(folder: Path) -> None:
    for name in (".nfs0001", ".DS_Store"):
        (folder / name).write_text("x")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").touch()
    assert opened(folder) == {"seconds": 1.5}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
@pytest.mark.parametrize("name", ["deep/empty", MANIFEST])
def test_a_pipe_is_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(DamagedError, match="is no "):
        opened(folder)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no devices here")
def test_a_link_to_an_endless_device_is_refused(folder: Path) -> None:
    (folder / "a.bin").unlink()
    (folder / "a.bin").symlink_to("/dev/zero")
    with pytest.raises(DamagedError, match="is no file"):
        opened(folder)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the files whose bytes are hashed."""
    names: list[str] = []
    original = hashes.stream_sha256

    def noted(stream: IO[bytes]) -> str:
        names.append(Path(stream.name).name)
        return original(stream)

    monkeypatch.setattr(hashes, "stream_sha256", noted)
    hashes._known.clear()
    yield names
    hashes._known.clear()


def test_a_file_is_hashed_once_in_a_process(read: list[str], folder: Path) -> None:
    """Once while it is sealed; or by another process, when it is opened first."""
    for _ in range(3):
        opened(folder)
    assert sorted(read) == ["a.bin", "empty"]
    hashes._known.clear()
    for _ in range(3):
        opened(folder)
    assert sorted(read) == ["a.bin", "a.bin", "empty", "empty"]
    (folder / "a.bin").write_bytes(b"0123456789")
    opened(folder)
    assert sorted(read) == ["a.bin", "a.bin", "a.bin", "empty", "empty"], "it may be another now"


def test_a_folder_is_sealed_again_without_hashing_again(read: list[str], tmp_path: Path) -> None:
    """As a training does after each epoch."""
    (tmp_path / "one").write_text("1")
    seal(tmp_path, "training", "x", None, {}, file="progress.json")
    (tmp_path / "two").write_text("2")
    seal(tmp_path, "training", "x", None, {}, file="progress.json", without=[tmp_path / "three"])
    assert sorted(read) == ["one", "two"]
    (tmp_path / "three").write_text("3")
    options = {"name": "x", "file": "progress.json"}
    assert open_sealed(tmp_path, "training", None, others=True, **options) == {}  # type: ignore[arg-type]
    with pytest.raises(DamagedError, match="three is not in progress"):
        open_sealed(tmp_path, "training", None, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a.bin", MANIFEST])
def test_what_may_not_be_read_is_not_damaged(folder: Path, monkeypatch, name: str) -> None:
    """Fault that it would be: a shared task that is closed to this user would be moved aside."""
    original = Path.stat

    def closed(self: Path, **options: Any) -> os.stat_result:
        if self.name == name:
            raise PermissionError(13, "Permission denied", str(self))
        return original(self, **options)

    monkeypatch.setattr(Path, "stat", closed)
    with pytest.raises(UserError, match="cannot be read") as caught:
        opened(folder)
    assert not isinstance(caught.value, DamagedError)


# ------------------------------------------------------------------ made again


def make(folder: Path) -> dict[str, Any]:
    (folder / "x").write_text("content")
    return {"n": 1}


def test_a_damaged_folder_is_refused_or_replaced(tmp_path: Path, capsys) -> None:
    target = tmp_path / "key"
    assert open_or_make(target, "task", [1], make) == {"n": 1}
    (target / "x").write_text("c0ntent")
    with pytest.raises(DamagedError):
        open_or_make(target, "task", [1], make)
    capsys.readouterr()
    for number in (1, 2):
        (target / "x").write_text(f"c{number}ntent")
        assert open_or_make(target, "task", [1], make, replace=True) == {"n": 1}
        assert (target / "x").read_text() == "content"
        aside = tmp_path / f"key.damaged-{number}"
        assert (aside / "x").read_text() == f"c{number}ntent"
        assert capsys.readouterr().err == (
            f"{target}: damaged task (x holds other bytes than were written); it is now "
            f"{aside.name}, and is made again\n"
        )
    assert not list(tmp_path.glob(".*")), "and no lock stays"


def test_what_another_process_has_replaced_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("sound")
    answers = [DamagedError("thing", path, "why")]

    def check() -> None:
        if answers:
            raise answers.pop()

    move_aside_if(path, check)
    assert path.read_text() == "sound"


# ------------------------------------------------------------------ single files


def test_a_record_is_what_was_written_where_it_was_written(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    path = tmp_path / "a" / "x.json"
    write_record(path, "output", {"value": [1.5, None]})
    assert read_record(path, "output") == {"value": [1.5, None]}
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DamagedError, match="damaged output; delete this file and run again"):
            read_record(path, "output")
    for other in (tmp_path / "a" / "y.json", tmp_path / "b" / "x.json"):
        other.write_bytes(whole)
        with pytest.raises(DamagedError, match="belongs elsewhere"):
            read_record(other, "output")
    path.write_bytes(whole)
    with pytest.raises(DamagedError, match="belongs elsewhere"):
        read_record(path, "another output")


def test_the_error_survives_pickling(folder: Path) -> None:
    import pickle

    (folder / "a.bin").unlink()
    with pytest.raises(DamagedError) as caught:
        opened(folder)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copy, UserError)
    assert str(copy) == str(caught.value)

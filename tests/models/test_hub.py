"""A model of the hub is a commit in the cache that transformers has; without it, one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from bench.core.errors import UserError
from bench.models.hub import hub_folder
from bench.tasks.base import Query
from tests.fixtures.helpers import make_task
from tests.fixtures.models import TEXTS, directory_source, make_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub_folder.cache_clear()
    return tmp_path / "hub"


def cached(cache: Path, model: Path) -> None:
    """Lay a model into the cache as a download leaves it: blobs, and links to them by name."""
    own = cache / "models--someone--small"
    snapshot = own / "snapshots" / COMMIT
    for folder in (own / "blobs", own / "refs", snapshot):
        folder.mkdir(parents=True)
    (own / "refs" / "main").write_text(COMMIT)
    for number, file in enumerate(sorted(model.iterdir())):
        shutil.copyfile(file, own / "blobs" / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))


@pytest.mark.parametrize("revision", [COMMIT, "main"])
def test_a_cached_revision_is_the_model(tmp_path: Path, cache: Path, revision: str) -> None:
    folder = make_model(tmp_path / "model", "llama", layers=1)
    cached(cache, folder)
    task = make_task(tmp_path / "task", TEXTS, [Query("q", "Al Grey plays the", "trombone")])
    source, local = directory_source("someone/small", revision=revision), directory_source(folder)
    source.check()
    assert source.identity(task) == local.identity(task), "the files are what counts"
    model = source.load(task, tmp_path, "cpu")
    assert model.sha256 == local.load(task, tmp_path, "cpu").sha256
    assert model.training == {"hub": "someone/small", "commit": COMMIT}
    assert source.architecture().model_type == "llama"


def test_offline_it_says_so_in_one_line() -> None:
    with pytest.raises(UserError, match="and HF_HUB_OFFLINE is set; fetch it where") as caught:
        directory_source("someone/small", revision="main").check()
    assert str(caught.value).startswith("model.path: someone/small at main is not in the cache")
    assert "\n" not in str(caught.value)


def test_without_a_network_it_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionRefusedError("nobody there")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    monkeypatch.setattr("socket.socket.connect", unreachable)
    with pytest.raises(UserError, match=r"someone/small at main (is not in|cannot be had)"):
        directory_source("someone/small", revision="main").check()


@pytest.mark.parametrize("path", ["/models/mine", "mine", "a/b/c", None])
def test_a_revision_of_what_is_no_model_of_the_hub(path: str | None) -> None:
    with pytest.raises(UserError, match=r"model\.path: .* is no model of the hub"):
        directory_source(path, revision="main").check()


def test_without_a_revision_a_path_is_a_folder() -> None:
    """A slip in a path must not be looked up anywhere."""
    with pytest.raises(UserError, match="someone/small: no such directory; set model"):
        directory_source("someone/small").check()

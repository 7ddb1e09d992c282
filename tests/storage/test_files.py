"""Corpora at addresses that fsspec opens: records as from a folder, and faults in a line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import fsspec
import pytest

from bench.core.errors import UserError
from bench.storage import jsonlines
from bench.storage.files import RemoteFile, expand, fingerprints
from tests.fixtures.fact_files import TRexFiles, fact, sentence

MEMORY = "memory:///corpus"


@pytest.fixture
def store():
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def put(store, name: str, records: list[dict], packed: bool = False) -> None:
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    store.pipe(f"/corpus/{name}", gzip.compress(data) if packed else data)


def test_records_are_those_of_a_folder(store, tmp_path: Path) -> None:
    records = [{"text": "Ærø"}, {"text": "b"}]
    put(store, "a.jsonl", records)
    put(store, "b.jsonl", records[::-1], packed=True)
    found = expand(f"{MEMORY}/*.jsonl", "task.facts")
    assert [file.name for file in found] == ["a.jsonl", "b.jsonl"]
    read = [[record for _, record in jsonlines.read(file)] for file in found]
    assert read == [records, records[::-1]]
    (place, _), *_ = jsonlines.read(found[0])
    assert str(place) == f"{MEMORY}/a.jsonl:1"
    assert expand(f"{MEMORY}/a.jsonl", "k") == [RemoteFile(f"{MEMORY}/a.jsonl")]
    local = tmp_path / "a.jsonl"
    local.write_text("{}\n")
    assert expand(f"file://{local}", "k")[0].name == "a.jsonl"


def test_identity_tells_another_content(store) -> None:
    put(store, "a.jsonl", [{"text": "a"}])
    (before,) = fingerprints(expand(f"{MEMORY}/a.jsonl", "k"))
    assert fingerprints(expand(f"{MEMORY}/a.jsonl", "k")) == [before]
    put(store, "a.jsonl", [{"text": "b"}])
    assert fingerprints(expand(f"{MEMORY}/a.jsonl", "k")) != [before]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (f"{MEMORY}/none.jsonl", r"none\.jsonl: no such file; set task\.facts to an existing"),
        (f"{MEMORY}/*.gz", r"no such file"),
        ("nostore://bucket/x", r"nostore://bucket/x: cannot be reached \(Protocol not known"),
        ("https://me:secret@host/x", "task.facts: an address must carry neither credentials"),
        ("zip://a::http://me:secret@host/x", "task.facts: chained addresses are not read"),
        ("http://[bad/a.jsonl", r"http://\[bad/a\.jsonl: (cannot be reached|a package is missing)"),
        ("https://host/x?token=secret", "task.facts: an address must carry neither credentials"),
    ],
)
def test_faults(store, address: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        expand(address, "task.facts")
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_store_that_fails_in_mid_read_is_named(store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "a.jsonl", [{"text": "a"}])
    (file,) = expand(f"{MEMORY}/a.jsonl", "k")

    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("the store is away\nand more")

    monkeypatch.setattr(type(store), "_open", fail)
    with pytest.raises(UserError, match=r"a\.jsonl: cannot be reached \(the store is away\)"):
        list(jsonlines.read(file))


def test_a_store_that_fails_between_lines_is_named(store, monkeypatch) -> None:
    put(store, "a.jsonl", [{"text": "a" * 1000}] * 3000)
    (file,) = expand(f"{MEMORY}/a.jsonl", "k")
    records = jsonlines.read(file)
    next(records)

    def fail(*args: object) -> bytes:
        raise RuntimeError("the store is away\nand more")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.read", fail)
    with pytest.raises(UserError, match=r"a\.jsonl: cannot be reached \(the store is away\)"):
        list(records)


def test_a_store_that_does_not_tell_of_changes_is_refused(store, monkeypatch) -> None:
    put(store, "a.jsonl", [{"text": "a"}])
    monkeypatch.setattr(type(store), "info", lambda *_, **__: {"size": 3, "name": "a"})
    with pytest.raises(UserError, match="its store does not say when it has changed"):
        fingerprints([RemoteFile(f"{MEMORY}/a.jsonl")])


def test_a_damaged_record_is_named(store) -> None:
    store.pipe("/corpus/a.jsonl", b'{"text": "a"}\n{"text":\n')
    (file,) = expand(f"{MEMORY}/a.jsonl", "k")
    with pytest.raises(UserError, match=r"memory:///corpus/a\.jsonl:2: broken JSON"):
        list(jsonlines.read(file))


@pytest.mark.parametrize("packed", [False, True])
def test_a_task_of_addresses_is_the_task_of_the_files(store, tmp_path: Path, packed: bool) -> None:
    facts = [fact(i, "a", [f"s{2 * i}"]) for i in range(20)]
    sentences = [sentence(i) for i in range(60)]
    world = TRexFiles(tmp_path, facts, sentences)
    put(store, "facts.jsonl", facts, packed)
    for part in range(3):
        put(store, f"s-{part}.jsonl", sentences[part * 20 : part * 20 + 20], packed)
    addresses = {"facts": f"{MEMORY}/facts.jsonl", "sentences": f"{MEMORY}/s-*.jsonl"}
    settings = {"n_queries": 8, "n_passages": 30}
    assert world.task(**settings, **addresses).sha256 == world.task(**settings).sha256

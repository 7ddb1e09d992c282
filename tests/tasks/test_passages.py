"""The corpus store: what is written comes back, in any order, and damage is named."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.errors import UserError
from bench.tasks import passages as corpus
from bench.tasks.passages import Passage, PassageStore, write_passages

TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too
PASSAGES = st.lists(
    st.builds(
        Passage,
        row=st.just(0),
        passage_id=TEXT,
        text=TEXT | st.sampled_from(["a\nb", "a\u2028b\u2029c\x85d", "\r", '"\\', ""]),
        fact_ids=st.lists(TEXT, max_size=3).map(tuple),
        statement=st.none() | st.dictionaries(TEXT, TEXT | st.integers() | st.none(), max_size=3),
    ),
    min_size=1,
    max_size=6,
)


def numbered(passages):
    return [replace(passage, row=row) for row, passage in enumerate(passages)]


@pytest.fixture
def folder(tmp_path):
    write_passages((Passage(i, f"p{i}", f"text {i} ü\u2028\n") for i in range(10)), tmp_path)
    return tmp_path


@given(PASSAGES)
def test_round_trip_by_iteration_and_at_random(tmp_path_factory, passages):
    folder = tmp_path_factory.mktemp("store")
    assert write_passages(iter(passages), folder) == len(passages)
    store = PassageStore(folder)
    expected = numbered(passages)
    assert len(store) == len(passages)
    assert list(store) == expected
    assert list(store) == expected, "the store can be iterated over again"
    assert [store[row] for row in reversed(range(len(store)))] == expected[::-1]


@given(st.integers(0, 12), st.integers(0, 12))
def test_slice(tmp_path_factory, start, stop):
    folder = tmp_path_factory.mktemp("slice")
    write_passages((Passage(i, str(i), "x" * i) for i in range(10)), folder)
    rows = [passage.row for passage in PassageStore(folder).slice(start, stop)]
    assert rows == list(range(10))[start:stop]


def test_rows_out_of_range(folder):
    store = PassageStore(folder)
    for row in (-1, 10):
        with pytest.raises(IndexError):
            store[row]
    assert store[np.int64(9)].passage_id == "p9"


def test_an_empty_corpus_is_refused(tmp_path):
    with pytest.raises(UserError, match="the corpus is empty"):
        write_passages(iter(()), tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "passages.jsonl").unlink(),
        lambda folder: (folder / "offsets.npy").unlink(),
        lambda folder: (folder / "passages.jsonl").write_bytes(b""),
        lambda folder: (folder / "offsets.npy").write_bytes(b""),
        lambda folder: (folder / "offsets.npy").write_bytes(b"\x93NUMPY"),
        lambda folder: (folder / "passages.jsonl").open("ab").write(b"x"),
        lambda folder: (folder / "passages.jsonl").open("ab").truncate(30),
        lambda folder: (folder / "offsets.npy").open("ab").truncate(150),
        lambda folder: np.save(folder / "offsets.npy", np.zeros((2, 2))),
        lambda folder: np.save(folder / "offsets.npy", np.array([{}], dtype=object)),
    ],
    ids=[
        "no texts",
        "no offsets",
        "empty texts",
        "empty offsets",
        "no header",
        "longer texts",
        "shorter texts",
        "shorter offsets",
        "other shape",
        "pickle",
    ],
)
def test_a_damaged_store_is_refused_on_opening(folder, damage):
    damage(folder)
    with pytest.raises(UserError, match="the cached corpus is damaged") as caught:
        PassageStore(folder)
    assert caught.value.where == str(folder)
    assert "delete this folder" in caught.value.fix


def test_an_altered_row_is_named(folder):
    path = folder / "passages.jsonl"
    data = bytearray(path.read_bytes())
    data[data.index(b"p3") - 3] = ord("#")
    path.write_bytes(data)
    store = PassageStore(folder)
    assert store[2].passage_id == "p2"
    with pytest.raises(UserError, match="row 3 is no record"):
        store[3]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what is resident")
def test_reading_a_corpus_keeps_little_of_it_in_memory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(corpus, "_RESIDENT", 1 << 20)
    text = "x" * (64 << 10)
    rows = (Passage(row, str(row), text) for row in range(512))  # 32 MiB
    write_passages(rows, tmp_path)
    store = PassageStore(tmp_path)

    def resident() -> int:
        status = Path("/proc/self/status").read_text()
        return int(re.findall(r"RssFile:\s+(\d+) kB", status)[0]) << 10

    before = resident()
    for order in (range(512), random.Random(0).sample(range(512), 512)):
        assert all(store[row].text == text for row in order)
        assert resident() - before < 4 << 20

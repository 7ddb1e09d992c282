from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.errors import UserError
from bench.storage.mirror import Mirror
from methods import word_jobs
from methods.word_index import NoWordsError, open_or_build
from tests.fixtures.engine_jobs import engine
from tests.fixtures.helpers import make_task
from tests.fixtures.word_indexes import word_index

TEXTS = ["b a b", "", "a", "c b", "a a a a", "\u5317 a", "d"]


def postings(index):
    """Frequencies by word and row."""
    found = {}
    for word, number in index.numbers.items():
        rows, frequencies = index.postings(number)
        assert (np.diff(rows) > 0).all()
        found[word] = dict(zip(rows.tolist(), frequencies.tolist(), strict=True))
    return found


def counted(texts):
    found = {}
    for row, text in enumerate(texts):
        for word, times in Counter(text.split()).items():
            found.setdefault(word, {})[row] = times
    return found


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(
        st.lists(st.sampled_from(["a", "b", "c", "\u00e9", "\ud800"]), max_size=6).map(" ".join),
        min_size=1,
        max_size=20,
    ).filter(lambda texts: any(texts)),
    at_once=st.integers(1, 300),
)
def test_the_index_counts_words_however_the_corpus_is_cut(tmp_path_factory, texts, at_once):
    folder = tmp_path_factory.mktemp("index")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_jobs, "BYTES_A_JOB", at_once)
        index = word_index(folder / "words", make_task(folder, texts).passages, str.split)
    assert postings(index) == counted(texts)
    words = [word for text in texts for word in text.split()]
    assert list(index.numbers) == list(dict.fromkeys(words)), "by their first occurrence"
    assert index.lengths.tolist() == [len(text.split()) for text in texts]


def test_an_index_is_opened_not_made_again(tmp_path):
    passages = make_task(tmp_path, TEXTS).passages
    made = word_index(tmp_path / "words", passages, str.split)

    def refuse(text):
        raise AssertionError

    again = word_index(tmp_path / "words", passages, refuse)
    assert postings(again) == postings(made) == counted(TEXTS)
    assert again.seconds == made.seconds
    assert sorted(path.name for path in (tmp_path / "words").iterdir()) == [
        "frequencies.npy", "lengths.npy", "manifest.json", "rows.npy", "starts.npy", "words.json",
    ]  # fmt: skip


def test_nothing_is_left_of_a_corpus_without_words_or_a_run_that_dies(tmp_path):
    with pytest.raises(NoWordsError):
        word_index(tmp_path / "words", make_task(tmp_path, ["", " "]).passages, str.split)

    def die(text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        word_index(tmp_path / "words", make_task(tmp_path / "b", ["a"]).passages, die)
    assert not [path for path in tmp_path.iterdir() if "words" in path.name]


def files(folder):
    """Name and content of every file but the manifest, which holds seconds."""
    paths = [path for path in folder.iterdir() if path.name != "manifest.json"]
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    "name",
    [
        "serial",
        "sent",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("processes", "ray", "slurm")),
    ],
)
def test_every_engine_makes_the_same_files(tmp_path, monkeypatch, name):
    passages = make_task(tmp_path, TEXTS).passages
    word_index(tmp_path / "alone" / "words", passages)
    monkeypatch.setattr(word_jobs, "BYTES_A_JOB", 60)
    assert len(list(passages.ranges(60))) == 4
    open_or_build(
        tmp_path / "apart" / "words", passages, str.split, engine(name, tmp_path), Mirror(tmp_path)
    )
    assert files(tmp_path / "apart" / "words") == files(tmp_path / "alone" / "words")
    assert not (tmp_path / "apart" / "words.parts").exists()


def test_a_run_that_ends_early_loses_no_part_and_a_damaged_one_is_made_again(
    tmp_path, monkeypatch, capsys
):
    passages = make_task(tmp_path, TEXTS).passages
    word_index(tmp_path / "alone" / "words", passages)
    monkeypatch.setattr(word_jobs, "BYTES_A_JOB", 40)
    write, written = word_jobs.WordCounter.write, []

    def dying(self, path, rows):
        write(self, path, rows)
        written.append(path)
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(word_jobs.WordCounter, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        word_index(tmp_path / "words", passages)
    content = bytearray(written[0].read_bytes())
    content[-1] ^= 1
    written[0].write_bytes(content)
    word_index(tmp_path / "words", passages)
    names = [path.name for path in written]
    assert [names.count(name) for name in names[:3]] == [2, 1, 1]
    assert "damaged words of some passages" in capsys.readouterr().err
    assert files(tmp_path / "words") == files(tmp_path / "alone" / "words")


def test_ranges_of_rows_follow_from_the_bytes_of_the_records(tmp_path):
    passages = make_task(tmp_path, ["x" * n for n in (1, 1, 500, 1, 1, 1)]).passages
    sizes = np.diff(passages._offsets).tolist()
    ranges = list(passages.ranges(3 * max(sizes[0], sizes[-1])))
    assert [list(rows) for rows in ranges] == [[0, 1], [2], [3, 4, 5]]
    assert [len(rows) for rows in passages.ranges(1)] == [1] * 6
    assert list(passages.ranges(1 << 20)) == [range(6)]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("rows.npy", -1),
        ("rows.npy", 12),
        ("frequencies.npy", -1),
        ("words.json", 3),
        ("manifest.json", 0),
    ],
)
def test_a_changed_byte_is_noticed(tmp_path, name, place):
    passages = make_task(tmp_path, TEXTS).passages
    word_index(tmp_path / "words", passages, str.split)
    path = tmp_path / "words" / name
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged index of words") as error:
        word_index(tmp_path / "words", passages, str.split)
    assert str(tmp_path / "words") in str(error.value)


def test_a_missing_file_is_noticed(tmp_path):
    passages = make_task(tmp_path, TEXTS).passages
    word_index(tmp_path / "words", passages, str.split)
    (tmp_path / "words" / "starts.npy").unlink()
    with pytest.raises(UserError, match="damaged index of words"):
        word_index(tmp_path / "words", passages, str.split)


def test_an_index_of_another_corpus_is_refused(tmp_path):
    word_index(tmp_path / "words", make_task(tmp_path / "a", TEXTS).passages, str.split)
    other = make_task(tmp_path / "b", TEXTS[:3]).passages
    with pytest.raises(UserError, match="damaged index"):
        word_index(tmp_path / "words", other, str.split)
    assert json.loads((tmp_path / "words" / "words.json").read_text())[:2] == ["b", "a"]

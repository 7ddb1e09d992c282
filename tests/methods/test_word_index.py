from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.errors import UserError
from methods import word_index
from methods.word_index import NoWordsError, open_or_build
from tests.fixtures.helpers import make_task

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
    at_once=st.integers(1, 30),
)
def test_the_index_counts_words_however_many_are_sorted_together(tmp_path_factory, texts, at_once):
    folder = tmp_path_factory.mktemp("index")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_index, "_WORDS_AT_ONCE", at_once)
        index = open_or_build(folder / "words", make_task(folder, texts).passages, str.split)
    assert postings(index) == counted(texts)
    assert index.lengths.tolist() == [len(text.split()) for text in texts]


def test_an_index_is_opened_not_made_again(tmp_path):
    passages = make_task(tmp_path, TEXTS).passages
    made = open_or_build(tmp_path / "words", passages, str.split)

    def refuse(text):
        raise AssertionError

    again = open_or_build(tmp_path / "words", passages, refuse)
    assert postings(again) == postings(made) == counted(TEXTS)
    assert again.seconds == made.seconds
    assert sorted(path.name for path in (tmp_path / "words").iterdir()) == [
        "frequencies.npy", "lengths.npy", "manifest.json", "rows.npy", "starts.npy", "words.json",
    ]  # fmt: skip


def test_nothing_is_left_of_a_corpus_without_words_or_a_run_that_dies(tmp_path):
    with pytest.raises(NoWordsError):
        open_or_build(tmp_path / "words", make_task(tmp_path, ["", " "]).passages, str.split)

    def die(text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_or_build(tmp_path / "words", make_task(tmp_path / "b", ["a"]).passages, die)
    assert not [path for path in tmp_path.iterdir() if "words" in path.name]


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
    open_or_build(tmp_path / "words", passages, str.split)
    path = tmp_path / "words" / name
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged index of words") as error:
        open_or_build(tmp_path / "words", passages, str.split)
    assert str(tmp_path / "words") in str(error.value)


def test_a_missing_file_is_noticed(tmp_path):
    passages = make_task(tmp_path, TEXTS).passages
    open_or_build(tmp_path / "words", passages, str.split)
    (tmp_path / "words" / "starts.npy").unlink()
    with pytest.raises(UserError, match="damaged index of words"):
        open_or_build(tmp_path / "words", passages, str.split)


def test_an_index_of_another_corpus_is_refused(tmp_path):
    open_or_build(tmp_path / "words", make_task(tmp_path / "a", TEXTS).passages, str.split)
    other = make_task(tmp_path / "b", TEXTS[:3]).passages
    with pytest.raises(UserError, match="damaged index"):
        open_or_build(tmp_path / "words", other, str.split)
    assert json.loads((tmp_path / "words" / "words.json").read_text())[:2] == ["b", "a"]

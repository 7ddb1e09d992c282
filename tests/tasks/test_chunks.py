"""Documents cut into passages: nothing lost, none too long, cuts between sentences."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from bench.core.errors import UserError
from bench.tasks.chunks import Chunker

DOCUMENT = st.text(st.sampled_from("ab é.!?”) \n\t"), max_size=200)


def cut(text: str, size: int | None) -> list[str]:
    return list(Chunker(size, None).passages(text))


def sentences(*lengths: int) -> str:
    return " ".join(" ".join(["w"] * (n - 1) + ["end."]) for n in lengths)


@settings(max_examples=300)
@given(DOCUMENT, st.integers(1, 12))
def test_nothing_is_lost_and_nothing_is_too_long(text: str, size: int) -> None:
    passages = cut(text, size)
    assert [word for passage in passages for word in passage.split()] == text.split()
    assert all(1 <= len(passage.split()) <= size for passage in passages)
    if len(text.split()) <= size:
        assert passages == ([text] if text.strip() else [])
    else:
        assert all(passage == passage.strip() for passage in passages)


@given(st.integers(1, 60), st.integers(1, 12))
def test_without_sentences_passages_are_few_and_even(n: int, size: int) -> None:
    lengths = [len(passage.split()) for passage in cut(" ".join(["w"] * n), size)]
    assert len(lengths) == -(-n // size)
    assert max(lengths) - min(lengths) <= 1


def test_cuts_are_between_sentences() -> None:
    text = sentences(4, 3, 5, 2, 6)
    assert [len(passage.split()) for passage in cut(text, 10)] == [7, 7, 6]
    assert all(passage.endswith("end.") for passage in cut(text, 10))
    assert cut("He said “no.” Then he left it. All", 4) == [
        "He said “no.”",
        "Then he left it.",
        "All",
    ]
    assert cut("a title\nand some words", 4) == ["a title", "and some words"]


def test_no_sentence_in_reach_is_cut_between_words() -> None:
    assert cut("one end. " + "w " * 20, 8)[0] == "one end. w w w w w"


def test_whole_documents() -> None:
    text = "  as it\n\n is. " * 50
    assert cut(text, None) == [text]
    assert cut(" \n", None) == []


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of which every character is a token, white space too."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    tokenizer.enable_truncation(5)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@settings(max_examples=100)
@given(DOCUMENT, st.integers(1, 12))
def test_tokens_of_a_tokenizer(letters: Path, text: str, size: int) -> None:
    passages = list(Chunker(size, letters).passages(text))
    assert "".join("".join(passages).split()) == "".join(text.split())
    assert all(len(passage) <= size for passage in passages if passages != [text])


def test_a_word_is_cut_only_if_it_is_too_long_by_itself(letters: Path) -> None:
    chunker = Chunker(6, letters)
    assert list(chunker.passages("abcd efgh")) == ["abcd", "efgh"]
    assert list(chunker.passages("abcdefghij")) == ["abcdef", "ghij"]


@pytest.mark.parametrize(("size", "folder", "message"), [
    (5, "none", "none: no tokenizer.json there; set task.tokenizer"),
    (5, "broken", "tokenizer.json: no tokenizer ("),
])  # fmt: skip
def test_refusals(tmp_path: Path, size: int, folder: str | None, message: str) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/tokenizer.json").write_text("{")
    with pytest.raises(UserError) as caught:
        Chunker(size, tmp_path / folder if folder else None)
    assert message in str(caught.value)

"""Passages and queries through tokenizers of every kind: ids, where loss begins, special text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from transformers import PreTrainedTokenizerBase

from bench.core.errors import UserError
from bench.models.language_model import LanguageModel, Tokens
from bench.models.reading import TextReader
from bench.tasks.base import Query
from tests.fixtures.models import load, make_model
from tests.fixtures.tokenizers import KINDS, TEXTS

ASKED = (
    ("The instrument played by Al Grey is the", " ", "trombone"),
    ("Al Grey plays the", " ", "trombone in a band"),
    ("Free Birds was written in the language ", "", "English, they say."),
    ("奥斯陆 是", "", "挪威 的 首都 。"),
    ("Zoë Ōe", " ", "naïve 😀"),
    ("x", " ", "y"),
)
ADDED = {  # characters that a kind puts before the first token's own
    "byte-level, prefix space": 1, "prepend": 1, "prepend, both": 1, "metaspace": 1,
    "unigram": 1, "unigram, </s> last": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerBase]:
    return {kind: make() for kind, make in KINDS.items()}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def around(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int], list[int]]:
    """What the tokenizer puts before a text, the text's own ids, and what it puts behind it."""
    whole = tokenizer(text)["input_ids"]
    own = tokenizer(text, add_special_tokens=False)["input_ids"]
    (place,) = (i for i in range(len(whole)) if whole[i : i + len(own)] == own)
    return whole[:place], own, whole[place + len(own) :]


def test_a_query_is_the_joined_string(kind: str, tokenizers: dict) -> None:
    tokenizer = tokenizers[kind]
    for prompt, separator, target in ASKED:
        before, own, behind = around(tokenizer, f"{prompt}{separator}{target}")
        ids, _, asks = TextReader(tokenizer).query(prompt, separator, target)
        assert ids == [*before, *own]
        assert [*ids, *behind] == tokenizer(f"{prompt}{separator}{target}")["input_ids"]
        assert asks


def test_a_passage_is_what_the_tokenizer_makes_of_it(kind: str, tokenizers: dict) -> None:
    for text in (*TEXTS, "", "\n two  spaces \t"):
        assert TextReader(tokenizers[kind]).passage(text) == tokenizers[kind](text)["input_ids"]


def widths(kind: str, words: list[str]) -> Iterator[int]:
    """How far each token of a text goes: bytes of byte-level kinds, else characters."""
    for word in words:
        yield len(word.encode("latin-1")) if kind == "slow bytes" else len(word)


@pytest.mark.parametrize(("prompt", "separator", "target"), ASKED)
def test_the_loss_begins_with_the_first_token_behind_the_prompt(
    kind: str, tokenizers: dict, prompt: str, separator: str, target: str
) -> None:
    """Counted by the lengths of the tokens themselves, or by words where a token is a word."""
    tokenizer = tokenizers[kind]
    ids, first, _ = TextReader(tokenizer).query(prompt, separator, target)
    before, own, _ = around(tokenizer, f"{prompt}{separator}{target}")
    words = [tokenizer.convert_ids_to_tokens(one) for one in own]
    if kind in ("words", "words, both", "slow words"):
        prompted = len(prompt.split())
        joined = f"{prompt}{separator}{target}".split()[:prompted] != prompt.split()
        assert first == len(before) + prompted - joined
        return
    if kind == "word pieces":
        bare = [word.removeprefix("##") for word in words]
        if "<unk>" in bare:
            pytest.skip("an unknown word's length is unknown")
        sizes, end = [len(word) for word in bare], len(prompt.replace(" ", ""))
    else:
        as_bytes = "byte" in kind
        end = len(prompt.encode()) if as_bytes else len(prompt)
        sizes = [1 if word == "<unk>" else len(word) for word in words]
        if kind == "slow bytes":
            sizes = [1] * len(words)
        end += ADDED.get(kind, 0)
    at = next(i for i in range(len(sizes)) if sum(sizes[: i + 1]) > end)
    assert first == len(before) + at
    assert ids[first:] == own[at:]


@pytest.mark.filterwarnings("ignore:This sequence already has")  # what ByT5 says by default
def test_special_strings_inside_a_text_are_text(kind: str, tokenizers: dict) -> None:
    tokenizer, reader = tokenizers[kind], TextReader(tokenizers[kind])
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    mark, *_ = (t for t in tokenizer.all_special_tokens if t != tokenizer.unk_token)
    for text in (f"Al {mark} Grey", mark, f"{mark}{mark} the", f"the <s> {mark}</s>"):
        ids = reader.passage(text)
        own = ids[len(reader.before) : len(ids) - len(reader.behind)]
        assert not special & set(own), (mark, own)
        assert own
        ids, _, _ = reader.query(text, " ", mark)
        assert not special & set(ids[len(reader.before) :])
    assert tokenizer(mark)["input_ids"] != reader.passage(mark), "as it would be by default"


# ------------------------------------------------------------------ of a model


def model_with(tokenizer: PreTrainedTokenizerBase) -> LanguageModel:
    return LanguageModel("toy", None, tokenizer, context_length=64, sha256="")  # type: ignore[arg-type]


def shown(model: LanguageModel, tokens: Tokens) -> tuple[str, str]:
    words = [str(model.tokenizer.convert_ids_to_tokens(one)) for one in tokens.ids]
    return " ".join(words[: tokens.loss_from]), " ".join(words[tokens.loss_from :])


GREY = Query("q", "The instrument played by Al Grey is the", "trombone")


def test_no_word_boundary_of_its_own_before_the_target(tokenizers: dict) -> None:
    """Fault: a normalizer that puts "▁" before every text put one before the target, too."""
    for kind, prompt in (
        ("prepend", "▁The ▁inst rument ▁played ▁by ▁Al ▁Grey ▁is ▁the"),
        ("prepend, both", "<s> ▁The ▁inst rument ▁played ▁by ▁Al ▁Grey ▁is ▁the"),
    ):
        model = model_with(tokenizers[kind])
        assert shown(model, model.query_tokens(GREY)) == (prompt, "▁trombone")


def test_no_end_of_text_in_a_query_whatever_it_is_called(tokenizers: dict) -> None:
    """Fault: ``</s>`` of a template stood before the target if ``eos_token`` was another."""
    tokenizer = tokenizers["byte-level, both"]
    assert tokenizer.eos_token == "<|end|>"
    model = model_with(tokenizer)
    prompt, target = shown(model, model.query_tokens(GREY))
    assert prompt == "<s> The Ġinstrument Ġplayed Ġby ĠAl ĠGrey Ġis Ġthe"
    assert target == "Ġtrombone"
    asked = model.tokenizer.convert_ids_to_tokens(model.prompt_ids(GREY))
    assert " ".join(asked) == prompt, "to be gone on with"
    assert model.passage_tokens("the trombone").ids[-1] == tokenizer.convert_tokens_to_ids("</s>")


def test_a_script_without_spaces(tokenizers: dict) -> None:
    model = model_with(tokenizers["slow characters"])
    query = Query("q", "奥斯陆是", "挪威", separator="")
    assert shown(model, model.query_tokens(query)) == ("<s> 奥 斯 陆 是", "挪 威")


def test_a_token_across_the_boundary_carries_loss(tokenizers: dict) -> None:
    model = model_with(tokenizers["byte-level, across words"])
    prompt, target = shown(model, model.query_tokens(GREY))
    assert target.startswith("byĠAlĠGreyĠisĠtheĠtrombon")
    assert prompt.endswith("playedĠ")


def test_a_space_alone_is_the_targets(tokenizers: dict) -> None:
    """Fault: offsets without white space let a separator that is a token be the prompt's."""
    model = model_with(tokenizers["byte-level, trimmed"])
    query = Query("q", "Al Grey plays the", "trombone", separator="  ")
    prompt, target = shown(model, model.query_tokens(query))
    assert (prompt, target) == ("Al ĠGrey Ġplays Ġthe", "Ġ Ġtrombone")


def test_what_no_loss_can_be_taken_of_is_named(tokenizers: dict) -> None:
    words = model_with(tokenizers["words"])
    with pytest.raises(UserError, match=r"^query q: the prompt tokenises to nothing, or to a part"):
        words.query_tokens(Query("q", "Al", "Grey", separator=""))
    with pytest.raises(UserError, match=r"^query q: target ' ' tokenises to nothing; drop"):
        words.query_tokens(Query("q", "Al Grey", " "))
    with pytest.raises(UserError, match=r"^query q: the prompt tokenises to nothing"):
        words.query_tokens(Query("q", "", "Grey"))
    begun = model_with(tokenizers["words, both"])
    assert shown(begun, begun.query_tokens(Query("q", "", "Grey"))) == ("<s>", "Grey")


def test_the_result_says_how_texts_are_read(tokenizers: dict, tmp_path) -> None:
    def reading(kind: str, **config: int) -> dict:
        model = load(make_model(tmp_path / kind, **config))
        model.tokenizer = tokenizers[kind]
        return model.reading

    assert reading("byte-level, both", layers=1) == {
        "begin_tokens": ["<s>"], "begin_token_not_added": None, "end_tokens": ["</s>"],
        "context_length": 64, "context_length_from": "max_position_embeddings of config.json",
    }  # fmt: skip
    found = reading("byte-level, </s> last", layers=1)
    assert (found["begin_tokens"], found["begin_token_not_added"]) == ([], "<s>")
    assert found["end_tokens"] == ["</s>"]


def test_a_begin_token_that_only_the_configuration_names(tmp_path) -> None:
    model = load(make_model(tmp_path / "model", layers=1))
    assert model.reading["begin_token_not_added"] is None
    model.module.config.bos_token_id = 0
    assert model.reading["begin_token_not_added"] == "<|endoftext|>"

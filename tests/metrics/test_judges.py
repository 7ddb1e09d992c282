"""Judges one by one: what they call correct, what they refuse, and what the cache keeps."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.core.errors import UserError
from bench.core.names import any_stands_in, fold, fold_passage
from metrics.judges import JUDGES
from metrics.judges.base import Claim, Pair, make_claim
from metrics.judges.cache import JudgementCache, pair_key
from metrics.judges.labels import entailment_index
from metrics.judges.lexical import Lexical, LexicalConfig
from metrics.judges.nli import Nli, NliConfig, probability
from tests.fixtures.judge_models import make_classifier

GREY = make_claim("Al Grey plays the", "trombone", ["Al Grey", "Albert Grey"], ["sackbut"])


# ------------------------------------------------------------------ the base


def test_a_claim_is_prompt_space_target() -> None:
    names = ("Al Grey", "Albert Grey"), ("trombone", "sackbut")
    assert Claim("Al Grey plays the trombone", *names) == GREY
    assert make_claim("a", "b", answers=["b", "b"]).answers == ("b",)


def test_listing_judges_imports_no_torch() -> None:
    code = (
        "import sys; from metrics.judges import JUDGES; "
        "[JUDGES.entry(n) for n in JUDGES]; JUDGES.get('nli'); JUDGES.get('lexical'); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules; "
        "print(list(JUDGES))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "['lexical', 'nli']"


@pytest.mark.parametrize("name", list(JUDGES))
def test_every_judge_says_what_it_is(name: str) -> None:
    entry = JUDGES.entry(name)
    assert entry.summary
    assert entry.needs
    assert entry.source
    assert JUDGES.get(name).name == name


@pytest.mark.parametrize("threshold", [-0.1, 1.0, math.nan])
def test_a_threshold_out_of_range(threshold: float) -> None:
    with pytest.raises(UserError, match=r"metric\.judge\.threshold: expected"):
        Lexical(LexicalConfig(threshold=threshold))


# ------------------------------------------------------------------ lexical


@pytest.mark.parametrize(
    ("name", "passage", "found"),
    [
        ("Oslo", "She lives by the Oslofjord.", False),
        ("Oslo", "Oslo's streets, OSLO-based", True),
        ("Oslo", "Gamle_Oslo", False),
        ("oslo", "(Oslo)", True),
        ("Bodo", "born in Bodø", True),
        ("Bodø", "born in BODØ, 1900", True),
        ("Saint-Étienne", "near SAINT-ETIENNE.", True),
        ("Łódź", "in Lodz", True),
        ("Straße", "die STRASSE", True),
        ("cafe\u0301", "a café", True),
        ("New  York", "in New\n York City", True),
        ("New York", "in Newer York", False),
        ("C++", "he wrote C++ at work", True),
        ("C++", "he wrote C++11", False),
        (".*", "anything at all", False),
        ("a|b", "a or b", False),
        ("(What's the Story)", "album (What’s the Story) by", True),
        ("[x", "a [x here", True),
        ("13 March 1963", "born 13 March 1963 in", True),
        ("3", "born in 1963", False),
        ("東京", "彼は東京に住む", True),
        ("\u0301", "anything", False),
        ("", "anything", False),
        ("x", "", False),
        # Short acronyms are no common words: "in a band" named Indiana, whose alias is IN.
        ("US", "He told us that he is Canadian.", False),
        ("US", "He lives in the US.", True),
        ("IN", "Al Grey plays trombone in a band in Paris.", False),
        ("BBC", "The BBC's own orchestra", True),
        ("US Army", "the US army", True),
        ("Bank of China", "BANK OF CHINA OPENS IN PARIS", True),
        ("NEW YORK", "He moved to New York.", True),
        ("NATO", "Nato said so", True),
        ("us", "He told us", True),
        ("CFBR-FM", "the others are CFBR-FM in Edmonton", True),
        ("FC Bayern", "Fc Bayern won", True),
    ],
)
def test_words_stand_in_a_passage(name: str, passage: str, found: bool) -> None:
    assert any_stands_in([name], fold_passage(passage)) == found


def test_folding() -> None:
    assert fold("Ærø ÉCOLE İstanbul ﬁ") == "aero ecole istanbul fi"


@pytest.mark.parametrize(
    ("passage", "with_subject", "alone"),
    [
        ("Al Grey was known for the trombone.", 1, 1),
        ("ALBERT GREY on sackbut", 1, 1),
        ("The trombone is brass.", 0, 1),
        ("Al Grey was born in Virginia.", 0, 0),
        ("Al Greyson, trombone", 0, 1),
        ("", 0, 0),
    ],
)
def test_lexical(passage: str, with_subject: int, alone: int) -> None:
    pair = Pair(passage, GREY)
    assert Lexical(LexicalConfig()).score([pair]).tolist() == [with_subject]
    assert Lexical(LexicalConfig(require_subject=False)).score([pair]).tolist() == [alone]


def test_without_a_subjects_name_lexical_does_not_guess() -> None:
    nameless = make_claim("Al Grey plays the", "trombone")
    judge = Lexical(LexicalConfig())
    assert np.isnan(judge.score([Pair("Al Grey, trombone", nameless)])).all()
    judge.check([nameless, GREY])
    with pytest.raises(UserError, match=r"require_subject: no query says what its subject"):
        judge.check([nameless])
    Lexical(LexicalConfig(require_subject=False)).check([nameless])


def test_identities() -> None:
    def of(**settings: object) -> str:
        return Lexical(LexicalConfig(**settings)).identity()  # type: ignore[arg-type]

    assert of() == of(threshold=0.3), "scores do not depend on it"
    assert of() != of(require_subject=False)


# ------------------------------------------------------------------ labels


@pytest.mark.parametrize(
    ("labels", "chosen", "index"),
    [
        (["contradiction", "neutral", "entailment"], None, 2),
        (["ENTAILMENT", "NEUTRAL", "CONTRADICTION"], None, 0),
        (["not_entailment", "entailment"], None, 1),
        (["entailed", "other"], None, 0),
        (["LABEL_0"], None, 0),
        (["LABEL_0", "LABEL_1"], "LABEL_1", 1),
        (["LABEL_0", "LABEL_1"], "label_0", 0),
        (["LABEL_0", "LABEL_1"], "1", 1),
        (["1", "0"], "0", 1),
    ],
)
def test_the_entailment_label(labels: list[str], chosen: str | None, index: int) -> None:
    assert entailment_index(dict(enumerate(labels)), chosen, "m") == index


@pytest.mark.parametrize(
    ("labels", "chosen", "message"),
    [
        (["LABEL_0", "LABEL_1"], None, r"m: cannot tell .* \(0=LABEL_0, 1=LABEL_1\); set metric"),
        (["entailment", "Entailed"], None, "cannot tell"),
        (["not_entailment", "neutral"], None, "cannot tell"),
        (["a", "b"], "c", r"'c' names no label of m \(0=a, 1=b\)"),
        (["a", "A"], "a", "several labels"),
    ],
)
def test_a_label_that_cannot_be_told(labels: list[str], chosen: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        entailment_index(dict(enumerate(labels)), chosen, "m")


# ------------------------------------------------------------------ probabilities


def test_probabilities_neither_overflow_nor_underflow() -> None:
    with np.errstate(all="raise", under="ignore"):
        assert probability(np.array([[1e4, -1e4, 0.0]]), 0).tolist() == [1.0]
        assert probability(np.array([[1e4, -1e4, 0.0]]), 1).tolist() == [0.0]
        assert probability(np.array([[1e308, 1e308]]), 0).tolist() == [0.5]
        assert probability(np.array([[-1e4], [0.0], [1e4]]), 0).tolist() == [0.0, 0.5, 1.0]
    assert probability(np.array([[2.0]]), 0)[0] == pytest.approx(1 / (1 + math.exp(-2)))
    expected = np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum()
    assert probability(np.array([[1.0, 2.0, 3.0]]), 2)[0] == pytest.approx(expected[2])
    unknown = probability(np.array([[np.nan, 0.0], [np.inf, 0.0], [1.0, 1.0]]), 1)
    np.testing.assert_array_equal(unknown, [np.nan, np.nan, 0.5])


# ------------------------------------------------------------------ nli


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_classifier(tmp_path_factory.mktemp("judge") / "model")


def nli(folder: Path, **settings: object) -> Nli:
    return Nli(NliConfig(model=str(folder), **settings))  # type: ignore[arg-type]


PAIRS = [
    Pair(text, claim)
    for text in ("Al Grey was a jazz trombonist .", "Oslo", "", "Nobody knows why . " * 6)
    for claim in (GREY, make_claim("The capital of Norway is", "Oslo"))
]


def test_nli_equals_the_model_by_hand(folder: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = []
    with torch.no_grad():
        for pair in PAIRS:
            inputs = tokenizer(pair.passage, pair.claim.text, return_tensors="pt")
            expected.append(model(**inputs).logits.double().softmax(-1)[0, 2].item())
    scores = nli(folder).score(PAIRS)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert scores.std() > 0.005, "a model that tells nothing apart tests nothing"


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_and_order_change_nothing(folder: Path, batch_size: int) -> None:
    expected = nli(folder).score(PAIRS)
    judge = nli(folder, batch_size=batch_size)
    np.testing.assert_allclose(judge.score(PAIRS), expected, atol=1e-6)
    np.testing.assert_allclose(judge.score(PAIRS[::-1])[::-1], expected, atol=1e-6)
    np.testing.assert_array_equal(judge.score(PAIRS), judge.score(PAIRS))
    assert judge.identity() == nli(folder).identity()


def test_nothing_to_score(folder: Path) -> None:
    assert nli(folder).score([]).shape == (0,)


def test_a_long_passage_is_cut_and_counted(folder: Path) -> None:
    judge = nli(folder, max_length=16)
    assert np.isfinite(judge.score([Pair("Oslo is in Norway . " * 99, GREY)])).all()
    assert judge.counts["pairs_cut_at_max_length"] == 1
    long_claim = make_claim("Al Grey plays the " * 99, "trombone")
    assert np.isfinite(judge.score([Pair("Oslo", long_claim), Pair("Oslo", GREY)])).all()
    assert nli(folder).score([Pair("Oslo " * 999, long_claim)]).shape == (1,), "512 is beyond it"


def test_one_output_is_scored_by_its_sigmoid(tmp_path: Path) -> None:
    judge = nli(make_classifier(tmp_path / "one", labels=["LABEL_0"]))
    judge.check([GREY])
    scores = judge.score(PAIRS)
    assert ((scores > 0) & (scores < 1)).all()


def test_a_label_is_chosen(folder: Path) -> None:
    total = sum(nli(folder, label=str(i)).score(PAIRS) for i in range(3))
    np.testing.assert_allclose(total, 1)
    assert nli(folder, label="neutral").identity() != nli(folder).identity()


def test_identity_is_of_the_files(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert nli(copy).identity() == nli(folder, threshold=0.9).identity()
    other = make_classifier(tmp_path / "other", seed=1)
    assert nli(other).identity() != nli(folder).identity()
    assert nli(copy, max_length=8).identity() != nli(folder).identity()


def checked_and_used(config: NliConfig) -> None:
    judge = Nli(config)
    judge.check([GREY])
    judge.score(PAIRS[:1])


def refused(folder: Path | None, **settings: object) -> str:
    with pytest.raises(UserError) as caught:
        checked_and_used(NliConfig(model=folder and str(folder), **settings))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_nli_refuses(folder: Path, tmp_path: Path) -> None:
    assert "no model is given" in refused(None)
    assert "no such directory" in refused(tmp_path / "nowhere")
    assert "expected at least 1" in refused(folder, batch_size=0)
    assert "names no label" in refused(folder, label="truth")
    nameless = make_classifier(tmp_path / "nameless", labels=["LABEL_0", "LABEL_1"])
    assert "0=LABEL_0, 1=LABEL_1" in refused(nameless)
    pickled = shutil.copytree(folder, tmp_path / "pickled")
    os.rename(pickled / "model.safetensors", pickled / "pytorch_model.bin")
    assert "holds no *.safetensors" in refused(pickled)
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"\x00" * 64)
    assert "cannot be loaded" in refused(damaged)


def test_remote_code_is_not_run(folder: Path, tmp_path: Path) -> None:
    remote = shutil.copytree(folder, tmp_path / "remote")
    config = json.loads((remote / "config.json").read_text())
    config["model_type"] = "mine"
    config["auto_map"] = {"AutoConfig": "mine.Config"}
    (remote / "config.json").write_text(json.dumps(config))
    (remote / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert "cannot be loaded" in refused(remote)
    assert not (tmp_path / "ran").exists()


def test_a_model_without_a_trained_head_is_refused(folder: Path, tmp_path: Path) -> None:
    """transformers draws what is missing at random, and says so in a warning only."""
    from safetensors.torch import load_file, save_file

    headless = shutil.copytree(folder, tmp_path / "headless")
    path = headless / "model.safetensors"
    weights = {k: v for k, v in load_file(path).items() if not k.startswith("classifier")}
    save_file(weights, path, metadata={"format": "pt"})
    assert "is no trained classifier: its weights lack classifier." in refused(headless)


def test_nan_weights_give_nan_scores(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(folder, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["classifier.bias"][0] = math.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    assert np.isnan(nli(broken).score(PAIRS)).all()


# ------------------------------------------------------------------ the cache


@pytest.fixture
def cache(tmp_path: Path) -> JudgementCache:
    return JudgementCache(tmp_path, Lexical(LexicalConfig()))


KEYS = [pair_key(Pair(f"passage {i}", GREY)) for i in range(5)]


def test_the_cache_keeps_what_it_is_given(cache: JudgementCache) -> None:
    assert cache.known(KEYS) == {}
    cache.add({KEYS[0]: 0.25, KEYS[1]: math.nan})
    cache.add({KEYS[2]: 1.0})
    cache.add({})
    assert cache.known(KEYS) == {KEYS[0]: 0.25, KEYS[2]: 1.0}, "NaN is asked again"
    assert cache.known(KEYS[2:3]) == {KEYS[2]: 1.0}
    assert cache.path.stat().st_size == 2 * 48


def test_keys_are_of_passage_claim_and_names() -> None:
    pairs = [
        Pair("x", GREY), Pair("y", GREY), Pair("x", make_claim("Al Grey plays the", "trombone")),
        Pair("x", make_claim("Al Grey plays", "the trombone")), Pair("\ud800", GREY),
    ]  # fmt: skip
    assert len(set(map(pair_key, pairs))) == len(pairs)


@pytest.mark.parametrize("torn", [1, 47])
def test_a_crash_while_writing_loses_one_record(cache: JudgementCache, torn: int) -> None:
    cache.add({KEYS[0]: 0.1, KEYS[1]: 0.2})
    data = cache.path.read_bytes()
    cache.path.write_bytes(data + data[:torn])
    assert cache.known(KEYS) == {KEYS[0]: 0.1, KEYS[1]: 0.2}
    cache.add({KEYS[2]: 0.3})
    assert cache.known(KEYS) == {KEYS[0]: 0.1, KEYS[1]: 0.2, KEYS[2]: 0.3}
    assert cache.damaged == 0


def test_a_damaged_record_is_not_believed(cache: JudgementCache) -> None:
    cache.add({KEYS[0]: 0.1, KEYS[1]: 0.2})
    data = bytearray(cache.path.read_bytes())
    data[35] ^= 1
    cache.path.write_bytes(bytes(data))
    assert cache.known(KEYS) == {KEYS[1]: 0.2}
    assert cache.damaged == 1


def test_judges_have_files_of_their_own(tmp_path: Path) -> None:
    paths = {
        JudgementCache(tmp_path, Lexical(LexicalConfig(require_subject=flag))).path
        for flag in (True, False)
    }
    assert len(paths) == 2

"""What a model says to each query: greedy decoding against a loop, and what counts as right."""

from __future__ import annotations

import json
import math

import pytest
import torch

from bench.models import predictions as module
from bench.models.language_model import LanguageModel, target_log_probs
from bench.models.predictions import predictions
from bench.tasks.base import Query
from tests.fixtures.models import load, make_model

QUERIES = (
    Query("q0", "Al Grey plays the", "trombone", relation="instrument", frequency=3,
          subject_names=("Al Grey", "Grey"), answer_names=("slide trombone",)),
    Query("q1", "Marla Venn comes from", "Oslo"),
    Query("q2", "The language of Free Birds is", "English"),
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> LanguageModel:
    return load(make_model(tmp_path_factory.mktemp("predict") / "model"))


def greedy(model: LanguageModel, prompt: str, n: int) -> str:
    ids = model.tokenizer(prompt)["input_ids"]
    new: list[int] = []
    with torch.no_grad():
        for _ in range(n):
            logits = model.module(input_ids=torch.tensor([ids + new])).logits[0, -1]
            new.append(int(logits.argmax()))
            if new[-1] == model.tokenizer.eos_token_id:
                break
    return model.tokenizer.decode(new, skip_special_tokens=True)


def test_answers_are_greedy_and_probabilities_those_of_the_texts(model, monkeypatch) -> None:
    texts: dict[str, str] = {}
    generate = module._generate

    def kept(*arguments):
        found = generate(*arguments)
        texts.update(zip([tuple(ids) for ids in arguments[1]], found, strict=True))
        return found

    monkeypatch.setattr(module, "_generate", kept)
    found = {p.query.query_id: p for p in predictions(model, QUERIES, 5)}
    assert set(found) == {"q0", "q1", "q2"}
    for query in QUERIES:
        prompt = tuple(model.tokenizer(query.prompt)["input_ids"])
        assert texts[prompt] == greedy(model, query.prompt, 5)
        one = found[query.query_id]
        tokens = model.query_tokens(Query("q", query.prompt, query.target))
        assert one.target_log_probability == pytest.approx(target_log_probs(model, [tokens])[0][0])
        if one.answer:
            said = model.query_tokens(Query("q", query.prompt, one.answer))
            assert one.answer_log_probability == pytest.approx(
                target_log_probs(model, [said])[0][0]
            )
        else:
            assert one.answer_log_probability is None


def test_the_models_own_settings_play_no_part(tmp_path) -> None:
    plain = load(make_model(tmp_path / "plain"))
    want = [p.answer for p in predictions(plain, QUERIES, 8)]
    folder = make_model(tmp_path / "odd")
    odd = {"repetition_penalty": 1.9, "suppress_tokens": [3, 4, 5, 14], "do_sample": True}
    (folder / "generation_config.json").write_text(json.dumps(odd))
    model = load(folder)
    assert model.module.generation_config.repetition_penalty == 1.9
    assert [p.answer for p in predictions(model, QUERIES, 8)] == want
    assert model.module.generation_config.repetition_penalty == 1.9, "put back"


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        (" trombone, and", "trombone", True),
        (" Trombone", "trombone", True),
        (" slide  trombone in a band", "trombone", True),
        (" J. K. Rowling. She", "J. K. Rowling", False),
        (" St. Louis.", "St. Louis", False),
        (" Washington D.C. and", "Washington D.C. and", False),
        (" 3.5 million", "3.5 million", False),
        (" trombones.", "trombones", False),
        (" drums\nand more", "drums", False),
        (" . nothing", "", False),
    ],
)
def test_what_counts_as_right(model, monkeypatch, text: str, answer: str, right: bool) -> None:
    monkeypatch.setattr(module, "_generate", lambda model, prompts, room: [text] * len(prompts))
    (one,) = predictions(model, QUERIES[:1], 5)
    assert (one.answer, one.right) == (answer, right)


def test_a_record_is_a_query_of_its_own(model, monkeypatch) -> None:
    monkeypatch.setattr(
        module, "_generate", lambda model, prompts, room: [" drums."] * len(prompts)
    )
    (one,) = predictions(model, QUERIES[:1], 5)
    record = json.loads(json.dumps(one.record()))
    assert record["target"] == "drums"
    assert record["annotated_target"] == "trombone"
    assert record["slices"] == {"prediction": "wrong"}
    assert (record["entity0"], record["entity0_alias"]) == ("Al Grey", ["Grey"])
    assert "gold" not in record
    assert "entity1_alias" not in record, "they are other names of another answer"
    assert math.isfinite(record["target_log_probability"])


def test_an_answer_fits_the_context(model) -> None:
    room = model.context_length - len(model.tokenizer(QUERIES[0].prompt)["input_ids"])
    (one,) = predictions(model, QUERIES[:1], 10_000)
    assert len(model.tokenizer(one.answer)["input_ids"]) <= room

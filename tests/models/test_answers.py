"""Several accepted answers: which of them add up, and what their sum is."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.core.errors import UserError
from bench.models.answers import answer_weights, log_sums, query_log_probs
from bench.models.language_model import LanguageModel, target_log_probs
from bench.models.predictions import predictions
from bench.tasks.base import Query
from tests.fixtures.models import load, make_model
from tests.oracles.summed_answers import loss

PROMPT = "Marla Venn was born in"
ACCEPTED = ("the trombone", "English", "Virginia")
SUMMED = Query("q", PROMPT, "Oslo", accepted=ACCEPTED, summed=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("model") / "m"
    return load(make_model(folder, "llama", layers=2, hidden=16))


def spelled(model: LanguageModel, query: Query) -> list[str]:
    """The answers of a query as text, sorted."""
    return sorted(
        model.tokenizer.decode(one.ids[one.loss_from :]).strip()
        for one in model.query_answers(query)
    )


def ids_of(model: LanguageModel, text: str) -> list[int]:
    return model.tokenizer(text)["input_ids"]


def test_all_accepted_answers_add_up(model: LanguageModel) -> None:
    assert spelled(model, SUMMED) == sorted(["Oslo", *ACCEPTED])
    (best,) = model.query_answers(replace(SUMMED, summed=False))
    assert best == model.query_tokens(SUMMED)
    assert len(model.query_answers(Query("q", PROMPT, "Oslo"))) == 1


def test_no_probability_is_counted_twice(model: LanguageModel) -> None:
    """ "Oslo, Norway" begins with "Oslo": whoever says the one has said the other."""
    query = replace(SUMMED, target="Oslo, Norway", accepted=("Oslo", "English", "Oslo", "Osl"))
    tokens = {name: ids_of(model, f"{PROMPT} {name}") for name in ("Oslo, Norway", "Oslo", "Osl")}
    assert tokens["Oslo, Norway"][: len(tokens["Oslo"])] == tokens["Oslo"]
    is_part = tokens["Oslo"][: len(tokens["Osl"])] == tokens["Osl"]
    kept = ["Osl"] if is_part else ["Osl", "Oslo"]
    assert spelled(model, query) == sorted([*kept, "English"])


def test_the_log_probability_is_that_of_the_sum(model: LanguageModel) -> None:
    """In float64, against the sum of probabilities, with queries of one answer beside it."""
    twin = replace(model, module=load(Path(model.module.config._name_or_path)).module.double())
    plain, other = Query("p", "Al Grey plays", "the trombone"), replace(SUMMED, prompt="Nobody")
    queries = [plain, SUMMED, other]
    found, recalled = query_log_probs(twin, [twin.query_answers(one) for one in queries])
    for query, value in zip(queries, found, strict=True):
        prompt = ids_of(model, query.prompt)
        answers = [ids_of(model, f"{query.prompt} {name}")[len(prompt) :]
                   for name in (query.target, *query.accepted)]  # fmt: skip
        assert value == pytest.approx(-float(loss(twin.module, prompt, answers)), rel=1e-12)
    assert recalled == [False] * 3
    alone, _ = target_log_probs(twin, [twin.query_tokens(plain)])
    assert math.isclose(found[0], alone[0], rel_tol=1e-14)


def test_one_answer_is_its_own_sum_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    values = (-40 * torch.rand(500, generator=generator, dtype=torch.float64)).tolist()
    assert log_sums([*values, -math.inf], [1] * 501) == [*values, -math.inf]
    assert math.isnan(log_sums([math.nan, -1.0], [2])[0])
    assert answer_weights(torch.tensor([values]), [1] * 500).eq(1).all()
    weights = answer_weights(torch.tensor([[-1.0, -2.0, -3.0]], dtype=torch.float64), [1, 2])
    total = math.exp(-2) + math.exp(-3)
    assert weights[0].tolist() == pytest.approx([1, math.exp(-2) / total, math.exp(-3) / total])


def test_any_accepted_answer_that_is_decoded_is_recalled(model: LanguageModel) -> None:
    ids = ids_of(model, PROMPT)
    with torch.no_grad():
        first = int(model.module(torch.tensor([ids])).logits[0, -1].argmax())
    said = model.query_tokens(SUMMED)
    greedy = replace(said, ids=[*ids, first], loss_from=len(ids))
    assert query_log_probs(model, [[said, greedy], [said]])[1] == [True, False]


def test_an_answer_that_cannot_be_read_is_named(model: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"^query q: target '' tokenises to nothing"):
        model.query_answers(replace(SUMMED, accepted=("", "Oslo")))


@pytest.mark.parametrize("summed", [False, True])
def test_a_models_own_answer_is_asked_alone(model: LanguageModel, summed: bool) -> None:
    """Fault: of the answer and what the query accepts, the most probable was measured."""
    asked = replace(SUMMED, summed=summed)
    (one,) = predictions(model, [asked], 4)
    answers = model.query_answers(asked)
    assert one.target_log_probability == query_log_probs(model, [answers])[0][0]
    assert one.answer not in ("", *ACCEPTED)
    alone = model.query_tokens(Query("q", PROMPT, one.answer))
    assert one.answer_log_probability == target_log_probs(model, [alone])[0][0]

"""Queries as people have them: a chat in the tokenizer's template, several accepted answers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from bench.core.errors import UserError
from bench.models.language_model import LanguageModel
from bench.tasks.base import Query
from tests.fixtures.models import TEXTS, load, make_model
from tests.fixtures.runs import cells, ranked, result, run

CHAT = Query("q", "Who plays the trombone?", "Al Grey", chat=True)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "m")


def with_template(folder: Path, template: str | None = TEMPLATE) -> LanguageModel:
    model = load(folder)
    model.tokenizer.add_special_tokens({"bos_token": "<|end|>"})
    model.tokenizer.chat_template = template
    return model


def spelled(model: LanguageModel, ids: list[int]) -> str:
    return model.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def test_a_chat_is_the_tokenizers_template_up_to_the_answer(folder: Path) -> None:
    model = with_template(folder)
    tokens = model.query_tokens(CHAT)
    prompt = "<|end|><|user|>\nWho plays the trombone?<|end|>\n<|assistant|>\n"
    assert spelled(model, tokens.ids) == f"{prompt}Al Grey"
    assert spelled(model, tokens.ids[tokens.loss_from :]) == "Al Grey"
    messages = [{"role": "user", "content": CHAT.prompt}]
    templated = model.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert tokens.ids[: tokens.loss_from] == templated == model.prompt_ids(CHAT)
    assert tokens.ids.count(model.tokenizer.bos_token_id) == 2, "special tokens are tokens"


def test_a_text_does_not_end_a_message(folder: Path) -> None:
    model = with_template(folder)
    for query in (
        Query("q", "Who?<|end|>\n<|assistant|>\nMe", "Al", chat=True),
        Query("q", "Who?", "Al<|end|>", chat=True),
    ):
        with pytest.raises(UserError, match=r"^task.chat: .* spells the special token <\|end\|>;"):
            model.query_tokens(query)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "has no chat template, which task.chat=true needs"),
        ("{{ raise_exception('system first') }}", r"takes no message \(system first\)"),
        ("{% for m in %}", "takes no message"),
        ("{{ messages[3].content.x }}", "takes no message"),
    ],
)
def test_a_template_that_does_not_serve_is_refused(
    folder: Path, template: str | None, reason: str
) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        with_template(folder, template).query_tokens(CHAT)
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------ answers


@torch.no_grad()
def log_probability(model: LanguageModel, prompt: str, answer: str) -> float:
    """The log-probability of an answer, a token at a time."""
    before = model.tokenizer(prompt)["input_ids"]
    ids = model.tokenizer(f"{prompt} {answer}")["input_ids"]
    total = 0.0
    for place in range(len(before), len(ids)):
        logits = model.module(torch.tensor([ids[:place]])).logits[0, -1].double()
        total += float(logits.log_softmax(0)[ids[place]])
    return total


def test_the_most_probable_of_the_accepted_answers_is_asked(folder: Path) -> None:
    model = load(folder)
    answers = ("Oslo", "the trombone", "English", "Virginia", "Marla Venn", "a band")
    for prompt in ("Al Grey plays", "Marla Venn was born in", "Free Birds"):
        best = max(answers, key=lambda one: log_probability(model, prompt, one))
        for first in answers:
            accepted = tuple(one for one in answers if one != first)
            tokens = model.query_tokens(Query("q", prompt, first, accepted=accepted))
            assert spelled(model, tokens.ids) == f"{prompt} {best}"


def test_an_answer_without_tokens_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"^query q: target '' tokenises to nothing"):
        load(folder).query_tokens(Query("q", "Al Grey plays the", "trombone", accepted=("",)))


# ------------------------------------------------------------------ on the command line

ASKED = [
    {"query_id": "g", "prompt": "Al Grey plays the", "target": "zither",
     "entity1_alias": ["trombone", "zither"], "gold": ["p0"]},
    {"query_id": "v", "prompt": "Marla Venn was born in", "target": "Oslo", "gold": ["p1"]},
]  # fmt: skip


@pytest.fixture
def words(folder: Path, tmp_path: Path) -> list[str]:
    for name, records in (
        ("queries", ASKED),
        ("passages", [{"passage_id": f"p{i}", "text": text} for i, text in enumerate(TEXTS)]),
    ):
        text = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / f"{name}.jsonl").write_text(text)
    return [
        "task=jsonl", f"task.queries={tmp_path}/queries.jsonl",
        f"task.passages={tmp_path}/passages.jsonl", "model=hf", f"model.path={folder}",
        "method=grad_cos", "method.projection_dim=4", "metric.tail_patch.enabled=false",
    ]  # fmt: skip


def test_another_answer_is_traced_where_the_model_prefers_it(
    folder: Path, tmp_path: Path, words: list[str]
) -> None:
    model = load(folder, torch.float32)
    probable = max(
        ("zither", "trombone"), key=lambda o: log_probability(model, ASKED[0]["prompt"], o)
    )
    told = {**ASKED[0], "target": probable}
    cache = tmp_path / "cache"
    assert run(tmp_path / "best", cache, *words, "task.answers=best", small=False) == 0
    assert run(tmp_path / "usual", cache, *words, small=False) == 0
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(o) + "\n" for o in (told, ASKED[1])))
    assert run(tmp_path / "told", cache, *words, small=False) == 0
    best, usual, explicit = (
        next(iter(cells(tmp_path / name).values())) for name in ("best", "usual", "told")
    )
    assert ranked(best) == ranked(explicit)
    assert result(best)["task"]["counts"]["queries_with_other_answers"] == 1
    assert "queries_with_other_answers" not in result(usual)["task"]["counts"]
    hashes = {result(one)["task"]["sha256"] for one in (best, usual, explicit)}
    assert len(hashes) == 3 - (probable == "zither")


@pytest.mark.slow
def test_all_accepted_answers_are_traced_together(
    folder: Path, tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture
) -> None:
    """The score of a passage is the weighted sum of its inner products with both answers."""
    model, cache, prompt = load(folder, torch.float32), tmp_path / "cache", ASKED[0]["prompt"]
    logs = {name: log_probability(model, prompt, name) for name in ("zither", "trombone")}
    total = sum(map(math.exp, logs.values()))
    dot = [*words, "method=grad_dot", "metric.tail_patch.enabled=true", "model.learning_rate=0.01",
           "metric.tail_patch.optimizer=sgd"]  # fmt: skip
    assert run(tmp_path / "sum", cache, *dot, "task.answers=sum", small=False) == 0
    summed = next(iter(cells(tmp_path / "sum").values()))
    values = pd.read_parquet(summed / "per_query.parquet").set_index("query_id")
    assert values.loc["g", "base_probability"] == pytest.approx(total, rel=1e-4)
    scores = {}
    for name in logs:
        own = [{**ASKED[0], "target": name, "entity1_alias": []}, ASKED[1]]
        (tmp_path / "queries.jsonl").write_text("".join(json.dumps(o) + "\n" for o in own))
        assert run(tmp_path / name, cache, *words, "method=grad_dot", small=False) == 0
        scores[name] = scored(next(iter(cells(tmp_path / name).values())))
    found = scored(summed)
    for passage, score in found[0].items():
        want = sum(math.exp(logs[name]) / total * scores[name][0][passage] for name in logs)
        assert score == pytest.approx(want, rel=1e-3, abs=1e-3)
    assert found[1] == pytest.approx(scores["zither"][1], rel=1e-4), "one answer, as without"
    capsys.readouterr()
    margin = [*words, "method=grad_dot", "method.output=margin", "task.answers=sum"]
    assert run(tmp_path / "no", cache, *margin, small=False) == 0, "one answer is no sum"
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(o) + "\n" for o in ASKED))
    assert run(tmp_path / "no", cache, *margin, small=False) == 2
    assert "method.output=margin: task.answers=sum is of the answers'" in capsys.readouterr().err


def scored(cell: Path) -> list[dict[str, float]]:
    """The scores of each query's passages, by their ids."""
    lines = map(json.loads, (cell / "retrievals.jsonl").read_text().splitlines())
    return [dict(zip(o["proponent_ids"], o["proponent_scores"], strict=True)) for o in lines]


def test_a_chat_runs(folder: Path, tmp_path: Path, words: list[str]) -> None:
    mine = make_model(tmp_path / "chatty")
    settings = json.loads((mine / "tokenizer_config.json").read_text())
    (mine / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}))
    chat = [*words, f"model.path={mine}", "task.chat=true"]
    assert run(tmp_path / "chat", tmp_path / "cache", *chat, small=False) == 0
    assert run(tmp_path / "plain", tmp_path / "cache", *chat, "task.chat=false", small=False) == 0
    of_chat, plain = (next(iter(cells(tmp_path / o).values())) for o in ("chat", "plain"))
    assert result(of_chat)["task"]["sha256"] != result(plain)["task"]["sha256"]
    assert result(of_chat)["task"]["n_scored"] == 2


def test_a_chat_without_a_template_is_refused_in_one_line(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert run(tmp_path / "r", tmp_path / "cache", *words, "task.chat=true", small=False) == 2
    assert "has no chat template, which task.chat=true needs" in capsys.readouterr().err
    assert not (tmp_path / "cache" / "index").exists(), "told before the corpus is encoded"

"""A model in memory is ranked for as the command does for the same model in a folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import tdabench
from bench.cli.main import main
from tests.fixtures.models import TEXTS, make_model

QUERIES = [
    {"query_id": "grey", "prompt": "Al Grey plays the", "target": "trombone"},
    {"query_id": "venn", "prompt": "Marla Venn was born in", "target": "Oslo"},
    {"query_id": "birds", "prompt": "Free Birds was written in the language", "target": "English"},
]
PASSAGES = [
    {"passage_id": f"p{number}", "text": text}
    for number, text in enumerate([*TEXTS, "", *(f"{text} Or so." for text in TEXTS)])
]
SMALL = {"projection_dim": 4}


@dataclass(frozen=True)
class Trained:
    """A model with the optimizer that trained it, and both in files."""

    folder: Path
    module: PreTrainedModel
    tokenizer: Any
    optimizer: torch.optim.Optimizer

    def attribute(self, *args: Any, **settings: Any) -> tdabench.Attribution:
        return tdabench.attribute(
            self.module, self.tokenizer, PASSAGES, QUERIES, *args, quiet=True, **settings
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = make_model(tmp_path_factory.mktemp("model") / "m", layers=2)
    module = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    module.train()
    for text in TEXTS[:3]:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        module(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    module.save_pretrained(folder)
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    for name, records in (("queries", QUERIES), ("passages", PASSAGES)):
        lines = (json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return Trained(folder, module, tokenizer, optimizer)


def by_command(trained: Trained, place: Path, *words: str) -> list[dict[str, Any]]:
    """The lists that `tdabench run` stores for the model in the folder."""
    folder = trained.folder
    done = main([
        "run", "task=jsonl", f"task.queries={folder}/queries.jsonl",
        f"task.passages={folder}/passages.jsonl", "model=hf", f"model.path={folder}",
        "metric=attribution", "metric.attribution=[mrr]", "quiet=true",
        f"results_dir={place}/runs", f"cache_dir={place}/cache", *words,
    ])  # fmt: skip
    assert done == 0
    (path,) = (place / "runs").glob("*/*/*/*/retrievals.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_equal(ours: tdabench.Attribution, theirs: list[dict[str, Any]]) -> None:
    assert list(ours) == [record["example_id"] for record in theirs]
    for record in theirs:
        own = ours[record["example_id"]]
        assert own.passage_ids == record["proponent_ids"]
        assert own.texts == record["proponents"]
        assert own.scores.tolist() == record["proponent_scores"]  # bit for bit
        assert own.opponent_scores.tolist() == record.get("opponent_scores", [])


Moments = Callable[[Trained], object]


@pytest.mark.parametrize(
    ("method", "words", "moments"),
    [
        ("bm25", (), lambda _: None),
        ("grad_cos", ("method.projection_dim=4",), lambda _: None),
        ("trackstar", ("method.projection_dim=4",), lambda one: one.optimizer),
        ("trackstar", ("method.projection_dim=4",), lambda one: one.optimizer.state_dict()),
        ("trackstar", ("method.projection_dim=4",), lambda _: "estimate"),
        ("ekfac", (), lambda _: None),
    ],
)
def test_scores_are_those_of_the_command(
    trained: Trained, tmp_path: Path, method: str, words: tuple[str, ...], moments: Moments
) -> None:
    given = moments(trained)
    state = "estimate" if given == "estimate" else f"{trained.folder}/optimizer.pt"
    stored = () if given is None else (f"model.optimizer_state={state}",)
    theirs = by_command(trained, tmp_path, f"method={method}", *words, *stored)
    ours = trained.attribute(method, given, **(SMALL if words else {}))
    assert_equal(ours, theirs)
    assert sum(len(one.rows) for one in ours.values()) > len(QUERIES)


def test_settings_of_the_model_count(trained: Trained, tmp_path: Path) -> None:
    words = (
        "model.gradient_dtype=float64", "model.context_length=30", "model.append_eos=true",
        "task.separator=''", "top_k=5", "seed=3", "method=grad_dot", "method.projection_dim=4",
    )  # fmt: skip
    theirs = by_command(trained, tmp_path, *words)
    own = {"gradient_dtype": "float64", "context_length": 30, "append_eos": True}
    ours = tdabench.attribute(
        trained.module, trained.tokenizer, PASSAGES, QUERIES, "grad_dot", top_k=5, seed=3,
        separator="", model_settings=own, projection_dim=4, quiet=True,
    )  # fmt: skip
    assert_equal(ours, theirs)
    assert ours.counts["passages_truncated"] > 0
    assert ours.settings["projection_dim"] == 4


def test_moments_go_by_the_parameter_itself(trained: Trained) -> None:
    """An optimizer built in another order has the same V of each parameter."""
    parameters = list(trained.module.parameters())[::-1]
    other = torch.optim.AdamW([{"params": parameters[:3]}, {"params": parameters[3:]}])
    for parameter in parameters:
        other.state[parameter] = trained.optimizer.state[parameter]
    ours, theirs = (
        trained.attribute("trackstar", one, **SMALL) for one in (other, trained.optimizer)
    )
    assert all(ours[name].scores.tolist() == theirs[name].scores.tolist() for name in theirs)


def test_moments_by_name(trained: Trained) -> None:
    """A mapping holds V itself: Adam's average, corrected for its start at zero."""
    names = {id(parameter): name for name, parameter in trained.module.named_parameters()}
    v = {
        names[id(parameter)]: (
            fields["exp_avg_sq"].double() / (1 - 0.999 ** float(fields["step"]))
        ).float()
        for parameter, fields in trained.optimizer.state.items()
    }
    theirs = trained.attribute("cos_optimizer", trained.optimizer, **SMALL)
    for given in (v, {f"{name}.exp_avg_sq": value for name, value in v.items()}):
        ours = trained.attribute("cos_optimizer", given, **SMALL)
        assert all(ours[name].scores.tolist() == theirs[name].scores.tolist() for name in theirs)


def test_the_model_is_given_back_as_it_was(trained: Trained) -> None:
    module, tokenizer = trained.module, trained.tokenizer
    module.train()
    parameters = dict(module.named_parameters())
    frozen = next(iter(parameters))
    parameters[frozen].requires_grad_(False)
    for name, parameter in parameters.items():
        parameter.grad = None if name == frozen else torch.ones_like(parameter)
    grads = {name: parameter.grad for name, parameter in parameters.items()}
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    words, state = tokenizer.backend_tokenizer.to_str(), torch.get_rng_state()
    for moments in ("estimate", trained.optimizer):
        trained.attribute("trackstar", moments, **SMALL)
    with pytest.raises(tdabench.UserError):
        trained.attribute("trackstar", None)
    assert all(part.training for part in module.modules())
    for name, parameter in parameters.items():
        assert parameter.requires_grad == (name != frozen)
        assert parameter.grad is grads[name]
        assert grads[name] is None or bool((grads[name] == 1).all())
        assert torch.equal(parameter, weights[name])
        assert not parameter._backward_hooks
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert tokenizer.backend_tokenizer.to_str() == words
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()
    parameters[frozen].requires_grad_(True)
    module.zero_grad()


def test_nothing_is_written_but_to_a_given_cache(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    trained.attribute("grad_cos", **SMALL)
    assert [path for path in tmp_path.rglob("*") if path != temporary] == []
    first = trained.attribute("grad_cos", cache_dir="cache", **SMALL)
    made = {path: path.stat().st_mtime_ns for path in Path("cache").rglob("*.bin")} or {
        path: path.stat().st_mtime_ns for path in Path("cache/index").rglob("*.npy")
    }
    assert made
    again = trained.attribute("grad_cos", cache_dir="cache", **SMALL)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert all(first[name].scores.tolist() == again[name].scores.tolist() for name in first)
    # Other weights are another model: the index is not taken for theirs.
    with torch.no_grad():
        bias = next(p for p in trained.module.parameters() if p.ndim == 2)
        bias.add_(0.5)
        other = trained.attribute("grad_cos", cache_dir="cache", **SMALL)
        alone = trained.attribute("grad_cos", **SMALL)
        bias.sub_(0.5)
    assert all(other[name].scores.tolist() == alone[name].scores.tolist() for name in other)
    assert any(other[name].scores.tolist() != first[name].scores.tolist() for name in other)
    assert capsys.readouterr() == ("", "")


def test_plain_texts_and_pairs(trained: Trained) -> None:
    texts = [record["text"] for record in PASSAGES]
    pairs = [(query["prompt"], query["target"]) for query in QUERIES]
    ours = tdabench.attribute(
        trained.module, trained.tokenizer, iter(texts), iter(pairs), "bm25", top_k=4, quiet=True
    )
    assert list(ours) == ["0", "1", "2"]
    one = ours["0"]
    assert one.passage_ids == [str(row) for row in one.rows]
    assert one.texts == [texts[row] for row in one.rows]
    assert (one.prompt, one.target) == pairs[0]
    frame = ours.to_dataframe()
    assert list(frame.columns) == ["query_id", "rank", "passage_id", "score", "text"]
    own = frame[frame.query_id == "0"]
    assert own["rank"].tolist() == list(range(1, len(one.rows) + 1))
    assert own.score.tolist() == one.scores.tolist()
    assert own.text.tolist() == one.texts
    assert repr(ours).startswith("Attribution by bm25: 3 queries, lists of 4 passages")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "trackstr"}, "unknown method 'trackstr'; did you mean trackstar"),
        ({"method": "trackstar"}, "model in memory: optimizer_correction=true needs"),
        ({"method": "grad_cos", "projection": 4}, "unknown key 'method.projection'"),
        ({"passages": "one text"}, "passages: expected a list, found str"),
        ({"passages": []}, "passages: is empty"),
        ({"passages": ["a", 3]}, "passages[1]: expected a text or a mapping with 'text', found 3"),
        ({"passages": [{"txt": "a"}]}, "passages:1, field 'text': expected a string, found None"),
        ({"passages": ["a\0b"]}, "passages:1, field 'text': holds NUL"),
        (
            {"passages": [{"passage_id": "x", "text": "a"}] * 2},
            "passages:2, field 'passage_id': 'x' is already the id of passages:1",
        ),
        ({"queries": [("a", "b", "c")]}, "queries[0]: expected a pair (prompt, target)"),
        ({"queries": [("a", "")]}, "queries:1, field 'target': expected a non-empty string"),
        ({"queries": [{"prompt": "a", "target": {1}}]}, "queries[0]: holds what no JSON does"),
        ({"model": "gpt2"}, "model: expected a causal language model of transformers, found str"),
        ({"tokenizer": None}, "tokenizer: expected a tokenizer of transformers, found NoneType"),
        ({"model_settings": {"path": "x"}}, "model_settings: path: means nothing for a model in"),
        ({"model_settings": {"gradient_dtype": "float"}}, "model.gradient_dtype: unknown dtype"),
        ({"moments": "estimated"}, "moments: expected second moments, found 'estimated'"),
        ({"moments": {}}, "moments: expected second moments, found {}"),
        ({"moments": {"a.weight": torch.ones(2)}}, "moments: key 'a.weight' is no second moment"),
        ({"moments": {"a.exp_avg_sq": torch.ones(2)}}, "moments: parameter a is not in the model"),
        ({"moments": {"a": 1.0}}, "moments: expected names and tensors, found 'a': 1.0"),
        ({"top_k": 0}, "top_k: expected at least 1, found 0"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_mistakes_are_said_in_one_line(
    trained: Trained, change: dict[str, Any], message: str
) -> None:
    given = {
        "model": trained.module, "tokenizer": trained.tokenizer, "passages": PASSAGES,
        "queries": QUERIES, "method": "grad_cos", "quiet": True, "projection_dim": 4, **change,
    }  # fmt: skip
    with pytest.raises(tdabench.UserError) as error:
        tdabench.attribute(**given)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_an_optimizer_of_another_model(trained: Trained) -> None:
    layer = torch.nn.Linear(2, 2)
    other = torch.optim.Adam(layer.parameters())
    with pytest.raises(tdabench.UserError, match="has a parameter that is not the model's"):
        trained.attribute("trackstar", other)
    fresh = torch.optim.Adam(trained.module.parameters())
    with pytest.raises(tdabench.UserError, match="no second moments in it: its state is empty"):
        trained.attribute("trackstar", fresh)


def test_weights_that_are_not_finite(trained: Trained) -> None:
    weight = next(trained.module.parameters())
    before = weight.detach().clone()
    with torch.no_grad():
        weight[0] = np.nan
        with pytest.raises(tdabench.UserError, match=r"model: parameter .* holds NaN"):
            trained.attribute("grad_cos", **SMALL)
        weight.copy_(before)


def test_other_answers_are_traced_as_if_they_were_the_target(trained: Trained) -> None:
    names = ("zither", "trombone", "Oslo")
    asked = [{**QUERIES[0], "target": "zither", "entity1_alias": ["trombone", "Oslo"]}]
    prompt = QUERIES[0]["prompt"]
    n_before = len(trained.tokenizer(prompt)["input_ids"])
    scores, probable = {}, {}
    for target in names:
        lists = products_of(trained, [{**QUERIES[0], "target": target}])
        scores[target] = dict(zip(lists["grey"].passage_ids, lists["grey"].scores, strict=True))
        ids = trained.tokenizer(f"{prompt} {target}", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logs = trained.module.eval()(input_ids=ids).logits[0].log_softmax(-1)
        answer = range(n_before, ids.shape[1])
        probable[target] = sum(float(logs[at - 1, ids[0, at]]) for at in answer)
    assert len({tuple(own) for own in scores.values()}) == 3
    best = products_of(trained, asked, answers="best")["grey"]
    assert list(best.passage_ids) == list(scores[max(names, key=probable.__getitem__)])
    total = sum(map(math.exp, probable.values()))
    summed = products_of(trained, asked, answers="sum")["grey"]
    for passage, score in zip(summed.passage_ids, summed.scores, strict=True):
        want = sum(math.exp(probable[one]) / total * scores[one][passage] for one in names)
        assert score == pytest.approx(want, rel=1e-3, abs=1e-4)
    with pytest.raises(tdabench.UserError, match="answers: unknown 'bets'; did you mean best"):
        products_of(trained, asked, answers="bets")


def products_of(trained: Trained, queries: list, **settings: Any) -> tdabench.Attribution:
    return tdabench.attribute(
        trained.module, trained.tokenizer, PASSAGES, queries, "grad_dot", quiet=True, **SMALL,
        **settings,
    )  # fmt: skip

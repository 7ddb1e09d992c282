"""What a run will cost: formulas against numbers by hand, and a command that leaves no trace."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import bench.plan
import bench.plan_model
from bench import plan_corpus
from bench.cli import main
from bench.plan import Plan, composed, make_plan
from bench.plan_costs import (
    Architecture,
    Choices,
    Pass,
    Workload,
    backward_flops,
    block_sizes,
    decomposition_flops,
    encode_flops,
    forward_flops,
    hessian_flops,
    memory,
    passes,
    projection_flops,
    search_flops,
    tokens_per_word,
    whitening_flops,
)
from bench.plan_model import Speed
from bench.plan_table import hours, in_binary, in_decimal
from methods.gradient import index, whitening
from tests.models import load, make_model

Capture = pytest.CaptureFixture[str]

# Two layers, each with an attention matrix 8 × 4 and an MLP matrix 6 × 4; a head of 10 × 4.
TOY = Architecture(
    parameters=1000,
    multiplied=2 * (32 + 24) + 40,
    matrices=((8, 4, 0), (6, 4, 1), (8, 4, 2), (6, 4, 3)),
    n_layers=2,
    hidden_size=4,
    attention_width=4,
    vocab_size=10,
    context_length=64,
)
CHOICES = Choices(
    projection_dim=2, hessian="mixed", auto_mixing=False, batch_size=8, batch_tokens=20
)
WORK = Workload(passages=100, tokens=5, queries=3, together=3, candidates=7)
BLOCKS = [4, 4, 4, 4]
GIVEN = ("plan.passages=365000000", "plan.queries=5400", "plan.tokens_per_passage=500")


@pytest.fixture(autouse=True)
def stubbed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine of 1 GFLOP/s, in an empty folder."""
    monkeypatch.setattr(bench.plan, "calibrate", lambda *_, **__: Speed(1e9, "a stub"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TDABENCH_CACHE", raising=False)


def planned(*overrides: str) -> Plan:
    return make_plan(*composed(overrides))


def step(plan: Plan | list[Pass], start: str) -> Pass:
    steps = plan if isinstance(plan, list) else plan.passes
    (found,) = [step for step in steps if step.name.startswith(start)]
    return found


def names(**changes: Any) -> list[str]:
    return [step.name for step in passes(TOY, WORK, replace(CHOICES, **changes), 64)]


def output_of(capsys: Capture, *arguments: str) -> str:
    assert main(["plan", *arguments]) == 0
    captured = capsys.readouterr()
    return captured.out


def error_of(capsys: Capture, *arguments: str) -> str:
    assert main(["plan", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


# ------------------------------------------------------------------ formulas by hand


def test_operations_of_the_toy() -> None:
    assert forward_flops(TOY, 5) == 2 * 152 * 5 + 4 * 4 * 25 * 2
    assert backward_flops(TOY, 5) == 2 * 152 * 5 + 8 * 4 * 25 * 2
    one_token = 2 * (2 * 2 * 12 + 8) + 2 * (2 * 2 * 10 + 8)
    assert projection_flops(TOY, 5, 2) == 5 * one_token
    assert projection_flops(TOY, 5, None) == 5 * 2 * (32 + 24 + 32 + 24)
    assert encode_flops(TOY, 5, 2) == 1520 + 800 + 1520 + 1600 + 5 * one_token


def test_blocks_of_the_toy() -> None:
    assert block_sizes(TOY, 2) == BLOCKS
    assert block_sizes(TOY, None) == [32, 24, 32, 24]
    shared = replace(TOY, matrices=((8, 4, 0), (6, 4, 1), (8, 4, 0), (6, 4, 1)))
    assert block_sizes(shared, 2) == [4, 4]
    assert block_sizes(shared, None) == [64, 48]


def test_hessian_and_search_of_the_toy() -> None:
    assert hessian_flops([4, 2]) == 2 * (16 + 4)
    assert hessian_flops([4, 2], "diagonal") == 12
    assert hessian_flops([4, 2], "low_rank", 2) == 12 + 8 * 6 * 10
    assert whitening_flops([4, 2]) == 40
    assert whitening_flops([4, 2], "diagonal") == 6
    assert whitening_flops([4, 2], "low_rank", 2) == 6 + 4 * 6 * 2
    assert decomposition_flops([4, 2]) == 11 * (64 + 8)
    assert decomposition_flops([3], spectra=2) == pytest.approx(11 * 27 + 8 / 3 * 27)
    assert decomposition_flops([4, 2], "diagonal") == 0
    assert decomposition_flops([4], "low_rank", 2) == 12 * 4 * 100 + 11 * 1000
    assert search_flops(3, 16) == 96


def test_what_is_written_elsewhere_is_the_same() -> None:
    from bench import plan_costs

    assert plan_costs._OVERSAMPLING == whitening._OVERSAMPLING
    assert plan_costs._SHARD_ROWS == index.SHARD_ROWS
    assert plan_costs._SHARD_VALUES == index._SHARD_VALUES


# ------------------------------------------------------------------ passes


def test_passes_of_the_toy() -> None:
    found = passes(TOY, WORK, CHOICES, 64)
    encode = encode_flops(TOY, 5, 2)
    assert found == [
        Pass("encode the corpus into the index", 100, 100 * encode, 0, 6400, spread=True),
        Pass("encode the queries", 3, 3 * encode),
        Pass("accumulate the Hessian", 103, 103 * 128.0, 6400),
        Pass("eigendecompositions", 4, 4 * 11 * 64),
        Pass("search", 100, 100 * (2 * 3 * 16 + 128) + 3 * 128, 6400),
        Pass("score candidates in float64", 21, 21 * 128 + 21 * 2 * 16, 21 * 64),
    ]


def test_each_storage_has_its_passes() -> None:
    corpus, queries = "encode the corpus into the index", "encode the queries"
    again, search = "encode passages for the Hessian", "search"
    r = ["accumulate the Hessian", "eigendecompositions"]
    exact = "score candidates in float64"
    assert names(storage="int8") == [corpus, queries, *r, search, exact]
    assert names(storage="sign") == [corpus, queries, again, *r, search, exact]
    assert names(storage="none") == [
        queries,
        again,
        *r,
        "encode the corpus while searching",
        search,
    ]
    assert names(storage="none", hessian="none")[:2] == [
        queries,
        "encode the corpus while searching",
    ]
    assert names(hessian="none") == [corpus, queries, search, exact]
    assert names(hessian_form="diagonal") == [corpus, queries, r[0], search, exact]
    assert names(rerank=7)[-1] == "re-encode candidates (rerank)"


def test_a_sample_for_the_hessian_is_what_is_encoded_again() -> None:
    encode = encode_flops(TOY, 5, 2)
    sign = replace(CHOICES, storage="sign", hessian_sample=10)
    found = passes(TOY, WORK, sign, 64)
    assert step(found, "encode passages") == Pass(
        "encode passages for the Hessian", 10, 10 * encode
    )
    assert step(found, "accumulate") == Pass("accumulate the Hessian", 13, 13 * 128.0, 0)
    low = passes(TOY, WORK, replace(sign, hessian_form="low_rank", components=2), 64)
    assert step(low, "encode passages").rows == 30  # a diagonal and two products
    stored = passes(TOY, WORK, replace(CHOICES, hessian_sample=1000, hessian="train"), 64)
    assert step(stored, "accumulate") == Pass("accumulate the Hessian", 100, 100 * 128.0, 6400)


def test_rerank_encodes_no_passage_twice() -> None:
    encode = encode_flops(TOY, 5, 2)
    found = passes(TOY, WORK, replace(CHOICES, rerank=7), 64)[-1]
    assert (found.rows, found.flops) == (21, 21 * (encode + 128) + 21 * 32)
    many = passes(TOY, replace(WORK, candidates=70), replace(CHOICES, rerank=70), 64)[-1]
    assert (many.rows, many.flops) == (100, 100 * (encode + 128) + 210 * 32)


def test_queries_that_do_not_fit_take_more_passes() -> None:
    work = replace(WORK, together=2)
    assert work.groups == 2
    found = passes(TOY, work, CHOICES, 64)
    search = step(found, "search (2 times)")
    assert (search.rows, search.bytes_read) == (200, 12800)
    assert search.flops == 100 * (2 * 3 * 16 + 2 * 128) + 3 * 128
    assert step(found, "encode the queries").rows == 6  # once for R, once to be searched


def test_memory_of_the_toy() -> None:
    found = memory(TOY, WORK, CHOICES, weight_bytes=4, gradient_bytes=8, block_rows=50)
    assert found == {
        "weights": 1000 * 12,
        "projections": 2 * (12 + 10 + 12 + 10) * 8,
        "a batch": 4 * 5 * (28 + 4 * 4 * 2 + 2 * 10) * 8 + 4 * 16 * 8,
        "a shard of the index": 4 * 16 * 100,
        "Hessian": 3 * 8 * 4 * 16,
        "resident queries": 3 * 16 * 20,
        "passages while searching": 50 * (16 * 32 + 2 * 8 * 3),
    }
    bare = replace(CHOICES, storage="none", hessian="none", projection_dim=None)
    lean = memory(TOY, WORK, bare, weight_bytes=4, gradient_bytes=4, block_rows=50)
    assert lean["weights"] == 4000
    assert lean["projections"] == 0
    assert not {"a shard of the index", "Hessian"} & set(lean)


def test_checkpoints_are_encoded_each_and_kept_side_by_side() -> None:
    three = replace(CHOICES, checkpoints=3, weighted=True)
    assert three.blocks(TOY) == BLOCKS * 3
    assert three.dim(TOY) == 49
    assert passes(TOY, WORK, three, 64)[0].flops == 3 * 100 * encode_flops(TOY, 5, 2)
    found = memory(TOY, WORK, three, weight_bytes=4, gradient_bytes=4, block_rows=50)
    assert found["weights"] == 12_000


def test_no_gradient_goes_below_the_lowest_layer() -> None:
    upper = replace(TOY, unwatched_layers=1, unwatched=56)
    assert forward_flops(upper, 5) == forward_flops(TOY, 5)
    assert backward_flops(upper, 5) == 2 * 96 * 5 + 8 * 4 * 25


def test_choices_are_those_of_the_method() -> None:
    chosen = (
        "method.storage=sign",
        "method.rerank=7",
        "method.mixing=auto",
        "method.checkpoints=2",
    )
    found = Choices.of(composed(["method=trackstar", *chosen])[0].method)
    assert (found.storage, found.rerank, found.hessian_form) == ("sign", 7, "full")
    assert (found.checkpoints, found.weighted, found.components) == (2, False, 256)
    assert found.auto_mixing


# ------------------------------------------------------------------ the command


def test_the_papers_largest_case(capsys: Capture) -> None:
    out = output_of(capsys, "model=8b", "method=trackstar", *GIVEN)
    (fp32,) = [line for line in out.splitlines() if line.strip().startswith("fp32")]
    assert "262,144" in fp32
    assert "95.7 TB" in fp32
    assert "87.0 TiB" in fp32
    assert "chosen" in fp32
    assert "calibrated here: 1 GFLOP/s (a stub)" in out
    assert out.startswith("plan: given numbers × 8b × trackstar\n")
    assert "\x1b" not in out  # no terminal: plain


def test_another_device_is_given_and_not_timed(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.plan, "calibrate", None)
    overrides = ("model=8b", *GIVEN, "plan.device_tflops=400", "plan.devices=64")
    out = output_of(capsys, *overrides)
    assert "given: 400 TFLOP/s sustained (plan.device_tflops), 64 devices" in out
    plan = planned(*overrides)
    encode = step(plan, "encode the corpus")
    assert plan.hours(encode) == pytest.approx(encode.flops / (64 * 400e12) / 3600)
    assert plan.device_hours(encode) == pytest.approx(64 * plan.hours(encode))
    search = step(plan, "search")
    assert plan.hours(search) == pytest.approx(search.flops / 400e12 / 3600), "it is not shared out"


def test_the_disk_may_be_the_bottleneck(capsys: Capture) -> None:
    words = ("model=8b", "method=trackstar", *GIVEN, "plan.device_tflops=400", "plan.devices=64")
    plan = planned(*words)
    search, encode = step(plan, "search"), step(plan, "encode the corpus")
    assert plan.disk_hours(search) == pytest.approx(search.bytes_read / 1e9 / 3600)
    assert encode.bytes_written == plan.index_bytes
    assert plan.disk_hours(encode) == pytest.approx(plan.index_bytes / 64e9 / 3600)
    assert plan.bottleneck == (search, "disk", plan.disk_hours(search))
    assert f"bottleneck: {search.name}, disk: " in output_of(capsys, *words)
    faster = planned(*words, "plan.disk_gb_per_second=1000")
    assert faster.bottleneck[:2] == (step(faster, "encode the corpus"), "arithmetic")


def test_nothing_is_written(tmp_path: Path, capsys: Capture) -> None:
    output_of(capsys, "task.n_passages=500", "quiet=true")
    assert list(tmp_path.iterdir()) == []


def test_the_command_itself_writes_nothing(tmp_path: Path) -> None:
    words = ["plan", "model=154m", *GIVEN, "plan.device_tflops=1"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_the_task_is_counted_and_its_tokens_estimated() -> None:
    plan = planned("task.n_passages=500", "quiet=true")
    assert plan.passages == 500
    found = plan.counted
    assert found["passages"].source == found["queries"].source == "task factworld"
    assert found["queries"].value > 5
    assert found["tokens a passage"].source.startswith("words × 2.49 on the first 500 passages")
    assert plan.storage["fp32"] == 4 * sum(plan.blocks)


def test_a_trained_model_lends_its_tokenizer(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", layers=2)
    texts = ["Marla Venn was born in Oslo.", "Nobody knows why."]
    lines = [json.dumps({"passage_id": str(n), "text": text}) for n, text in enumerate(texts)]
    query = {"query_id": "q", "prompt": "Al Grey plays the", "target": "trombone"}
    (tmp_path / "passages.jsonl").write_text("\n".join(lines))
    (tmp_path / "queries.jsonl").write_text(json.dumps(query))
    task = ("task=jsonl", "task.queries=queries.jsonl", "task.passages=passages.jsonl")
    plan = planned(*task, "model=hf", f"model.path={model}", "method=grad_cos", "quiet=true")
    tokenizer = load(model).tokenizer
    mean = sum(len(tokenizer(text)["input_ids"]) for text in texts) / 2
    assert plan.counted["tokens a passage"] == plan_corpus.Fact(
        mean, "tokenizer on the first 2 passages"
    )
    assert (plan.passages, plan.counted["queries"].value) == (2, 1)
    assert plan.notes[1:] == []  # nothing is missing: no optimizer correction, nothing to train


def test_a_task_that_is_given_is_not_opened() -> None:
    plan = planned("task=trex", "model=8b", *GIVEN)  # trex has no files here
    assert plan.counted["queries"] == plan_corpus.Fact(5400, "plan.queries")


def test_passages_are_cut_at_the_context_length() -> None:
    plan = planned("model=154m", *GIVEN[:2], "plan.tokens_per_passage=5000")
    tokens = plan.counted["tokens a passage"]
    assert tokens.value == 2048
    assert tokens.source.endswith("cut at the context length")


def test_the_chosen_storage_decides() -> None:
    lean = planned("model=154m", *GIVEN, "method.storage=sign", "method.hessian_sample=100000")
    assert lean.chosen == "sign"
    assert step(lean, "encode passages for the Hessian").rows == 100_000
    assert step(lean, "search").bytes_read % (lean.storage["sign"] * lean.passages) == 0
    bare = planned(
        "model=154m",
        *GIVEN,
        "method.storage=none",
        "method.hessian=none",
        "method.memory_mib=20000",
    )
    assert sum(s.bytes_read for s in bare.passes) == 0
    assert "a shard of the index" not in bare.memory


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=bm25"], "method: plan covers gradient methods only, and bm25 is none; "),
        (["method=trakstar"], "unknown method 'trakstar'; did you mean trackstar"),
        (["model=9b"], "unknown model '9b'; did you mean 8b"),
        (["plan.passage=3"], "unknown key 'plan.passage'; did you mean passages"),
        (["plan.passages=many"], "plan.passages: Value 'many' of type 'str' could not be"),
        (["plan.passages=0"], "plan.passages: expected at least 1, found 0"),
        (
            ["plan.tokens_per_passage=nan"],
            "plan.tokens_per_passage: expected at least 1, found nan",
        ),
        (["plan.devices=0"], "plan.devices: expected at least 1, found 0"),
        (["plan.devices=null"], "plan.devices: "),
        (["plan.device_tflops=-1"], "plan.device_tflops: expected more than 0, found -1"),
        (["method.projection_dim=0"], "method.projection_dim: expected at least 1, found 0"),
        (["method.projection_dim=91"], "method.projection_dim: a Hessian block of 8,281 "),
        (["model.geometry.hidden_size=70"], "model.geometry.num_heads: hidden_size 70 is not a"),
        (["model.geometry.architecture=lama"], "model.geometry.architecture: unknown"),
        (["model.geometry.num_layers=0"], "model.geometry.num_layers: expected at least 1"),
        (["model.geometry.depth=1"], "unknown key 'model.geometry.depth'; known: arch"),
        (["model.path=nowhere"], "nowhere: no such directory; set model.path=DIR"),
        (["model=hf"], "model.path: has no value; set model.path="),
        (["task=trex", "plan.queries=null"], "task.facts: has no value; set task.facts="),
        (
            ["method.storage=none"],
            "method.memory_mib: storage=none takes a single pass, and 5,400 ",
        ),
        (["--multi"], "unrecognized arguments: --multi; see `tdabench --help`"),
    ],
)
def test_a_mistake_is_one_line(overrides: list[str], message: str, capsys: Capture) -> None:
    chosen = [word for word in GIVEN if word.split("=")[0] not in "".join(overrides)]
    if not any(word.startswith("model=") for word in overrides):
        chosen.append("model=154m")
    assert error_of(capsys, *chosen, *overrides).startswith(message)


def test_the_memory_that_is_asked_for_is_enough() -> None:
    overrides = ("model=154m", *GIVEN, "method.storage=none")
    with pytest.raises(Exception, match="storage=none") as caught:
        planned(*overrides)
    needed = re.search(r"method\.memory_mib=\d+", str(caught.value))
    assert needed is not None
    assert step(planned(*overrides, needed[0]), "search").name == "search"


def test_a_planned_model_does_not_run_without_weights(capsys: Capture) -> None:
    assert main(["run", "model=8b"]) == 2
    line = capsys.readouterr().err.strip()
    assert line == "error: model.path: no weights are given; set model.path=DIR to a model"


def test_help(capsys: Capture) -> None:
    assert "KEY=VALUE" in output_of(capsys, "--help")


@pytest.mark.parametrize(
    ("name", "low", "high"), [("154m", 150e6, 158e6), ("1b", 0.97e9, 1.03e9), ("8b", 7.8e9, 8.2e9)]
)
def test_planned_models_have_about_their_size(name: str, low: float, high: float) -> None:
    plan = planned(f"model={name}", *GIVEN)
    assert low < plan.architecture.parameters < high
    assert sum(plan.blocks) == 2**16


# ------------------------------------------------------------------ how numbers are written


def test_units() -> None:
    assert in_decimal(365e6 * 2**18) == "95.7 TB"
    assert in_binary(365e6 * 2**18) == "87.0 TiB"
    assert (in_decimal(999), in_decimal(1000), in_binary(1536)) == ("999 B", "1.0 kB", "1.5 KiB")
    assert in_decimal(3e18) == "3,000.0 PB"
    assert [hours(value) for value in (0, 1e-5, 0.25, 12.345, 1234.5)] == [
        "0", "<0.001", "0.25", "12.3", "1,234",
    ]  # fmt: skip


def test_tokens_a_word() -> None:
    assert tokens_per_word(32_000) == 1.4
    assert tokens_per_word(1024) == pytest.approx(2.49, abs=0.01)
    assert tokens_per_word(10**9) == 1.2

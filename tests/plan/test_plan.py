"""The plan of a cell: a command that leaves no trace. Formulas are tested in test_cost.py."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bench.plan.model
import bench.plan.planning
from bench.cli.main import main
from bench.plan import corpus as plan_corpus
from bench.plan.model import Speed
from bench.plan.planning import Plan, make_plan, plan_settings
from bench.plan.table import hours, in_binary, in_decimal
from methods.costs import Pass
from tests.fixtures.models import load, make_model

Capture = pytest.CaptureFixture[str]

GIVEN = ("plan.passages=365000000", "plan.queries=5400", "plan.tokens_per_passage=500")


@pytest.fixture(autouse=True)
def stubbed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine of 1 GFLOP/s, in an empty folder."""
    monkeypatch.setattr(bench.plan.planning, "calibrate", lambda *_, **__: Speed(1e9, "a stub"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TDABENCH_CACHE", raising=False)


def planned(*overrides: str) -> Plan:
    return make_plan(*plan_settings(overrides))


def step(plan: Plan | list[Pass], start: str) -> Pass:
    steps = plan if isinstance(plan, list) else plan.passes
    (found,) = [step for step in steps if step.name.startswith(start)]
    return found


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
    monkeypatch.setattr(bench.plan.planning, "calibrate", None)
    overrides = ("model=8b", *GIVEN, "plan.device_tflops=400", "plan.devices=64")
    out = output_of(capsys, *overrides)
    assert "given: 400 TFLOP/s sustained (plan.device_tflops), 64 devices" in out
    plan = planned(*overrides)
    encode = step(plan, "encode the corpus")
    assert plan.hours(encode) == pytest.approx(encode.flops / (64 * 400e12) / 3600)
    assert plan.device_hours(encode) == pytest.approx(64 * plan.hours(encode))
    search = step(plan, "search")
    assert plan.hours(search) == pytest.approx(search.flops / (64 * 400e12) / 3600)
    spectra = step(plan, "eigendecompositions")
    assert plan.hours(spectra) == pytest.approx(spectra.flops / 400e12 / 3600), "on one alone"


def test_the_disk_may_be_the_bottleneck(capsys: Capture) -> None:
    words = ("model=8b", "method=trackstar", *GIVEN, "plan.device_tflops=400", "plan.devices=64")
    plan = planned(*words)
    search, encode = step(plan, "search"), step(plan, "encode the corpus")
    assert plan.disk_hours(search) == pytest.approx(search.bytes_read / 64e9 / 3600)
    assert encode.bytes_written == plan.index_bytes
    assert plan.disk_hours(encode) == pytest.approx(plan.index_bytes / 64e9 / 3600)
    train = step(plan, "train the model")  # on one device
    assert plan.bottleneck == (train, "arithmetic", plan.hours(train))
    words = (*words, "plan.disk_gb_per_second=0.001")
    slower = planned(*words)
    check = step(slower, "check the index")  # one process does it
    assert slower.bottleneck == (check, "disk", slower.disk_hours(check))
    assert slower.disk_hours(check) == pytest.approx(plan.index_bytes / 1e6 / 3600)
    assert f"bottleneck: {check.name}, disk: " in output_of(capsys, *words)


def test_nothing_is_written(tmp_path: Path, capsys: Capture) -> None:
    output_of(capsys, "task.n_passages=500", "quiet=true")
    assert list(tmp_path.iterdir()) == []


def test_the_command_itself_writes_nothing(tmp_path: Path) -> None:
    words = ["plan", "model=154m", *GIVEN, "plan.device_tflops=1"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert all(line.startswith("load torch") for line in done.stderr.splitlines()), done.stderr
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
    assert plan.counted["tokens a passage"] == plan_corpus.Count(
        mean, "tokenizer on the first 2 passages"
    )
    assert (plan.passages, plan.counted["queries"].value) == (2, 1)
    assert plan.notes[1:] == []  # nothing is missing: no optimizer correction, nothing to train


def test_a_task_that_is_given_is_not_opened() -> None:
    plan = planned("task=trex", "model=8b", *GIVEN)  # trex has no files here
    assert plan.counted["queries"] == plan_corpus.Count(5400, "plan.queries")


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
            "plan.tokens_per_passage: expected a finite number, found nan",
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
        (["model=hf", "model.path=nowhere"], "nowhere: no such directory; set model.path=DIR"),
        (["model=hf"], "model.path: has no value; set model.path="),
        (["task=trex", "plan.queries=null"], "task.facts: has no value; set task.facts="),
        (
            ["method.storage=none"],
            "method.memory_mib: storage=none takes a single pass, and 5,400 ",
        ),
        (["--multi"], "unrecognized arguments: --multi; see `tdabench plan --help`"),
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
    assert line.splitlines()[-1] == (
        "error: model 8b: is not trained on this task's passages yet; train it with the same "
        "settings: tdabench train (--dry-run says what that takes)"
    )


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


def test_a_rate_that_is_given_is_that_of_a_gpu() -> None:
    """Its batches are larger than those of the CPU where it is planned."""
    words = ("model=8b", "method=trackstar", *GIVEN, "plan.device_tflops=400")
    batches = [
        planned(*words, *more).memory["a batch"]
        for more in ((), ("method.batch_tokens=16384",), ("method.batch_tokens=2048",))
    ]
    assert batches[0] == batches[1] > batches[2]

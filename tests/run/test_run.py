"""``tdabench run`` end to end: real cells from the command line, small enough to run in seconds."""

from __future__ import annotations

import json
import platform
import re
import socket
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from bench.cli.main import main
from bench.results.verify import verify
from bench.run import cell, identity
from methods import METHODS as METHOD_CLASSES
from tests.fixtures.models import TEXTS, load, make_model, with_moments
from tests.fixtures.runs import cells, error_line, ranked, result, run

METHODS = (
    "random,gold,bm25,dense,grad_dot,grad_cos,cos_hessian,cos_optimizer,"
    "cos_optimizer_hessian,trackstar"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests here: the model is trained once."""
    return tmp_path_factory.mktemp("cache")


def test_a_sweep_over_every_method(tmp_path: Path, cache: Path, capsys) -> None:
    assert run(tmp_path, cache, "-m", f"method={METHODS}") == 0
    found = cells(tmp_path)
    assert sorted(found) == sorted(METHODS.split(","))
    for folder in found.values():
        assert sorted(path.name for path in folder.iterdir()) == [
            "config.yaml", "per_query.parquet", "result.json", "retrievals.jsonl",
        ]  # fmt: skip
    assert verify(tmp_path) == []
    capsys.readouterr()
    assert main(["report", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    assert all(f" {method} " in table for method in METHODS.split(","))
    values = {name: result(folder)["metrics"] for name, folder in found.items()}
    assert values["gold"]["mrr"]["value"] == 1
    assert values["random"]["mrr"]["value"] < 0.2 < values["bm25"]["mrr"]["value"]
    assert values["trackstar"]["tail_patch"]["n"] == 8
    assert result(found["trackstar"])["task"]["n_passages"] == 400


def test_the_same_numbers_bit_for_bit_from_nothing(tmp_path: Path) -> None:
    """Trained anew in another cache: rankings, scores and metrics are equal to the last bit."""
    for name in "ab":
        assert run(tmp_path / name, tmp_path / f"cache-{name}", "method=trackstar") == 0
    one, two = (cells(tmp_path / name)["trackstar"] for name in "ab")
    assert (one / "retrievals.jsonl").read_bytes() == (two / "retrievals.jsonl").read_bytes()
    assert result(one)["metrics"] == result(two)["metrics"]
    assert one.name == two.name


@pytest.mark.parametrize("method", ["trackstar", "grad_dot"])
def test_the_same_ranking_at_any_batch_size(tmp_path: Path, cache: Path, method: str) -> None:
    lists = []
    for size in (1, 32):
        apart = tmp_path / f"cache{size}"  # the index is cached: it must be encoded anew
        for part in ("tasks", "models"):
            apart.mkdir(exist_ok=True)
            if (cache / part).exists():
                (apart / part).symlink_to(cache / part)
        words = (f"method={method}", f"method.batch_size={size}", "metric=attribution")
        assert run(tmp_path / str(size), apart, *words) == 0
        lists.append(ranked(cells(tmp_path / str(size))[method]))
    assert lists[0] == lists[1]


def test_a_finished_cell_is_never_run_twice(tmp_path: Path, cache: Path, monkeypatch, capsys):
    words = ("method=bm25", "metric=attribution")
    assert run(tmp_path, cache, *words) == 0
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("[!.]*/**/*") if p.is_file()}
    monkeypatch.setattr(cell.MethodCell, "work", lambda *_: pytest.fail("ran again"))
    assert run(tmp_path, cache, *words) == 0
    assert "already there" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("[!.]*/**/*") if p.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["queries", "passages"])
def test_another_file_of_one_name_has_scores_of_its_own(tmp_path: Path, changed: str) -> None:
    """Fault in the field: a run that was resumed kept the scores of the file before."""
    records = {
        "queries": [{"query_id": "q", "prompt": "Al Grey plays the", "target": "trombone"}],
        "passages": [{"passage_id": f"p{i}", "text": text} for i, text in enumerate(TEXTS)],
    }
    model = make_model(tmp_path / "model", layers=1, hidden=8)

    def ranked_with(cache: Path, results: Path) -> dict[str, list[tuple[str, float]]]:
        for name, lines in records.items():
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (tmp_path / f"{name}.jsonl").write_text(text)
        files = [f"task.{name}={tmp_path / name}.jsonl" for name in records]
        words = ("task=jsonl", *files, "model=hf", f"model.path={model}", "metric=attribution")
        assert run(results, cache, "-m", *words, "method=bm25,grad_cos", small=False) == 0
        found = {}
        for path in results.glob("*/*/*/*/retrievals.jsonl"):
            (record,) = map(json.loads, path.read_text().splitlines())
            pairs = zip(record["proponent_ids"], record["proponent_scores"], strict=True)
            found.setdefault(path.parents[1].name, []).append(list(pairs))
        return found

    before = ranked_with(tmp_path / "cache", tmp_path / "runs")
    if changed == "queries":
        records["queries"][0].update(prompt="Marla Venn comes from", target="Oslo")
    else:
        records["passages"].reverse()
        records["passages"][0]["text"] += " Al Grey plays the trombone."
    both = ranked_with(tmp_path / "cache", tmp_path / "runs")
    fresh = ranked_with(tmp_path / "new-cache", tmp_path / "new-runs")
    for method, (old,) in before.items():
        assert old in both[method], "a cell that is finished stays"
        assert fresh[method][0] in both[method]
        assert len(both[method]) == 2
        assert fresh[method][0] != old


def test_a_cell_of_an_older_version_is_not_found(tmp_path: Path, cache: Path, monkeypatch) -> None:
    """What CONTRIBUTING promises of a raised version, of a method and of the step."""
    words = ("method=bm25", "metric.tail_patch.n_queries=1")
    for n, raise_version in enumerate(
        (
            lambda: None,
            lambda: monkeypatch.setattr(identity, "STEP_VERSION", -1),
            lambda: monkeypatch.setattr(METHOD_CLASSES.get("bm25"), "version", -1),
        ),
        start=1,
    ):
        raise_version()
        assert run(tmp_path, cache, *words) == 0
        assert len(list(tmp_path.glob("*/*/bm25/*/result.json"))) == n


def test_more_opponents_than_proponents(tmp_path: Path, cache: Path) -> None:
    """Fault: after all the work, the method was told that its ranking is wrong."""
    words = ("method=grad_cos", "top_k=3", "method.opponents=5", "metric=attribution")
    assert run(tmp_path, cache, *words, "metric.attribution=[mrr]") == 0
    lines = (cells(tmp_path)["grad_cos"] / "retrievals.jsonl").read_text("utf-8").splitlines()
    assert {len(json.loads(line)["opponent_ids"]) for line in lines} == {5}


def test_an_experiment_that_sweeps_does_so_without_being_told(
    tmp_path: Path, cache: Path, capsys
) -> None:
    """Fault: one cell of ten ran, and the command ended well."""
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/two.yaml").write_text(
        "# @package _global_\nhydra:\n  sweeper:\n    params:\n      method: random,length\n"
    )
    words = (f"hydra.searchpath=[file://{tmp_path}/conf]", "experiment=two", "metric=attribution")
    assert run(tmp_path / "all", cache, *words) == 0
    assert sorted(cells(tmp_path / "all")) == ["length", "random"]
    assert run(tmp_path / "one", cache, *words, "method=bm25") == 0
    assert sorted(cells(tmp_path / "one")) == ["bm25"]
    assert run(tmp_path / "same", cache, "-m", *words) == 0
    assert sorted(cells(tmp_path / "same")) == ["length", "random"]
    capsys.readouterr()
    assert run(tmp_path / "bad", cache, *words, "top_k=5") == 2
    assert "2 of 2 cells failed" in capsys.readouterr().err


def test_a_failing_cell_does_not_stop_the_sweep(tmp_path: Path, cache: Path, capsys) -> None:
    words = ("method=bm25", "metric=attribution", "-m")
    assert run(tmp_path / "none", cache, *words, "top_k=5,6") == 2  # nothing could be done
    capsys.readouterr()
    assert run(tmp_path, cache, *words, "top_k=5,50") == 1
    captured = capsys.readouterr()
    assert "top_k=5" in captured.err
    assert "1 of 2 cells failed" in captured.err
    assert "Traceback" not in captured.err
    assert len(list(tmp_path.glob("*/*/bm25/*/result.json"))) == 1


# ------------------------------------------------------------------ other people's models


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_a_model_directory(tmp_path: Path, cache: Path, architecture: str, capsys) -> None:
    folder = make_model(tmp_path / "model", architecture)
    model = with_moments(load(folder), tmp_path, "adafactor")
    words = (
        "model=hf", f"model.path={folder}", "model.learning_rate=1e-3", "model.projection_dim=4",
        "task.n_passages=400", "task.n_facts=40", "metric.tail_patch.n_queries=4",
        "task.n_queries=6",
    )  # fmt: skip
    alone = ("method=trackstar", "metric=attribution")
    assert run(tmp_path / "no", cache, *words, *alone, small=False) == 2
    line = error_line(capsys)
    assert "model.optimizer_state=FILE" in line
    assert "optimizer_correction=false" in line
    state = f"model.optimizer_state={tmp_path / 'adafactor.safetensors'}"
    assert run(tmp_path, cache, *words, state, "-m", "method=trackstar,bm25", small=False) == 0
    found = cells(tmp_path)
    assert result(found["trackstar"])["metrics"]["tail_patch"]["n"] == 4
    assert result(found["trackstar"])["model"]["n_params"] == model.n_params
    assert verify(tmp_path) == []


def test_nan_in_the_weights(tmp_path: Path, cache: Path, capsys) -> None:
    folder = make_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "mlp" in name)
    weights[name].view(-1)[7] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    words = ("model=hf", f"model.path={folder}", "method=grad_cos", "metric=attribution")
    assert run(tmp_path / "r", cache, *words, small=False) == 2
    assert f"parameter {name} holds NaN" in error_line(capsys)
    assert cells(tmp_path / "r") == {}


# ------------------------------------------------------------------ plug-ins


def test_the_method_of_contributing_runs_from_outside(tmp_path: Path, cache: Path) -> None:
    """The example that CONTRIBUTING.md gives, taken from it: a class and its YAML beside it."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code, settings = (
        re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL)[1] for kind in ("python", "yaml")
    )
    folder = tmp_path / "myconf/method"
    folder.mkdir(parents=True)
    (folder / "longest.py").write_text(code)
    (folder / "longest.yaml").write_text(settings)
    words = ("method=longest", f"hydra.searchpath=[file://{tmp_path}/myconf]", "metric=attribution")
    assert run(tmp_path / "r", cache, *words) == 0
    lists = ranked(cells(tmp_path / "r")["longest"])
    assert len(lists) > 1
    assert all(one == lists[0] for one in lists)


def test_what_each_proponent_says_and_does_is_stored(tmp_path: Path, cache: Path) -> None:
    assert run(tmp_path, cache, "method=bm25", "metric.tail_patch.top=3") == 0
    folder = cells(tmp_path)["bm25"]
    lines = (folder / "retrievals.jsonl").read_text(encoding="utf-8").splitlines()
    means = pd.read_parquet(folder / "per_query.parquet").set_index("query_id")["tail_patch"]
    patched = 0
    for record in map(json.loads, lines):
        n = len(record["proponents"])
        kinds = record["proponent_support"]
        assert len(kinds) == n
        right = [kind.startswith("entails") for kind in kinds]
        assert right == record["proponent_correct"]
        if "proponent_tail_patch" in record:
            patched += 1
            changes = record["proponent_tail_patch"]
            assert changes[3:] == [None] * (n - 3)
            assert sum(changes[:3]) / 3 == pytest.approx(means[record["example_id"]], abs=1e-12)
    assert patched == 8


# ------------------------------------------------------------------ retraining


def test_retraining_is_measured_like_any_metric(tmp_path: Path, cache: Path, capsys) -> None:
    words = (
        "metric=retraining", "metric.tail_patch.enabled=false", "metric.retraining.seeds=2",
        "metric.retraining.removal_queries=6", "metric.retraining.removal_group=3",
        "metric.retraining.lds_subsets=3", "metric.retraining.qld_queries=1",
    )  # fmt: skip
    assert run(tmp_path, cache, "-m", "method=bm25,random", *words) == 0
    found = {name: result(folder) for name, folder in cells(tmp_path).items()}
    for stored in found.values():
        ns = {name: stored["metrics"][name]["n"] for name in ("removal_effect", "lds", "qld")}
        assert ns == {"removal_effect": 6, "lds": stored["task"]["n_queries"], "qld": 1}
        assert stored["method"]["facts"]["removed_passages"] <= 30
        assert -1 <= stored["method"]["facts"]["lds_ceiling"] <= 1
        assert "retraining" in [phase["name"] for phase in stored["phases"]]
    assert found["bm25"]["metrics"] != found["random"]["metrics"]
    assert main(["verify", str(tmp_path)]) == 0
    assert main(["report", str(tmp_path)]) == 0
    assert "removal effect (pp)" in (tmp_path / "report" / "leaderboard.md").read_text()


def test_a_step_that_cannot_be_made_is_refused_before_any_work(
    tmp_path: Path, cache: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(cell.MethodCell, "work", lambda *_: pytest.fail("work has started"))
    path = make_model(tmp_path / "model")
    words = ("model=hf", f"model.path={path}", "method=bm25")
    assert run(tmp_path, cache, *words, small=False) == 2
    assert "learning rate of the model's training is not known" in error_line(capsys)
    assert run(tmp_path, cache, *words, "model.learning_rate=1e-4", small=False) == 2
    assert "model model has no second moments to step with" in error_line(capsys)


def test_a_model_from_elsewhere_is_not_retrained(tmp_path: Path, cache: Path, capsys) -> None:
    words = ("model=hf", f"model.path={tmp_path}", "metric=retraining", "method=bm25")
    assert run(tmp_path, cache, *words, small=False) == 2
    assert "not trained here" in error_line(capsys)


# ------------------------------------------------------------------ loggers


@pytest.mark.slow
def test_a_sweep_is_a_group_of_runs(tmp_path: Path, cache: Path, monkeypatch, capsys) -> None:
    import wandb

    _wandb_at_home(tmp_path, monkeypatch)
    groups: list[str] = []
    init = wandb.init

    def noting(**arguments: Any) -> Any:
        groups.append(arguments["group"])
        return init(**arguments)

    monkeypatch.setattr(wandb, "init", noting)
    words = ("-m", "method=bm25,random", "top_k=20,30", "logger=wandb", "metric=attribution")
    try:
        assert run(tmp_path, cache, *words) == 0
    finally:
        wandb.teardown()
    shown = capsys.readouterr()
    assert "logger wandb failed" not in shown.err
    assert "wandb: " not in shown.err + shown.out
    told = [path.read_bytes() for path in tmp_path.glob("wandb/offline-run-*/*.wandb")]
    names = [next(n for n in (b"bm25-tiny", b"random-tiny") if n in data) for data in told]
    assert sorted(names) == [b"bm25-tiny"] * 2 + [b"random-tiny"] * 2
    assert groups == [".jobs"] * 4, "the sweep's folder is the group"
    assert _files_that_name(b"a-planted-host", tmp_path) == []


@pytest.mark.slow
def test_wandb_learns_the_host_only_when_it_is_asked_to(
    tmp_path: Path, cache: Path, monkeypatch
) -> None:
    import wandb

    _wandb_at_home(tmp_path, monkeypatch)
    words = ("method=random", "logger=wandb", "logger.host=true", "metric=attribution")
    try:
        assert run(tmp_path, cache, *words) == 0
    finally:
        wandb.teardown()
    assert _files_that_name(b"a-planted-host", tmp_path), "the test above can fail"


def _wandb_at_home(tmp_path: Path, monkeypatch) -> None:
    """W&B offline, its folders in the test's own, on a host of a name that no chance makes."""
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(socket, "gethostname", lambda: "a-planted-host")
    monkeypatch.setattr(platform, "node", lambda: "a-planted-host")


def _files_that_name(word: bytes, folder: Path) -> list[str]:
    files = [path for path in folder.glob("wandb/offline-run-*/**/*") if path.is_file()]
    assert files
    return [path.name for path in files if word in path.read_bytes()]


def test_a_broken_logger_costs_no_result(tmp_path: Path, cache: Path, monkeypatch, capsys) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("bench.run.loggers._log_wandb", fail)
    words = ("-m", "method=bm25,random", "top_k=20,30", "logger=wandb", "metric=attribution")
    assert run(tmp_path, cache, *words) == 0
    assert len(list(tmp_path.glob("*/*/*/*/result.json"))) == 4
    assert capsys.readouterr().err.count("logger wandb failed (RuntimeError: broken)") == 4


def test_methods_made_of_methods_hold_and_their_parts_are_compared(
    tmp_path: Path, cache: Path
) -> None:
    words = ("-m", "method=hybrid,influence_rerank,fusion", "metric=attribution")
    assert run(tmp_path, cache, *words) == 0
    assert verify(tmp_path) == []
    config = cells(tmp_path)["influence_rerank"] / "config.yaml"
    config.write_text(re.sub(r"(?<=k1: )[0-9.]+", "9.5", config.read_text()))
    assert any("method.second.k1" in str(problem) for problem in verify(tmp_path))


@pytest.mark.parametrize("gold", [[], ["p1"]])
def test_a_corpus_without_gold_is_said_to_have_no_attribution_before_the_work(
    tmp_path: Path, gold: list[str], capsys
) -> None:
    query = {"query_id": "q", "prompt": "Al Grey plays the", "target": "trombone", "gold": gold}
    (tmp_path / "queries.jsonl").write_text(json.dumps(query))
    texts = ("Al Grey is a trombonist.", "Rain fell.", "A trombone is a horn.")
    passages = [{"passage_id": f"p{i}", "text": text} for i, text in enumerate(texts)]
    (tmp_path / "passages.jsonl").write_text("\n".join(map(json.dumps, passages)))
    files = [f"task.{kind}={tmp_path / kind}.jsonl" for kind in ("queries", "passages")]
    words = ("task=jsonl", *files, "method=bm25", "metric=attribution", "model=micro")
    assert run(tmp_path, tmp_path / "cache", *words, small=False) == 0
    said = capsys.readouterr().err
    assert ("attribution will not be scored" in said) == (not gold)
    if not gold:
        assert said.index("attribution will not be scored") < said.index("cell jsonl")

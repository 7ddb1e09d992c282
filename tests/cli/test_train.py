"""``tdabench train``: the model that a run would train, said where it is."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from bench.cli.main import main
from bench.models import scratch

Capture = pytest.CaptureFixture[str]
WORDS = (
    "task=factworld", "task.n_passages=400", "task.n_facts=40", "model=micro", "model.epochs=2",
    "model.hidden_size=16", "model.num_heads=2", "quiet=true",
)  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TDABENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_run_finds_what_was_trained(
    cache: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["train", *WORDS]) == 0
    lines = dict(
        line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if ": " in line
    )
    folder = Path(lines["model"])
    assert (folder / "model.safetensors").is_file()
    assert folder.is_relative_to(cache)
    assert not list(Path().glob("runs")), "no job of Hydra's"

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(scratch.Scratch, "_train", refuse)
    assert main(["train", *WORDS]) == 0, "it is there"
    here = shlex.split(lines["on this task"])
    assert here[:2] == ["tdabench", "run"]
    run = [*here[1:], "method=grad_cos", "metric=attribution", "results_dir=r"]
    assert main(run) == 0
    elsewhere = shlex.split(lines["elsewhere"])[1:]
    rest = ("method=cos_optimizer", "model.projection_dim=4", *WORDS[:3], "quiet=true")
    assert main([*elsewhere, *rest, "metric.tail_patch.n_queries=2", "results_dir=r"]) == 0
    assert len(list(Path("r").glob("*/*/*/*/result.json"))) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=8b", "model.geometry.num_heads=5"], "model.geometry.num_heads: hidden_size 4096"),
        (["model=tniy"], "unknown model 'tniy'; did you mean tiny"),
        (["model=tiny,small"], "command line: train takes one value each, no sweep"),
        (["model.epochs=0"], "model.epochs: expected at least 1, found 0"),
        (["model.optimizer=sgd"], "model.optimizer: unknown optimizer 'sgd'"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: Capture) -> None:
    assert main(["train", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


def test_a_model_of_others_is_not_trained(tmp_path: Path, capsys: Capture) -> None:
    assert main(["train", "model=hf", f"model.path={tmp_path}"]) == 2
    assert capsys.readouterr().err == (
        f"error: model: model {tmp_path.name} is not trained here; train one that is (model=tiny)\n"
    )


def test_divergence_is_one_line(cache: Path, capsys: Capture) -> None:
    assert main(["train", *WORDS, "model.learning_rate=1e12"]) == 2
    assert "training diverged" in capsys.readouterr().err
    assert list((cache / "models" / "micro").iterdir()) == []

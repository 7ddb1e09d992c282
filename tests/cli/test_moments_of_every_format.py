"""``tdabench moments`` of every format that trainers leave: V by name, or the reason why not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.cli.main import main
from tests.fixtures.models import TEXTS, load, make_model
from tests.fixtures.runs import cells, ranked
from tests.fixtures.state_formats import FORMATS, REFUSED, V
from tests.fixtures.states import alone

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("m") / "model", "llama", layers=1, hidden=16)


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with alone(tmp_path_factory.mktemp("group")):
        yield


def converted(state: Path, model: Path, out: Path, *words: str) -> int:
    return main(["moments", str(state), "--model", str(model), "--out", str(out), *words])


def v_in(path: Path) -> V:
    """V by parameter name as the format of the file has it, put together here again."""
    tensors = load_file(path)
    names = {key.rpartition(".")[0] for key in tensors}
    return {name: _v_of({key.rpartition(".")[2]: value.double() for key, value in tensors.items()
                         if key.rpartition(".")[0] == name}) for name in names}  # fmt: skip


def _v_of(fields: dict[str, Tensor]) -> Tensor:
    if "exp_avg_sq" in fields:
        v = fields["exp_avg_sq"]
    else:
        row, col = fields["exp_avg_sq_row"], fields["exp_avg_sq_col"]
        v = row[:, None] * col / row.mean()
    if "beta2" in fields:
        v = v / (1 - fields["beta2"] ** fields["step"])
    return v.clamp_min(fields.get("floor", torch.tensor(0.0)))


@pytest.mark.parametrize("kind", FORMATS)
def test_v_of_every_parameter_is_under_its_name(
    model: Path, tmp_path: Path, capsys: Capture, kind: str
) -> None:
    module = load(model).module
    written = FORMATS[kind](module, tmp_path)
    assert converted(written.path, model, tmp_path / "v.safetensors", *written.words) == 0
    out = capsys.readouterr().out
    assert "second moments of 9 of 9 matrices and 3 of 3 vectors\n" in out
    assert "left out" not in out
    v = v_in(tmp_path / "v.safetensors")
    assert set(v) == {name for name, _ in module.named_parameters()} == set(written.v)
    for name, want in written.v.items():
        torch.testing.assert_close(v[name], want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_says_why(
    model: Path, tmp_path: Path, capsys: Capture, kind: str
) -> None:
    write, reason = REFUSED[kind]
    state = write(load(model).module, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert converted(state, model, tmp_path / "v.safetensors") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {state}")
    assert reason in line
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch's Adafactor", "FSDP sharded", "8 bits"])
def test_a_run_ranks_with_the_file_as_with_the_state(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written = FORMATS[kind](load(model).module, tmp_path)
    assert converted(written.path, model, Path("v.safetensors")) == 0
    for name, records in (
        ("passages", [{"passage_id": str(row), "text": text} for row, text in enumerate(TEXTS)]),
        ("queries", [{"query_id": "a", "prompt": "Al Grey plays the", "target": "trombone",
                      "gold": ["0"]}]),
    ):  # fmt: skip
        Path(f"{name}.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in records))
    words = [
        "run", "task=jsonl", "task.queries=queries.jsonl", "task.passages=passages.jsonl",
        "model=hf", f"model.path={model}", "method.projection_dim=null", "metric=attribution",
        "metric.bootstrap_samples=50", "cache_dir=cache", "quiet=true",
    ]  # fmt: skip
    scores = []
    for number, more in enumerate([
        ["method=cos_optimizer", f"model.optimizer_state={written.path}"],
        ["method=cos_optimizer", "model.optimizer_state=v.safetensors"],
        ["method=grad_cos"],
    ]):  # fmt: skip
        assert main([*words, *more, f"results_dir={number}"]) == 0
        (cell,) = cells(Path(str(number))).values()
        line = json.loads((cell / "retrievals.jsonl").read_text())
        scores.append((ranked(cell), line["proponent_scores"]))
    assert scores[0] == scores[1]
    assert scores[0] != scores[2], "the moments play a part"

"""The plan of a sweep: its cells are those of a run, and what they share is counted once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import bench.plan.planning
from bench.cli.main import main
from bench.plan.model import Speed
from bench.plan.planning import make_plan, plan_settings
from bench.plan.sweep import CellCost, _labels, costs
from bench.run.composing import sweep

Capture = pytest.CaptureFixture[str]
GIVEN = ("plan.passages=1000000", "plan.queries=500", "plan.tokens_per_passage=100")
GEOMETRY = ("model=154m", "model.geometry.num_layers=2", "model.geometry.hidden_size=48",
            "model.geometry.intermediate_size=80", "model.geometry.vocab_size=100")  # fmt: skip
ENCODE = "encode the corpus into the index"


@pytest.fixture(autouse=True)
def calibrations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """A machine of 1 GFLOP/s, in an empty folder; how often it was timed."""
    found: list[int] = []

    def stub(*_: object, **__: object) -> Speed:
        found.append(1)
        return Speed(1e9, "a stub")

    monkeypatch.setattr(bench.plan.planning, "calibrate", stub)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return found


def planned(*overrides: str) -> list[CellCost]:
    cells = sweep([*GEOMETRY, *GIVEN, *overrides])
    return costs(_labels(cells), map(plan_settings, cells))


def alone(*overrides: str) -> dict[str, tuple[int, float, int]]:
    plan = make_plan(*plan_settings([*GEOMETRY, *GIVEN, *overrides]))
    return {step.name: (step.rows, step.flops, step.bytes_read) for step in plan.passes}


# ------------------------------------------------------------------ which cells there are


def test_a_sweep_has_the_cells_of_a_run() -> None:
    assert sweep(["seed=1"]) == [["seed=1"]]
    assert sweep(["method=bm25,trackstar", "seed=0,1"]) == [
        ["method=bm25", "seed=0"], ["method=bm25", "seed=1"],
        ["method=trackstar", "seed=0"], ["method=trackstar", "seed=1"],
    ]  # fmt: skip


def test_an_experiment_is_a_sweep_whose_values_the_command_line_replaces() -> None:
    cells = sweep(["experiment=table1", "model=8b"])
    assert len(cells) == 13
    assert cells[0] == ["method=random", "experiment=table1", "model=8b"]
    assert sweep(["experiment=table1", "method=trackstar"]) == [
        ["method=trackstar", "experiment=table1"]
    ]
    scaling = sweep(["experiment=scaling", "model=154m,1b"])
    assert len(scaling) == 2 * 6
    assert scaling[0][:2] == ["model=154m", "method=gold"]


def test_values_with_commas_inside_are_one() -> None:
    assert sweep(["metric.attribution=[mrr,map]"]) == [["metric.attribution=[mrr,map]"]]
    assert len(sweep(["metric.attribution=[mrr,map],[map]"])) == 2


def test_labels_are_what_differs() -> None:
    assert _labels(sweep(["model=8b", "method=bm25,trackstar"])) == ["bm25", "trackstar"]
    found = _labels(sweep(["method=trackstar", "method.hessian=none,train"]))
    assert found == ["method.hessian=none", "method.hessian=train"]


# ------------------------------------------------------------------ what they cost


def test_an_index_is_made_once() -> None:
    """Of these five, three take gradients as they are and two divide them by sqrt(V)."""
    names = ("grad_dot", "grad_cos", "cos_hessian", "cos_optimizer", "trackstar")
    cells = planned(f"method={','.join(names)}")
    assert [cell.shares_with for cell in cells] == [
        None, "grad_dot", "grad_dot", None, "cos_optimizer"
    ]  # fmt: skip
    for name, cell in zip(names, cells, strict=True):
        expected = alone(f"method={name}")
        if cell.shares_with:
            del expected[ENCODE]
            rows, flops, _ = expected["search"]
            expected["search"] = (rows, flops, 0)  # they go over the index together
        if name != names[0]:
            del expected["train the model"]
        found = {step.name: (step.rows, step.flops, step.bytes_read) for step in cell.passes}
        assert found == expected
    whole = make_plan(*plan_settings([*GEOMETRY, *GIVEN, "method=trackstar"])).index_bytes
    assert whole > 0
    assert [cell.index_bytes for cell in cells] == [whole, 0, 0, whole, 0]


def test_r_of_the_passages_is_summed_up_once() -> None:
    """The second of two methods takes the queries' part alone; another form is another R."""
    words = "method=cos_optimizer_hessian,trackstar", "method.hessian_form=full,diagonal"
    words = (*words, "method.mixing=0.9")
    first, other_form, second, second_form = planned(*words)
    summed = [
        [step for step in cell.passes if step.name == "accumulate the Hessian"]
        for cell in (first, other_form, second, second_form)
    ]
    assert [one[0].bytes_read > 0 for one in summed] == [True, True, False, False]
    whole = alone("method=trackstar", "method.mixing=0.9")["accumulate the Hessian"]
    n_queries = second.plan.counted["queries"].value
    assert summed[2][0].rows == n_queries == whole[0] - second.plan.passages
    assert summed[2][0].flops == pytest.approx(whole[1] * n_queries / whole[0])
    assert sum(one[0].bytes_read for one in summed) == 2 * first.index_bytes


def test_formats_are_indexes_of_their_own_made_from_the_exact_one() -> None:
    cells = planned("method=trackstar", "method.storage=int8,fp32,bf16,fp32")
    assert [cell.shares_with for cell in cells] == [
        None, None, "method.storage=fp32", "method.storage=fp32"
    ]  # fmt: skip
    assert [cell.index_bytes > 0 for cell in cells] == [True, True, True, False]
    assert [ENCODE in {step.name for step in cell.passes} for cell in cells] == [
        True, True, False, False
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    ["method.projection_dim=8,16", "method.seed=0,1", "method.layers=null,[-1]",
     "model.gradient_dtype=float32,float64", "plan.passages=1000,2000", "task=factworld,replaced"],
)  # fmt: skip
def test_other_features_are_encoded_anew(change: str) -> None:
    assert [cell.shares_with for cell in planned("method=grad_cos", change)] == [None, None]


@pytest.mark.parametrize(
    "change",
    ["method.mixing=0.1,0.9", "method.unit_norm=true,false", "top_k=10,20", "method.damping=0,1"],
)
def test_what_comes_after_the_features_shares_them(change: str) -> None:
    assert planned("method=trackstar", change)[1].shares_with is not None


def test_without_an_index_each_cell_encodes() -> None:
    cells = planned(
        "method=trackstar", "method.storage=none", "method.memory_mib=20000",
        "method.mixing=0.1,0.9",
    )  # fmt: skip
    assert [cell.shares_with for cell in cells] == [None, None]
    assert all("encode the corpus while searching" in {s.name for s in c.passes} for c in cells)


def test_the_machine_is_timed_once_a_model(calibrations: list[int]) -> None:
    planned("method=grad_cos,grad_dot,trackstar")
    assert len(calibrations) == 1
    planned("method=grad_cos,trackstar", "model.dtype=float32,bfloat16")
    assert len(calibrations) == 3


# ------------------------------------------------------------------ what is printed


def output_of(capsys: Capture, *words: str) -> str:
    assert main(["plan", *GEOMETRY, *GIVEN, *words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("table", ["table1", "table2"])
def test_a_table_of_the_paper(table: str, capsys: Capture) -> None:
    given = ("plan.device_tflops=100", "plan.devices=8")
    out = output_of(capsys, f"experiment={table}", *GEOMETRY[:1], *given)
    gradients = [name for name in ("grad_dot", "grad_cos", "trackstar") if f" {name} " in out]
    assert gradients == ["grad_dot", "grad_cos", "trackstar"]
    n_indexes = 3 if table == "table1" else 2  # plain, corrected and, in table 1, TRAK's
    (encoded,) = [line.split() for line in out.splitlines() if ENCODE in line]
    assert encoded[6] == str(n_indexes)
    assert encoded[7] == f"{n_indexes * 1_000_000:,}"
    (left_out,) = [line for line in out.splitlines() if line.startswith("Not counted, no grad")]
    assert all(name in left_out for name in ("bm25", "dense"))
    totals = [line.split() for line in out.splitlines() if line.split()[:1] == ["all"]]
    flops, spent = float(totals[0][1]), float(totals[0][-1].replace(",", ""))
    assert spent == pytest.approx(flops / 100e12 / 3600, rel=0.01), "of one device, not of eight"


PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table1", "table2", "c4_8b", "c4_70b"])
def test_the_page_says_what_is_printed(name: str, capsys: Capture) -> None:
    before, after = PAGE.read_text(encoding="utf-8").split(f"<!-- {name} -->\n")
    command = re.findall(r"    tdabench (plan .*)", before.replace("\\\n", " "))[-1]
    assert main(command.split()) == 0
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    lines = [line[4:] for line in after.split(f"\n<!-- /{name} -->")[0].splitlines()]
    assert len(lines) > 10
    first = printed.index(lines[0])
    assert lines == printed[first : first + len(lines)]


def test_one_cell_is_printed_as_ever(capsys: Capture) -> None:
    out = output_of(capsys, "experiment=table1", "method=trackstar", "model=154m")
    assert out.startswith("plan: given numbers × 154m × trackstar\n")
    assert output_of(capsys, "-m", "method=trackstar").startswith("plan: given numbers")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=bm25,gold"], "method: plan covers gradient methods only, and there is none"),
        (["experiment=tabel1"], "unknown experiment 'tabel1'; did you mean table1"),
        (["method=bm25,trakstar"], "unknown method 'trakstar'; did you mean trackstar"),
        (["method=trackstar", "method.dampin=0,1"], "unknown key 'method.dampin'; did you mean"),
        (
            ["method=trackstar", "method.projection_dim=8,0"],
            "method.projection_dim: expected at least 1, found 0",
        ),
        (["seed=interval(1,3)"], "seed=interval(1,3): is no list of values"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: Capture) -> None:
    assert main(["plan", *GEOMETRY, *GIVEN, *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith(f"error: {message}")


# ------------------------------------------------------------------ dry runs


def test_a_dry_run_lists_the_cells_of_the_sweep_and_makes_nothing(
    tmp_path: Path, capsys: Capture
) -> None:
    words = ["run", "--dry-run", "-m", *GEOMETRY, *GIVEN, "method=bm25,grad_dot,grad_cos"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("3 cells would run")
    methods = re.findall(r"^.*method=(\w+).*$", printed, re.MULTILINE)
    assert methods == ["bm25", "grad_dot", "grad_cos"]
    assert "plan: 2 cells with gradients" in printed
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_an_experiment_needs_no_multirun(capsys: Capture) -> None:
    assert main(["run", "--dry-run", "experiment=quickstart", "method=bm25,random"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("2 cells would run")
    assert "No cost is foreseen" in printed


def test_a_dry_run_refuses_what_a_run_would(capsys: Capture) -> None:
    assert main(["run", "--dry-run", "method=bm25", "method.k1=-1"]) == 2
    assert "method.k1" in capsys.readouterr().err


def test_published_weights_bring_their_moments(capsys: Capture) -> None:
    words = ["plan", "task=factworld", "model=quickstart", "method=trackstar"]
    assert main(words) == 0
    assert "optimizer_state" not in capsys.readouterr().out

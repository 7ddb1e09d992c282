"""What the paper reports, checked on cells that do and that do not show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.cli.main import main
from bench.cli.reproduce import summary
from bench.core.errors import UserError
from bench.report.board import make_boards
from bench.report.reproduction.check import CheckedClaim, Finding, Verdict, check
from bench.report.reproduction.claims import ClaimKind, PaperClaim, Status, read_claims
from bench.results.schema import read_cells
from bench.run.settings import settings_from
from methods import METHODS
from tests.fixtures.cells import edit_result, edit_table, write_cell
from tests.fixtures.composing import composed

ORDER = {
    "id": "x", "claim": "One is above the other.", "kind": "order", "metrics": ["mrr"],
    "above": ["bm25"], "below": ["trackstar"], "source": "table 1", "status": "confirmed",
    "command": "tdabench run -m experiment=table1",
}  # fmt: skip
VALUE = {**ORDER, "kind": "value", "method": "bm25", "value": 0.5, "tolerance": 0.01}


def claim(**changes: Any) -> PaperClaim:
    record = {**ORDER, **changes}
    enums = {"kind": ClaimKind(record["kind"]), "status": Status(record["status"])}
    return PaperClaim(**{**record, **enums})


def cell(results: Path, method: str, mean: float, spread: float = 0.0, **names: Any) -> Path:
    """A cell whose MRR is ``mean``, every second query ``spread`` higher or lower."""
    folder = write_cell(results, method, **names)
    values = [mean + spread * (-1) ** i for i in range(40)]
    edit_table(folder, lambda table: table.update(mrr=values))
    stored = {"value": mean, "ci95": [mean - 0.02, mean + 0.02], "n": 40}
    edit_result(folder, lambda record: record["metrics"].update(mrr=stored))
    return folder


def found(results: Path, wanted: PaperClaim) -> CheckedClaim:
    (checked,) = check([wanted], make_boards(read_cells(results)))
    return checked


def found_once(results: Path, wanted: PaperClaim) -> Finding:
    (finding,) = found(results, wanted).findings
    return finding


@pytest.mark.parametrize(
    ("low", "high", "spread", "times", "verdict"),
    [
        (0.2, 0.5, 0.1, 1, Verdict.ok),
        (0.5, 0.2, 0.1, 1, Verdict.differs),
        (0.4, 0.41, 0.5, 1, Verdict.undecided),
        (0.2, 0.5, 0.01, 2, Verdict.ok),
        (0.3, 0.5, 0.01, 2, Verdict.differs),
    ],
)
def test_orders(
    tmp_path: Path, low: float, high: float, spread: float, times: float, verdict: Verdict
) -> None:
    cell(tmp_path, "bm25", high, spread)
    cell(tmp_path, "trackstar", low)
    finding = found_once(tmp_path, claim(times=times))
    assert finding.verdict is verdict
    assert finding.where == "factworld × tiny"
    factor = "" if times == 1 else "2 × "
    assert finding.what == f"bm25 > {factor}trackstar, MRR"
    assert finding.seen.startswith(f"{high - times * low:+.3f} [".replace("-", "−"))


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(0.509, Verdict.ok), (0.46, Verdict.close), (0.56, Verdict.differs)],
)
def test_figures_hold_for_their_own_scale(tmp_path: Path, value: float, verdict: Verdict) -> None:
    cell(tmp_path, "bm25", value)
    wanted = claim(**{**VALUE, "status": "unverified", "scale": {"task": ["trex", "factworld"]}})
    finding = found_once(tmp_path, wanted)
    assert finding.verdict is verdict
    assert "the paper 0.500 (unverified)" in finding.seen
    for scale in ({"task": ["trex"]}, {"task": ["factworld"], "model": ["8b"]}):
        assert found(tmp_path, claim(**{**VALUE, "scale": scale})).verdict is Verdict.absent


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.1, 0.2, 0.3), Verdict.ok),
        ((0.1, 0.4, 0.3), Verdict.undecided),  # the last is above the first, but not all the way
        ((0.1, 0.2, 0.12), Verdict.undecided),
        ((0.3, 0.2, 0.1), Verdict.differs),
    ],
)
def test_trends_go_by_size(tmp_path: Path, values: tuple[float, ...], verdict: Verdict) -> None:
    for model, size, value in zip("cab", (1_000, 2_000, 10_000), values, strict=True):
        folder = cell(tmp_path, "trackstar", value, model=model)
        edit_result(folder, lambda record, n=size: record["model"].update(n_params=n))
    finding = found_once(tmp_path, claim(kind="rises", method="trackstar"))
    assert finding.verdict is verdict
    assert finding.seen == " → ".join(f"{m} {v:.3f}" for m, v in zip("cab", values, strict=True))


def test_figures_do_not_hold_for_a_sample_of_the_corpus(tmp_path: Path) -> None:
    cell(tmp_path, "bm25", 0.9)
    for least, verdict in ((500, Verdict.differs), (501, Verdict.absent)):
        assert found(tmp_path, claim(**{**VALUE, "least_passages": least})).verdict is verdict


def test_what_there_is_no_data_for(tmp_path: Path) -> None:
    cell(tmp_path, "bm25", 0.5)
    checked = found(tmp_path, claim())
    assert (checked.verdict, checked.findings) == (Verdict.absent, [])
    for seed in (1, 2):  # several cells of a method: none of them is what the paper means
        cell(tmp_path, "trackstar", 0.2, seed=seed)
    assert found(tmp_path, claim()).verdict is Verdict.absent
    cell(tmp_path, "dense", 0.4)
    nobody = claim(below=["dense"], metrics=["tail_patch"])
    assert found(tmp_path, nobody).verdict is Verdict.absent, "nobody measured it"


def test_a_claim_counts_once_and_is_as_good_as_its_worst_part(tmp_path: Path) -> None:
    cell(tmp_path, "bm25", 0.5, 0.4)
    for method, mean in (("grad_dot", 0.1), ("grad_cos", 0.15), ("trak", 0.49), ("dense", 0.9)):
        cell(tmp_path, method, mean)
    gradients = ["grad_dot", "grad_cos", "trak"]
    wide = claim(below=gradients)
    checked = found(tmp_path, wide)
    assert [one.verdict for one in checked.findings] == [
        Verdict.ok, Verdict.ok, Verdict.undecided
    ]  # fmt: skip
    assert checked.verdict is Verdict.undecided
    contrary = found(tmp_path, claim(below=[*gradients, "dense"]))
    assert contrary.verdict is Verdict.differs
    narrow, nothing = found(tmp_path, claim(below=["grad_dot"])), found(tmp_path, claim())
    assert narrow.verdict is Verdict.ok
    told = "Claims: 1 OK, 1 undecided, 1 no data, of 3. They rest on 4 comparisons."
    assert summary([checked, narrow, nothing]) == told


def test_queries_that_hang_together_leave_a_claim_undecided(tmp_path: Path) -> None:
    """All of the difference is in one relation: other relations might not show it."""
    for method, last in (("bm25", 0.9), ("trackstar", 0.2)):
        folder = cell(tmp_path, method, 0.2)
        values = [0.2] * 30 + [last] * 10
        clusters = [i // 10 for i in range(40)]
        columns = {"mrr": values, "cluster=relation": clusters}
        edit_table(folder, lambda table, c=columns: table.update(c))
    assert found(tmp_path, claim()).verdict is Verdict.undecided
    for folder in tmp_path.glob("*/*/*/*"):
        edit_table(folder, lambda table: table.pop("cluster=relation"))
    assert found(tmp_path, claim()).verdict is Verdict.ok


# ------------------------------------------------------------------ the file


def test_the_projects_own_claims() -> None:
    claims = read_claims()
    assert {c.kind for c in claims} == set(ClaimKind)
    assert {c.status for c in claims} == set(Status)
    names = {name for c in claims for name in (*c.above, *c.below, c.method) if name}
    assert names <= set(METHODS)
    for c in claims:
        words = c.command.split()
        assert words[0] == "tdabench"
        if words[1] == "run":
            settings_from(composed(*(word for word in words[2:] if word != "-m"), *(
                ["task.facts=f", "task.sentences=s"] if "task=trex" in words else []
            )))  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kid": 1}, r"claim 1: unknown key kid; did you mean (id|kind)"),
        ({"kind": "odd"}, r"claim 1: kind Invalid value 'odd', expected one of"),
        ({"kind": "value"}, r"claim 1: a claim of kind value needs method"),
        ({"metrics": ["mmr"]}, r"mmr"),
        ({"status": None}, r"claim 1: status "),
        ({"metrics": [[]]}, r"expected a metric's name, found \[\]"),
        ({"scale": {"seed": ["0"]}}, r"claim 1: scale has no 'seed'"),
        ({"times": "x"}, r"claim 1: times Value 'x'"),
    ],
)
def test_a_wrong_claim_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([{**ORDER, **change}]))
    with pytest.raises(UserError, match=message):
        read_claims(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "expected a list"), ("a: [", "cannot read it"), ("- 1", "claim 1: expected a claim")],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"claims\.yaml.*{message}"):
        read_claims(path)
    path.write_text(yaml.safe_dump([ORDER, ORDER]))
    with pytest.raises(UserError, match="claim 'x' is there twice"):
        read_claims(path)
    with pytest.raises(UserError, match=r"none\.yaml: cannot read it"):
        read_claims(tmp_path / "none.yaml")


# ------------------------------------------------------------------ the command


def test_the_command_prints_and_writes_a_page(tmp_path: Path, capsys: Any) -> None:
    cell(tmp_path, "bm25", 0.6, task="a<script>")
    cell(tmp_path, "trackstar", 0.2, task="a<script>")
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([ORDER, {**VALUE, "id": "y", "scale": {"task": ["trex"]}}]))
    assert main(["reproduce", str(tmp_path), "--claims", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "Claims: 1 OK, 1 no data, of 2. They rest on 1 comparison." in printed
    assert "bm25 > trackstar, MRR" in printed
    page = (tmp_path / "report" / "reproduction.html").read_text()
    assert "bm25 &gt; trackstar, MRR" in page
    assert "<script" not in page
    assert "a&lt;script&gt; × tiny" in page
    assert main(["reproduce", str(tmp_path / "none")]) == 2

"""What it takes to add a gradient switch or a method: the files touched, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.cli.main import main
from tests.fixtures.forks import Forks
from tests.fixtures.runs import SMALL, cells, ranked, result, run
from tests.fixtures.trees import copied, touched

# File → pairs of what is there and what is put in its place: a switch that scales all gradients.
SWITCH = {
    "conf/method/_gradient.yaml": [
        ("layer_blocks: 8", "scale: 1.0 # of every gradient; 1 leaves it\nlayer_blocks: 8"),
    ],
    "methods/gradient/settings.py": [
        (
            "    block_layout: BlockLayout = part_of_key()\n",
            "    block_layout: BlockLayout = part_of_key()\n"
            "    scale: float = part_of_key(above=0)\n",
        ),
        ("        layer_blocks=1,", "        scale=1.0,\n        layer_blocks=1,"),
    ],
    "methods/gradient/encoder.py": [
        (
            "[gathered[index].flatten(1) for index",
            "[gathered[index].flatten(1) * self._settings.scale for index",
        ),
    ],
}
OWN = """
from dataclasses import dataclass

import numpy as np

from methods.base import IndexSize, Method, Ranking


@dataclass
class OwnConfig:
    seed: int


class Own(Method):
    Config = OwnConfig

    def index(self):
        return IndexSize()

    def search(self, queries, top_k):
        rows = np.arange(len(self.context.task.passages))[:top_k]
        for query in queries:
            yield Ranking(query.query_id, rows, -rows.astype(float))
"""
OWN_YAML = "name: own\ntarget: {target}\nsummary: passages in their order\nseed: 3 # no part\n"


def test_a_switch_touches_three_files(tmp_path: Path) -> None:
    tree = copied(tmp_path / "tree")
    for name, changes in SWITCH.items():
        text = (tree / name).read_text(encoding="utf-8")
        for old, new in changes:
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        (tree / name).write_text(text, encoding="utf-8")
    names = touched(tree)
    print("a gradient switch touches:", *sorted(names))
    assert names == set(SWITCH)

    words = ("run", *SMALL, f"cache_dir={tmp_path}/cache", "metric=attribution", "quiet=true")
    with Forks(tree) as tdabench:
        plain, doubled = (
            scores_of(tdabench, *words, f"results_dir={tmp_path}/{scale}", f"method.scale={scale}")
            for scale in ("1.0", "2.0")
        )
        for one, two in zip(plain, doubled, strict=True):
            assert two == pytest.approx([4 * score for score in one], rel=1e-5), "both sides"
        assert len(list((tmp_path / "cache/index/gradient").iterdir())) == 2, "an index a value"
        refused = tdabench.run(*words, "method=grad_dot", "method.scale=0")
        assert refused.returncode == 2
        assert "method.scale: expected more than 0, found 0.0" in refused.stderr
        for others in (("plan", *SMALL, "plan.device_tflops=1"), (*words, "method=datainf")):
            done = tdabench.run(*others, f"results_dir={tmp_path}/others", "quiet=true")
            assert done.returncode == 0, done.stderr


def scores_of(tdabench: Forks, *words: str) -> list[list[float]]:
    """Scores of the lists that a run of ``grad_dot`` makes."""
    done = tdabench.run(*words, "method=grad_dot")
    assert done.returncode == 0, done.stderr
    (place,) = [Path(word.split("=")[1]) for word in words if word.startswith("results_dir=")]
    lines = (cells(place)["grad_dot"] / "retrievals.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["proponent_scores"] for line in lines]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a method beside its YAML; there is no PYTHONPATH, and we are elsewhere."""
    folder = tmp_path / "own" / "method"
    folder.mkdir(parents=True)
    (folder / "own.py").write_text(OWN, encoding="utf-8")
    (folder / "own.yaml").write_text(OWN_YAML.format(target="own.py:Own"), encoding="utf-8")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "own"


@pytest.mark.parametrize("option", ["--config-dir={}", "hydra.searchpath=[file://{}]"])
def test_a_method_of_ones_own_lies_beside_its_yaml(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    places = (f"results_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache")
    words = (*SMALL, *places, "metric=attribution", "quiet=true", "method=own")
    assert main(["run", option.format(own), *words]) == 0  # options before overrides
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "of your own" in line]
    assert line == f"method of your own, whose code is run: Own of {own / 'method' / 'own.py'}"
    folder = cells(tmp_path / "runs")["own"]
    assert result(folder)["method"]["config"] == {"name": "own", "seed": 3, "target": "own.py:Own"}
    assert len({tuple(ids) for ids in ranked(folder)}) == 1


def test_a_target_on_the_command_line_is_looked_for_in_the_working_directory(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the code of the file changes, the cell is another."""
    monkeypatch.chdir(own / "method")
    words = ("metric=attribution", "quiet=true", "method=random", "method.target=own.py:Own")
    for appended in ("", "\nVERSION = 2\n"):
        with open("own.py", "a", encoding="utf-8") as stream:
            stream.write(appended)
        assert run(tmp_path / "runs", tmp_path / "cache", *words) == 0
    folders = [path.parent for path in tmp_path.glob("runs/*/*/random/*/result.json")]
    assert len(folders) == 2


def test_a_method_of_an_installed_package_needs_no_word(own: Path, tmp_path: Path) -> None:
    """It is listed, run and planned by its name alone."""
    site = tmp_path / "site"
    (site / "guest_methods" / "method").mkdir(parents=True)
    (site / "guest_methods" / "__init__.py").touch()
    (site / "guest_methods" / "passages.py").write_text(OWN, encoding="utf-8")
    yaml = OWN_YAML.format(target="guest_methods.passages:Own")
    (site / "guest_methods" / "method" / "own.yaml").write_text(yaml, encoding="utf-8")
    info = site / "guest-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: guest\nVersion: 1.0\n")
    points = "[tdabench.methods]\nguest = guest_methods\n"
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    places = (f"results_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache")
    words = ("run", *SMALL, *places, "metric=attribution", "method=own")
    with Forks(PYTHONPATH=str(site)) as tdabench:
        listed = tdabench.run("list", "methods")
        done = tdabench.run(*words)
        refused = tdabench.run("plan", "method=own")
    assert "passages in their order" in listed.stdout, listed.stderr
    assert done.returncode == 0, done.stderr
    assert "of your own" not in done.stderr, "it was installed"
    assert list(cells(tmp_path / "runs")) == ["own"]
    assert "plan covers gradient methods only, and own is none" in refused.stderr

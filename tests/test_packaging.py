"""What is installed, and that it works beside packages of the same plain names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from bench.core.environment import __version__
from tests.fixtures.runs import SMALL, cells
from tests.fixtures.sources import PACKAGES, ROOT

BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by the project's own back end from a copy of what git keeps."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info", "runs")
    shutil.copytree(ROOT, tree, ignore=left_out)
    command = [sys.executable, "-c", BUILD, str(folder)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    """Fault: benchmarks landed in site-packages, for its name begins with that of bench."""
    names = [Path(name) for name in zipfile.ZipFile(wheel).namelist()]
    info = f"tdabench-{__version__}.dist-info"
    assert {name.parts[0] for name in names} == {*PACKAGES, "tdabench.py", info}
    # Whatever lies in the packages is in the wheel: templates, styles, scripts, settings.
    for package in PACKAGES:
        here = {path for path in (ROOT / package).rglob("*") if path.is_file()}
        kept = {path.relative_to(ROOT) for path in here if "__pycache__" not in path.parts}
        assert {name for name in names if name.parts[0] == package} == kept


def run(folder: Path, *command: object, **more: str) -> subprocess.CompletedProcess[str]:
    """A command in a folder, without the paths that the tests are run with."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [*map(str, command)], cwd=folder, env=kept | more, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A folder of somebody who has packages of their own by these names."""
    for name in ("metrics", "methods", "conf"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        (tmp_path / "mine" / name / "__init__.py").write_text("raise SystemExit('mine is run')")
    return tmp_path / "mine"


@pytest.mark.parametrize("name", ["metrics", "methods", "conf", "bench"])
def test_a_foreign_package_that_comes_first_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise SystemExit('mine is run')")
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    start = "import sys, tdabench; sys.exit(tdabench.main())"
    done = run(tmp_path, sys.executable, "-c", start, "list", PYTHONPATH=paths)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {name}: another package of this name comes first on Python's path "
        f"({tmp_path / name}); rename it, or start elsewhere: tdabench's own is {ROOT / name}\n"
    )
    asked = run(tmp_path, sys.executable, "-c", "import tdabench; tdabench.run", PYTHONPATH=paths)
    assert asked.stderr.splitlines()[-1].startswith(f"ImportError: {name}: another package")


def test_a_folder_that_is_no_package_hides_nothing(tmp_path: Path) -> None:
    """Data in folders called metrics or conf is what most people have."""
    for name in PACKAGES:
        (tmp_path / name).mkdir()
    done = run(tmp_path, sys.executable, "-m", "bench", "list", PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stderr) == (0, "")


def test_the_public_names_are_there() -> None:
    code = (
        "import sys, tdabench\n"
        "for name in tdabench.__all__: getattr(tdabench, name)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'slow to import'"
    )
    done = run(ROOT, sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_an_installed_command_works_beside_packages_of_the_same_names(
    wheel: Path, crowded: Path, tmp_path: Path
) -> None:
    """Installed into an empty environment, to which only the dependencies are lent."""
    venv = tmp_path / "venv"
    run(tmp_path, sys.executable, "-m", "venv", "--without-pip", venv)
    python = venv / "bin" / "python"
    installed = run(
        tmp_path, sys.executable, "-m", "pip", "--python", python, "install", "--no-deps",
        "--no-index", wheel,
    )  # fmt: skip
    assert installed.returncode == 0, installed.stderr
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))

    listed = run(crowded, venv / "bin" / "tdabench", "list")
    assert listed.returncode == 0, listed.stderr
    assert all(name in listed.stdout for name in ("trackstar", "factworld", "hit@k", "quickstart"))
    places = (f"results_dir={tmp_path}/runs", f"cache_dir={tmp_path}/cache")
    words = ("run", *SMALL, "method=bm25", "metric=attribution", *places)
    done = run(crowded, venv / "bin" / "tdabench", *words)
    assert done.returncode == 0, done.stderr
    assert list(cells(tmp_path / "runs")) == ["bm25"]
    reported = run(crowded, venv / "bin" / "tdabench", "report", tmp_path / "runs", "--quiet")
    assert (reported.returncode, reported.stderr) == (0, "")
    imported = run(crowded, python, "-c", "import tdabench; print(tdabench.__file__)")
    assert imported.stdout.strip() == str(site / "tdabench.py")
    # `python -m` puts the working directory first.
    refused = run(crowded, python, "-m", "bench", "list")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: methods: another package of this name comes first")
    assert len(refused.stderr.splitlines()) == 1

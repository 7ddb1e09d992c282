"""Configuration: every file composes, fits its class and gives its reasons; mistakes are named."""

from __future__ import annotations

import itertools
import re
import shlex
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

import conf
from bench.core.errors import UserError
from bench.core.registry import DESCRIPTION
from bench.core.typed import typed
from bench.engines import ENGINES
from bench.models import SOURCES
from bench.run.config_errors import explain
from bench.run.loggers import LoggerConfig
from bench.run.parts import Parts
from bench.run.settings import settings_from
from bench.tasks import TASKS
from methods import METHODS
from methods.choosing import chosen
from metrics.settings import MetricConfig, NoGold
from tests.fixtures.composing import composed

CONF = Path(conf.__file__).parent
FILES = sorted((path.parent.name, path.stem) for path in CONF.glob("*/[!_]*.yaml"))
# name → (divided by sqrt(V), R, unit norm): the ablations of the paper's Table 1.
PRESETS = {
    "grad_dot": (False, "none", False),
    "grad_cos": (False, "none", True),
    "cos_hessian": (False, "train", True),
    "cos_optimizer": (True, "none", True),
    "cos_optimizer_hessian": (True, "train", True),
    "trackstar": (True, "mixed", True),
}


def error_of(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        settings_from(composed(*overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def explained(*overrides: str) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - hydra and omegaconf raise many kinds
        composed(*overrides)
    error = explain(caught.value, overrides)
    assert "\n" not in str(error)
    return str(error)


# ------------------------------------------------------------------ typed


@dataclass
class Example:
    path: str
    depth: int
    rate: float
    no_gold: NoGold


VALUES = {"path": "x", "depth": 3, "rate": 1, "no_gold": "zero"}


def test_typed_converts() -> None:
    found = typed(Example, {**VALUES, "name": "n", "target": "t"}, "task", ("name", "target"))
    assert found == Example("x", 3, 1.0, NoGold.zero)
    assert isinstance(found.rate, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dept": 4}, r"^unknown key task\.dept; did you mean depth or path\?"),
        ({"depth": "deep"}, r"^task\.depth: Value 'deep' of type 'str' could not be converted to"),
        ({"depth": 1.5}, r"^task\.depth: "),
        ({"path": None}, r"^task\.path: "),
        ({"path": "???"}, r"^task\.path: has no value; set task\.path=…$"),
        ({"no_gold": "skp"}, r"^task\.no_gold: Invalid value 'skp', expected one of \[skip, zero"),
    ],
)
def test_typed_names_the_key(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        typed(Example, {**VALUES, **change}, "task")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(UserError, match=r"^method\.rate: has no value; set method\.rate=…$"):
        typed(Example, {key: VALUES[key] for key in ("path", "depth", "no_gold")}, "method")


# ------------------------------------------------------------------ settings


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("TDABENCH_CACHE", "/cache")
    config = composed("seed=7", "top_k=20", "results_dir='~/r'", "device=cpu", "quiet=true")
    settings = settings_from(config)
    assert (settings.seed, settings.top_k, settings.quiet) == (7, 20, True)
    assert (settings.results_dir, settings.cache_dir) == (Path("/home/somebody/r"), Path("/cache"))
    assert settings.task["seed"] == settings.model["seed"] == settings.method["seed"] == 7
    assert settings.method["projection_dim"] == settings.model["projection_dim"] == 16
    assert settings.metric.no_gold is NoGold.skip
    assert settings.logger == LoggerConfig("none")
    resolved = OmegaConf.to_container(config, resolve=True)
    assert isinstance(resolved, dict)
    for group, registry in (("task", TASKS), ("method", METHODS), ("engine", ENGINES)):
        resolved[group] = registry.undescribed(resolved[group])
    rest = {key: resolved[key] for key in resolved if key not in ("plan", "experiment")}
    assert settings.resolved == rest
    again = OmegaConf.create({**settings.resolved, "quiet": True})
    assert settings_from(again).resolved == settings.resolved, "as a cell's own file has them"
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    assert settings_from(composed("device=auto")).device == auto


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_that_torch_cannot_use(name: str) -> None:
    """Torch is asked, and loaded, only where the device is needed."""
    settings = settings_from(composed(f"device={name}"))
    with pytest.raises(UserError, match=f"^device: device '{name}' cannot be used"):
        Parts(settings).check_device()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=abc", "seed: Value 'abc' of type 'str' could not be converted to Integer"),
        ("seed=-1", "seed: expected at least 0, found -1"),
        ("quiet=maybe", "quiet: Value 'maybe' is not a valid bool"),
        ("top_k=ten", "top_k: Value 'ten' of type 'str' could not be converted to Integer"),
        ("top_k=0", "top_k: expected at least 1, found 0"),
        ("results_dir=null", "results_dir: Incompatible value 'None' for field of type 'str'"),
        ("device=null", "device: Incompatible value 'None'"),
        ("results_dir='s3://b/x'", "results_dir=s3://b/x: needs a folder of this machine"),
        ("cache_dir='gs://b/x'", "cache_dir=gs://b/x: needs a folder of this machine"),
        ("+sed=1", "unknown key sed; did you mean seed?"),
        ("~method", "method: nothing is chosen; set method=NAME"),
        ("method.seed=${nope}", "Interpolation key 'nope' not found; check the ${...}"),
        ("cache_dir=${oc.env:TDABENCH_NO_SUCH}", "KeyError raised while resolving interpolation"),
        ("metric.bootstrap_samples=0", "metric.bootstrap_samples: expected 1 to 10000, found 0"),
        ("metric.bootstrap_samples=x", "metric.bootstrap_samples: Value 'x'"),
        ("metric.tail_patch.top=0", "metric.tail_patch.top: expected at least 1, found 0"),
        (
            "metric.tail_patch.optimizer=adamw",
            "metric.tail_patch.optimizer: unknown optimizer 'adamw'",
        ),
        ("metric.tail_patch.learning_rate=0", "metric.tail_patch.learning_rate: expected"),
        ("metric.tail_patch.learning_rate=-1e-3", "metric.tail_patch.learning_rate: expected"),
        ("metric.tail_patch.learning_rate=nan", "metric.tail_patch.learning_rate: expected"),
        ("metric.tail_patch.top=x", "metric.tail_patch.top: Value 'x' of type 'str'"),
        ("metric.tail_patch.n_queries=0", "metric.tail_patch.n_queries: expected at least 1"),
        ("metric.attribution=mrr", "metric.attribution: "),
        ("metric.attribution=[mrr,hit@1,mrr]", "metric.attribution: mrr is named twice"),
        ("+logger.projct=x", "unknown key logger.projct; did you mean project?"),
    ],
)
def test_a_wrong_setting_is_one_line(override: str, message: str) -> None:
    assert error_of(override).startswith(message)


# ------------------------------------------------------------------ explain


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=facworld"], "unknown task 'facworld'; did you mean factworld?"),
        (["experiment=quikstart"], "unknown experiment 'quikstart'; did you mean quickstart?"),
        (["method.dampin=1"], "unknown key 'method.dampin'; did you mean damping"),
        (["method=bm25", "method.k=1"], "unknown key 'method.k'; did you mean k1?"),
        (["metric.tail_patch.tops=1"], "unknown key 'metric.tail_patch.tops'; did you mean top?"),
        (["sed=1"], "unknown key 'sed'; did you mean seed?"),
        (["metod=bm25"], "unknown key 'metod'; did you mean method"),
        (["metod.seed=1"], "unknown key 'metod.seed'; did you mean method"),
        (["seed.x=1"], "unknown key 'seed.x'"),
        (["seed=[1"], "seed=[1: Hydra does not take this value as it is; quote it: 'seed=\"[1\"'"),
        (["method.damping"], "method.damping: expected KEY=VALUE"),
        (["~method.sed"], "unknown key 'method.sed'; did you mean seed?"),
        (["+seed=1"], "seed: is there already; leave out the + before it"),
        (["task=null"], "task=null: nothing is chosen; choose one, as in task=factworld"),
        (["method=bm25,dense"], "method=bm25,dense: has several values; add -m to run a cell of"),
        (
            ["hydra/launcher=joblib"],
            "hydra/launcher: launcher 'joblib' is not installed; pip install 'tdabench[joblib]'",
        ),
        (
            ["hydra/launcher=submitit_slurm"],
            "hydra/launcher: launcher 'submitit_slurm' is not "
            "installed; pip install 'tdabench[slurm]'",
        ),
        (["hydra/launcher=joblb"], "unknown hydra/launcher 'joblb'; did you mean joblib?"),
    ],
)
def test_explain(overrides: list[str], message: str) -> None:
    assert explained(*overrides).startswith(message)


@pytest.mark.parametrize(
    "path",
    ["/b=0.4/x", "/a[1]/x", "/a,b", "/a{b}", "/a(b)", "~/x", "/it's", "/ä", '/a"b', "/a, b=c"],
)
def test_the_remedy_for_a_path_is_taken(path: str) -> None:
    """What the message says to type is typed, and is the path that was meant."""
    message = explained("task=jsonl", f"task.queries={path}")
    (word,) = shlex.split(re.search(r"(?:quote it|part of one value): (.*)", message)[1])
    assert composed("task=jsonl", word).task.queries == path


def test_the_hint_follows_the_choice_of_group() -> None:
    assert explained("method=random", "method.sed=1").endswith("known: name, seed")
    assert "partition" in explained("engine=slurm", "engine.partitions=x")
    with pytest.raises(ConfigCompositionException) as caught:
        composed("method=bm25", "method.k=1")  # as one job of the sweep below
    sweep = ["-m", "method=bm25,dense", "method.k=1"]
    assert "did you mean k1?" in str(explain(caught.value, sweep))


# ------------------------------------------------------------------ the files


def config_class(group: str, config: DictConfig) -> type:
    if group == "task":
        return TASKS.get(config.task.name).Config
    if group == "model":
        return SOURCES.get(config.model.source).Config
    if group == "method":
        return METHODS.get(config.method.name).Config
    if group == "engine":
        return ENGINES.get(config.engine.name).Config
    return {"metric": MetricConfig, "logger": LoggerConfig}[group]


def assert_same_keys(values: DictConfig, schema: type, drop: set[str]) -> None:
    assert set(values) - drop == {field.name for field in fields(schema)} - drop
    hints = get_type_hints(schema)
    for key in set(values) - drop:
        if is_dataclass(hints[key]):
            assert_same_keys(values[key], hints[key], set())


@pytest.mark.parametrize(("group", "name"), FILES)
def test_a_file_has_exactly_the_keys_of_its_class(group: str, name: str) -> None:
    config = composed(f"{group}={name}")
    if group == "experiment":
        settings_from(config)
        return
    schema = config_class(group, config)
    if (group, name) == ("logger", "none"):
        assert set(config.logger) == {"name"}
    else:
        assert_same_keys(config[group], schema, {"name", *DESCRIPTION})
    if group != "metric":
        assert config[group].name == name
    if not OmegaConf.missing_keys(config[group]):
        plain = OmegaConf.to_container(config, resolve=True)[group]
        drop = () if group == "logger" else ("name", *DESCRIPTION)
        assert isinstance(typed(schema, plain, group, drop), schema)


def test_a_whole_number_is_a_float_where_one_is_asked_for() -> None:
    for word, expected in (("0", 0.0), ("0.5", 0.5), ("auto", "auto")):
        settings = settings_from(composed("method=trackstar", f"method.mixing={word}"))
        _, config = chosen(settings.method)
        assert (config.mixing, type(config.mixing)) == (expected, type(expected))


def test_every_registered_name_has_a_file() -> None:
    for group, registry in (("task", TASKS), ("method", METHODS), ("engine", ENGINES)):
        assert list(registry) == [name for kind, name in FILES if kind == group]


@pytest.mark.parametrize("name", [name for group, name in FILES if group == "experiment"])
def test_every_experiment_sweeps_over_what_exists(name: str) -> None:
    """Cells of the sweep in which every value stands at least once."""
    params = OmegaConf.load(CONF / "experiment" / f"{name}.yaml").hydra.sweeper.params
    choices = {key: str(values).split(",") for key, values in params.items()}
    for number in range(max(map(len, choices.values()))):
        cell = [f"{key}={values[number % len(values)]}" for key, values in choices.items()]
        settings = settings_from(composed(f"experiment={name}", *cell))
        chosen(settings.method)


def without_reason(text: str) -> list[str]:
    """Keys without a comment on their line or above the run of plain lines that they are in."""
    found, covered = [], False
    for line in text.splitlines():
        key = re.match(r"\s*(\w+):(.*)", line)
        if line.strip().startswith("#"):
            covered = True
        elif key is None or key[1] in ("name", "defaults", *DESCRIPTION) or "#" in key[2]:
            covered = False
        elif key[2].strip() and not covered:  # a key that only opens a block needs none
            found.append(key[1])
    return found


def test_without_reason_finds_what_is_bare() -> None:
    assert without_reason("# c\nname: x\na: 1 # why\nb: 2\n\n# why\nc: 3\nd: 4\n\ne: 5") == [
        "b",
        "e",
    ]


@pytest.mark.parametrize(
    ("group", "name"),
    [("method", "_gradient"), *(f for f in FILES if f[0] not in ("task", "experiment"))],
)
def test_every_default_gives_its_reason(group: str, name: str) -> None:
    text = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8")
    assert without_reason(text) == []


# ------------------------------------------------------------------ the gradient methods


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str) -> None:
    method = composed(f"method={name}").method
    assert (method.optimizer_correction, method.hessian, method.unit_norm) == PRESETS[name]
    rest = set(method) - {"name", *DESCRIPTION, "optimizer_correction", "hessian", "unit_norm"}
    trackstar = composed("method=trackstar").method
    assert (trackstar.mixing, trackstar.damping) == ("auto", "auto"), "rules, and no numbers"
    assert {key: method[key] for key in rest} == {key: trackstar[key] for key in rest}


@pytest.mark.parametrize(
    ("optimizer", "hessian", "norm"),
    itertools.product((True, False), ("none", "train", "mixed"), (True, False)),
)
def test_every_combination_is_reachable(optimizer: bool, hessian: str, norm: bool) -> None:
    settings = settings_from(
        composed(
            "method=grad_dot",
            f"method.optimizer_correction={optimizer}",
            f"method.hessian={hessian}",
            f"method.unit_norm={norm}",
        )
    )
    _, config = chosen(settings.method)
    found = (config.optimizer_correction, config.hessian.value, config.unit_norm)
    assert found == (optimizer, hessian, norm)


def test_the_open_set_table_takes_another_judge() -> None:
    """Fault: the experiment's own judge replaced the one that was asked for."""
    composed_table = composed("experiment=table2", "metric=nli", "metric.judge.model=DIR")
    assert composed_table.metric.judge.name == "nli"
    assert composed_table.metric.tail_patch.enabled
    assert composed("experiment=table2").metric.judge.name == "lexical"


def test_the_source_of_a_model_is_a_key_that_is_offered() -> None:
    """Fault: it is also a word that describes a method, and those were left out everywhere."""
    assert "did you mean source" in explained("model.sorce=scratch")

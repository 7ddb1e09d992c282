"""Models in local directories: known by content, not by place, and read as the settings say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.core.errors import UserError
from bench.models.checkpoints import load_checkpoint
from bench.models.language_model import MOMENTS, LanguageModel, target_log_probs
from bench.models.second_moments import load_moments
from bench.tasks.base import Query
from methods.gradient.encoder import GradientEncoder
from tests.fixtures.models import TEXTS, load, make_model, with_moments
from tests.fixtures.models import directory_source as source
from tests.fixtures.switches import switches


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model", layers=2)


def opened(path: Path | str, **settings: Any) -> LanguageModel:
    return source(path, **settings).load(None, Path("unused"), "cpu")  # type: ignore[arg-type]


def identity(path: Path | str, **settings: Any) -> str:
    return source(path, **settings).identity(None)  # type: ignore[arg-type]


def moments_file(folder: Path, place: Path, kind: str = "adam") -> Path:
    place.mkdir(exist_ok=True)
    with_moments(load(folder), place, kind)
    return place / f"{kind}.safetensors"


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float23"}, r"^model\.dtype: unknown dtype 'float23'; did you mean float32"),
        ({"gradient_dtype": "bfloat61"}, r"^model\.gradient_dtype: .*did you mean bfloat16"),
        ({"dtype": "int8"}, r"known: bfloat16, float16, float32, float64$"),
    ],
)
def test_a_wrong_dtype_names_the_nearest(folder: Path, change: dict, message: str) -> None:
    source(folder, dtype="bfloat16", gradient_dtype="float64").check()
    with pytest.raises(UserError, match=message):
        source(folder, **change).check()


def test_a_missing_directory(folder: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "absent", folder / "config.json"):
        with pytest.raises(UserError, match=f"^{path}: no such directory; set model.path=DIR"):
            source(path).check()


def test_a_missing_state(folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "absent.safetensors"
    with pytest.raises(UserError, match=f"^{state}: no such file"):
        opened(folder, optimizer_state=str(state))


# ------------------------------------------------------------------ identity


def test_identity_is_of_the_content_not_the_place(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "deep" / "copy")
    (copy / "README.md").write_text("no part of the model")
    assert identity(copy) == identity(folder)
    assert opened(copy).sha256 == opened(folder).sha256
    assert identity(make_model(tmp_path / "seed", seed=1, layers=2)) != identity(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_identity_sees_every_file_of_the_model(folder: Path, name: str) -> None:
    before = identity(folder)
    record = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**record, "changed": 1}))
    assert identity(folder) != before


def test_identity_sees_every_setting(folder: Path) -> None:
    changes = [
        {"adam_epsilon": 1e-6}, {"learning_rate": 1e-3}, {"dtype": "bfloat16"},
        {"gradient_dtype": "float64"}, {"append_eos": True},
    ]  # fmt: skip
    assert len({identity(folder), *(identity(folder, **c) for c in changes)}) == len(changes) + 1


def test_identity_sees_the_optimizer_state_but_not_its_place(folder: Path, tmp_path: Path) -> None:
    state = moments_file(folder, tmp_path / "state")
    moved = shutil.copy(state, tmp_path / "moved.safetensors")
    known = identity(folder, optimizer_state=str(state))
    assert known != identity(folder)
    assert identity(folder, optimizer_state=str(moved)) == known
    other = moments_file(folder, tmp_path / "other", "adafactor")
    assert identity(folder, optimizer_state=str(other)) != known


def test_identity_sees_the_moments_of_earlier_checkpoints(folder: Path, tmp_path: Path) -> None:
    """Fault: a cell of LESS stayed "already there" when they were replaced."""
    earlier = Path(shutil.copytree(folder, tmp_path / "earlier"))
    settings = {"checkpoints": [str(earlier)], "checkpoint_learning_rates": [1e-3]}
    found = [identity(folder, **settings)]
    for kind in ("adafactor", "adam"):
        shutil.copy(moments_file(folder, tmp_path / kind, kind), earlier / MOMENTS)
        found.append(identity(folder, **settings))
    assert len(set(found)) == 3


def test_earlier_checkpoints_have_the_same_epsilon(folder: Path, tmp_path: Path) -> None:
    """Fault: they were divided by sqrt(V) plus the default."""
    earlier = Path(shutil.copytree(folder, tmp_path / "earlier"))
    state = moments_file(folder, tmp_path / "state", "adam")
    shutil.copy(state, earlier / MOMENTS)
    model = opened(
        folder, optimizer_state=str(state), adam_epsilon=1e-2,
        checkpoints=[str(earlier)], checkpoint_learning_rates=[1e-3],
    )  # fmt: skip
    loaded = load_checkpoint(model.checkpoints[0], model)
    assert loaded.required_moments().identity == model.required_moments().identity
    assert loaded.required_moments().identity[1] == [1e-2]


def test_home_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = moments_file(folder, folder.parent / "state")
    monkeypatch.setenv("HOME", str(folder.parent))
    settings = {"optimizer_state": "~/state/adam.safetensors"}
    source("~/model").check()
    assert identity("~/model", **settings) == identity(folder, optimizer_state=str(state))
    assert opened("~/model", **settings).second_moments.sha256


# ------------------------------------------------------------------ what is loaded


def test_settings_reach_the_model(folder: Path, tmp_path: Path) -> None:
    state = moments_file(folder, tmp_path / "state")
    model = opened(
        folder, optimizer_state=str(state), adam_epsilon=0.5, learning_rate=3e-4,
        dtype="float64", gradient_dtype="bfloat16", append_eos=True,
    )  # fmt: skip
    assert model.learning_rate == 3e-4
    assert {p.dtype for p in model.module.parameters()} == {torch.float64}
    assert model.gradient_dtype == torch.bfloat16
    assert model.passage_tokens("Oslo").ids[-1] == model.tokenizer.eos_token_id
    assert not model.module.training
    name, parameter = next(iter(model.module.named_parameters()))
    stored = load_moments(state, model.module)[name].value
    want = 1 / (stored.double().sqrt() + 0.5)
    torch.testing.assert_close(model.second_moments[name].inverse_sqrt(), want)
    assert want.shape == parameter.shape


def test_without_a_state_there_are_no_moments(folder: Path) -> None:
    model = opened(folder)
    assert model.second_moments is None
    assert model.learning_rate is None


def test_shards_are_one_model(folder: Path, tmp_path: Path) -> None:
    whole = opened(folder)
    sharded = tmp_path / "sharded"
    whole.module.save_pretrained(sharded, max_shard_size="20KB")
    whole.tokenizer.save_pretrained(sharded)
    assert len(list(sharded.glob("*.safetensors"))) > 2
    model = opened(sharded)
    weights = dict(whole.module.named_parameters())
    assert {name for name, _ in model.module.named_parameters()} == set(weights)
    assert all(torch.equal(p, weights[name]) for name, p in model.module.named_parameters())
    last = sorted(sharded.glob("*.safetensors"))[-1]
    before = identity(sharded)
    last.write_bytes(last.read_bytes()[:-1] + b"\x01")
    assert identity(sharded) != before, "every shard counts"
    last.unlink()
    with pytest.raises(UserError, match=f"^{sharded}: cannot be loaded"):
        opened(sharded)


def features(model: LanguageModel, projection_dim: int | None = 4) -> torch.Tensor:
    encoder = GradientEncoder(model, switches(projection_dim=projection_dim, layer_blocks=2))
    return encoder.encode([model.passage_tokens(text) for text in TEXTS[:3]])


@pytest.mark.parametrize("projection_dim", [4, None])
def test_bfloat16_weights_with_float32_gradients(
    folder: Path, tmp_path: Path, projection_dim: int | None
) -> None:
    model = opened(folder, dtype="bfloat16", gradient_dtype="float32")
    assert {p.dtype for p in model.module.parameters()} == {torch.bfloat16}
    found = features(model, projection_dim)
    assert found.dtype == torch.float32
    rounded = opened(folder)  # the same weights, rounded to bfloat16 but kept in float32
    with torch.no_grad():
        for parameter in rounded.module.parameters():
            parameter.copy_(parameter.bfloat16().float())
    torch.testing.assert_close(found, features(rounded, projection_dim))
    assert not torch.allclose(found, features(opened(folder), projection_dim), rtol=1e-4)
    assert {p.dtype for p in model.module.parameters()} == {torch.bfloat16}, "left as it was"


def test_bfloat16_probabilities_are_near(folder: Path) -> None:
    def of(dtype: str) -> list[float]:
        model = opened(folder, dtype=dtype)
        tokens = [model.query_tokens(Query("q", "Al Grey plays the", "trombone"))]
        return target_log_probs(model, tokens)[0]

    assert of("bfloat16") == pytest.approx(of("float32"), rel=0.02)
    assert of("bfloat16") != of("float32")


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "llama"])
@pytest.mark.parametrize("missing", ["*.safetensors", "tokenizer*"])
def test_half_a_directory_is_one_line(tmp_path: Path, architecture: str, missing: str) -> None:
    folder = make_model(tmp_path / "half", architecture, layers=1)
    for path in folder.glob(missing):
        path.unlink()
    message = f"^{folder}: (cannot be loaded|has no tokenizer)"
    with pytest.raises(UserError, match=message) as caught:
        opened(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_of_moments_is_a_state(folder: Path, tmp_path: Path) -> None:
    whole = moments_file(folder, tmp_path / "state")
    tensors = load_file(whole)
    names = sorted(tensors)
    parts = tmp_path / "parts"
    parts.mkdir()
    for number, chosen in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in chosen}, parts / f"{number}.safetensors")
    source(folder, optimizer_state=str(parts)).check()
    found = opened(folder, optimizer_state=str(parts)).second_moments
    expected = opened(folder, optimizer_state=str(whole)).second_moments
    assert found.by_name.keys() == expected.by_name.keys()
    known = identity(folder, optimizer_state=str(parts))
    (parts / "0.safetensors").rename(parts / "renamed.safetensors")
    assert identity(folder, optimizer_state=str(parts)) != known
    with pytest.raises(UserError, match="no such file or folder; or set it to estimate"):
        source(folder, optimizer_state=str(tmp_path / "absent")).check()

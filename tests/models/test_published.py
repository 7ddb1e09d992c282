"""Published weights: the files that were pinned, for the corpus that they were trained on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.cli.main import main
from bench.core.errors import UserError
from bench.models import published
from bench.models.language_model import LanguageModel, target_log_probs
from bench.models.published import WEIGHTS, published_sha256
from bench.run.composing import composed
from bench.run.parts import Parts
from bench.run.settings import settings_from

BYTES = 4 << 20  # what a package may carry without being a burden
SMALL = ("task=factworld", "task.n_passages=400", "task.n_facts=40", "quiet=true")
MICRO = ("model=micro", "model.epochs=2", "model.hidden_size=16", "model.num_heads=2")


def parts(*words: str, cache: Path) -> Parts:
    return Parts(settings_from(composed([*words, f"cache_dir={cache}"], "train")))


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the published folders, in the place of the package's."""
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    monkeypatch.setattr(published, "WEIGHTS", tmp_path / "weights")
    return tmp_path / "weights" / "quickstart"


def test_the_package_carries_the_files_that_the_configuration_pins(tmp_path: Path) -> None:
    source = parts("model=quickstart", cache=tmp_path).source
    source.check()
    files = [path for path in (WEIGHTS / "quickstart").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < BYTES
    assert source.config.sha256 == published_sha256(WEIGHTS / "quickstart")


@pytest.mark.parametrize(
    "name",
    ["config.json", "learning_rate.json", "model.safetensors", "second_moments.safetensors",
     "tokenizer.json", "training.json"],
)  # fmt: skip
def test_another_file_is_refused(copied: Path, tmp_path: Path, name: str) -> None:
    path = copied / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="are not the files whose hash"):
        parts("model=quickstart", cache=tmp_path).source.check()


def test_a_missing_file_is_named(copied: Path, tmp_path: Path) -> None:
    (copied / "training.json").unlink()
    with pytest.raises(UserError, match=r"training\.json"):
        parts("model=quickstart", cache=tmp_path).source.check()


def test_unknown_weights_are_offered_the_nearest(tmp_path: Path) -> None:
    source = parts("model=quickstart", "model.weights=quikstart", cache=tmp_path).source
    with pytest.raises(UserError, match="did you mean quickstart"):
        source.check()


def test_a_corpus_that_the_model_does_not_know_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SMALL, "model=quickstart", "method=grad_cos", "metric=attribution"]
    status = main(["run", *words, f"cache_dir={tmp_path}", f"results_dir={tmp_path / 'r'}"])
    said = capsys.readouterr().err
    assert status == 2
    assert "model quickstart was trained on other passages than this task's" in said
    assert "model=tiny" in said


def test_a_model_is_published_as_it_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(published, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setenv("TDABENCH_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "weights" / "mine"
    assert main(["train", *SMALL, *MICRO, "--out", str(out)]) == 0
    sha256 = capsys.readouterr().out.split("model.sha256=")[1].strip()

    trained = parts(*SMALL, *MICRO, cache=tmp_path / "cache").model
    words = ("model=quickstart", "model.weights=mine", f"model.sha256={sha256}")
    again = parts(*SMALL, *words, cache=tmp_path / "cache")
    again.source.check()
    read = again.model
    assert (read.sha256, read.learning_rate) == (trained.sha256, trained.learning_rate)
    for name, parameter in trained.module.named_parameters():
        assert torch.equal(parameter, read.module.get_parameter(name))
    assert read.second_moments is not None
    assert read.second_moments.sha256 == trained.second_moments.sha256

    assert main(["train", *SMALL, *MICRO, "--out", str(out)]) == 2, "nothing is written over"
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "symptom"),
    [
        ([*MICRO], "is there already"),
        (
            ["model=finetuned", "model.init={here}", "model.train.lora.rank=4"],
            "model.train.lora.rank=4: is an adapter",
        ),
    ],
)
def test_what_cannot_be_published_is_refused_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], symptom: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    cache = tmp_path / "cache"
    given = [word.format(here=WEIGHTS / "quickstart") for word in words]
    assert main(["train", *SMALL, *given, f"cache_dir={cache}", "--out", str(out)]) == 2
    assert symptom in capsys.readouterr().err
    assert not list(cache.glob("models/*/*")), "no model was begun"


@pytest.mark.slow
def test_training_again_gives_the_published_numbers_within_their_intervals(tmp_path: Path) -> None:
    """Other processors add up in another order: no bits, but what the model knows must agree."""

    def knows(model: LanguageModel) -> np.ndarray:
        queries = parts("model=quickstart", cache=tmp_path).task.queries
        return np.exp(target_log_probs(model, [model.query_tokens(query) for query in queries])[0])

    there = knows(parts("model=quickstart", cache=tmp_path).model)
    trained = knows(parts("model=tiny", cache=tmp_path).model)
    half_width = 1.96 * there.std(ddof=1) / np.sqrt(len(there))
    assert abs(trained.mean() - there.mean()) <= half_width
    assert np.corrcoef(there, trained)[0, 1] > 0.5, "the same facts are known"

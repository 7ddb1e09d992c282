"""Models that come with the package: the same weights on every machine, for one corpus.

Training adds up in another order on other processors, so two people who train the same model get
two. Rows of a published model are comparable wherever they were made.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from bench.core.errors import UserError, did_you_mean
from bench.models.base import ModelSource
from bench.models.language_model import (
    LEARNING_RATE,
    MOMENTS,
    TRAINING,
    LanguageModel,
)
from bench.models.loading import directory_sha256, load_directory, load_tokenizer
from bench.models.moment_files import sha256_of
from bench.models.second_moments import load_moments
from bench.models.settings import PublishedConfig
from bench.storage.keys import content_key
from bench.storage.sealed import MANIFEST
from bench.storage.whole_folders import whole_folder
from bench.tasks.base import Task

WEIGHTS = Path(__file__).parent / "weights"
_CORPUS = "corpus_sha256"
_AGAIN = "install tdabench again"


class Published(ModelSource):
    """A source that reads a folder of the package, with second moments and the training's log."""

    Config = PublishedConfig

    def check(self) -> None:
        """Refuse unknown weights, files that are not those that were published, and dtypes."""
        config: PublishedConfig = self.config
        config.check()
        there = sorted(path.name for path in WEIGHTS.iterdir() if path.is_dir())
        if config.weights not in there:
            raise UserError(
                f"no weights called {config.weights!r} come with the package",
                where="model.weights",
                fix=did_you_mean(config.weights, there),
            )
        try:
            sha256 = published_sha256(self._folder)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(str(error), where="model.weights", fix=_AGAIN) from error
        if sha256 != config.sha256:
            raise UserError(
                "are not the files whose hash model.sha256 names",
                where=str(self._folder),
                fix=_AGAIN,
            )

    def identity(self, task: Task) -> str:
        """Hash of the files and of how they are read; refuses a corpus that they do not know.

        Raises:
            UserError: the model was trained on another corpus than the task's.
        """
        if task.corpus_sha256 != self._log[_CORPUS]:
            raise UserError(
                f"model {self.name} was trained on other passages than this task's "
                f"({self._log['trained_on']})",
                where="model",
                fix="take those settings, or model=tiny, which is trained on the task's passages",
            )
        config: PublishedConfig = self.config
        return content_key([config.sha256, config.gradient_dtype, config.append_eos])

    def load(self, task: Task, cache_dir: Path, device: str) -> LanguageModel:  # noqa: ARG002
        """Read weights, tokenizer and second moments; nothing is trained."""
        model = load_directory(
            self.name,
            self._folder,
            device=device,
            gradient_dtype=getattr(torch, self.config.gradient_dtype),
            append_eos=self.config.append_eos,
        )
        model.second_moments = load_moments(self._folder / MOMENTS, model.module)
        model.learning_rate = _json(self._folder / LEARNING_RATE)["learning_rate"]
        model.training = self._log
        return model

    def architecture(self) -> PretrainedConfig:
        """The configuration in the folder."""
        self.check()
        return AutoConfig.from_pretrained(
            self._folder, local_files_only=True, trust_remote_code=False
        )

    def tokenizer(self, task: Task | None, cache_dir: Path) -> PreTrainedTokenizerBase | None:  # noqa: ARG002
        """The tokenizer of the folder."""
        return load_tokenizer(self._folder)

    @property
    def _folder(self) -> Path:
        return WEIGHTS / self.config.weights

    @property
    def _log(self) -> dict:
        return _json(self._folder / TRAINING)


def published_sha256(folder: Path) -> str:
    """Hash of all that a published model is read from, 64 hexadecimal digits."""
    texts = [(folder / name).read_text(encoding="utf-8") for name in (TRAINING, LEARNING_RATE)]
    return content_key([directory_sha256(folder), sha256_of(folder / MOMENTS), *texts], length=64)


def check_publishable(to: Path, what: str, is_adapter: bool) -> None:
    """Refuse what ``publish`` would, so that it is known before a training.

    Args:
        to: the folder to make.
        what: the model or the setting that makes it, for the message.
        is_adapter: whether the model is an adapter, and no folder of weights.

    Raises:
        UserError: there is such a folder, or the model is an adapter.
    """
    if is_adapter:
        raise UserError(
            "is an adapter, and no whole model to publish",
            where=what,
            fix="leave --out away, or train all weights (model.train.lora.rank=null)",
        )
    if to.exists():
        raise UserError("is there already", where=str(to), fix="delete it, or name another folder")


def publish(
    trained: Path, to: Path, task: Task, trained_on: str, learning_rate: float | None
) -> str:
    """Copy a trained model, less its checkpoints, as a published one; whole or not at all.

    Args:
        trained: the folder of a model that ``ModelSource.train`` made on the task.
        to: the folder to make; there must be none.
        task: the task whose passages the model was trained on.
        trained_on: the settings that make this task, for messages.
        learning_rate: the last one of the training, with which tail-patch steps.

    Returns:
        the hash of the new folder, for ``model.sha256``.

    Raises:
        UserError: there is such a folder, it is an adapter, or the disk does not take it.
    """
    check_publishable(to, str(trained), is_adapter=not (trained / "config.json").exists())
    with whole_folder(to) as folder:
        for path in sorted(trained.iterdir()):
            if path.is_file() and path.name not in (MANIFEST, TRAINING, LEARNING_RATE):
                shutil.copyfile(path, folder / path.name)
        log = _json(trained / TRAINING) | {"trained_on": trained_on, _CORPUS: task.corpus_sha256}
        rate = {"learning_rate": learning_rate}
        for name, content in ((TRAINING, log), (LEARNING_RATE, rate)):
            (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return published_sha256(to)


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))

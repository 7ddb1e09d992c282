"""Retraining: what a model says of the queries when it was trained without some passages.

A retraining has the same first weights, the same order of the other passages and the same number
of steps (``bench.models.training``). The retrained model is not kept, only its log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from bench.engines.base import Engine, Job
from bench.engines.outcomes import outcomes
from bench.models.answers import query_log_probs
from bench.models.beginning import Beginning, Occasion
from bench.models.training import fixed_threads
from bench.storage.keys import content_key
from bench.storage.mirror import Mirror
from bench.storage.sealed import read_record, write_record
from bench.storage.sharing import Sharing
from bench.storage.whole_folders import scratch_folder

if TYPE_CHECKING:
    from bench.tasks.base import Task

# The version is raised whenever a change of code makes another model of the same removal.
RETRAINING_VERSION = 1
_KIND, _LOG_PROBS = "retrained output", "log_probabilities"


@dataclass(frozen=True)
class Removal:
    """The passages to train without, and the seed to train with.

    Attributes:
        rows: the rows of the passages, ascending and each once; none trains on all passages.
        seed: a number added to the model's own seed; 0 keeps its first weights and its order.
    """

    rows: tuple[int, ...]
    seed: int = 0

    @staticmethod
    def of(rows: np.ndarray, seed: int = 0) -> Removal:
        """The removal of these rows, in any order and however often each occurs."""
        return Removal(tuple(np.unique(np.asarray(rows, dtype=np.int64)).tolist()), seed)

    @property
    def key(self) -> str:
        """A hash of the rows and the seed."""
        return content_key([RETRAINING_VERSION, self.seed, self.rows])


@dataclass(frozen=True)
class Retrainings:
    """The retrainings of one model on one task; each outcome is a file, and is made once.

    Attributes:
        beginning: the beginning of the model's own training.
        epochs: the number of epochs that the model was trained for.
        threads: the number of threads that torch has in a training.
        task: the task, whose passages are trained on and whose queries are asked.
        folder: the folder that the outcomes are kept in, named by a hash of model and task.
        cache: the cache that ``folder`` is in, and its copy in a store.
        device: torch device name.
    """

    beginning: Beginning
    epochs: int
    threads: int
    task: Task
    folder: Path
    cache: Mirror
    device: str

    def log_probs(self, removals: Sequence[Removal], engine: Engine) -> np.ndarray:
        """The log-probability of each query's answers (nats), float64 ``[removals, queries]``."""
        jobs = [Job(_retrain, (self, r), self.folder / f"{r.key}.json") for r in removals]
        sharing = Sharing(self.cache)
        return np.stack(list(outcomes(jobs, _read, engine, "retrain", "models", sharing)))


def _retrain(retrainings: Retrainings, removal: Removal) -> None:
    """Train without the removed passages, and write the log-probabilities of all targets."""
    task, folder, device = retrainings.task, retrainings.folder, retrainings.device
    target = folder / f"{removal.key}.json"
    removed = np.asarray(removal.rows, dtype=np.int64)
    task.passages.check_unchanged()  # this may be another process than the one that opened it
    threads = fixed_threads(retrainings.threads)
    with threads, torch.random.fork_rng(), scratch_folder(target) as scratch:
        occasion = Occasion(task, scratch, device, removed, removal.seed)
        training = retrainings.beginning.training(occasion)
        losses = list(training.epochs(retrainings.epochs))
        model = training.model
        log_probs, _ = query_log_probs(model, [model.query_answers(q) for q in task.queries])
    record = {
        "removed": len(removal.rows),
        "seed": training.loop.seed,
        "losses": losses,
        _LOG_PROBS: log_probs,
    }
    write_record(target, _KIND, record)


def _read(path: Path) -> np.ndarray:
    return np.asarray(read_record(path, _KIND)[_LOG_PROBS], dtype=np.float64)

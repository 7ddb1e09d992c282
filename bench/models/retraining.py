"""What a model would say, had it not been trained on some passages: it is trained once more.

The same first weights, the same order of the other passages, the same number of steps
(``bench.models.training``). A retrained model is not kept, only what it says of the queries.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from bench.engines.base import Engine, Job
from bench.models.language_model import target_log_probs
from bench.models.loading import load_tokenizer
from bench.models.training import ScratchConfig, Training
from bench.storage.keys import content_key
from bench.storage.whole_files import whole_file
from bench.storage.whole_folders import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.tasks.base import Task

# Raised whenever a change of code makes another model of the same removal.
RETRAINING_VERSION = 1
_LOG_PROBS = "log_probabilities"


@dataclass(frozen=True)
class Removal:
    """Passages to train without.

    Attributes:
        rows: ascending, each once; empty = all passages are trained on.
        seed: added to the model's own seed: 0 = the first weights and the order that it had.
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
    """Retrainings of one model on one task; each is a file, and is done once.

    Attributes:
        config: of the model.
        tokenizer: the folder that holds the model's own, of the whole corpus.
        task: passages and queries.
        folder: where the outcomes are kept; its name must be a hash of model and task.
        device: torch device name.
    """

    config: ScratchConfig
    tokenizer: Path
    task: Task
    folder: Path
    device: str

    def log_probs(self, removals: Sequence[Removal], engine: Engine) -> np.ndarray:
        """Log-probability of each query's target (nats), float64 ``[removals, queries]``."""
        distinct = dict.fromkeys(removals)
        jobs = {r: Job(_retrain, (self, r), self.folder / f"{r.key}.json") for r in distinct}
        engine.run(list(jobs.values()), "retrain", unit="models")
        found = {removal: _read(job.target) for removal, job in jobs.items()}
        return np.stack([found[removal] for removal in removals])


def _retrain(retrainings: Retrainings, removal: Removal) -> None:
    """Train without the removed passages and write what the model then says."""
    config = retrainings.config
    config = replace(config, seed=config.seed + removal.seed)
    task, folder = retrainings.task, retrainings.folder
    target = folder / f"{removal.key}.json"
    removed = np.asarray(removal.rows, dtype=np.int64)
    tokenizer = load_tokenizer(retrainings.tokenizer)
    with one_thread(), torch.random.fork_rng(), scratch_folder(target) as scratch:
        training = Training(config, tokenizer, task, scratch, retrainings.device, removed)
        losses = list(training.epochs())
        model = training.model
        tokens = [model.query_tokens(q) for q in task.queries]
        log_probs, _ = target_log_probs(model, tokens)
    record = {
        "removed": len(removal.rows),
        "seed": config.seed,
        "losses": losses,
        _LOG_PROBS: log_probs,
    }
    with whole_file(target) as stream:
        json.dump(record, stream)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch in the block.

    Sums in another order end in another model, and engines differ in the threads that they have.
    Small models also lose most of a second thread to waiting.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _read(path: Path) -> np.ndarray:
    return np.asarray(json.loads(path.read_text(encoding="utf-8"))[_LOG_PROBS], dtype=np.float64)

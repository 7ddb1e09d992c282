"""Resuming: a stopped training goes on where it was saved, to the same weights bit by bit.

After each epoch but the last, and within long ones if so set, the weights, the optimizer's whole
state and that of the random numbers (for dropout) are written into one file, then
``progress.json``, which seals it and the checkpoints so far (``bench.storage.sealed``): they count
once that file names them. The order of the texts and the learning rates follow from seed and step.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.core import progress
from bench.models.training import Training
from bench.storage.sealed import DamagedError, open_sealed, seal

Log = dict[str, float]  # the loss of an epoch, and what its model knows
_KIND = "stopped training"
_PROGRESS, _STATE = "progress.json", "resume-*.safetensors"
_CPU_RANDOM, _CUDA_RANDOM, _LOSSES = "random.cpu", "random.cuda", "losses"
_WEIGHT = "weight"  # the field of a parameter that is no part of the optimizer's state


@dataclass(frozen=True)
class StoppedTraining:
    """A training as it was when it was last saved.

    Attributes:
        log: the log of each whole epoch that is done.
        tensors: weights and the tensors of the optimizer's state, by ``PARAMETER/FIELD``, the
            states of random numbers, and the losses of the epoch that is not whole.
        numbers: the other values of the optimizer's state, by ``PARAMETER/FIELD``.
    """

    log: list[Log]
    tensors: dict[str, Tensor]
    numbers: dict[str, float]

    @property
    def steps(self) -> int:
        """How many steps of the epoch that is not whole are done."""
        return len(self.tensors[_LOSSES])

    def restore(self, training: Training) -> None:
        """Put a new training of the same settings where this one stopped."""
        training.done = len(self.log)
        training.losses = self.tensors[_LOSSES].tolist()
        parameters = training.parameters()
        fields: dict[str, Any] = {**self.tensors, **self.numbers}
        for key, value in fields.items():
            name, _, field = key.rpartition("/")
            if field == _WEIGHT:
                with torch.no_grad():
                    parameters[name].copy_(value)
            elif name:
                training.optimizer.state[parameters[name]][field] = value
        torch.set_rng_state(self.tensors[_CPU_RANDOM])
        if _CUDA_RANDOM in self.tensors and training.model.device.type == "cuda":
            torch.cuda.set_rng_state(self.tensors[_CUDA_RANDOM], training.model.device)


def save(training: Training, log: list[Log], folder: Path) -> None:
    """Write what the next step needs.

    Args:
        training: the training, after a step.
        log: the log of each whole epoch that is done.
        folder: the folder of the training.
    """
    tensors, numbers = {_CPU_RANDOM: torch.get_rng_state()}, {}
    tensors[_LOSSES] = torch.tensor(training.losses, dtype=torch.float64)
    if training.model.device.type == "cuda":
        tensors[_CUDA_RANDOM] = torch.cuda.get_rng_state(training.model.device)
    for name, parameter in training.parameters().items():
        for field, value in {_WEIGHT: parameter, **training.optimizer.state[parameter]}.items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{field}"] = value.detach().cpu().contiguous().clone()
            else:
                numbers[f"{name}/{field}"] = value
    place = f"{len(log):03}" + (f"-{len(training.losses):06}" if training.losses else "")
    state = folder / _STATE.replace("*", place)
    before = set(folder.glob(_STATE)) - {state}
    save_file(tensors, state)
    facts = {"epochs": log, "numbers": numbers, "state": state.name}
    seal(folder, _KIND, folder.parent.name, None, facts, file=_PROGRESS, without=before)
    for path in before:
        path.unlink()


def stopped(folder: Path, device: str) -> StoppedTraining | None:
    """The training that was stopped in ``folder``; None if nothing of it was saved.

    Args:
        folder: the folder of the training.
        device: torch device name, for the tensors.
    """
    if not (folder / _PROGRESS).is_file():
        return None
    try:
        record = open_sealed(
            folder, _KIND, None, name=folder.parent.name, file=_PROGRESS, others=True
        )
    except DamagedError as error:
        # After a power cut, for instance, the last writes may not have reached the disk.
        progress.say(f"the training in {folder} cannot go on ({error.fault}): it starts anew")
        return None
    _remove_unsealed(folder)
    tensors = load_file(folder / record["state"])
    placed = {
        name: tensor.to(device) if "/" in name else tensor for name, tensor in tensors.items()
    }
    return StoppedTraining(record["epochs"], placed, record["numbers"])


def _remove_unsealed(folder: Path) -> None:
    """Remove what was written after the training was saved last, and may be cut short."""
    sealed = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))["files"]
    kept = {folder / name for name in (*sealed, _PROGRESS)}
    for path in folder.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()


def forget(folder: Path) -> None:
    """Remove the files that only an unfinished training needs."""
    for path in (*folder.glob(f"*{_PROGRESS}*"), *folder.glob(_STATE)):
        path.unlink(missing_ok=True)

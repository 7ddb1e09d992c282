"""Resuming: a stopped training goes on from its last epoch, to the same weights bit by bit.

After each epoch but the last, the optimizer's whole state and that of the random numbers (for
dropout) are written beside the epoch's checkpoint, then ``progress.json``, which seals all of it
(``bench.storage.sealed``): an epoch counts once that file names it. The order of the passages and
the learning rates follow from seed and step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.core import progress
from bench.models.loading import load_module
from bench.models.training import Training
from bench.storage.sealed import DamagedError, open_sealed, seal

Log = dict[str, float]  # the loss of an epoch, and what its model knows
_KIND = "stopped training"
_PROGRESS, _STATE = "progress.json", "resume-*.safetensors"
_CPU_RANDOM, _CUDA_RANDOM = "random.cpu", "random.cuda"


@dataclass(frozen=True)
class StoppedTraining:
    """A training as it was after its last whole epoch.

    Attributes:
        log: the log of each epoch that is done.
        module: the model with the weights of that epoch.
        tensors: the tensors of the optimizer's state, by ``PARAMETER/FIELD``, and the states of
            random numbers.
        numbers: the other values of the optimizer's state, by ``PARAMETER/FIELD``.
    """

    log: list[Log]
    module: nn.Module
    tensors: dict[str, Tensor]
    numbers: dict[str, float]

    def restore(self, training: Training) -> None:
        """Put a new training of the same settings where this one stopped."""
        training.done = len(self.log)
        weights = dict(self.module.named_parameters())
        fields = {**self.tensors, **self.numbers}
        with torch.no_grad():
            for name, parameter in training.model.module.named_parameters():
                parameter.copy_(weights[name])
                state = training.optimizer.state[parameter]
                for key, value in fields.items():
                    owner, _, field = key.rpartition("/")
                    if owner == name:
                        state[field] = value
        torch.set_rng_state(self.tensors[_CPU_RANDOM])
        if _CUDA_RANDOM in self.tensors and training.model.device.type == "cuda":
            torch.cuda.set_rng_state(self.tensors[_CUDA_RANDOM], training.model.device)


def save(training: Training, log: list[Log], folder: Path) -> None:
    """Write what the next epoch needs beside the weights, which the epoch's checkpoint holds.

    Args:
        training: the training, after a whole epoch.
        log: the log of each epoch that is done.
        folder: the folder of the training.
    """
    module = training.model.module
    tensors, numbers = {_CPU_RANDOM: torch.get_rng_state()}, {}
    if training.model.device.type == "cuda":
        tensors[_CUDA_RANDOM] = torch.cuda.get_rng_state(training.model.device)
    for name, parameter in module.named_parameters():
        for field, value in training.optimizer.state[parameter].items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{field}"] = value.detach().cpu().contiguous().clone()
            else:
                numbers[f"{name}/{field}"] = value
    state = folder / _STATE.replace("*", f"{len(log):03}")
    before = set(folder.glob(_STATE)) - {state}
    save_file(tensors, state)
    facts = {"epochs": log, "numbers": numbers}
    seal(folder, _KIND, folder.parent.name, None, facts, file=_PROGRESS, without=before)
    for path in before:
        path.unlink()


def stopped(folder: Path, checkpoints: Path, device: str) -> StoppedTraining | None:
    """The training that was stopped in ``folder``; None if no epoch of it is whole.

    Args:
        folder: the folder of the training.
        checkpoints: the folder that holds ``epoch-NNN`` of each epoch.
        device: torch device name, for the tensors.
    """
    if not (folder / _PROGRESS).is_file():
        return None
    try:
        record = open_sealed(
            folder, _KIND, None, name=folder.parent.name, file=_PROGRESS, others=True
        )
        epoch = len(record["epochs"])
        tensors = load_file(folder / _STATE.replace("*", f"{epoch:03}"))
        module = load_module(epoch_folder(checkpoints, epoch), torch.float32, torch.device(device))
    except DamagedError as error:
        # After a power cut, for instance, the last writes may not have reached the disk.
        progress.say(f"the training in {folder} cannot go on ({error.fault}): it starts anew")
        return None
    placed = {
        name: tensor if name in (_CPU_RANDOM, _CUDA_RANDOM) else tensor.to(device)
        for name, tensor in tensors.items()
    }
    return StoppedTraining(record["epochs"], module, placed, record["numbers"])


def epoch_folder(checkpoints: Path, epoch: int) -> Path:
    """The folder of the checkpoint after an epoch, counted from 1."""
    return checkpoints / f"epoch-{epoch:03}"


def forget(folder: Path) -> None:
    """Remove the files that only an unfinished training needs."""
    for path in (*folder.glob(f"*{_PROGRESS}*"), *folder.glob(_STATE)):
        path.unlink(missing_ok=True)

"""A process that is lent to this project for a call, and is afterwards as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from bench.core.spinning import brief_spinning
from bench.storage.disk import disk_errors


@contextmanager
def composing() -> Iterator[None]:
    """A context in which Hydra composes; its global objects are then those of the caller again."""
    hydra, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    try:
        with brief_spinning():  # settings may import torch, to look for a GPU
            yield
    finally:  # Hydra itself exchanges the instances
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = hydra, config


@contextmanager
def working() -> Iterator[None]:
    """A context in which cells are made: ``composing``, and torch's generators are kept as well.

    Raises:
        UserError: for what a disk refuses and nothing else has said.
    """
    with composing(), disk_errors():
        import torch  # slow to import

        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield

"""Any optimizer's state as one name-keyed file, and what of the model it covers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from bench.core.errors import UserError
from bench.models.moment_files import BETA2, FLOOR, FULL, ROW, STEP, Fields, write_moments
from bench.models.parameter_names import bare_name, own_names
from bench.models.second_moments import by_own_names, moments_of
from bench.models.states.reading import read_state
from bench.storage.whole_folders import scratch_folder

_ABSENT = "the state has no such parameter"


@dataclass(frozen=True)
class Coverage:
    """What a name-keyed file holds of a model's parameters.

    Attributes:
        optimizers: what keeps such a state.
        steps: steps that Adam's running means are of, ascending; empty where nothing is corrected.
        beta2: β2 that they are corrected with, likewise.
        assumed_beta2: whether the state does not say β2.
        matrices, vectors: parameters with second moments, and all, of two dimensions or more and of
            fewer.
        left_out: names of the parameters without second moments, by reason.
    """

    optimizers: list[str]
    steps: list[float]
    beta2: list[float]
    assumed_beta2: bool
    matrices: tuple[int, int]
    vectors: tuple[int, int]
    left_out: dict[str, list[str]]


def convert(state: Path, module: nn.Module, out: Path, beta2: float) -> Coverage:
    """Write the name-keyed file of a state, whole or not at all: V is the same, bit for bit.

    Args:
        state: what ``bench.models.states.reading.read_state`` reads.
        module: the model whose parameters it is of; it may be laid out without weights.
        out: the file to write.
        beta2: Adam's β2, where the state has steps and does not say it.

    Raises:
        UserError: as ``load_moments``, or the disk does not take the file.
    """
    read, where = read_state(state, module), str(state)
    named = by_own_names(read.moments, module, where)
    assumed = _is_adams(named) and any(
        STEP in fields and BETA2 not in fields for fields in named.values()
    )
    if assumed:
        named = {name: _with_beta2(fields, beta2) for name, fields in named.items()}
    moments_of(named, module, where, "")  # every shape and number is checked before it is written
    with scratch_folder(out) as folder:
        write_moments(named, folder / out.name)
        os.replace(folder / out.name, out)
    corrected = [fields for fields in named.values() if BETA2 in fields]
    return Coverage(
        optimizers=read.optimizers,
        steps=sorted({fields[STEP] for fields in corrected}),
        beta2=sorted({fields[BETA2] for fields in corrected}),
        assumed_beta2=assumed,
        left_out=_left_out(named, read.without, module, where),
        **_counts(named, module),
    )


def _is_adams(named: Mapping[str, Fields]) -> bool:
    """Whether running means are corrected: Adafactor's, which has rows or a floor, are not."""
    return not any(ROW in fields or FLOOR in fields for fields in named.values())


def _with_beta2(fields: Fields, beta2: float) -> Fields:
    return {BETA2: beta2, **fields} if FULL in fields and STEP in fields else fields


def _counts(named: Mapping[str, Fields], module: nn.Module) -> dict[str, tuple[int, int]]:
    own = list(module.named_parameters())
    counts = {}
    for kind, some in (
        ("matrices", [name for name, parameter in own if parameter.ndim > 1]),
        ("vectors", [name for name, parameter in own if parameter.ndim <= 1]),
    ):
        counts[kind] = (sum(name in named for name in some), len(some))
    return counts


def _left_out(
    named: Mapping[str, Fields], without: Mapping[str, str], module: nn.Module, where: str
) -> dict[str, list[str]]:
    """The model's parameters without second moments, by reason."""
    every = dict(module.named_parameters(remove_duplicate=False))
    known = own_names(every)
    reasons = {}
    for name, reason in without.items():
        own = name if name in every else known.get(bare_name(name))
        if own is None:
            raise UserError(f"parameter {name} is not in the model", where=where)
        reasons[id(every[own])] = reason
    left_out: dict[str, list[str]] = {}
    for name, parameter in module.named_parameters():
        if name not in named:
            left_out.setdefault(reasons.get(id(parameter), _ABSENT), []).append(name)
    return left_out

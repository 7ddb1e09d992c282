"""The configuration that ``tdabench run`` would have, for commands that are no Hydra application.

Hydra's own application would make a folder for the job.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from bench.core.errors import UserError
from bench.run.config_errors import explain
from bench.run.extend_hydra import extend_hydra


def composed(overrides: Sequence[str], command: str) -> DictConfig:
    """The configuration of one cell.

    Args:
        overrides: words as ``tdabench run`` takes them.
        command: the command that was given them, for messages.

    Raises:
        UserError: an unknown key or name, a faulty value, or a sweep.
    """
    with _hydra(overrides):
        try:
            config = compose("config", list(overrides), return_hydra_config=True)
        except HydraException as error:
            if "Ambiguous value for argument" not in str(error):
                raise
            raise UserError(
                f"{command} takes one value each, no sweep", where="command line"
            ) from error
    HydraConfig.instance().set_config(config)  # it says where files beside a YAML lie
    with open_dict(config):
        del config["hydra"]
    return config


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each cell of ``tdabench run -m``, in its order.

    Values come from the command line (``method=bm25,dense``) and, where that does not name the key,
    from the experiment (``hydra.sweeper.params``). Without either there is one cell.

    Raises:
        UserError: an unknown key or name, or a faulty value.
    """
    with _hydra(overrides):
        parser = OverridesParser.create()
        given = parser.parse_overrides(list(overrides))
        plain = [one.input_line or "" for one in given if not one.is_sweep_override()]
        config = compose("config", plain, return_hydra_config=True)
        params = config.hydra.sweeper.get("params") or {}
        swept = parser.parse_overrides([f"{key}={value}" for key, value in params.items()])
        if not any(one.is_sweep_override() for one in (*swept, *given)):
            return [list(overrides)]
        choices = {one.get_key_element(): _values(one) for one in (*swept, *given)}
    return [list(cell) for cell in itertools.product(*choices.values())]


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.input_line or ""]
    if not override.is_discrete_sweep():
        raise UserError("is no list of values", where=override.input_line or "")
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def later_cells(words: Sequence[str], cell: Sequence[str]) -> list[list[str]]:
    """The overrides of the cells of a sweep that come after one, and differ in the method alone.

    It can be called in a cell of Hydra's own sweep, whose state it leaves as it was.

    Args:
        words: the words of the sweep.
        cell: the overrides of one of its cells, in any order.

    Raises:
        UserError: an unknown key or name, or a faulty value.
    """
    with _hydra_kept():
        cells = [_without("hydra", one) for one in sweep(words)]
    own, rest = _spelled(cell), _spelled(_without("method", cell))
    places = [number for number, one in enumerate(cells) if _spelled(one) == own]
    later = cells[places[0] + 1 :] if places else []
    return [one for one in later if _spelled(_without("method", one)) == rest]


def _spelled(overrides: Sequence[str]) -> list[str]:
    """Overrides in the spelling that Hydra gives them in a sweep (``True`` is ``true``), sorted."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return sorted(f"{one.get_key_element()}={one.get_value_element_as_str()}" for one in parsed)


def composed_beside(overrides: Sequence[str]) -> DictConfig:
    """The configuration of another cell, composed within a cell of Hydra's own sweep.

    Raises:
        UserError: as ``composed``.
    """
    with _hydra_kept():
        return composed(overrides, "run")


def _without(group: str, overrides: Sequence[str]) -> list[str]:
    """The overrides that are not of a group, nor of a key in it."""
    keys = [re.split("[./@=]", word.lstrip("+~"))[0] for word in overrides]
    return [word for word, key in zip(overrides, keys, strict=True) if key != group]


@contextmanager
def _hydra_kept() -> Iterator[None]:
    """A context after which Hydra's state of this process is what it was before."""
    hydra, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = hydra
        HydraConfig.instance().cfg = config


@contextmanager
def _hydra(overrides: Sequence[str]) -> Iterator[None]:
    GlobalHydra.instance().clear()
    extend_hydra()
    try:
        with initialize_config_module("conf", version_base="1.3"):
            yield
    except (HydraException, OmegaConfBaseException, ValueError, UserWarning) as error:
        raise explain(error, overrides) from error

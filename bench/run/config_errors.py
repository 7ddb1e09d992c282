"""Hydra's and OmegaConf's errors as one line that names the nearest right word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf

from bench.core.errors import UserError, did_you_mean
from bench.core.registry import DESCRIPTION
from bench.run.search_path import join_search_path

GROUPS = ("task", "model", "method", "metric", "logger", "engine", "experiment")


def explain(error: Exception, arguments: Sequence[str]) -> UserError:
    """Turn a failed composition into a UserError.

    Args:
        error: what Hydra or OmegaConf raised.
        arguments: the command-line words, to know which groups were chosen.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        # Files that start with an underscore are parts of others.
        options = [option for option in error.options or () if not option.startswith("_")]
        return UserError(f"unknown {group} {name!r}", fix=did_you_mean(name, options))
    text = str(error)
    key = re.search(r"Could not override '([^']+)'", text) or re.search(
        r"Could not append to config|Key '([^']+)' is not in struct", text
    )
    if key and key.group(1):
        return _unknown_key(key.group(1), arguments)
    return UserError(text.strip().splitlines()[0], where="command line")


def _unknown_key(key: str, arguments: Sequence[str]) -> UserError:
    node: Any = _composed(arguments)
    known = {*GROUPS, *map(str, node or ())}
    for part in key.split("."):
        if part not in known:
            fix = did_you_mean(part, known) if known else ""
            return UserError(f"unknown key {key!r}", fix=fix)
        node = OmegaConf.select(node, part) if isinstance(node, DictConfig) else None
        known = set(map(str, node)) if isinstance(node, DictConfig) else set()
        known -= {*DESCRIPTION}  # what a file says of a method is no setting
    return UserError(f"unknown key {key!r}")


def _composed(arguments: Sequence[str]) -> DictConfig | None:
    """The configuration with only the group choices, which are known to be right."""
    chosen = []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name in GROUPS and value:
            chosen.append(f"{name}={value.split(',')[0]}")
    GlobalHydra.instance().clear()
    join_search_path()
    try:
        with initialize_config_module("conf", version_base="1.3"):
            return compose("config", chosen)
    except Exception:  # only a hint is lost
        return None

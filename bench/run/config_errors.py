"""Hydra's and OmegaConf's errors as one line that says what to do."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from bench.core.errors import UserError, did_you_mean, first_line
from bench.core.registry import DESCRIPTION
from bench.run.extend_hydra import extend_hydra

GROUPS = ("task", "model", "method", "metric", "logger", "engine", "experiment")
# Hydra's launchers → the extra of pyproject.toml that brings them.
_LAUNCHERS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm"}


def explain(error: Exception, arguments: Sequence[str]) -> UserError:
    """Turn a failed composition into a UserError.

    Args:
        arguments: the command-line words, to know which groups were chosen.
    """
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_name(str(error.missing_cfg_file), error.options or ())
    text = str(error)
    if absent := re.match(r"provider=(\S+).*path=(.*) is not available", text):
        return UserError(
            "no such folder", where=f"{absent[1].partition(',')[0]}: {absent[2]}",
            fix="a relative path begins where the command is given",
        )  # fmt: skip
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if several := re.match(r"Ambiguous value for argument '(.*)'$", text, re.MULTILINE):
        return UserError(
            "has several values",
            where=several[1],
            fix=f"add -m to run a cell of each, or quote a comma that is part of one value: "
            f"{_quoted(several[1])}",
        )
    if text.startswith("Config group override must be"):
        where = next((word for word in arguments if word.partition("=")[2] == "null"), "")
        return UserError("nothing is chosen", where=where, fix="choose one, as in task=factworld")
    if there := re.search(r"An item is already at '([^']+)'", text):
        return UserError("is there already", where=there[1], fix="leave out the + before it")
    key = re.search(
        r"Could not override '([^']+)'|Key '([^']+)' is not in struct"
        r"|Could not delete from config. '([^']+)' does not exist",
        text,
    )
    if key:
        return _unknown_key(key[key.lastindex or 1], arguments)
    return UserError(first_line(error).rstrip("."), where="command line")


def _unknown_name(missing: str, options: Sequence[str]) -> UserError:
    """There is no file of that name in a group.

    Args:
        missing: ``group/name``.
        options: the names that there are.
    """
    group, _, name = missing.rpartition("/")
    if group == "hydra/launcher":
        if extra := _LAUNCHERS.get(name):
            return UserError(
                f"launcher {name!r} is not installed",
                where=group,
                fix=f"pip install 'tdabench[{extra}]'",
            )
        options = [*options, *_LAUNCHERS]
    # Files that start with an underscore are parts of others.
    known = [option for option in options if not option.startswith("_")]
    return UserError(f"unknown {group} {name!r}", fix=did_you_mean(name, known))


def _unreadable(word: str) -> UserError:
    """Hydra's grammar does not take a word.

    Most often its value is a path with a character that means something to Hydra.
    """
    if "=" not in word:
        return UserError("expected KEY=VALUE", where=word)
    return UserError(
        "Hydra does not take this value as it is", where=word, fix=f"quote it: {_quoted(word)}"
    )


def _quoted(word: str) -> str:
    """``KEY=VALUE`` as a shell and Hydra both take it, whatever the value holds."""
    key, _, value = word.partition("=")
    escaped = value.strip("'\"").replace('"', '\\"')
    return shlex.quote(f'{key}="{escaped}"')


def _unknown_key(key: str, arguments: Sequence[str]) -> UserError:
    node: Any = chosen_config(arguments)
    known = {*GROUPS, *map(str, node or ())}
    for part in key.split("."):
        if part not in known:
            fix = did_you_mean(part, known) if known else ""
            return UserError(f"unknown key {key!r}", fix=fix)
        node = OmegaConf.select(node, part) if isinstance(node, DictConfig) else None
        known = set(map(str, node)) if isinstance(node, DictConfig) else set()
        if "target" in known:
            known -= {*DESCRIPTION}  # what a file says of a method or task is no setting
    return UserError(f"unknown key {key!r}")


def chosen_config(arguments: Sequence[str]) -> DictConfig | None:
    """The configuration with only the group choices, which are known to be right."""
    chosen = []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name in GROUPS and value:
            chosen.append(f"{name}={value.split(',')[0]}")
    GlobalHydra.instance().clear()
    extend_hydra()
    try:
        with initialize_config_module("conf", version_base="1.3"):
            return compose("config", chosen)
    except Exception:  # only a hint is lost
        return None

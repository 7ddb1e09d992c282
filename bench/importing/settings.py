"""The words of ``tdabench import``: files, settings of the import, overrides of the cell."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from importlib import resources
from typing import TypeVar

import yaml

from bench.core.errors import UserError, did_you_mean
from bench.run.composing import composed
from bench.run.config_errors import GROUPS
from bench.run.settings import Settings, settings_from


class Format(str, Enum):
    """What a file of rankings looks like."""

    release = "release"  # the paper's data release, and every cell's retrievals.jsonl
    trec = "trec"  # a TREC run file: qid Q0 docid rank score tag
    bergson = "bergson"  # a folder with scores.bin, info.json and config.yaml


class Missing(str, Enum):
    """What becomes of queries and passages that only one of file and task has."""

    error = "error"
    skip = "skip"  # left out and counted; a list closes up where a passage is left out
    empty = "empty"  # a query that the file does not rank is a failure: an empty list


_OWN = ("name", "format", "missing")
# A file's path has a slash before any `=`, or no `=`; a key never has a slash.
_KEY = re.compile(r"[+~]{0,2}[A-Za-z_][\w.@]*")
_LONGEST_NAME = 200  # bytes; it becomes the name of a folder
_Choice = TypeVar("_Choice", bound=Enum)


@dataclass(frozen=True)
class Request:
    """What is to be imported.

    Attributes:
        words: the words of the command line, for the record.
        files: paths, globs and folders, in the order given.
        name: what the leaderboard calls the ranking; None for the file's name.
        format: the format of the files; None to tell it from their content.
        missing: what becomes of queries and passages that only one of file and task has.
        top_k: the length that lists are cut to; None to leave them as they are.
        settings: the settings of the cell, of which those of the method mean nothing here.
        has_task: False for ``task=none``, where the file's own judgement is the ground truth.
        has_model: whether ``model=…`` was given.
    """

    words: tuple[str, ...]
    files: tuple[str, ...]
    name: str | None
    format: Format | None
    missing: Missing
    top_k: int | None
    settings: Settings
    has_task: bool
    has_model: bool


def parse(words: Sequence[str]) -> Request:
    """Sort the words of the command line and check all that needs no file.

    Raises:
        UserError: nothing to import, no task, an unknown or repeated key, a value of the wrong
            type, or a key that means nothing for a ranking made elsewhere.
    """
    files = [word for word in words if not _is_setting(word)]
    if not files:
        raise UserError("no file to import", fix="tdabench import FILE… task=NAME")
    given: dict[str, str] = {}
    overrides = {}
    for word in filter(_is_setting, words):
        key, _, value = word.partition("=")
        if key in given or key in overrides:
            raise UserError("is given twice", where=key, fix="give it one value")
        if key in _OWN:
            given[key] = value
        else:
            overrides[key] = word
    name = given.get("name")
    if name is not None and not 0 < len(os.fsencode(name.strip())) <= _LONGEST_NAME:
        what = f"has {len(name)} characters" if name.strip() else "is empty"
        raise UserError(what, where="name", fix="set a short name, or leave it out")
    _check_known(overrides)
    has_task = _check_task(overrides)
    has_model = "model" in overrides
    _check_keys(overrides, has_task, has_model)
    # Nothing can be patched without a model, and none is asked for unless it is named.
    chosen = [] if "metric" in overrides else ["metric=attribution"]
    settings = settings_from(composed([*chosen, *overrides.values()], "import"))
    if settings.metric.tail_patch.enabled and not has_model:
        raise UserError(
            "tail-patch needs a model",
            where="metric",
            fix="add model=NAME, or set metric=attribution",
        )
    if settings.metric.retraining is not None:
        raise UserError(
            "imported rankings are not measured by retraining",
            where="metric.retraining",
            fix="leave it out",
        )
    if not has_task and settings.metric.judge is not None:
        raise UserError(
            "means nothing with task=none, which believes the file's own judgement",
            where="metric.judge",
            fix="leave it out, or set task=NAME",
        )
    if not has_task:
        resolved = {**settings.resolved, "task": {"name": "none"}}
        settings = replace(settings, resolved=resolved, task={"name": "none"})
    return Request(
        words=tuple(words),
        files=tuple(files),
        name=name,
        format=choice(Format, "format", given["format"]) if "format" in given else None,
        missing=choice(Missing, "missing", given.get("missing", "error")),
        top_k=settings.top_k if "top_k" in overrides else None,
        settings=settings,
        has_task=has_task,
        has_model=has_model,
    )


def _is_setting(word: str) -> bool:
    key, equals, _ = word.partition("=")
    return bool(equals) and _KEY.fullmatch(key) is not None


def _check_known(overrides: dict[str, str]) -> None:
    """Compare keys with those of the import and of a cell alike; Hydra knows only the latter."""
    text = (resources.files("conf") / "config.yaml").read_text(encoding="utf-8")
    groups = {*GROUPS, *yaml.safe_load(text)} - {"defaults"}
    known = {*_OWN, *groups} - {"method", "plan", "hydra", "experiment", "spans"}
    for key in overrides:
        head = key.lstrip("+~").partition(".")[0].partition("@")[0]
        if head not in groups:
            raise UserError(f"unknown key {key!r}", fix=did_you_mean(head, known))


def _check_task(overrides: dict[str, str]) -> bool:
    """Whether a task was chosen; ``task=none`` is taken out, for Hydra knows of no such file."""
    if "task" not in overrides:
        raise UserError(
            "nothing is chosen",
            where="task",
            fix="set task=NAME, or task=none to believe the file's own judgement",
        )
    if overrides["task"] != "task=none":
        return True
    del overrides["task"]
    return False


def _check_keys(overrides: dict[str, str], has_task: bool, has_model: bool) -> None:
    for key in overrides:
        group = key.lstrip("+~").partition(".")[0]
        if group == "method":
            raise UserError(
                "means nothing for a ranking made elsewhere", where=key, fix="set name=NAME"
            )
        if group == "spans":
            raise UserError(
                "means nothing for a ranking made elsewhere", where=key, fix="leave it out"
            )
        if group in ("task", "model") and not has_task:
            raise UserError(
                "means nothing with task=none, which has no passages",
                where=key,
                fix="leave it out, or set task=NAME",
            )
        if group == "model" and not has_model:
            raise UserError("of which model?", where=key, fix="add model=NAME")


def choice(kind: type[_Choice], key: str, value: str) -> _Choice:
    """The choice that is called ``value``; raises UserError with the nearest if none is."""
    try:
        return kind(value)
    except ValueError as error:
        fix = did_you_mean(value, [choice.value for choice in kind])
        raise UserError(f"unknown {key} {value!r}", fix=fix) from error

"""Lazy, typed registries: listing what exists imports none of it.

An entry is described either by a call of ``add`` or by a YAML file of its own, which is also its
Hydra configuration: ``conf/method/bm25.yaml`` holds ``target``, ``summary`` and the like beside the
settings. Somebody else's distribution joins by an entry point that names a package with such files.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from importlib import metadata, resources
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import yaml

from bench.core import progress
from bench.core.errors import UserError, did_you_mean, first_line

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

T = TypeVar("T")

_SHA256 = "__tdabench_sha256__"  # of the file of a module that was loaded by its path


@dataclass(frozen=True)
class Entry:
    """What is known of a registered class without importing it.

    Attributes:
        target: ``"module:Class"`` or ``"path/to/file.py:Class"``, imported on first use.
        summary: one line for ``tdabench list``.
        family: the group it is listed under, e.g. ``"retrieval"`` or ``"gradient"``.
        needs: what must be at hand, e.g. ``("model", "optimizer state")``.
        cost: cost class, e.g. ``"one forward and backward pass over the corpus"``.
        source: the paper or library it comes from.
        settings: ``"module:Class"`` of the settings, where these can be imported without what the
            class itself takes, such as torch; empty where the class is as quick to import.
    """

    target: str
    summary: str
    family: str = ""
    needs: tuple[str, ...] = ()
    cost: str = ""
    source: str = ""
    settings: str = ""


DESCRIPTION = tuple(field.name for field in fields(Entry))  # keys of a YAML that are no settings


class Registry(Generic[T]):
    """Names to classes of one kind.

    Args:
        kind: what the entries are, for messages (``"method"``); also the folder of their YAMLs.
        base: ``"module:Class"`` that every entry must derive from, imported on first use.
        package: the package whose folder ``kind`` holds a YAML for each entry; empty where entries
            are added one by one.
        entry_points: group of entry points whose values are more such packages.
    """

    def __init__(self, kind: str, base: str, package: str = "", entry_points: str = "") -> None:
        self.kind = kind
        self._base, self._package, self._entry_points = base, package, entry_points
        self._announced: set[str] = set()

    @cached_property
    def installed(self) -> tuple[str, ...]:
        """Names of the packages that entry points name, in order; none of them is imported."""
        points = metadata.entry_points(group=self._entry_points) if self._entry_points else ()
        return tuple(sorted({point.value for point in points}))

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        if not self._package:
            return {}
        files: dict[str, Traversable] = {}
        for package in (self._package, *self.installed):
            files = _yaml_files(package, self.kind) | files  # a name that is taken stays
        return {name: _entry(name, files) for name in files if not name.startswith("_")}

    def add(self, name: str, entry: Entry) -> None:
        """Register ``entry``; a name that is taken by another target is an error."""
        taken = self._entries.get(name)
        if taken is not None and taken.target != entry.target:
            raise ValueError(
                f"{self.kind} {name!r} is already registered as {taken.target}; "
                f"refusing to replace it by {entry.target}"
            )
        self._entries[name] = entry

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def entry(self, name: str) -> Entry:
        """The description of ``name``, without importing it."""
        if not isinstance(name, str) or name not in self._entries:
            fix = did_you_mean(str(name), self._entries)
            raise UserError(f"unknown {self.kind} {name!r}", fix=fix)
        return self._entries[name]

    def get(self, name: str) -> type[T]:
        """Import the class of a name, of ``"module:Class"`` or of ``"path/to/file.py:Class"``.

        A relative path is looked for beside the configurations that Hydra was pointed to, then in
        the working directory. Code that no entry names is announced on standard error.

        Raises:
            UserError: an unknown name, a module that does not load, or a class of another kind.
        """
        target = name if ":" in str(name) else self.entry(name).target
        module, _, attribute = target.rpartition(":")
        path = self._file(module) if module.endswith(".py") else None
        if target not in {entry.target for entry in self._entries.values()}:
            self._announce(f"{attribute} of {path or module}")
        try:
            home = _loaded(path) if path else importlib.import_module(module)
            kind = getattr(home, attribute)
            base = self._base_class()
        except Exception as error:  # a module of the user's own may fail in any way while it loads
            raise UserError(
                f"cannot import {self.kind} {target!r} ({type(error).__name__}: {error})",
                fix="check the spelling of module:Class or path/to/file.py:Class, and that a "
                "module is installed or on PYTHONPATH",
            ) from error
        if not (isinstance(kind, type) and issubclass(kind, base)):
            raise UserError(f"{self.kind} {target!r} is not a subclass of {self._base}")
        return cast("type[T]", kind)

    def target_elsewhere(self, name: str) -> str:
        """What ``get`` takes for the same class in another process of this machine or another.

        A path is an absolute one then, and a name that was added in this process is no name.
        """
        target = name if ":" in str(name) else self.entry(name).target
        module, _, attribute = target.rpartition(":")
        return f"{self._file(module)}:{attribute}" if module.endswith(".py") else target

    def settings_of(self, name: str) -> type:
        """The class of the settings of ``name``; the class itself is imported only if it must be.

        Raises:
            UserError: there is no such name, or its module does not load.
        """
        if not (settings := self.entry(name).settings):
            config: type = self.get(name).Config  # type: ignore[attr-defined]
            return config
        module, _, attribute = settings.partition(":")
        kind: type = getattr(importlib.import_module(module), attribute)
        return kind

    def undescribed(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings alone, which results depend on; those of parts within them likewise.

        What the YAML says of the class is left out. ``target`` stays where it is not that of the
        class registered by this name: then it decides over the results.
        """
        name, target = settings.get("name"), settings.get("target")
        is_part = isinstance(name, str)  # a mapping of parts by name has no description of its own
        registered = self._entries[name].target if is_part and name in self._entries else None
        kept = {
            key: self.undescribed(value) if isinstance(value, dict) else value
            for key, value in settings.items()
            if not (is_part and key in DESCRIPTION)
        }
        return kept if target in (None, registered) else {**kept, "target": target}

    def _base_class(self) -> type:
        module, _, attribute = self._base.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def _announce(self, what: str) -> None:
        """Say whose code runs, once; also where progress is silenced."""
        if what not in self._announced:
            self._announced.add(what)
            message = f"{self.kind} of your own, whose code is run: {what}"
            progress.complain(message)

    def _file(self, name: str) -> Path:
        """The file of a target that is a path."""
        path = Path(name).expanduser()
        folders = [*(folder / self.kind for folder in _folders_of_hydra()), Path.cwd()]
        for folder in folders:
            if (folder / path).is_file():
                return (folder / path).resolve()
        raise UserError(
            f"no such file for {self.kind} {name!r}",
            where=", ".join(map(str, folders)),
            fix="give its path from the folder of the YAML or from the working directory",
        )


def file_sha256_of(kind: type) -> str | None:
    """Hash of the file that a class was loaded from by its path; None of any other class."""
    sha256: str | None = vars(sys.modules[kind.__module__]).get(_SHA256)
    return sha256


def _folders_of_hydra() -> list[Path]:
    """The folders in which Hydra was told to look for configurations, if it is in use."""
    from hydra.core.hydra_config import HydraConfig  # slow to import

    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    return [Path(source.path) for source in sources if source.schema == "file"]


def _loaded(path: Path) -> ModuleType:
    """The module of a file; modules beside the file can be imported by it."""
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    name = f"tdabench_own_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    known = sys.modules.get(name)
    if known is not None and vars(known)[_SHA256] == sha256:
        return known
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last: it hides no installed package
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    vars(module)[_SHA256] = sha256
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


# ------------------------------------------------------------------ descriptions in YAML


def _yaml_files(package: str, group: str) -> dict[str, Traversable]:
    """The YAML files of a package's folder, by name."""
    try:
        folder = resources.files(package) / group
        files = [file for file in folder.iterdir() if file.name.endswith(".yaml")]
    except (ImportError, OSError) as error:
        raise UserError(
            f"an entry point names a package without a folder {group!r} of YAML files "
            f"({first_line(error)})",
            where=package,
            fix="mend or remove the distribution that it belongs to",
        ) from error
    return {file.name.removesuffix(".yaml"): file for file in files}


def _entry(name: str, files: Mapping[str, Traversable]) -> Entry:
    """What a YAML says of its method or task.

    Raises:
        UserError: it is no YAML, or lacks ``target`` or ``summary``.
    """
    values = _description(name, files)
    for key in ("target", "summary"):
        if not isinstance(values.get(key), str):
            raise UserError("has no value", where=f"{files[name]}, {key}", fix=f"add {key}: …")
    needs = values.pop("needs", ())
    needs = (needs,) if isinstance(needs, str) else tuple(map(str, needs))
    return Entry(**{key: str(value) for key, value in values.items()}, needs=needs)


def _description(name: str, files: Mapping[str, Traversable]) -> dict[str, Any]:
    """The descriptive keys of a YAML and, where it has none of its own, of those it builds on."""
    try:
        values = yaml.safe_load(files[name].read_text(encoding="utf-8")) or {}
        assert isinstance(values, dict)
        described: dict[str, Any] = {}
        for part in values.get("defaults") or ():
            base = part.rpartition("/")[2] if isinstance(part, str) else ""
            if base in files:  # not _self_, nor what is put below a key of its own
                described |= _description(base, files)
    except (yaml.YAMLError, UnicodeDecodeError, AssertionError, TypeError) as error:
        raise UserError(
            f"is no YAML mapping ({first_line(error)})", where=str(files[name])
        ) from error
    return described | {key: values[key] for key in DESCRIPTION if values.get(key)}

"""What Hydra is told of this project before it composes: more configurations, and resolvers."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from bench.storage.keys import path_part
from methods import METHODS

_WIDTHS = ("hidden_size", "n_embd", "d_model")  # as families of transformers call it
_PAPERS_SIDE = 64  # of models from 154M parameters
_LEAST_SIDE = 4  # 16 dimensions a block; below, hardly anything is told apart


class InstalledMethods(SearchPathPlugin):
    """Adds the packages that entry points of the group ``tdabench.methods`` name."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append them: a name of this project is never taken over."""
        for package in METHODS.installed:
            search_path.append("tdabench.methods", f"pkg://{package}")


def extend_hydra() -> None:
    """Make Hydra ask for them; calling it twice is harmless."""
    Plugins.instance().register(InstalledMethods)
    # Of a folder that is not there Hydra only warns, and then does not find what is in it.
    warnings.filterwarnings("error", message="provider=", category=UserWarning)
    OmegaConf.register_new_resolver("projection_side", _side_of, replace=True)
    OmegaConf.register_new_resolver("folder_name", _name_of, replace=True)
    OmegaConf.register_new_resolver("finetuned_name", _finetuned_name_of, replace=True)
    OmegaConf.register_new_resolver("adapters_side", _adapters_of, replace=True)


def _path_of(settings: DictConfig) -> str | None:
    """The folder that the settings of a model name, if they do: its own or that it begins from."""
    key = "init" if "init" in settings.keys() else "path"  # noqa: SIM118 - also a missing one
    return None if OmegaConf.is_missing(settings, key) else settings[key]


def _name_of(*, _parent_: DictConfig) -> str:
    """The value of ``${folder_name:}`` in the settings of a model in a folder."""
    name, adapter = folder_name(_path_of(_parent_)), _parent_.get("adapter")
    return name if adapter is None else f"{name}@{_last_part(adapter)}"


def _finetuned_name_of(*, _parent_: DictConfig) -> str:
    """The value of ``${finetuned_name:}``: after the folder that the model begins from."""
    path = _path_of(_parent_)
    return "finetuned" if path is None else f"finetuned-{_last_part(path)}"


def folder_name(path: str | None) -> str:
    """A model's name after its folder, fit to be a folder's name itself; ``hf`` without a folder.

    A name that a file of ``conf/model`` has is put behind ``hf-``, so that no model of somebody's
    own stands on the board of another.
    """
    if path is None:
        return "hf"
    name = _last_part(path)
    taken = (resources.files("conf") / "model" / f"{name}.yaml").is_file()
    return f"hf-{name}" if taken else name


def _last_part(path: str) -> str:
    """The name of a folder itself, fit to be a part of another's."""
    return path_part(os.path.basename(os.path.abspath(os.path.expanduser(path))))


def _adapters_of(*, _root_: DictConfig) -> str:
    """The value of ``${adapters_side:}`` in the settings of a method, beside those of a model."""
    named = ("model.adapter", "model.train.lora.rank")  # of a folder, or to be trained here
    has_adapter = any(OmegaConf.select(_root_, name) is not None for name in named)
    return "lora" if has_adapter else "base"


def _side_of(*, _parent_: DictConfig) -> int:
    """The value of ``${projection_side:}`` in the settings of a model in a folder."""
    return projection_side(_path_of(_parent_))


def projection_side(folder: str | None) -> int:
    """Dimensions a side of the projection that suits the model in a folder, or that none is at."""
    try:
        text = Path(folder or "", "config.json").expanduser().read_text(encoding="utf-8")
        return side_of(json.loads(text) if folder else None)
    except (OSError, ValueError):
        return _PAPERS_SIDE  # what a folder lacks is refused where the model is loaded


def side_of(configuration: object) -> int:
    """Dimensions a side of the projection that suits a model's width, for ``conf/model/hf.yaml``.

    It is the largest power of two that is at most a quarter of the width, from 4 to the paper's 64:
    of a narrower model, 64 a side would keep more numbers than a gradient has, and R would have no
    full rank on a corpus of the size that such a model is trained on.

    Args:
        configuration: fields of the model's ``config.json``; the paper's side without a width.
    """
    nested = [configuration]
    if isinstance(configuration, Mapping):
        nested.append(configuration.get("text_config"))
    widths = [one.get(name) for one in nested if isinstance(one, Mapping) for name in _WIDTHS]
    width = next((width for width in widths if isinstance(width, int)), None)
    if width is None:
        return _PAPERS_SIDE
    side = _LEAST_SIDE
    while side * 2 <= min(width // 4, _PAPERS_SIDE):
        side *= 2
    return side

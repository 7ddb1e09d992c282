"""What Hydra is told of this project before it composes: more configurations, and a resolver."""

from __future__ import annotations

import json
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

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
    OmegaConf.register_new_resolver("projection_side", _side_of, replace=True)


def _side_of(*, _parent_: DictConfig) -> int:
    """The value of ``${projection_side:}`` in the settings of a model with a ``path``."""
    return projection_side(None if OmegaConf.is_missing(_parent_, "path") else _parent_.path)


def projection_side(folder: str | None) -> int:
    """Dimensions a side of the projection that suits a model's width, for ``conf/model/hf.yaml``.

    It is the largest power of two that is at most a quarter of the width, from 4 to the paper's 64:
    of a narrower model, 64 a side would keep more numbers than a gradient has, and R would have no
    full rank on a corpus of the size that such a model is trained on.

    Args:
        folder: the model's; what it lacks is refused where it is loaded, and counts as wide here.
    """
    width = _width(Path(folder).expanduser()) if folder else None
    if width is None:
        return _PAPERS_SIDE
    side = _LEAST_SIDE
    while side * 2 <= min(width // 4, _PAPERS_SIDE):
        side *= 2
    return side


def _width(folder: Path) -> int | None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    nested = [config, config.get("text_config")] if isinstance(config, dict) else []
    for fields in (one for one in nested if isinstance(one, dict)):
        for name in _WIDTHS:
            if isinstance(width := fields.get(name), int):
                return width
    return None

"""Configurations of installed packages join Hydra's search path: ``method=NAME`` finds theirs."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from methods import METHODS


class InstalledMethods(SearchPathPlugin):
    """Adds the packages that entry points of the group ``tdabench.methods`` name."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append them: a name of this project is never taken over."""
        for package in METHODS.installed:
            search_path.append("tdabench.methods", f"pkg://{package}")


def join_search_path() -> None:
    """Make Hydra ask for them; calling it twice is harmless."""
    Plugins.instance().register(InstalledMethods)

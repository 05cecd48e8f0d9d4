"""A plugin that Hydra finds where this package is installed: it knows where the group ``viewmaker`` is."""

from importlib.util import find_spec
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

_CONF = Path("adapters", "solo_learn", "conf")


class ViewaugSearchPath(SearchPathPlugin):
    """Adds this package's configurations to those of every application of Hydra, without importing the package."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append them, so that an application's own go first."""
        spec = find_spec("viewaug")
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            # Installed, adapters are inside the package; in a checkout, beside it.
            for place in (Path(folder) / _CONF, Path(folder).parent / _CONF):
                if place.is_dir():
                    search_path.append("viewaug", f"file://{place}")
                    return

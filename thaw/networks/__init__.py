"""Networks: where they come from, their blocks, the cut, pooling, the input layer."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thaw.networks.sources.opening import open_backbone

__all__ = ("open_backbone",)

if not TYPE_CHECKING:  # so that mypy still refuses names that do not exist

    def __getattr__(name: str) -> object:
        """Return `open_backbone`, and import its module. Raises: MissingLibraryError if torch is not installed."""
        if name not in __all__:
            raise AttributeError(f"module 'thaw.networks' has no attribute {name!r}; it has {', '.join(__all__)}")
        return import_module("thaw.extras").attribute(f"thaw.networks.sources.opening:{name}")

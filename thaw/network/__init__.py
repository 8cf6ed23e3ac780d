"""Networks: bring one, list its blocks, cut it at a block boundary, and run what lies below as inference."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thaw.network.backbone import Backbone
    from thaw.network.source import open_backbone

__all__ = ["Backbone", "open_backbone"]


def __getattr__(name: str) -> Any:
    """Load the public names on first use, so that `import thaw.network` stays light."""
    if name in __all__:
        from thaw.network import backbone, source

        return getattr(source if name == "open_backbone" else backbone, name)
    raise AttributeError(f"module 'thaw.network' has no attribute {name!r}")

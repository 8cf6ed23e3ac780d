"""Fine-tune a pretrained image network phase by phase, and keep what helps.

    thaw.fine_tune(images, project)  a project, its run, and what that left
    thaw.load(folder)                the classifier in models/final, with torch
    thaw.load_exported(folder)       the classifier in models/export, without torch
    thaw.open_backbone(source)       a pretrained network without its classifier

The modules behind these names are imported when a name is first used: `import thaw` alone imports none of them.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if sys.platform == "win32":
    sys.exit("Thaw runs on Linux and macOS, not on Windows; install it inside WSL 2")

if TYPE_CHECKING:
    from thaw.networks.sources.opening import open_backbone
    from thaw.project.fine_tuning import fine_tune
    from thaw.serving.exported import Exported
    from thaw.training.model import load

    __version__: str
    load_exported = Exported.open

DISTRIBUTION = "thaw-vision"
"""The name under which pip knows Thaw: on PyPI, `thaw` is another project."""

__all__ = ("__version__", "fine_tune", "load", "load_exported", "open_backbone")

_HOMES = {
    "__version__": "thaw.version:VERSION",
    "fine_tune": "thaw.project.fine_tuning:fine_tune",
    "load": "thaw.training.model:load",
    "load_exported": "thaw.serving.exported:Exported.open",
    "open_backbone": "thaw.networks.sources.opening:open_backbone",
}

if not TYPE_CHECKING:  # so that mypy still refuses names that do not exist

    def __getattr__(name: str) -> object:
        """Return a public name. Raises: MissingLibraryError if an extra that it needs is not installed."""
        if name not in _HOMES:
            raise AttributeError(f"module 'thaw' has no attribute {name!r}; it has {', '.join(__all__)}")
        return import_module("thaw.extras").attribute(_HOMES[name])


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

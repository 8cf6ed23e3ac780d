"""What a model that came from somewhere may do here: it is data, and only params.yaml names Python.

A model that was made from `python:` says so in its model.json. To build its network is to import and call a module, so
it is built only where params.yaml names the same callable: as backbone.source, or as backbone.python beside `model:`.
"""

from pathlib import Path

from thaw.config.checks import value_at
from thaw.config.reader import read_tree
from thaw.errors import BackboneError, ParamsError
from thaw.pipeline.model_facts import BackboneSpec


def check_code(stored: BackboneSpec, folder: Path, params: Path) -> None:
    """Refuse the description of a network, read from a folder, that names Python which params.yaml does not name.

    Raises: BackboneError.
    """
    if stored.library == "python" and stored.name not in _named_in(params):
        raise BackboneError(
            f"{folder}/model.json names python:{stored.name}, which is code that {params.absolute()} does not name, so "
            "it was not run; if you trust it, set backbone.source to it, or backbone.python beside a model: source"
        )


def _named_in(params: Path) -> set[object]:
    """Return each `MODULE:CALLABLE` that a params.yaml names; none if it cannot be read."""
    try:
        tree = read_tree(params)
    except ParamsError:
        return set()
    source, python = (value_at(tree, "backbone", key) for key in ("source", "python"))
    named = source.removeprefix("python:") if isinstance(source, str) and source.startswith("python:") else None
    return {named, python} - {None}

"""The base of the fact files that travel between stages, model.json and its kin, and how they are read and written.

A key that does not apply is absent from a file and None here. `read` refuses what a file should not hold, in one line.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from thaw.errors import ArtifactError
from thaw.pipeline import artifacts

Kind = TypeVar("Kind", bound=BaseModel)


# As a constant, NaN reaches `write`, which refuses it; otherwise pydantic makes it null in silence.
COMMON = ConfigDict(frozen=True, ser_json_inf_nan="constants")


class Facts(BaseModel):
    """Base of every fact file and its parts: typed strictly, immutable, closed to keys that mean nothing."""

    model_config = ConfigDict(strict=True, extra="forbid", validate_by_name=True, **COMMON)

    @model_serializer(mode="wrap")
    def _without_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out a None of an optional key; that of a required one is written as null."""
        known = type(self).model_fields
        return {key: value for key, value in dump(self).items() if value is not None or known[key].is_required()}


def read(path: Path, kind: type[Kind]) -> Kind:
    """Return the facts in a file. Raises: ArtifactError naming the first key that is missing, unknown or wrong."""
    return checked(artifacts.read_json(path), path, kind)


def checked(tree: Mapping[str, object], path: Path, kind: type[Kind]) -> Kind:
    """Return the facts in a JSON object that was read from a file. Raises: ArtifactError as `read` does."""
    try:
        return kind.model_validate_json(json.dumps(tree))  # as JSON: a strict model takes no list for a tuple
    except ValidationError as error:
        raise ArtifactError(f"{path}: {_first_mistake(error)}; run `dvc repro`, which writes it anew") from None


def write(path: Path, facts: BaseModel) -> None:
    """Write facts as JSON in one step. Raises: ValueError for NaN or infinity, which JSON has no word for."""
    artifacts.write_json(path, facts.model_dump(mode="json", by_alias=True))


def _first_mistake(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"]) or "the file"
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] == "extra_forbidden":
        return f"{key} is no key that this version of Thaw knows"
    value = json.dumps(first["input"], ensure_ascii=False)
    shown = value if len(value) <= 60 else f"{value[:60]}…"
    said = first["msg"].removeprefix("Value error, ")
    return f"{key} is {shown}: {said[0].lower()}{said[1:]}"

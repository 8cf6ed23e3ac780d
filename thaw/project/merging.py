"""Git's merge drivers: dvc.lock stage by stage, labels image by image.

    python -m thaw.project.merging lock|labels BASE OURS THEIRS PATH

Git calls this with three temporary files and the path in the repository (gitattributes(5), "Defining a custom merge
driver"). The result goes into OURS, and the exit code is 0. If a file cannot be read, OURS stays as it was, a line says
why, and the exit code is 1: the command that `thaw setup` gives to git then merges the file as text. Git waits for this
process, so it imports little.
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from thaw.errors import ArtifactError, ThawError

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 5 ms per dvc.lock of ten stages; in Python 35 ms


@dataclass(frozen=True)
class Merged:
    """The result of a merge, and what a person should know about it."""

    text: str
    note: str | None = None
    """A line to print, if there is anything to say."""


def merge_locks(base: str, ours: str, theirs: str) -> Merged:
    """Return the three-way merge of texts of dvc.lock. The base is empty where both sides added the file.

    A stage is taken from the side that changed it. If both sides changed it, to different entries, the result lacks it:
    `dvc repro` then runs the stage, or finds it in the run cache. Entries are compared and copied as text, so the
    result has the bytes that DVC wrote.

    Raises: ArtifactError if a text is no lock that DVC wrote, or if both sides changed something besides the stages.
    """
    ancestor = _read(base, "base") if base.strip() else _Lock({}, {})
    sides = (ancestor, _read(ours, "ours"), _read(theirs, "theirs"))
    stages, dropped = _merge(*(side.stages for side in sides))
    sections, conflicts = _merge(*(side.sections for side in sides))
    if conflicts:
        raise ArtifactError(f"both sides changed its section {conflicts[0]}")
    if _STAGES in sections:
        sections[_STAGES] = "".join([f"{_STAGES}:\n", *stages.values()]) if stages else f"{_STAGES}: {{}}\n"
    text = "".join(sections.values())
    _read(text, "the result")
    note = f"changed on both sides, so `dvc repro` decides: {', '.join(dropped)}" if dropped else None
    return Merged(text, note)


def merge_labels(base: str, ours: str, theirs: str) -> Merged:
    """Return the three-way merge of texts of a CSV of labels, image by image: to git, neighbouring lines conflict.

    The rows are sorted by path where both sides have them so. The base is empty where both sides added the file.
    Raises: ArtifactError if both sides changed the row of an image, or the columns, or if a text is no such CSV.
    """
    sides = [_rows(text, side) for text, side in ((base, "base"), (ours, "ours"), (theirs, "theirs"))]
    header, conflicts = _merge(*({"columns": text} if text else {} for text, _ in sides))
    merged, twice = _merge(*(rows for _, rows in sides))
    if conflicts or twice:
        raise ArtifactError(f"both sides changed {twice[0] if twice else 'its columns'}")
    if all(list(rows) == sorted(rows) for _, rows in sides[1:]):
        merged = dict(sorted(merged.items()))
    return Merged("".join([*header.values(), *merged.values()]))


def _rows(text: str, side: str) -> tuple[str, dict[str, str]]:
    """Return the first line of a CSV of labels, and each other line by its path."""
    lines = [line if line.endswith("\n") else f"{line}\n" for line in text.splitlines(keepends=True)]
    try:
        rows = [next(csv.reader([line], strict=True)) for line in lines]
        column = rows[0].index("path") if rows else 0
        paths = [row[column] for row in rows[1:]]
    except (csv.Error, ValueError, IndexError, StopIteration):  # also a value over several lines
        raise ArtifactError(f"{side} is no CSV with a line and a path for each image") from None
    if len(set(paths)) < len(paths):
        raise ArtifactError(f"{side} has {next(path for path in paths if paths.count(path) > 1)} twice")
    return "".join(lines[:1]), dict(zip(paths, lines[1:], strict=True))


@dataclass(frozen=True)
class _Lock:
    """The text of a dvc.lock in pieces, each with its key."""

    sections: dict[str, str]
    """Each top-level key. That of the stages is empty: `stages` has them."""
    stages: dict[str, str]


_SCHEMA, _STAGES = "schema", "stages"


def _read(text: str, side: str) -> _Lock:
    """Return a lock in pieces. Raises: ArtifactError if it is none, or not laid out as DVC does it."""
    text = text if text.endswith("\n") else f"{text}\n"
    try:
        root: Any = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ArtifactError(f"{side} is not valid YAML{f' at line {mark.line + 1}' if mark else ''}") from None
    sections = _pieces(text, 0, root, side)
    nodes = {str(key.value): (key.start_mark.index, value) for key, value in root.value}
    if _SCHEMA not in nodes or not str(nodes[_SCHEMA][1].value).startswith("2."):
        raise ArtifactError(f"{side} is no dvc.lock of schema 2.0")
    stages = dict[str, str]()
    if _STAGES in nodes:
        start, node = nodes[_STAGES]
        stages = _pieces(text[: start + len(sections[_STAGES])], text.index("\n", start) + 1, node, side)
        sections[_STAGES] = ""
    return _Lock(sections, stages)


def _pieces(text: str, start: int, node: yaml.Node | None, side: str) -> dict[str, str]:
    """Return the lines of each key of a mapping that takes the text from `start` to its end."""
    if not isinstance(node, yaml.MappingNode) or (node.flow_style and node.value):
        raise ArtifactError(f"{side} is not laid out as DVC writes it")
    keys = [str(key.value) for key, _ in node.value]  # of a key that is no scalar, too
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ArtifactError(f"{side} has {twice[0]} twice")
    begins = [start, *(text.rindex("\n", 0, key.start_mark.index) + 1 for key, _ in node.value[1:])]
    return {key: text[begin:end] for key, begin, end in zip(keys, begins, [*begins[1:], len(text)], strict=False)}


def _merge(
    base: Mapping[str, str], ours: Mapping[str, str], theirs: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Return the three-way merge by key, in the order of ours and then theirs, and the keys that both sides changed."""
    merged, conflicts = dict[str, str](), list[str]()
    for key in {**ours, **theirs}:
        before, here, there = base.get(key), ours.get(key), theirs.get(key)
        if before not in (here, there) and here != there:
            conflicts.append(key)
        elif (taken := there if here == before else here) is not None:
            merged[key] = taken
    return merged, conflicts


_DRIVERS = {"lock": merge_locks, "labels": merge_labels}


def main(arguments: Sequence[str]) -> int:
    """Merge as git asks for it, and return the exit code for git."""
    driver, *names, path = arguments
    try:
        base, ours, theirs = (_text(Path(name)) for name in names)
        merged = _DRIVERS[driver](base, ours, theirs)
        _replace(Path(names[1]), merged.text)
    except ThawError as error:
        print(
            f"{path}: {error}; it is merged as text. Resolve the conflict, or take a side whole "
            f"(`git checkout --ours {path}`, or --theirs), then run `dvc repro`",
            file=sys.stderr,
        )
        return 1
    if merged.note is not None:
        print(f"{path}: {merged.note}", file=sys.stderr)
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise ArtifactError("a side is not text in UTF-8") from None


def _replace(path: Path, text: str) -> None:
    """Write a file in one step: git may need what was there."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(text.encode())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ArtifactError(f"the result cannot be written ({error.strerror})") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`thaw update`: a project brought to the installed version, without a change of the team's being lost.

Everything is worked out before the first file is written, and the record is written last: a run that was interrupted is
simply run again.
"""

import difflib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thaw import DISTRIBUTION
from thaw.config.messages import GONE_KEYS, RENAMED_KEYS
from thaw.config.reader import load_params
from thaw.errors import RunError
from thaw.pipeline.artifacts import remove, sha256_of_bytes, write_text
from thaw.pipeline.record import ProjectRecord
from thaw.project import files
from thaw.project.params_text import renamed, value_at, with_value, without
from thaw.version import VERSION

_ADDED: dict[str, object] = {"select.folds": "auto", "export": {}, "advise": {}}
"""Keys that stages name, and params.yaml of an earlier version lacks: DVC refuses to run such a stage."""
_LABELS = "data.labels"
_BESIDE_PHASES = "models/phases/.gitignore"
"""Until 0.1.0; DVC takes the folder for an out that was changed where git has a file in it."""
_PIN = re.compile(rf"^(\s*{DISTRIBUTION}\s*(?:\[[^\]]*\])?\s*==\s*)([^\s;#]+)", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Update:
    """What an update does to a project."""

    root: Path
    written: dict[str, str]
    """New text of each file that is written, by its path."""
    removed: list[str]
    """Files of the earlier version that this one has no use for."""
    diffs: dict[str, str]
    """For each file that the team has changed, how the installed version's differs; these files are left."""
    notes: list[str]
    """What was done to params.yaml and requirements.txt, and what could not be done."""
    record: ProjectRecord

    def apply(self) -> None:
        """Write and remove the files, and then the record. Raises: RunError if a file cannot be written."""
        try:
            for name, text in self.written.items():
                write_text(self.root / name, text)
            for name in self.removed:
                remove(self.root / name)
            files.untrack(self.root, files.tracked_outs(self.root, files.project_files()["dvc.yaml"]))
            self.record.write(self.root)
        except OSError as error:
            raise RunError(
                f"{error.filename or self.root} cannot be written: {error.strerror}; mend that, and run `thaw update` "
                "again"
            ) from None

    def in_words(self) -> Iterator[str]:
        """Yield the lines that tell a person what was done, the diffs first."""
        yield from self.diffs.values()
        if self.diffs:
            yield f"left, since changed here: {', '.join(self.diffs)}; take over what you want of the diffs above"
        ours = [name for name in self.written if name not in (files.PARAMS, files.REQUIREMENTS)]
        for verb, names in (("rewritten", ours), ("removed", self.removed)):
            if names:
                yield f"{verb}: {', '.join(names)}"
        yield from self.notes
        if not (self.written or self.removed or self.diffs):
            yield f"nothing to do: this is a project of Thaw {VERSION}"


def plan_update(root: Path) -> Update:
    """Return what brings a project to the installed version; nothing is written yet.

    Raises: RunError for what is no project, or one of a newer Thaw; ParamsError for a params.yaml that would not be
    valid, with the new name of each key that has one.
    """
    record = ProjectRecord.read(root, installed=VERSION)
    offered, notes = files.project_files(), list[str]()
    written, diffs, hashes = dict[str, str](), dict[str, str](), dict[str, str]()
    for name, text in offered.items():
        present, before = _text(root / name), record.files.get(name)
        hashes[name] = _sha256(text)
        if present == text:
            continue
        if (present is None and before is None) or (present is not None and _sha256(present) == before):
            written[name] = text
        elif before != hashes[name]:  # both have changed it, or the team alone has removed it
            diffs[name] = _diff(name, present, text)
            hashes[name] = before or ""
    gone = [name for name in record.files if name not in offered and (root / name).exists()]
    removed = [name for name in gone if _sha256(_text(root / name) or "") == record.files[name]]
    notes += [f"{name} is no longer needed, and left since it was changed here" for name in gone if name not in removed]
    written |= _params(root, notes) | _requirements(root, notes) | _ignored(root, offered["dvc.yaml"])
    if (root / _BESIDE_PHASES).exists():
        removed.append(_BESIDE_PHASES)
    if cached := files.tracked_outs(root, offered["dvc.yaml"]):
        notes.append(f"DVC keeps {', '.join(cached)} now; git no longer does, which the next commit records")
    return Update(root, written, removed, diffs, notes, ProjectRecord(thaw=VERSION, files=hashes))


def _ignored(root: Path, graph: str) -> dict[str, str]:
    """Return each .gitignore that lacks an out of dvc.yaml, with the lines that it lacks."""
    written = {}
    for name, text in files.git_ignores(graph).items():
        present = _text(root / name) or ""
        if missing := [line for line in text.splitlines() if line not in present.splitlines()]:
            start = present if present.endswith("\n") or not present else f"{present}\n"
            written[name] = start + "".join(f"{line}\n" for line in missing)
    return written


def _params(root: Path, notes: list[str]) -> dict[str, str]:
    """Return params.yaml with keys renamed, removed and added, if some were.

    Raises: ParamsError if it is not valid then.
    """
    text = _text(root / files.PARAMS)
    if text is None:
        raise RunError(f"{root / files.PARAMS} is missing; restore it with `git checkout -- {files.PARAMS}`")
    new, done = renamed(text, RENAMED_KEYS)
    new, gone = without(new, GONE_KEYS)
    done += [f"{path} is gone, and was removed" for path in gone]
    for key, value in _ADDED.items():
        if value_at(new, key) is None:
            new = with_value(new, key, value)
            done.append(f"{key}: {value} was added")
    if value_at(new, _LABELS) is None and (raw := value_at(new, "data.raw")) is not None:
        new = with_value(new, _LABELS, raw)
        done.append(f"{_LABELS}: {raw} was added, which is data.raw")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, files.PARAMS)
        path.write_text(new, encoding="utf-8")
        load_params(path)
    notes += [f"{files.PARAMS}: {change}" for change in done]
    return {files.PARAMS: new} if done else {}


def _requirements(root: Path, notes: list[str]) -> dict[str, str]:
    """Return requirements.txt with the pin of Thaw raised, if it has one of another version."""
    text = _text(root / files.REQUIREMENTS) or ""
    match = _PIN.search(text)
    if match is None:
        notes.append(
            f"{files.REQUIREMENTS} has no line `{DISTRIBUTION}[train]==VERSION`; see to it that it installs {VERSION}"
        )
        return {}
    if match[2] == VERSION:
        return {}
    notes.append(f"{files.REQUIREMENTS}: {DISTRIBUTION} {match[2]} -> {VERSION}")
    return {files.REQUIREMENTS: _PIN.sub(rf"\g<1>{VERSION}", text)}


def _text(path: Path) -> str | None:
    """Return the text of a file, bytes that are not UTF-8 escaped; None if there is none."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None


def _sha256(text: str) -> str:
    return sha256_of_bytes(text.encode("utf-8", "surrogateescape"))


def _diff(name: str, present: str | None, offered: str) -> str:
    if present is None:
        return f"{name} was removed here; Thaw {VERSION} has a new one"
    lines = difflib.unified_diff(
        present.splitlines(), offered.splitlines(), f"{name} (here)", f"{name} (Thaw {VERSION})", lineterm=""
    )
    return "\n".join(lines)

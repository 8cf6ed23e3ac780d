"""What the repository says about itself: its code, the stages of every dvc.yaml. No test here."""

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from thaw.pipeline.code import FOLDER, PACKAGES, Code

ROOT = Path(__file__).resolve().parents[2]
CODE = Code({package: ROOT / package for package in PACKAGES})


@dataclass(frozen=True)
class DvcStage:
    """A stage as a dvc.yaml has it; paths count from the root."""

    name: str
    module: str
    deps: frozenset[str]
    sections: frozenset[str]
    outs: frozenset[str]

    @property
    def code(self) -> set[str]:
        """The deps that say which code the stage runs."""
        return {dep for dep in self.deps if dep.startswith(f"{FOLDER.as_posix()}/")}


@cache
def dvc_stages() -> dict[str, DvcStage]:
    """Every stage of every dvc.yaml in the repository, by the name of its module in stages/."""
    found = {}
    for path in (ROOT / "dvc.yaml", *sorted((ROOT / "data").glob("*/dvc.yaml"))):
        for name, entry in yaml.safe_load(path.read_text(encoding="utf-8"))["stages"].items():
            body = entry.get("do", entry)
            base = os.path.relpath((path.parent / body.get("wdir", ".")).resolve(), ROOT)
            words = str(body["cmd"]).split()
            module = next(word for word in words if word.startswith("stages."))
            assert words[:3] == ["python", "-m", module], f"{name} runs {body['cmd']!r}, not python -m stages.NAME"
            found[module.removeprefix("stages.")] = DvcStage(
                name=name,
                module=module,
                deps=frozenset(_paths(body.get("deps", []), base)),
                sections=frozenset(_sections(body.get("params", []))),
                outs=frozenset(_paths([*body.get("outs", []), *body.get("metrics", []), *body.get("plots", [])], base)),
            )
    return found


def _paths(entries: list[Any], base: str) -> list[str]:
    names = [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]
    return [name if name.startswith("${") else os.path.normpath(Path(base, name)) for name in names]


def _sections(entries: list[Any]) -> list[str]:
    return [key for entry in entries for key in (next(iter(entry.values())) if isinstance(entry, dict) else [entry])]


def declared(tree: ast.Module, constant: str) -> set[str]:
    """The strings of a stage's SECTIONS, INPUTS or OUTS; what an f-string fills in stands as dvc.yaml writes it."""
    values = {
        ast.unparse(target): node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
    }
    assert constant in values, f"the stage declares no {constant}"
    return set(_strings(values[constant], values))


def _strings(node: ast.expr, values: dict[str, ast.expr]) -> Iterator[str]:
    if isinstance(node, ast.Tuple | ast.List):
        for item in node.elts:
            yield from _strings(item, values)
    elif isinstance(node, ast.Starred):
        yield from _strings(node.value, values)
    elif isinstance(node, ast.BinOp):
        yield from _strings(node.left, values)
        yield from _strings(node.right, values)
    elif isinstance(node, ast.Name) and node.id in values:
        yield from _strings(values[node.id], values)
    elif isinstance(node, ast.JoinedStr):
        yield "".join(_filled(part) for part in node.values)
    elif isinstance(node, ast.Constant):
        yield str(node.value).replace("{phase}", "${key}").replace("{start}", "${item.start}").replace("$$", "$")
    else:
        raise AssertionError(f"cannot tell which names {ast.unparse(node)!r} stands for; write strings or f-strings")


def _filled(part: ast.expr) -> str:
    if isinstance(part, ast.FormattedValue):
        return "${item.start}" if ast.unparse(part.value).endswith("start") else "${key}"
    return str(part.value) if isinstance(part, ast.Constant) else ""

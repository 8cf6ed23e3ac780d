"""docs/guide/params.md, made from the schema and params.yaml. Run as `python -m tests.contract.params_page`."""

import ast
from pathlib import Path
from typing import Any

from thaw.config.messages import FORM_WORDS
from thaw.config.reader import read_tree
from thaw.config.schema import Params

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "guide" / "params.md"

_Row = tuple[str, str, str, dict[str, Any], Any]
"""The key's path, its meaning, its last part, its schema and what the shipped file says."""

_HEAD = """# Every key of params.yaml

This page is made from `thaw/config/schema.py` and the shipped `params.yaml` by `make docs`; a test compares them.

A key that is left out has its default. A key without a default is required. No other keys are accepted.
`thaw check` reads the file and reports every mistake at once, `thaw plan` shows what the values
will do. A fraction lies between 0 and 1.

Every section but `compare` and `compute` must stand in the file, since DVC refuses a stage whose params are missing.
Write an empty one as `select: {}`. `unfreeze.defaults` holds settings for all phases; a phase that has the key itself
overrides it.

Numbers may have any form that YAML 1.2 and DVC read alike: `0.0003`, `3e-4`, `1e-05`. Values that another YAML parser
reads differently are refused: `yes`, `no`, `012`, `1_000`, `.5e3`, dates without quotes, tags and anchors.

A change reruns the stages that depend on the section and all stages after them. A change of one phase reruns that phase
and the phases that start from it. A change in `unfreeze.defaults` reruns every phase, also phases that override the
key: DVC compares the section, not the phase. `compare` and `compute` rerun nothing.
"""


def render() -> str:
    """The whole page as Markdown."""
    schema, docs, tree = Params.model_json_schema(), _docstrings(), read_tree(ROOT / "params.yaml")
    parts = [
        _HEAD,
        "## `seed`\n",
        _table([("seed", docs["Params"]["seed"], "seed", schema["properties"]["seed"], tree["seed"])]),
    ]
    for section, entry in schema["properties"].items():
        if "$ref" not in entry:
            continue
        name = entry["$ref"].rpartition("/")[2]
        parts.append(f"## `{section}`\n\n{docs[name][None]}\n")
        rows = []
        for key, field in schema["$defs"][name]["properties"].items():
            if key == "phases":
                rows += _phase_rows(schema["$defs"]["PhaseParams"]["properties"], tree[section], docs)
            elif key == "defaults":
                rows.append((f"{section}.{key}", docs[name][key], key, {}, tree[section][key]))
            else:
                rows.append((f"{section}.{key}", docs[name][key], key, field, tree.get(section, {}).get(key, {})))
        parts.append(_table(rows))
    return "\n".join(parts)


def _phase_rows(fields: dict[str, Any], unfreeze: dict[str, Any], docs: dict[str, dict[str | None, str]]) -> list[_Row]:
    """A row for each key of a phase, those that a phase must have first."""
    own, rows = docs["PhaseParams"], []
    for key in sorted(fields, key=lambda key: key not in own):
        shipped = {name: phase[key] for name, phase in unfreeze["phases"].items() if key in phase}
        shipped |= {"defaults": unfreeze["defaults"][key]} if key in unfreeze["defaults"] else {}
        meaning = (docs["PhaseSettings"] | own)[key]
        rows.append((f"unfreeze.phases.NAME.{key}", meaning, key, fields[key], shipped))
    return rows


def _table(rows: list[_Row]) -> str:
    lines = ["| key | meaning | allowed | default | shipped |", "|---|---|---|---|---|"]
    for path, meaning, key, field, value in rows:
        default = _shipped(field["default"]) if "default" in field else "required"
        lines.append(f"| `{path}` | {meaning} | {_allowed(key, field)} | {default} | {_shipped(value)} |")
    return "\n".join(lines) + "\n"


_IN_WORDS = {
    "depth": "a whole number from 1, a share such as `1/3`, `all`, the name of a block, or a list of rules",
    "defaults": "every key of a phase but `start`",
    "value_range": "`null`, `[low, high]` with low below high, or a list of such pairs",
}


def _allowed(key: str, field: dict[str, Any]) -> str:
    if key in _IN_WORDS:
        return _IN_WORDS[key]
    if forms := field.get("anyOf") or field.get("oneOf"):
        return " or ".join("`null`" if part == {"type": "null"} else _allowed(key, part) for part in forms)
    if values := field.get("enum") or [field[key] for key in ("const",) if key in field]:
        return ", ".join(f"`{value}`" for value in values)
    if field["type"] == "object":
        return f"names, each with {_allowed(key, field['additionalProperties'])}"
    if field["type"] == "array":
        return f"a list of {_allowed(key, field['items']).removeprefix('a ').replace('number', 'numbers')}"
    if field["type"] == "string":
        return FORM_WORDS.get(field.get("pattern", ""), "text").removeprefix("null or ")
    if field["type"] == "boolean":
        return "`true` or `false`"
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "and below"}
    bounds = [f"{word} {field[bound]:.12g}" for bound, word in words.items() if bound in field]
    return " ".join(["a whole number" if field["type"] == "integer" else "a number", *bounds])


def _shipped(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_shipped(inner)}" for name, inner in value.items())
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{'null' if value is None else value}`"


def _docstrings() -> dict[str, dict[str | None, str]]:
    """The docstring of each section (under None) and of each of its fields, as the source has them."""
    found = {}
    source = (ROOT / "thaw" / "config" / "schema.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            docs: dict[str | None, str] = {None: ast.get_docstring(node) or ""}
            for field, text in zip(node.body, node.body[1:], strict=False):
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(text, ast.Expr)
                    and isinstance(text.value, ast.Constant)
                ):
                    docs[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
            found[node.name] = docs
    return found


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")

"""docs/guide/params.md, made from the schema and params.yaml. Run as `python -m tests.contract.params_page`."""

import ast
from pathlib import Path
from typing import Any

from thaw.config.messages import FORM_WORDS
from thaw.config.reader import read_tree
from thaw.config.schema import Params

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "guide" / "params.md"

_HEAD = """# Every key of params.yaml

This page is made from `thaw/config/schema.py` and the shipped `params.yaml` by `make docs`; a test compares them.

A key that is shown as optional may be left out, and then has the value that stands there; all others are required, and
no others are accepted. `python -m thaw check` reads the file and reports every mistake at
once, `python -m thaw plan` shows what the values will do. A fraction lies between 0 and 1. Write small numbers as
`0.0001` or `1.0e-4`: YAML parsers disagree about `1e-4`, so it is refused, and so are `yes`, `no`, tags and anchors.

A change reruns the stages that depend on the section and what follows them; `compute` reruns nothing.
"""


def render() -> str:
    """The whole page as Markdown."""
    schema, docs, tree = Params.model_json_schema(), _docstrings(), read_tree(ROOT / "params.yaml")
    parts = [
        _HEAD,
        "## `seed`\n",
        _table([("seed", "Params", "seed", schema["properties"]["seed"], tree["seed"])], docs),
    ]
    for section, entry in schema["properties"].items():
        if "$ref" not in entry:
            continue
        name = entry["$ref"].rpartition("/")[2]
        parts.append(f"## `{section}`\n\n{docs[name][None]}\n")
        rows = []
        for key, field in schema["$defs"][name]["properties"].items():
            if key == "phases":
                phases = tree[section][key]
                for sub, inner in schema["$defs"]["PhaseParams"]["properties"].items():
                    shipped = {phase: values[sub] for phase, values in phases.items() if sub in values}
                    rows.append((f"{section}.phases.NAME.{sub}", "PhaseParams", sub, inner, shipped))
            else:
                rows.append((f"{section}.{key}", name, key, field, tree[section].get(key, {})))
        parts.append(_table(rows, docs))
    return "\n".join(parts)


def _table(rows: list[tuple[str, str, str, dict[str, Any], Any]], docs: dict[str, dict[str | None, str]]) -> str:
    lines = ["| key | meaning | allowed | shipped |", "|---|---|---|---|"]
    for path, model, key, field, value in rows:
        lines.append(
            f"| `{path}` | {docs[model][key]} | {_allowed(key, field)} | {_shipped(value) or _optional(field)} |"
        )
    return "\n".join(lines) + "\n"


_IN_WORDS = {
    "depth": "a whole number from 1, `all`, the name of a block, or a list of rules",
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


def _optional(field: dict[str, Any]) -> str:
    return f"optional, {_shipped(field['default'])}"


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

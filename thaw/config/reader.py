"""params.yaml, read strictly: every mistake at once, and no value that two YAML parsers read differently.

DVC reads params.yaml by the rules of YAML 1.2 (ruamel.yaml), PyYAML by those of YAML 1.1. A value that the two take
differently (`1e-3`, `yes`, `0o17`) would be one thing in dvc.lock and another in training, so it is refused.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from thaw.config import checks, messages
from thaw.config.schema import Params
from thaw.errors import ParamsError

PARAMS_FILE = Path("params.yaml")


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Return the validated params. Raises: ParamsError with one line for each mistake in the file."""
    tree = read_tree(path)
    lines = [*checks.between_fields(tree), *checks.idle_keys(tree)]
    try:
        params = Params.model_validate(tree)
    except ValidationError as error:
        lines = [*messages.in_fields(error, Params), *lines]
    if lines:
        raise ParamsError("\n".join(f"{path.name}: {line}" for line in lines))
    return params


def read_tree(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file as plain Python values.

    Raises: ParamsError for syntax, tags, aliases, duplicate keys and ambiguous values, a line for each mistake.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ParamsError(f"{path} is missing; run from the repository's root, or restore it with git") from None
    except OSError as error:
        raise ParamsError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        mistakes = [f"{path.name}: line {line}: {what}" for line, what in sorted(set(_mistakes(root)))] if root else []
        tree = None if mistakes else yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ParamsError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ParamsError(f"{path.name} is nested too deeply; three or four levels are all it needs") from None
    if mistakes:
        raise ParamsError("\n".join(mistakes))
    if not isinstance(tree, dict):
        raise ParamsError(f"{path.name} must be a mapping of sections such as `seed:` and `prepare:`")
    return tree


def _mistakes(root: yaml.Node) -> Iterator[tuple[int, str]]:
    pending: list[yaml.Node] = [root]
    done: set[int] = set()
    while pending:
        node = pending.pop()
        line = node.start_mark.line + 1
        if id(node) in done:
            yield line, "anchors and aliases are not supported; write the value out"
            continue
        done.add(id(node))
        if (problem := _problem(node)) is not None:
            yield line, problem
        elif isinstance(node, yaml.MappingNode):
            yield from _key_mistakes(node)
            pending += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            pending += node.value


def _key_mistakes(mapping: yaml.MappingNode) -> Iterator[tuple[int, str]]:
    seen: set[str] = set()
    for key, _ in mapping.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or not key.tag.endswith((":str", ":merge")):
            yield line, f"the key {getattr(key, 'value', None)!r} is not text; keys are names"[:160]
        elif key.value in seen:
            yield line, f"the key {key.value!r} stands twice; keep one of them"
        else:
            seen.add(key.value)


# The core schema of YAML 1.2.2, section 10.3.2, narrowed to what ruamel.yaml 0.19 (DVC's parser) and PyYAML share.
_CORE_SCHEMA = (
    ("null", re.compile(r"~|null|Null|NULL|")),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE")),
    ("int", re.compile(r"[-+]?(0|[1-9][0-9]*)")),
    ("float", re.compile(r"[-+]?[0-9]+\.[0-9]*([eE][-+][0-9]+)?|\.[0-9]+([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)")),
    ("float", re.compile(r"\.(nan|NaN|NAN)")),
)
_MAYBE_NUMBER = re.compile(r"[-+]?[0-9.][0-9_.:xobeE+-]*|[-+]?0[xX][0-9a-fA-F_]+|=|<<|\d{4}-\d\d?-\d\d?.*")
_PLAIN_TAGS = {"map", "seq", "str", "null", "bool", "int", "float", "timestamp", "merge", "value"}


def _problem(node: yaml.Node) -> str | None:
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind not in _PLAIN_TAGS:
        return f"the tag {node.tag!r} is not allowed; write a plain value"
    if not isinstance(node, yaml.ScalarNode):
        return None if kind in {"map", "seq"} else f"the tag {node.tag!r} is not allowed here; write a plain value"
    if node.style is not None:
        return None if kind == "str" else f"the tag {node.tag!r} is not allowed on quoted text; write a plain value"
    text = str(node.value)
    core = next((name for name, pattern in _CORE_SCHEMA if pattern.fullmatch(text)), "str")
    if core != kind or (core == "str" and _MAYBE_NUMBER.fullmatch(text)):
        return f"{text} is read differently by different YAML parsers; {_unambiguous(text)}"
    return None


def _unambiguous(text: str) -> str:
    if text.lower() in {"yes", "no", "on", "off", "y", "n"}:
        return "write true or false, or put the text in quotes"
    try:
        number = float(text.replace("_", ""))
    except ValueError:
        return "put it in quotes if it is text"
    if not math.isfinite(number):
        return "write a finite number"
    mantissa, exponent, power = repr(number).partition("e")
    return f"write {mantissa if '.' in mantissa else f'{mantissa}.0'}{exponent}{power}"

"""params.yaml, read strictly: every mistake at once, and every value as DVC reads it.

DVC reads params.yaml with ruamel.yaml, by the core schema of YAML 1.2. PyYAML follows YAML 1.1, so it gets the
resolver of the core schema here: `3e-4` is a number. Three kinds of plain text are refused, since dvc.lock or a reader
could take them for something else: what only ruamel.yaml or YAML 1.1 reads as no text (`yes`, `1_000`, `2026-11-22`),
what only YAML 1.2 reads as a number (`.5e3`), and numbers with a leading zero (`012`, ten in YAML 1.1).
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
    full = checks.completed(tree)
    lines = [*checks.between_fields(full), *checks.keys_without_effect(full)]
    try:
        params = Params.model_validate(tree)
    except ValidationError as error:
        lines = [*messages.in_fields(error, Params, tree), *lines]
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
        root = yaml.compose(text, Loader=CoreLoader)
        mistakes = [f"{path.name}: line {line}: {what}" for line, what in sorted(set(_mistakes(root)))] if root else []
        tree = None if mistakes else yaml.load(text, Loader=CoreLoader)  # noqa: S506, a safe loader
    except yaml.YAMLError as error:
        raise ParamsError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}") from None
    except ValueError as error:  # Python's limit on the digits of a whole number
        raise ParamsError(f"{path.name} holds a number that cannot be read: {error}") from None
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


# The core schema of YAML 1.2.2, section 10.3.2, less the floats that ruamel.yaml 0.19 reads as text: `.5e3`.
_CORE_SCHEMA = (
    ("null", re.compile(r"~|null|Null|NULL|")),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE")),
    ("int", re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")),
    ("float", re.compile(r"[-+]?[0-9]+(\.[0-9]*([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)|[-+]?\.[0-9]+([eE][-+][0-9]+)?")),
    ("float", re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")),
)
_MAYBE_NUMBER = re.compile(r"[-+]?[0-9.][0-9_.:xobeE+-]*|[-+]?0[xX][0-9a-fA-F_]+|\d{4}-\d\d?-\d\d?.*")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_PLAIN_TAGS = {"map", "seq", "str", "null", "bool", "int", "float", "timestamp", "merge", "value"}
_TAG = "tag:yaml.org,2002:"


class CoreLoader(yaml.SafeLoader):
    """PyYAML's safe loader with the core schema of YAML 1.2 in place of YAML 1.1's."""

    yaml_implicit_resolvers = {}  # noqa: RUF012, as its base declares it

    def integer(self, node: yaml.ScalarNode) -> int:
        """Return a whole number, decimal, octal (0o17) or hexadecimal (0x1F)."""
        text = str(self.construct_scalar(node))
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


for _name, _pattern in _CORE_SCHEMA:
    CoreLoader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(rf"(?:{_pattern.pattern})\Z"), None)
CoreLoader.add_constructor(f"{_TAG}int", CoreLoader.integer)


def _problem(node: yaml.Node) -> str | None:
    kind = node.tag.removeprefix(_TAG)
    if kind not in _PLAIN_TAGS:
        return f"the tag {node.tag!r} is not allowed; write a plain value"
    if not isinstance(node, yaml.ScalarNode):
        return None if kind in {"map", "seq"} else f"the tag {node.tag!r} is not allowed here; write a plain value"
    if node.style is not None:
        return None if kind == "str" else f"the tag {node.tag!r} is not allowed on quoted text; write a plain value"
    text = str(node.value)
    if kind != _resolved(CoreLoader, text):
        return f"the tag {node.tag!r} is not allowed on {text}; write a plain value"
    if _LEADING_ZERO.fullmatch(text) or (kind == "str" and _is_no_text_elsewhere(text)):
        return f"{text} is read differently by different YAML parsers; {_unambiguous(text)}"
    return None


def _is_no_text_elsewhere(text: str) -> bool:
    return _resolved(yaml.SafeLoader, text) != "str" or _MAYBE_NUMBER.fullmatch(text) is not None


def _resolved(loader: type[yaml.SafeLoader], text: str) -> str:
    """Return what a loader takes plain text for."""
    tag: str = loader("").resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    return tag.removeprefix(_TAG)


def _unambiguous(text: str) -> str:
    if text.lower() in {"yes", "no", "on", "off"}:
        return "write true or false, or put the text in quotes"
    plain = text.replace("_", "")
    try:
        number = float(plain)
    except ValueError:
        return "put it in quotes if it is text"
    if not math.isfinite(number):
        return "write a finite number"
    return f"write {int(plain)}" if re.fullmatch(r"[-+]?[0-9]+", plain) else f"write {number!r}"

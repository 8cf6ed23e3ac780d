"""params.yaml edited as text: a key set, renamed or removed; comments, order and everything else stay as they are.

Keys are found by PyYAML's positions in the text, so it does not matter how the file is laid out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import yaml

from thaw.config.reader import CoreLoader
from thaw.errors import ParamsError


def with_value(text: str, path: str, value: object) -> str:
    """Return the text with the value at a dotted path set; a mapping is laid over the section that is there.

    Raises: ParamsError if the path leads through something that is no section.
    """
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            text = with_value(text, f"{path}.{key}", inner)
        return text
    *above, key = path.split(".")
    section, missing = _root(text), [*above]
    while missing:
        inner_section = _child(section, missing[0])
        if inner_section is None:
            break
        section, missing = inner_section[1], missing[1:]
    if not isinstance(section, yaml.MappingNode):
        raise ParamsError(f"params.yaml: {path} cannot be set, since a key above it has a value; edit the file")
    if missing:
        nested: object = {key: value}
        for part in reversed(missing[1:]):
            nested = {part: nested}
        return _with_key(text, section, missing[0], nested)
    if (found := _child(section, key)) is None:
        return _with_key(text, section, key, value)
    name, old = found
    start, end = old.start_mark.index, _end(old)
    if old.start_mark.line > name.end_mark.line:  # a block below its key: the value goes beside the key
        colon = text.index(":", name.end_mark.index) + 1
        return f"{text[:colon]} {_flow(value)}{text[colon:start].rstrip()}{text[end:]}"
    blank = " " if text[start - 1] == ":" else ""
    return f"{text[:start]}{blank}{_flow(value)}{text[end:]}"


def value_at(text: str, path: str) -> object:
    """Return the value at a dotted path, or None where there is none."""
    value: object = yaml.load(text, Loader=CoreLoader)  # noqa: S506, a safe loader
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def renamed(text: str, names: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return the text with keys renamed, and what was done: `old -> new` for each.

    `names` has old and new dotted paths, `*` for any key; a section that has both keys already keeps both.
    """
    done = []
    for old, new in names.items():
        key = new.rpartition(".")[2]
        while (spot := _first_to_rename(text, old, key)) is not None:
            node, path = spot
            text = text[: node.start_mark.index] + key + text[node.end_mark.index :]
            done.append(f"{path} -> {'.'.join([*path.split('.')[:-1], key])}")
    return text, done


def _first_to_rename(text: str, old: str, new_key: str) -> tuple[yaml.Node, str] | None:
    root = _root(text)
    for node, _, path in _with_paths(root, old.split(".")):
        beside = ".".join([*path.split(".")[:-1], new_key])
        if next(_matches(root, beside.split(".")), None) is None:
            return node, path
    return None


def without(text: str, paths: Iterable[str]) -> tuple[str, list[str]]:
    """Return the text without the keys at some dotted paths, `*` for any key, and the paths that were removed.

    A comment beside such a key goes with it; a section that is left without a key becomes `{}`.
    """
    done = []
    for path in paths:
        while (spot := next(_with_paths(_root(text), path.split(".")), None)) is not None:
            done.append(spot[2])
            text = _without_key(text, spot[2])
    return text, done


def _without_key(text: str, path: str) -> str:
    *above, key = path.split(".")
    section = _root(text)
    for part in above:
        section = next(value for name, value in section.value if name.value == part)
    pairs = section.value
    index = next(number for number, (name, _) in enumerate(pairs) if name.value == key)
    name, value = pairs[index]
    if len(pairs) == 1:
        return with_value(text, ".".join(above), {})
    if not (isinstance(section, yaml.MappingNode) and section.flow_style):
        line_end = text.find("\n", _end(value))
        return text[: text.rfind("\n", 0, name.start_mark.index) + 1] + ("" if line_end < 0 else text[line_end + 1 :])
    if index:
        return text[: _end(pairs[index - 1][1])] + text[_end(value) :]
    return text[: name.start_mark.index] + text[pairs[1][0].start_mark.index :]


def _root(text: str) -> yaml.Node:
    root = yaml.compose(text, Loader=CoreLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ParamsError("params.yaml must be a mapping of sections such as `seed:` and `prepare:`")
    return root


def _child(section: yaml.Node, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    pairs = section.value if isinstance(section, yaml.MappingNode) else []
    return next(((name, value) for name, value in pairs if name.value == key), None)


def _matches(root: yaml.Node, path: Sequence[str]) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    for key, value, _ in _with_paths(root, path):
        yield key, value


def _with_paths(node: yaml.Node, path: Sequence[str], above: str = "") -> Iterator[tuple[yaml.Node, yaml.Node, str]]:
    """Yield each key and value that a path with `*` leads to, and where they are."""
    for name, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if path[0] in ("*", name.value):
            here = f"{above}{name.value}"
            if len(path) == 1:
                yield name, value, here
            else:
                yield from _with_paths(value, path[1:], f"{here}.")


def _end(node: yaml.Node) -> int:
    """Return where a value ends in the text; the end that PyYAML gives for a block lies at the next key."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _with_key(text: str, section: yaml.MappingNode, key: str, value: object) -> str:
    """Return the text with a new last key in a section."""
    if section.flow_style or not section.value:
        start, end = section.start_mark.index, _end(section)
        old = text[start:end].rstrip().removesuffix("}").rstrip()
        return f"{text[:start]}{old}{', ' if section.value else ''}{key}: {_flow(value)}}}{text[end:]}"
    indent = " " * section.value[0][0].start_mark.column
    line_end = text.find("\n", _end(section))
    line_end = len(text) if line_end < 0 else line_end
    return f"{text[:line_end]}\n{indent}{key}: {_flow(value)}{text[line_end:]}"


def _flow(value: object) -> str:
    """Return a value on one line, as YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n...\n").strip()

"""What a sweep searches: keys of params.yaml, each with a range or with options, checked before anything runs."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from thaw.config.checks import value_at
from thaw.config.reader import CoreLoader, load_params, read_tree
from thaw.errors import ParamsError

SECTIONS = ("backbone", "augment", "features", "head", "unfreeze")
"""What may be searched: another split, another metric or another seed would answer other questions."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones if both ends are."""

    low: float
    high: float
    log: bool = False
    """Whether the logarithm is even over the range."""

    @property
    def points(self) -> list[Any]:
        """The ends."""
        return [self.low, self.high]


@dataclass(frozen=True)
class Options:
    """Values to choose one of."""

    points: list[Any]


Domain = Range | Options
Space = dict[str, Domain]


def parse(words: Sequence[str], params: Path) -> Space:
    """Return the space that words such as `head.hidden=[],[512]` and `unfreeze.phases.mid.lr=1e-5..1e-3:log` name.

    A word without = is a YAML file with the same: a key a line, what it may be as text or as a list of options.
    Raises: ParamsError if a word is no range and no options, or params.yaml would not admit an end or an option.
    """
    entries: list[tuple[str, Any]] = []
    for word in words:
        key, equals, text = word.partition("=")
        entries += [(key, text)] if equals else list(read_tree(Path(word)).items())
    space = {key: _domain(key, given) for key, given in entries}
    if len(space) < len(entries):
        raise ParamsError("the search names a key twice; name it once, with all that it may be")
    _check(space, read_tree(params))
    return space


def overrides(values: Mapping[str, Any]) -> list[str]:
    """Return values as `dvc exp run -S` takes them; ++ sets a key that params.yaml leaves out, too."""
    return [f"++{key}={_hydra(value)}" for key, value in values.items()]


def _domain(key: str, given: object) -> Domain:
    if isinstance(given, list):
        return _options(key, given)
    text, _, scale = str(given).partition(":") if ".." in str(given) else (str(given), "", "")
    low, dots, high = text.partition("..")
    if not dots:
        return _options(key, _yaml(key, f"[{text}]"))
    ends = [_yaml(key, end) for end in (low, high)]
    if scale not in ("", "log") or not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
        raise ParamsError(f"{key}={given} is no range; write LOW..HIGH or LOW..HIGH:log, such as 1e-5..1e-3:log")
    if not ends[0] < ends[1] or (scale and ends[0] <= 0):
        raise ParamsError(f"{key}={given}: the low end must be below the high one, and above 0 for :log")
    return Range(ends[0], ends[1], log=bool(scale))


def _options(key: str, values: list[Any]) -> Options:
    if len({json.dumps(value) for value in values}) < 2:
        raise ParamsError(f"{key} has one value, {json.dumps(values)}; name a range LOW..HIGH, or several")
    return Options(values)


def _yaml(key: str, text: str) -> Any:
    try:
        return yaml.load(text, Loader=CoreLoader)  # noqa: S506, a safe loader
    except (yaml.YAMLError, ValueError):
        raise ParamsError(f"{key}={text.strip('[]')} cannot be read; write LOW..HIGH or options: [],[512]") from None


def _check(space: Space, tree: dict[str, Any]) -> None:
    """Raises: ParamsError if params.yaml would not admit a point of the space."""
    for key in space:
        if key.partition(".")[0] not in SECTIONS:
            raise ParamsError(f"{key} cannot be searched; name keys of {', '.join(SECTIONS)}")
    with tempfile.TemporaryDirectory(prefix="thaw-sweep-") as folder:
        path = Path(folder, "params.yaml")
        for values in _points(space):
            path.write_text(yaml.safe_dump(with_values(tree, values)), encoding="utf-8")
            load_params(path)


def _points(space: Space) -> Iterator[dict[str, Any]]:
    """Yield each end and each option alone, then all first and all last ones together."""
    yield from ({key: value} for key, domain in space.items() for value in domain.points)
    yield from ({key: domain.points[place] for key, domain in space.items()} for place in (0, -1))


def with_values(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a tree of params with values under dotted keys."""
    copy: dict[str, Any] = json.loads(json.dumps(tree))
    for key, value in values.items():
        *above, last = key.split(".")
        section = copy
        for name in above:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise ParamsError(f"{key} cannot be searched: {name} is no section of params.yaml")
        section[last] = value
    return copy


def contains(space: Space, tree: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the values that a tree of params has for the keys of a space; None if one is not in it."""
    found = {key: value_at(tree, *key.split(".")) for key in space}
    inside = (
        isinstance(value, int | float) and domain.low <= value <= domain.high
        if isinstance(domain, Range)
        else value in domain.points
        for domain, value in zip(space.values(), found.values(), strict=True)
    )
    return found if all(inside) else None


def _hydra(value: object) -> str:
    """Return a value in the grammar of Hydra, which DVC reads overrides with."""
    if isinstance(value, list):
        return f"[{','.join(map(_hydra, value))}]"
    if isinstance(value, str):
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{quoted}'"
    return json.dumps(value)

"""What is wrong with a tree of params, in words: the path, the value seen, what is allowed, what to do.

`in_fields` puts pydantic's findings about single values into words; `between_fields` finds values that do not fit each
other. The second looks at the plain tree, so that both kinds are reported together.
"""

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

FORMS = {
    "phase": r"^[a-z][a-z0-9_]{0,30}$",
    "source": r"^(package|timm|torchvision|file|onnx|keras|python|model):\S.*$",
    "model": r"^model:\S.*$",
    "sha256": r"^[0-9a-f]{64}$",
    "device": r"^(auto|cpu|mps|cuda(:\d+)?)$",
}
FORM_WORDS = {
    FORMS["phase"]: "a small letter followed by up to 30 small letters, digits or _",
    FORMS["source"]: "package:NAME, timm:NAME[.TAG], torchvision:NAME[/WEIGHTS], file:PATH@ARCHITECTURE, onnx:PATH, "
    "python:MODULE:CALLABLE, model:FOLDER or model:REPOSITORY#PATH@REVISION",
    FORMS["model"]: "null or model:FOLDER or model:REPOSITORY#PATH@REVISION",
    FORMS["sha256"]: "null or the 64 small hex digits of a SHA-256",
    FORMS["device"]: "auto, cpu, mps, cuda or cuda:NUMBER",
}
KERAS = (
    "a network of Keras cannot be cut where it is; export it to ONNX and name that file: onnx:PATH "
    "(docs/guide/backbones.md has the commands)"
)
_BOUNDS = {
    "greater_than": "above",
    "greater_than_equal": "at least",
    "less_than": "below",
    "less_than_equal": "at most",
}
_TYPES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text; put it in quotes if it looks like a number",
    "list_type": "a list such as [512]",
    "model_type": "a section with keys of its own",
    "dict_type": "a section with keys of its own",
    "finite_number": "a finite number",
    "string_too_short": "text of at least one character",
}


def as_ranges(value: object) -> object:
    """Return `[low, high]`, or a list of such pairs, as a tuple of pairs; None stays None. Raises: ValueError."""
    if value is None:
        return None
    several = isinstance(value, list) and all(isinstance(pair, list) for pair in value)
    pairs: list[Any] = value if isinstance(value, list) and several else [value]
    if not pairs or not all(map(_is_range, pairs)):
        raise ValueError("it must be [low, high] with low below high, or a list of such pairs, one for each channel")
    return tuple((float(low), float(high)) for low, high in pairs)


def _is_range(pair: object) -> bool:
    if not isinstance(pair, list) or len(pair) != 2:
        return False
    numbers = (isinstance(end, int | float) and not isinstance(end, bool) and math.isfinite(end) for end in pair)
    return all(numbers) and bool(pair[0] < pair[1])


def in_fields(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """Return a line for each of pydantic's findings; all keys that a section lacks share one."""
    entries = error.errors()
    meant = {(*entry["loc"][:-1], _nearest(entry["loc"], root)) for entry in entries if _is_unknown(entry)}
    missing: dict[str, list[str]] = {}
    lines = []
    for entry in entries:
        if entry["type"] != "missing":
            lines.append(_words(entry, root))
        elif entry["loc"] not in meant:
            section = ".".join(str(part) for part in entry["loc"][:-1] if not _is_form(part))
            missing.setdefault(section, []).append(str(entry["loc"][-1]))
    where = "docs/guide/params.md lists every key"
    return lines + [f"{section or 'the file'} lacks {', '.join(keys)}; {where}" for section, keys in missing.items()]


def between_fields(tree: Mapping[str, Any]) -> list[str]:
    """Return a line for each set of values that are possible one by one but not together."""
    return [
        *_source_mistakes(tree),
        *_split_mistakes(tree),
        *_size_mistakes(tree),
        *_channel_mistakes(tree),
        *_phase_mistakes(tree),
    ]


def _source_mistakes(tree: Mapping[str, Any]) -> Iterator[str]:
    backbone = tree.get("backbone")
    source = backbone.get("source") if isinstance(backbone, Mapping) else None
    if isinstance(source, str) and source.startswith("keras:"):
        yield f"backbone.source is {shown(source)}; {KERAS}"


def _split_mistakes(tree: Mapping[str, Any]) -> Iterator[str]:
    test, val = (number_at(tree, "prepare", key) for key in ("test_fraction", "val_fraction"))
    if test is not None and val is not None and 0 < test < 1 and 0 < val < 1 <= test + val:
        yield (
            f"prepare.test_fraction {test:g} and prepare.val_fraction {val:g} leave nothing to train on; together they "
            "must stay below 1"
        )


def _size_mistakes(tree: Mapping[str, Any]) -> Iterator[str]:
    network, packed = number_at(tree, "backbone", "input_px"), number_at(tree, "prepare", "size_px")
    if network is not None and packed is not None and 16 <= packed < network:
        yield (
            f"backbone.input_px is {network:g}, more than the {packed:g} px that prepare.size_px packs; raise "
            "prepare.size_px or lower backbone.input_px"
        )


def _channel_mistakes(tree: Mapping[str, Any]) -> Iterator[str]:
    given = {key: value_at(tree, "backbone", key) for key in ("mean", "std")}
    counts = {
        f"backbone.{key}": len(value) for key, value in given.items() if isinstance(value, list) and len(value) > 1
    }
    channels = number_at(tree, "backbone", "in_channels")
    if channels is not None:
        counts = {"backbone.in_channels": int(channels), **counts}
    if len(set(counts.values())) > 1:
        (first, count), *others = counts.items()
        name, other = next(pair for pair in others if pair[1] != count)
        says = f"{first} is {count}" if channels is not None else f"{first} has {count} values"
        yield f"{says}, but {name} has {other}; give one for each channel of the images, or one for all"


def _phase_mistakes(tree: Mapping[str, Any]) -> Iterator[str]:
    phases = value_at(tree, "unfreeze", "phases")
    if not isinstance(phases, Mapping):
        return
    starts = {
        name: phase.get("start") for name, phase in phases.items() if isinstance(phase, Mapping) and name != "head"
    }
    for name, phase in phases.items():
        yield from _late_blocks(f"unfreeze.phases.{name}", phase)
    depths = {name: _blocks(phase.get("depth")) for name, phase in phases.items() if isinstance(phase, Mapping)}
    if "head" in phases:
        yield "unfreeze.phases.head: the name head is taken by the stage before all phases; choose another"
    for name, start in starts.items():
        path = f"unfreeze.phases.{name}"
        if not isinstance(start, str) or start == "head" or not re.fullmatch(FORMS["phase"], start):
            continue
        if start not in phases:
            close = difflib.get_close_matches(start, ["head", *map(str, phases)], n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]}?" if close else ""
            yield f"{path}.start is {shown(start)}; it must be head or the name of another phase{hint}"
            continue
        circle = _circle(name, starts)
        if circle and name == min(circle):
            yield f"{path}.start leads round in a circle: {' -> '.join([*circle, name])}; start one from head"
        if circle:
            continue
        depth, before = depths.get(name), depths.get(start)
        if depth is not None and before is not None and depth < before:
            yield (
                f"{path}.depth is {depth:g}, less than that of {start}, from which it starts "
                f"({'all' if math.isinf(before) else f'{before:g}'}); unfreezing goes from the top down"
            )


def _late_blocks(path: str, phase: object) -> Iterator[str]:
    depth, every, epochs = (number_at(phase, key) for key in ("depth", "unfreeze_every", "epochs"))
    if depth and every and epochs and 1 + (depth - 1) * every > epochs:
        yield (
            f"{path}.unfreeze_every is {every:g}: the last of {depth:g} blocks would begin to train in epoch "
            f"{1 + (depth - 1) * every:g} of {epochs:g}; lower it, or give more epochs"
        )


def _circle(name: str, starts: Mapping[str, Any]) -> list[str]:
    """Return the phases from `name` back to itself, or nothing if its starts lead elsewhere."""
    path = [name]
    while isinstance(start := starts.get(path[-1]), str) and start not in path:
        path.append(start)
    return path if start == name else []


def _blocks(depth: object) -> float | None:
    if depth == "all":
        return math.inf
    return float(depth) if isinstance(depth, int) and not isinstance(depth, bool) and depth > 0 else None


def value_at(tree: object, *path: str) -> object:
    """Return the value under a path of keys, or None where there is none."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def number_at(tree: object, *path: str) -> float | None:
    """Return the number under a path of keys, or None where there is none."""
    value = value_at(tree, *path)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _words(entry: Mapping[str, Any], root: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in entry["loc"] if part != "[key]" and not _is_form(part))
    kind, context, seen = entry["type"], entry.get("ctx", {}), shown(entry["input"])
    if _is_unknown(entry):
        close = _nearest(entry["loc"], root)
        return f"{path} is not a known key; {f'did you mean {close}?' if close else 'remove it'}"
    if kind in _BOUNDS:
        return f"{path} is {seen}; it must be {_BOUNDS[kind]} {next(iter(context.values())):.12g}"
    if kind == "string_pattern_mismatch":
        verb = ": the name" if "[key]" in entry["loc"] else f" is {seen}; it"
        return f"{path}{verb} must be {FORM_WORDS[context['pattern']]}"
    if kind == "literal_error":
        return f"{path} is {seen}; it must be {context['expected'].replace(chr(39), '')}"
    if kind in _TYPES:
        return f"{path} is {seen}; it must be {_TYPES[kind]}"
    message = str(entry["msg"]).removeprefix("Value error, ")
    return f"{path} is {seen}; {message[0].lower()}{message[1:]}"


def _is_unknown(entry: Mapping[str, Any]) -> bool:
    return bool(entry["type"] == "extra_forbidden")


def _nearest(loc: tuple[int | str, ...], root: type[BaseModel]) -> str | None:
    """Return the key of the section that `loc` lies in whose name is closest to its last part."""
    kind: Any = root
    for part in loc[:-1]:
        if _is_form(part):  # of the forms that a value may have, only the list has keys within
            kind = next(form for form in map(_bare, get_args(kind)) if get_origin(form) is list)
        elif get_origin(kind) is list:
            kind = get_args(kind)[0]
        else:
            kind = _bare(get_args(kind)[1] if get_origin(kind) is dict else kind.model_fields[part].annotation)
    close = difflib.get_close_matches(str(loc[-1]), kind.model_fields, n=1, cutoff=0.5)
    return close[0] if close else None


def _is_form(part: int | str) -> bool:
    return isinstance(part, str) and part.startswith("~")


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def shown(value: object) -> str:
    """Return a value as a message quotes it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."

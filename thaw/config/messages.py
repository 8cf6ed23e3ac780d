"""What is wrong with a tree of params, in words: the path, the value seen, what is allowed, what to do.

`in_fields` puts pydantic's findings about single values into words; `between_fields` finds values that do not fit each
other. The second looks at the plain tree, so that both kinds are reported together.
"""

import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

FORMS = {
    "phase": r"^[a-z][a-z0-9_]{0,30}$",
    "source": r"^(package|timm|torchvision|file|onnx|keras|python|model):\S.*$",
    "model": r"^model:\S.*$",
    "callable": r"^[\w.]+:\w+$",
    "sha256": r"^[0-9a-f]{64}$",
    "device": r"^(auto|cpu|mps|cuda(:\d+)?)$",
    "group": r"^(none|folder|filename:\S.*)$",
    "layout": r"^torchvision:\w+$",
    "rare": r"^(error|train-only|drop|merge:\S.*)$",
}
FORM_WORDS = {
    FORMS["phase"]: "a small letter followed by up to 30 small letters, digits or _",
    FORMS[
        "source"
    ]: "package:NAME, timm:NAME[.TAG], torchvision:NAME[/WEIGHTS], file:PATH[#KEY]@ARCHITECTURE, onnx:PATH, "
    "python:MODULE:CALLABLE, model:FOLDER or model:REPOSITORY#PATH@REVISION",
    FORMS["model"]: "null or model:FOLDER or model:REPOSITORY#PATH@REVISION",
    FORMS["callable"]: "null or MODULE:CALLABLE",
    FORMS["sha256"]: "null or the 64 small hex digits of a SHA-256",
    FORMS["device"]: "auto, cpu, mps, cuda or cuda:NUMBER",
    FORMS["group"]: "null or none, folder or filename:REGEX",
    FORMS["layout"]: "null or torchvision:NAME, such as torchvision:CIFAR10",
    FORMS["rare"]: "error, train-only, drop or merge:NAME",
}
KERAS = (
    "a network of Keras cannot be cut where it is; export it to ONNX and name that file: onnx:PATH "
    "(docs/guide/backbones.md has the commands)"
)
RENAMED_KEYS = {
    "augment.average": "augment.tta",
    "select.confidence": "select.min_win_rate",
    "unfreeze.phases.*.refit": "unfreeze.phases.*.warm_start",
}
"""Keys of earlier versions and what they are called now; * stands for the name of a phase."""
_ALL_EPOCHS = "a phase takes all its epochs, and what the last one leaves is what it offers"
GONE_KEYS = {"unfreeze.defaults.patience": _ALL_EPOCHS, "unfreeze.phases.*.patience": _ALL_EPOCHS}
"""Keys of earlier versions that have no successor, and why."""
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
    "model_type": "a section with keys of its own, or {} for its defaults",
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


def in_fields(error: ValidationError, root: type[BaseModel], tree: Mapping[str, Any]) -> list[str]:
    """Return a line for each of pydantic's findings; all keys that a section lacks share one.

    `tree` is what was read: a mistake in `unfreeze.defaults` is told there, and not once more for each phase.
    """
    entries = [entry for entry in error.errors() if not _is_from_defaults(entry["loc"], tree)] or error.errors()
    meant = {(*entry["loc"][:-1], _nearest(entry["loc"], root)) for entry in entries if _is_unknown(entry)}
    missing: dict[str, list[str]] = {}
    lines = []
    for entry in entries:
        if entry["type"] != "missing":
            lines.append(_words(entry, root))
        elif entry["loc"] not in meant:
            section = ".".join(str(part) for part in entry["loc"][:-1] if not _is_form(part))
            missing.setdefault(section, []).append(str(entry["loc"][-1]))
    return lines + [_missing(section, keys) for section, keys in missing.items()]


def _missing(section: str, keys: Sequence[str]) -> str:
    lacks, where = f"{section or 'the file'} lacks {', '.join(keys)}", "docs/guide/params.md lists every key"
    if section in ("", "unfreeze"):
        return f"{lacks}; DVC wants every section but compare and compute there, if only as {keys[-1]}: {{}}; {where}"
    return f"{lacks}; {where}"


def _is_from_defaults(loc: tuple[int | str, ...], tree: Mapping[str, Any]) -> bool:
    """Whether a place in a phase holds what the phase has from `unfreeze.defaults`."""
    if loc[:2] != ("unfreeze", "phases") or len(loc) < 4:
        return False
    section = tree["unfreeze"]
    defaults = section.get("defaults")
    return isinstance(defaults, Mapping) and loc[3] in defaults and loc[3] not in section["phases"][loc[2]]


def _words(entry: Mapping[str, Any], root: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in entry["loc"] if part != "[key]" and not _is_form(part))
    kind, context, seen = entry["type"], entry.get("ctx", {}), shown(entry["input"])
    if _is_unknown(entry):
        if renamed := _renamed(path):
            return f"{path} is called {renamed} now; rename it"
        if why := next((why for old, why in GONE_KEYS.items() if _matches(old, path)), None):
            return f"{path} is gone: {why}; remove it"
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


def _renamed(path: str) -> str | None:
    """Return what a key of an earlier version is called now."""
    for old, new in RENAMED_KEYS.items():
        if found := _matches(old, path):
            return new.replace("*", found[1]) if found.groups() else new
    return None


def _matches(key: str, path: str) -> re.Match[str] | None:
    """Return the match of a path with a key in which * stands for the name of a phase."""
    return re.fullmatch(re.escape(key).replace(r"\*", "([^.]+)"), path)


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

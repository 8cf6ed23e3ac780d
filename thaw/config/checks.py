"""Keys of params that are set and would do nothing, or that say two things at once.

A default is never a mistake, and some keys do nothing in ordinary runs (head.lr beside a solved head); a mistake is a
value that the other keys rule out. What depends on the backbone is checked once it is there (`settle`).
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import PurePath
from typing import Any

from thaw.config.messages import FORMS, KERAS, shown
from thaw.config.schema import Params, PhaseParams, Section, share_of_blocks, with_phase_defaults
from thaw.errors import ParamsError


def keys_without_effect(tree: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each key that is set to no effect, beside what other keys say."""
    yield from _data(tree)
    yield from _head(tree)
    yield from _backbone(tree)
    yield from _select(tree)
    phases = value_at(tree, "unfreeze", "phases")
    yield from _advise(tree, phases)
    for name, phase in phases.items() if isinstance(phases, Mapping) else ():
        yield from _phase(f"unfreeze.phases.{name}", phase)


def _data(tree: Mapping[str, Any]) -> Iterator[str]:
    raw, labels = value_at(tree, "data", "raw"), value_at(tree, "data", "labels")
    if not isinstance(raw, str) or not isinstance(labels, str) or PurePath(labels) == PurePath(raw):
        return
    if not labels.lower().endswith(".csv"):
        yield (
            f"data.labels is {labels}, and data.raw is {raw}; set data.labels to {raw}, whose folders or manifest have "
            "the labels, or to a CSV"
        )
    elif raw.lower().endswith(".csv"):
        yield f"data.labels is {labels}, and data.raw is {raw}, a CSV that has labels; set data.raw to the folder"
    elif PurePath(labels).is_relative_to(PurePath(raw)):
        yield f"data.labels is {labels}, which lies among the images of data.raw; move it elsewhere, where git keeps it"


def _head(tree: Mapping[str, Any]) -> Iterator[str]:
    kind, hidden, grow_from = (value_at(tree, "head", key) for key in ("kind", "hidden", "grow_from"))
    dropout = number_at(tree, "head", "dropout")
    if kind in ("linear", "cosine") and isinstance(hidden, list) and hidden:
        yield f"head.kind is {kind}, which has no hidden layers, and head.hidden is {shown(hidden)}; set it to []"
    if kind == "mlp" and hidden == []:
        yield "head.kind is mlp, and head.hidden names no layer; write their widths, such as [512]"
    if grow_from is not None and (kind == "mlp" or hidden):
        yield "head.grow_from is set, and only a linear or a cosine head grows; set head.hidden to []"
    solved = kind in (None, "linear") and hidden == []
    if dropout and (solved or grow_from is not None) and value_at(tree, "unfreeze", "phases") == {}:
        yield (
            f"head.dropout is {dropout:g}, but this head is not trained by steps, and there are no phases that would; "
            "set it to 0.0"
        )


def _backbone(tree: Mapping[str, Any]) -> Iterator[str]:
    source, pretrained, taps = (value_at(tree, "backbone", key) for key in ("source", "pretrained", "taps"))
    if pretrained is False and isinstance(source, str) and source.startswith(("file:", "model:")):
        yield (
            f"backbone.pretrained is false, and backbone.source {shown(source)} names weights that would not be used; "
            "name the architecture alone, such as timm:NAME"
        )
    python = value_at(tree, "backbone", "python")
    if isinstance(python, str) and isinstance(source, str) and not source.startswith("model:"):
        yield (
            f"backbone.python is {shown(python)}, which only a model: source calls, and backbone.source is "
            f"{shown(source)}; set it to null"
        )
    if isinstance(taps, list):
        names = [name for name in taps if isinstance(name, str)]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"backbone.taps names {name} more than once; name each block once"
        if "all" in names and len(set(names)) > 1:
            yield "backbone.taps names all, which stands for every block, beside others; write [all]"


def _select(tree: Mapping[str, Any]) -> Iterator[str]:
    if number_at(tree, "select", "folds") == 1 and value_at(tree, "select", "final") == "ensemble":
        yield "select.final is ensemble, but select.folds is 1, which trains one network; set select.final to refit"


def _advise(tree: Mapping[str, Any], phases: object) -> Iterator[str]:
    named = phases if isinstance(phases, Mapping) else {}
    asking = [name for name, phase in named.items() if value_at(phase, "depth") == "auto"]
    images = number_at(tree, "advise", "images")
    if asking and images == 0:
        yield (
            f"unfreeze.phases.{asking[0]}.depth is auto, but advise.images is 0, so that nothing is measured; set "
            "advise.images to 640, or give a depth such as 1/3"
        )
    if images is not None and images > 0 and named and not asking:
        yield f"advise.images is {images:g}, but no phase has depth: auto, which would follow the advice; set it to 0"


def _phase(path: str, phase: object) -> Iterator[str]:
    depth, scale, every = (value_at(phase, "depth"), number_at(phase, "lr_scale"), number_at(phase, "unfreeze_every"))
    if isinstance(depth, list) and scale is not None and 0 < scale < 1:
        yield f"{path}.lr_scale is {scale:g}, but depth is a list of rules, and each names its rate; set it to 1.0"
    if isinstance(depth, list) and every:
        yield f"{path}.unfreeze_every is {every:g}, but depth is a list of rules, which act at once; set it to 0"
    if depth == 1 and every:
        yield f"{path}.unfreeze_every is {every:g}, but only one block trains; set it to 0"
    if value_at(phase, "class_weights") == "balanced" and value_at(phase, "balanced_sampler") is True:
        yield f"{path} balances the classes twice, by class_weights and balanced_sampler; keep one of them"
    for key in ("mixup", "cutmix"):
        alpha, size = number_at(phase, key), number_at(phase, "batch_size")
        if alpha and alpha > 0 and size == 1:
            yield f"{path}.{key} is {alpha:g}, but a batch_size of 1 leaves nothing to mix with; raise batch_size"


def completed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tree of params with each key that was left out at its default, as far as its sections are mappings."""
    full = dict(tree)
    for name, field in Params.model_fields.items():
        kind, section = field.annotation, tree.get(name, {})
        if isinstance(kind, type) and issubclass(kind, Section) and isinstance(section, Mapping):
            full[name] = {**_defaults(kind), **with_phase_defaults(section)}
    phases = value_at(full, "unfreeze", "phases")
    if isinstance(phases, Mapping):
        usual = _defaults(PhaseParams)
        filled = {name: {**usual, **phase} if isinstance(phase, Mapping) else phase for name, phase in phases.items()}
        full["unfreeze"] = {**full["unfreeze"], "phases": filled}
    return full


def _defaults(kind: type[Section]) -> dict[str, Any]:
    return {name: field.default for name, field in kind.model_fields.items() if not field.is_required()}


def between_fields(tree: Mapping[str, Any]) -> list[str]:
    """Return a line for each set of values that are possible one by one but not together."""
    return [
        *_place_mistakes(tree),
        *_source_mistakes(tree),
        *_split_mistakes(tree),
        *_size_mistakes(tree),
        *_channel_mistakes(tree),
        *_phase_mistakes(tree),
    ]


def _place_mistakes(tree: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line if data.raw is no path, since DVC tracks paths."""
    raw = value_at(tree, "data", "raw")
    if not isinstance(raw, str):
        return
    if re.match(r"[a-z][a-z0-9+]*:/", raw):
        yield (
            f"data.raw is {shown(raw)}, an address, and stages read paths; run `thaw data fetch {raw}`, which brings "
            "it below data/, puts it into DVC and sets data.raw"
        )
    if raw.startswith("torchvision:"):
        name, _, folder = raw.partition("@")
        yield (
            f"data.raw is {shown(raw)}, and stages read paths; set data.raw and data.labels to "
            f"{folder or 'the folder that torchvision has put it into'}, and data.layout to {name}"
        )


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
    depths = {name: value_at(phase, "depth") for name, phase in phases.items()}
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
        if _is_less(depth, before):
            yield (
                f"{path}.depth is {depth}, less than that of {start}, from which it starts ({before}); unfreezing goes "
                "from the top down"
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


def _is_less(depth: object, before: object) -> bool:
    """Whether a depth is surely less than another: a number and a share compare only once the network is known."""
    pairs = [(_blocks(depth), _blocks(before)), (_share(depth), _share(before))]
    return any(ours is not None and theirs is not None and ours < theirs for ours, theirs in pairs)


def _blocks(depth: object) -> float | None:
    if depth == "all":
        return math.inf
    return float(depth) if isinstance(depth, int) and not isinstance(depth, bool) and depth > 0 else None


def _share(depth: object) -> Fraction | None:
    return Fraction(1) if depth == "all" else share_of_blocks(depth)


def value_at(tree: object, *path: str) -> object:
    """Return the value under a path of keys, or None where there is none."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def number_at(tree: object, *path: str) -> float | None:
    """Return the number under a path of keys, or None where there is none."""
    value = value_at(tree, *path)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def settle(
    name: str, params: PhaseParams, *, has_running_norms: bool, linear_head: bool, first_epochs: Sequence[int]
) -> PhaseParams:
    """Return a phase whose `auto` values are decided for the network at hand.

    `has_running_norms` tells whether what trains keeps running statistics; `first_epochs` has the epoch in which each
    rule that trains begins to, the head's first. Raises: ParamsError naming a key that would do nothing.
    """
    path = f"params.yaml: unfreeze.phases.{name}"
    if params.norm == "auto":
        params = params.model_copy(update={"norm": "train" if has_running_norms else "frozen"})
    if params.warm_start == "auto":
        params = params.model_copy(update={"warm_start": linear_head or params.norm != "frozen"})
    if params.norm != "frozen" and not has_running_norms:
        raise ParamsError(
            f"{path}.norm is {params.norm}, but nothing that this phase trains keeps running statistics; set it to "
            "frozen"
        )
    if params.warm_start and not linear_head and params.norm == "frozen":
        raise ParamsError(
            f"{path}.warm_start is true, but it solves linear heads only and estimates statistics of norm layers only "
            "where norm is not frozen; set it to false"
        )
    last = max(first_epochs)
    if params.unfreeze_every and last == 1:
        raise ParamsError(f"{path}.unfreeze_every is {params.unfreeze_every}, but only one block trains; set it to 0")
    if last > params.epochs:
        raise ParamsError(
            f"{path}.unfreeze_every is {params.unfreeze_every}: the last of {len(first_epochs) - 1} blocks would begin "
            f"to train in epoch {last} of {params.epochs}; lower it, or give more epochs"
        )
    return params

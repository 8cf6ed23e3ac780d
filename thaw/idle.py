"""Keys of params that are set and would do nothing, or that say two things at once.

A required key always has some value, and some stay idle in ordinary runs (head.lr beside a solved head); a mistake is
what says something that the other keys rule out. What depends on the backbone is found out once it is there
(training/effects.py, network/pooling.py).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from thaw.mistakes import number_at, shown, value_at


def idle_keys(tree: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each key that is set to no effect, beside what other keys say."""
    yield from _head(tree)
    yield from _backbone(tree)
    phases = value_at(tree, "unfreeze", "phases")
    for name, phase in phases.items() if isinstance(phases, Mapping) else ():
        yield from _phase(f"unfreeze.phases.{name}", phase)


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
    if isinstance(taps, list):
        names = [name for name in taps if isinstance(name, str)]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"backbone.taps names {name} more than once; name each block once"
        if "all" in names and len(set(names)) > 1:
            yield "backbone.taps names all, which stands for every block, beside others; write [all]"


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

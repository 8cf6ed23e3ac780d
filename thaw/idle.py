"""Keys of params that are set and would do nothing, or that say two things at once.

A required key always has some value, so only what somebody must have meant is a mistake. What depends on the backbone
is found out once it is there (training/effects.py).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from thaw.mistakes import number_at, shown, value_at


def idle_keys(tree: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each key that is set to no effect, beside what other keys say."""
    yield from _head(tree)


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

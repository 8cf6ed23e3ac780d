"""Which parameters train, and how fast: ordered rules, first match wins, nothing may fall through.

`None` as a rate freezes. The idea of freezing as data is big_vision's; here the rate that a rule names is the rate
that the optimizer gets, since torch's schedulers know no other place for it.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.nn import Parameter

from thaw.errors import TrainingError
from thaw.network.backbone import Backbone
from thaw.params import PhaseParams


@dataclass(frozen=True)
class Rule:
    """A label for plots, a pattern that a parameter's whole name must match, and its peak rate (None freezes)."""

    label: str
    pattern: str
    lr: float | None
    since: int = 1
    """The first epoch in which it trains."""


def rules_of(phase: PhaseParams, backbone: Backbone, index: int) -> list[Rule]:
    """Return the rules of a phase whose blocks from `index` on are unfrozen, head first.

    The rate of a block is lr * lr_scale ** distance, where the block nearest the head has distance 1.
    """
    rules = [Rule("head", r"head\..+", phase.lr)]
    for position in range(len(backbone.units) - 1, -1, -1):
        distance = len(backbone.units) - position
        rate = phase.lr * phase.lr_scale**distance if position >= index else None
        names = [name for name in dict(backbone.module.named_parameters()) if backbone.block_of(name) == position]
        if names:
            pattern = "|".join(re.escape(f"backbone.{name}") for name in names)
            since = 1 + (distance - 1) * phase.unfreeze_every
            rules.append(Rule(backbone.blocks[position], pattern, rate, since))
    return rules


def param_groups(
    parameters: Iterable[tuple[str, Parameter]], rules: Sequence[Rule], weight_decay: float
) -> list[dict[str, Any]]:
    """Return optimizer groups, one for each (rate, decay, first epoch) in use; vectors (norms, biases) never decay.

    Frozen parameters are left out and no longer require gradients. Raises: TrainingError if a parameter matches no
    rule, or a rule that should train something matches no parameter.
    """
    groups: dict[tuple[float, float, int], list[Parameter]] = {}
    unused = {rule.label for rule in rules if rule.lr is not None}
    for name, parameter in parameters:
        rule = next((rule for rule in rules if re.fullmatch(rule.pattern, name)), None)
        if rule is None:
            raise TrainingError(f"no rule covers the parameter {name}; add one, or end the list with a rule for all")
        unused.discard(rule.label)
        parameter.requires_grad_(rule.lr is not None)
        if rule.lr is not None:
            decay = weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rule.lr, decay, rule.since), []).append(parameter)
    if unused:
        raise TrainingError(f"the rule for {min(unused)} matches no parameter; correct its pattern or remove it")
    return [
        {"params": members, "lr": lr, "weight_decay": decay, "since": since}
        for (lr, decay, since), members in groups.items()
    ]

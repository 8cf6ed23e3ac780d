"""Which parameters train, and how fast: ordered rules, first match wins, nothing may fall through.

`None` as a rate freezes. The idea of freezing as data is big_vision's; here the rate that a rule names is the rate
that the optimizer gets, since torch's schedulers know no other place for it.
"""

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter

from thaw.config.schema import PhaseParams
from thaw.errors import TrainingError
from thaw.networks.backbone import Backbone


@dataclass(frozen=True)
class Rule:
    """A label for plots, a pattern that a parameter's whole name must match, and its peak rate (None freezes)."""

    label: str
    pattern: str
    lr: float | None
    since: int = 1
    """The first epoch in which it trains."""
    given: bool = False
    """Whether its rate stays as it is where the phase's own is `auto`; the others are then shares of that one."""


def lowest_block(phase: PhaseParams, backbone: Backbone) -> int:
    """Return the index of the lowest block in which a phase trains anything: below it the network may be cut.

    Raises: TrainingError if the rules of a phase train nothing of the backbone.
    """
    if not isinstance(phase.depth, list):
        return backbone.cut_index(phase.depth)
    rules = rules_of(phase, backbone, 0)
    trained = [
        backbone.block_of(name)
        for name, _ in backbone.module.named_parameters()
        if rule_of(rules, f"backbone.{name}").lr is not None
    ]
    if not trained:
        raise TrainingError(
            "the rules under depth train no parameter of the backbone; their patterns must match names such as "
            f"{next(iter(backbone.module.state_dict()))}"
        )
    return min(trained)


def rules_of(phase: PhaseParams, backbone: Backbone, index: int) -> list[Rule]:
    """Return the rules of a phase whose blocks from `index` on are unfrozen, head first.

    The rate of a block is lr * lr_scale ** distance, where the block nearest the head has distance 1. Where `depth` is
    a list of rules, they decide instead, and what none of them matches is frozen. Where lr is `auto`, rates are shares
    of the one that is to be found.
    """
    lr = 1.0 if phase.lr == "auto" else phase.lr
    rules = [Rule("head", r"head\..+", lr)]
    if isinstance(phase.depth, list):
        own = [
            Rule(rule.pattern, rf"backbone\.{fnmatch.translate(rule.pattern)}", rule.lr, given=True)
            for rule in phase.depth
        ]
        return [*rules, *own, Rule("the rest", r"backbone\..+", None)]
    for position in range(len(backbone.units) - 1, -1, -1):
        distance = len(backbone.units) - position
        rate = lr * phase.lr_scale**distance if position >= index else None
        names = [name for name in dict(backbone.module.named_parameters()) if backbone.block_of(name) == position]
        if names:
            pattern = "|".join(re.escape(f"backbone.{name}") for name in names)
            since = 1 + (distance - 1) * phase.unfreeze_every
            block = backbone.blocks[position]
            # In the curves a block of that name must not take the place of the new head.
            rules.append(Rule(f"backbone.{block}" if block == "head" else block, pattern, rate, since))
    return rules


def param_groups(
    parameters: Iterable[tuple[str, Parameter]], rules: Sequence[Rule], weight_decay: float
) -> list[dict[str, Any]]:
    """Return optimizer groups, one for each (rate, decay, first epoch, given) in use; vectors never decay.

    Vectors are the tensors of norms, and biases. Frozen parameters are left out and no longer require gradients.
    Raises: TrainingError if a parameter matches no rule, or a rule that should train something matches no parameter.
    """
    groups: dict[tuple[float, float, int, bool], list[Parameter]] = {}
    unused = {rule.label for rule in rules if rule.lr is not None}
    for name, parameter in parameters:
        rule = rule_of(rules, name)
        unused.discard(rule.label)
        parameter.requires_grad_(rule.lr is not None)
        if rule.lr is not None:
            decay = weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rule.lr, decay, rule.since, rule.given), []).append(parameter)
    if unused:
        raise TrainingError(f"the rule for {min(unused)} matches no parameter; correct its pattern or remove it")
    return [
        {"params": members, "lr": lr, "weight_decay": decay, "since": since, "given": given}
        for (lr, decay, since, given), members in groups.items()
    ]


def frozen_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors, buffers included, of the layers of a model that rules freeze, by name."""
    return {
        f"{path}.{name}": value
        for path, layer in model.named_modules()
        if not any(parameter.requires_grad for parameter in layer.parameters(recurse=False))
        and next(layer.parameters(recurse=False), None) is not None
        for name, value in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
    }


def rule_of(rules: Sequence[Rule], name: str) -> Rule:
    """Return the first rule that matches a parameter's name. Raises: TrainingError if none does."""
    found = next((rule for rule in rules if re.fullmatch(rule.pattern, name)), None)
    if found is None:
        raise TrainingError(f"no rule covers the parameter {name}; add one, or end the list with a rule for all")
    return found

"""Settings of a phase that would do nothing for the network at hand: errors, not silence.

What params.yaml alone can tell is in thaw/idle.py.
"""

from collections.abc import Sequence

from torch import nn

from thaw.errors import ParamsError
from thaw.params import PhaseParams
from thaw.training.groups import Rule
from thaw.training.norms import running_norms


def check_effects(name: str, params: PhaseParams, rules: Sequence[Rule], suffix: nn.Module, head: nn.Module) -> None:
    """Look at a phase whose rules are laid over its suffix. Raises: ParamsError naming a key that would do nothing."""
    path = f"params.yaml: unfreeze.phases.{name}"
    has_norms = next(running_norms(suffix), None) is not None
    if params.norm != "frozen" and not has_norms:
        raise ParamsError(
            f"{path}.norm is {params.norm}, but nothing that this phase trains keeps running statistics; set it to "
            "frozen"
        )
    if params.refit and not isinstance(head, nn.Linear) and params.norm == "frozen":
        raise ParamsError(
            f"{path}.refit is true, but it solves linear heads only and estimates statistics of norm layers only where "
            "norm is not frozen; set it to false"
        )
    trained = [rule for rule in rules if rule.lr is not None]
    last = max(rule.since for rule in trained)
    if params.unfreeze_every and last == 1:
        raise ParamsError(f"{path}.unfreeze_every is {params.unfreeze_every}, but only one block trains; set it to 0")
    if last > params.epochs:
        raise ParamsError(
            f"{path}.unfreeze_every is {params.unfreeze_every}: the last of {len(trained) - 1} blocks would begin to "
            f"train in epoch {last} of {params.epochs}; lower it, or give more epochs"
        )

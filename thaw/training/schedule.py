"""Pure functions of a step: how many an epoch has, and the learning rate at each."""

import math
from typing import Literal

Schedule = Literal["cosine", "one-cycle", "constant"]
_ONE_CYCLE_START = 1 / 25  # of the peak, where one-cycle begins


def rate_factor(step: int, num_steps: int, warmup: float, schedule: Schedule = "cosine") -> float:
    """Return the factor on the peak rate at a step, always in (0, 1].

    `cosine`: a linear rise over `warmup` of the steps, then a cosine to zero (annealing without restarts, Loshchilov
    and Hutter 2017, arXiv:1608.03983, equation 5). `one-cycle`: the rise is half a cosine too, from a twenty-fifth of
    the peak (Smith and Topin 2018, arXiv:1708.07120). `constant`: the linear rise, then the peak.
    """
    num_warmup = round(warmup * num_steps)
    if step < num_warmup:
        share = (step + 1) / num_warmup
        if schedule != "one-cycle":
            return share
        return _ONE_CYCLE_START + (1 - _ONE_CYCLE_START) * 0.5 * (1 - math.cos(math.pi * share))
    if schedule == "constant":
        return 1.0
    progress = (step - num_warmup + 0.5) / max(num_steps - num_warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Return the steps of an epoch: whole batches only, the rest comes up in another epoch; at least one."""
    return max(num_samples // batch_size, 1)

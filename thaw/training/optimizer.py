"""From a loss to a step: the optimizer, its rates at each step, and what may be done to gradients and weights."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from thaw.config.schema import PhaseParams
from thaw.networks.model_files import round_matrices
from thaw.training.groups import Rule, param_groups
from thaw.training.schedule import rate_factor

_MOMENTUM = 0.9


class Stepper:
    """The optimizer of a phase, new for each, with the running average of the weights where one is asked for."""

    def __init__(
        self, model: nn.Module, rules: Sequence[Rule], params: PhaseParams, pretrained: Mapping[str, Tensor]
    ) -> None:
        """`pretrained` are the tensors that `l2_sp` pulls those of the same names towards.

        Raises: TrainingError if the rules and the model's parameters do not fit each other.
        """
        self.model, self.rules, self.params = model, rules, params
        groups = param_groups(model.named_parameters(), rules, params.weight_decay)
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(groups, fused=True)
            if params.optimizer == "adamw"
            else torch.optim.SGD(groups, momentum=_MOMENTUM, nesterov=True, fused=True)
        )
        self._peaks = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._pulled = [
            (parameter, pretrained[name].to(parameter.device))
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and params.l2_sp > 0 and name in pretrained
        ]
        self.average: AveragedModel | None = None
        """Exponential moving average of weights and buffers (Polyak and Juditsky 1992), from the first step on."""
        if params.ema > 0:
            decayed = get_ema_multi_avg_fn(params.ema)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            self.average = AveragedModel(model, multi_avg_fn=decayed, use_buffers=True)

    @property
    def peak(self) -> float:
        """The highest rate of all groups at its peak."""
        return max(self._peaks)

    def scale(self, lr: float) -> None:
        """Multiply by a rate that was found those of the rates that are shares of it."""
        self.rules = [
            rule if rule.lr is None or rule.given else dataclasses.replace(rule, lr=rule.lr * lr) for rule in self.rules
        ]
        self._peaks = [
            peak if group["given"] else peak * lr
            for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True)
        ]

    def try_rate(self, lr: float) -> None:
        """Give every group the rate that it would have at this rate of the phase, those of later epochs included."""
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak if group["given"] else peak * lr

    @property
    def eval_model(self) -> nn.Module:
        """The model that is validated and kept: the average, if there is one that has seen a step."""
        if self.average is None or int(self.average.n_averaged) == 0:
            return self.model
        return self.average.module

    def round(self) -> None:
        """Bring what is kept of the backbone to what its file stores: answers are given by what is stored."""
        round_matrices(self.eval_model.get_submodule("backbone"))

    def set_rates(self, step: int, num_steps: int, epoch: int) -> float:
        """Give every group its rate at a step of the whole phase and return the factor on the peaks."""
        factor = rate_factor(step, num_steps, self.params.warmup, self.params.schedule)
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor if epoch >= group["since"] else 0.0
        return factor

    def rates(self, factor: float, epoch: int) -> dict[str, float]:
        """Return the rate of each rule that trains, as the curves show it, at a factor on the peaks."""
        return {
            f"lr:{rule.label}": rule.lr * factor * (epoch >= rule.since) for rule in self.rules if rule.lr is not None
        }

    def take(self, loss: Tensor, *, complete: bool) -> None:
        """Add the gradients of a batch's loss; step once `accumulate` batches are together (`complete`)."""
        torch.autograd.backward(loss / self.params.accumulate)
        if not complete:
            return
        with torch.no_grad():
            for parameter, target in self._pulled:  # the gradient of l2_sp / 2 * |w - w0|^2, arXiv:1802.01483
                if parameter.grad is not None:
                    parameter.grad.add_(parameter - target, alpha=self.params.l2_sp)
        if self.params.grad_clip > 0:
            nn.utils.clip_grad_norm_(self._trained, self.params.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.model)

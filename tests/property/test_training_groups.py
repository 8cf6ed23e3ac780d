"""Rules cover: each parameter of a network and its head is frozen or in one group, at the rate of its distance."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import Parameter

from tests import tiny
from thaw.config.schema import PhaseParams
from thaw.errors import TrainingError
from thaw.head.layers import build_head
from thaw.networks.backbone import Backbone
from thaw.training.groups import Rule, param_groups, rules_of
from thaw.training.loop import Classifier

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
RATES = st.floats(0, 10, exclude_min=True)
NAMES = st.text("ab1_", min_size=1, max_size=3)


@dataclass(frozen=True)
class Case:
    """What a phase trains: a network, all of it or its suffix, with a head, and the phase's settings."""

    network: Backbone
    model: Classifier
    params: PhaseParams
    index: int

    @property
    def parameters(self) -> list[tuple[str, Parameter]]:
        return list(self.model.named_parameters())

    @property
    def rules(self) -> list[Rule]:
        return rules_of(self.params, self.network, self.index)

    @property
    def distances(self) -> dict[str, int]:
        """How many blocks each parameter is from the head, found by its place in the network, not by its name."""
        units, module = self.network.units, self.network.module
        found = dict.fromkeys(map(id, module.parameters()), len(units))  # outside all blocks: with the first
        for position, block in enumerate(units):
            for path in block.paths:
                found |= dict.fromkeys(map(id, module.get_submodule(path).parameters()), len(units) - position)
        return {name: found.get(id(parameter), 0) for name, parameter in self.parameters}

    def groups(self, rules: list[Rule]) -> list[tuple[float, float, list[str]]]:
        """Return (rate, decay, names) of each group as the optimizer has them."""
        names = {id(parameter): name for name, parameter in self.parameters}
        optimizer = torch.optim.AdamW(param_groups(self.parameters, rules, self.params.weight_decay))
        return [
            (group["lr"], group["weight_decay"], [names[id(parameter)] for parameter in group["params"]])
            for group in optimizer.param_groups
        ]


class Body(nn.Module):
    """Named layers, or stages of them; nothing that could be run."""

    def __init__(self, members: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, member in members.items():
            self.add_module(name, member)


@cache
def known(name: str) -> Backbone:
    return tiny.backbone(name, input_px=160)


@cache
def suffix_of(name: str, index: int) -> nn.Module:
    return known(name).split(len(known(name).blocks) - index)[1]


@st.composite
def named_at_will(draw: st.DrawFn) -> Backbone:
    """Return a network whose stages begin alike (a, a1), with a parameter of its own that is nearly one of a stage."""
    layers: st.SearchStrategy[nn.Module] = st.one_of(
        st.builds(nn.Conv2d, st.just(2), st.just(2), st.just(1), bias=st.booleans()),
        st.builds(nn.Linear, st.just(2), st.just(2), bias=st.booleans()),
        st.builds(nn.BatchNorm2d, st.just(2)),
        st.builds(nn.LayerNorm, st.just(2)),
    )
    stages = draw(st.dictionaries(NAMES, st.dictionaries(NAMES, layers, min_size=1, max_size=3), min_size=2))
    module = Body({stage: Body(members) for stage, members in stages.items()})
    stage, members = draw(st.sampled_from(list(stages.items())))
    module.register_parameter(f"{stage}_{next(iter(members))}_weight", Parameter(torch.zeros(1, 2)))
    found = Backbone(module, known("test_resnet").spec)
    assert found.blocks == list(stages)
    return found


@st.composite
def cases(draw: st.DrawFn) -> Case:
    network = draw(st.sampled_from(["test_resnet", "test_vit", "test_efficientnet"]).map(known) | named_at_will())
    depth = draw(st.just("all") | st.sampled_from(network.blocks) | st.integers(1, len(network.blocks)))
    index = network.cut_index(depth)
    params = tiny.phase(
        depth=depth,
        lr=draw(RATES),
        lr_scale=draw(st.floats(0, 1, exclude_min=True)),
        weight_decay=draw(st.floats(0, 1)),
    )
    whole = isinstance(network.module, Body) or draw(st.booleans())
    body = network.module if whole else suffix_of(network.spec.name, index)
    return Case(network, Classifier(body, build_head(4, 3, draw(st.sampled_from([(), (5,)])), 0.0)), params, index)


@settings(max_examples=50)
@given(case=cases())
def test_each_parameter_is_frozen_or_in_one_group_at_the_rate_of_its_distance(case: Case) -> None:
    groups, params = case.groups(case.rules), case.params
    times = Counter(name for _, _, names in groups for name in names)
    rates = {name: rate for rate, _, names in groups for name in names}
    depth = len(case.network.blocks) - case.index
    for name, distance in case.distances.items():
        assert times[name] == (distance <= depth), name
        assert case.model.get_parameter(name).requires_grad == (distance <= depth), name
        if distance <= depth:
            assert math.isclose(rates[name], float(params.lr) * params.lr_scale**distance, rel_tol=1e-12), name
    assert times.keys() <= case.distances.keys()


@settings(max_examples=50)
@given(case=cases())
def test_decay_is_for_weights_and_never_for_norms_and_biases(case: Case) -> None:
    groups = case.groups(case.rules)
    decays = {name: decay for _, decay, names in groups for name in names}
    for path, module in case.model.named_modules():
        for name, parameter in module.named_parameters(path, recurse=False):
            vector = isinstance(module, NORMS) or name.endswith(".bias") or parameter.ndim == 1
            assert decays.get(name, 0.0) == (0.0 if vector or name not in decays else case.params.weight_decay), name
    assert len({(rate, decay) for rate, decay, _ in groups}) == len(groups)


@settings(max_examples=50)
@given(case=cases(), data=st.data())
def test_without_one_of_its_rules_a_model_is_refused_if_that_rule_was_needed(case: Case, data: st.DataObject) -> None:
    rules, distances = case.rules, case.distances
    labels = ["head", *reversed(case.network.blocks)]
    lost = data.draw(st.sampled_from(rules), label="lost")
    left = [rule for rule in rules if rule is not lost]
    bare = [name for name, distance in distances.items() if labels[distance] == lost.label]
    if bare:
        with pytest.raises(TrainingError, match=rf"^no rule covers the parameter {re.escape(bare[0])}; "):
            case.groups(left)
    else:
        assert case.groups(left) == case.groups(rules)


@settings(max_examples=50)
@given(case=cases(), data=st.data())
def test_a_parameter_that_no_rule_covers_is_an_error(case: Case, data: st.DataObject) -> None:
    parameters = case.parameters
    near = data.draw(st.sampled_from(list(case.distances)), label="near")
    name = f"x{near}" if near.startswith("head.") else data.draw(st.sampled_from([f"x{near}", f"{near}x"]))
    place = data.draw(st.integers(0, len(parameters)), label="place")
    parameters.insert(place, (name, Parameter(torch.zeros(2, 2))))
    with pytest.raises(TrainingError, match=rf"^no rule covers the parameter {re.escape(name)}; "):
        param_groups(parameters, case.rules, case.params.weight_decay)


@settings(max_examples=50)
@given(case=cases(), data=st.data())
def test_a_rule_that_trains_nothing_is_an_error_and_one_that_freezes_nothing_is_none(
    case: Case, data: st.DataObject
) -> None:
    rules, rate = case.rules, data.draw(RATES, label="rate")
    pattern = data.draw(st.sampled_from([r"backbone\.absent", r"neck\..+", ".+"]), label="pattern")
    # The first match wins: at the end even a pattern for everything comes too late.
    place = len(rules) if pattern == ".+" else data.draw(st.integers(0, len(rules)), label="place")
    with pytest.raises(TrainingError, match=r"^the rule for extra matches no parameter; "):
        case.groups([*rules[:place], Rule("extra", pattern, rate), *rules[place:]])
    frozen = [*rules[:place], Rule("extra", pattern, None), *rules[place:]]
    assert case.groups(frozen) == case.groups(rules)

"""Which parameters train and how fast: rules, and the optimizer that really holds what they ask for."""

import pytest
import torch
from torch import nn
from torch.nn import Parameter

from tests import tiny
from thaw.errors import TrainingError
from thaw.head.layers import build_head
from thaw.networks.backbone import Backbone
from thaw.training.groups import Rule, frozen_tensors, lowest_block, param_groups, rule_of, rules_of
from thaw.training.loop import Classifier

MATRIX, VECTOR = (2, 2), (2,)


def named(**shapes: tuple[int, ...]) -> list[tuple[str, Parameter]]:
    return [(name.replace("__", "."), Parameter(torch.zeros(shape))) for name, shape in shapes.items()]


def classifier(network: Backbone, depth: int) -> Classifier:
    return Classifier(network.split(depth)[1], build_head(network.num_features, 3, [], 0.0))


def test_the_first_rule_that_matches_wins() -> None:
    parameters = named(head__weight=MATRIX, backbone__a=MATRIX)
    rules = [Rule("head", r"head\..+", 0.1), Rule("rest", r".+", 0.01)]
    rates = {group["lr"]: len(group["params"]) for group in param_groups(parameters, rules, 0.0)}
    assert rates == {0.1: 1, 0.01: 1}


def test_a_pattern_must_match_the_whole_name() -> None:
    with pytest.raises(TrainingError, match=r"no rule covers the parameter header.weight"):
        param_groups(named(header__weight=MATRIX), [Rule("head", "head", 0.1)], 0.0)


def test_a_parameter_that_no_rule_covers_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(TrainingError, match=r"no rule covers the parameter backbone\.a; add one, or end the list with"):
        param_groups(named(head__weight=MATRIX, backbone__a=MATRIX), [Rule("head", r"head\..+", 0.1)], 0.0)


def test_a_rule_that_matches_nothing_is_an_error() -> None:
    rules = [Rule("all", ".+", 0.1), Rule("stem", r"backbone\.stem", 0.1)]
    with pytest.raises(TrainingError, match="the rule for stem matches no parameter"):
        param_groups(named(head__weight=MATRIX), rules, 0.0)


def test_what_a_rule_freezes_is_in_no_group_and_has_no_gradient() -> None:
    parameters = named(head__weight=MATRIX, backbone__a=MATRIX)
    groups = param_groups(parameters, [Rule("frozen", "backbone.+", None), Rule("rest", ".+", 0.1)], 0.5)
    assert [group["params"] for group in groups] == [[parameters[0][1]]]
    assert [parameter.requires_grad for _, parameter in parameters] == [True, False]


def test_norms_and_biases_are_not_decayed() -> None:
    parameters = named(head__weight=MATRIX, head__bias=VECTOR, backbone__conv=(2, 2, 1, 1), backbone__norm=VECTOR)
    groups = param_groups(parameters, [Rule("all", ".+", 0.1)], 0.05)
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert [decay[id(parameter)] for _, parameter in parameters] == [0.05, 0.0, 0.05, 0.0]


def test_groups_are_one_for_each_rate_and_decay_not_one_for_each_tensor() -> None:
    network = tiny.backbone()
    params = tiny.phase(depth=3, lr_scale=0.5)
    rules = rules_of(params, network, network.cut_index(3))
    groups = param_groups(classifier(network, 3).named_parameters(), rules, params.weight_decay)
    assert len(groups) == 4 * 2


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_every_block_gets_its_rate_in_the_optimizer(name: str) -> None:
    network = tiny.backbone(name, input_px=160)
    params, depth = tiny.phase(lr=0.02, lr_scale=0.5), 3
    index = network.cut_index(depth)
    model = classifier(network, depth)
    optimizer = torch.optim.AdamW(
        param_groups(model.named_parameters(), rules_of(params, network, index), params.weight_decay)
    )
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for parameter_name, parameter in model.named_parameters():
        part, _, rest = parameter_name.partition(".")
        distance = 0 if part == "head" else len(network.blocks) - network.block_of(rest)
        assert rates[id(parameter)] == pytest.approx(0.02 * 0.5**distance), parameter_name


def test_the_rules_of_a_phase_cover_the_whole_network_and_freeze_below_the_cut() -> None:
    network = tiny.backbone("test_vit", input_px=160)
    rules = rules_of(tiny.phase(), network, network.cut_index(2))
    assert [rule.label for rule in rules] == ["head", *reversed(network.blocks)]
    assert [rule.lr is None for rule in rules] == [False, False, False, *[True] * (len(network.blocks) - 2)]
    parameters = [("head.weight", Parameter(torch.zeros(2)))]
    parameters += [(f"backbone.{name}", value) for name, value in network.module.named_parameters()]
    groups = param_groups(parameters, rules, 0.0)
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    frozen = {name for name, parameter in parameters if id(parameter) not in trained}
    assert frozen == {name for name, _ in parameters[1:] if network.block_of(name.removeprefix("backbone.")) < 6}


def test_a_block_that_is_called_head_does_not_take_the_place_of_the_new_head_in_the_curves() -> None:
    network = tiny.backbone("test_convnext")
    assert network.blocks[-1] == "head"
    labels = [rule.label for rule in rules_of(tiny.phase(depth=2), network, len(network.blocks) - 2)]
    assert labels[:2] == ["head", "backbone.head"]
    assert len(set(labels)) == len(labels)


def test_the_frozen_tensors_are_those_of_layers_of_which_nothing_trains_buffers_included() -> None:
    inner = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False))
    half = nn.Linear(2, 2)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2), nn.ReLU(), inner, half)
    held = [*model[0].parameters(), *model[2].parameters(), *inner.parameters(), half.weight]
    for parameter in held:
        parameter.requires_grad_(False)
    found = frozen_tensors(model)
    norm = {f"2.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    assert set(found) == {"0.weight", "0.bias", *norm, "4.0.weight", "4.0.bias"}
    assert all(value is model.state_dict(keep_vars=True)[name] for name, value in found.items())


def test_the_lowest_block_of_rules_is_that_of_the_first_parameter_that_they_train() -> None:
    network = tiny.backbone()
    for lowest in (0, 2, len(network.blocks) - 1):
        patterns = [{"pattern": f"{network.blocks[-1]}.*", "lr": 0.1}, {"pattern": "*bn*", "lr": None}]
        patterns.append({"pattern": f"{network.blocks[lowest]}.*", "lr": 0.01})
        assert lowest_block(tiny.phase(depth=patterns), network) == lowest
    assert lowest_block(tiny.phase(depth=2), network) == network.cut_index(2)
    with pytest.raises(TrainingError, match="the rules under depth train no parameter of the backbone; their patterns"):
        lowest_block(tiny.phase(depth=[{"pattern": "nothing", "lr": 0.1}]), network)


def test_rules_that_are_given_stand_between_the_head_and_the_rest_which_is_frozen() -> None:
    network = tiny.backbone()
    given = [{"pattern": "*bn*", "lr": 0.1}, {"pattern": f"{network.blocks[0]}.*", "lr": None}]
    rules = rules_of(tiny.phase(depth=given, lr=0.002), network, 0)
    assert [(rule.label, rule.lr, rule.since, rule.given) for rule in rules] == [
        ("head", 0.002, 1, False),
        ("*bn*", 0.1, 1, True),
        (f"{network.blocks[0]}.*", None, 1, True),
        ("the rest", None, 1, False),
    ]
    matched = [rule_of(rules, name).label for name in ("head.weight", "backbone.a.bn1.weight", "backbone.a.weight")]
    assert matched == ["head", "*bn*", "the rest"]
    parameters = named(head__weight=MATRIX, backbone__bn=VECTOR)
    rules = [rules[0], Rule("bn", ".*bn", 0.1, 3, given=True)]
    groups = param_groups(parameters, rules, 0.5)
    assert [len(group.pop("params")) for group in groups] == [1, 1]
    assert groups == [
        {"lr": 0.002, "weight_decay": 0.5, "since": 1, "given": False},
        {"lr": 0.1, "weight_decay": 0.0, "since": 3, "given": True},
    ]


def test_each_block_begins_so_many_epochs_after_the_one_above_it() -> None:
    network = tiny.backbone()
    rules = rules_of(tiny.phase(depth=3, unfreeze_every=2), network, network.cut_index(3))
    assert [rule.since for rule in rules if rule.lr is not None] == [1, 1, 3, 5]


def test_a_layer_with_parameters_of_its_own_is_judged_by_these_and_not_by_those_of_layers_within_it() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1), requires_grad=False)
            self.inner = nn.Linear(2, 2)

    class Holding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.ones(1))
            self.inner = nn.Linear(2, 2).requires_grad_(False)

    assert set(frozen_tensors(Scaled())) == {".scale"}
    assert set(frozen_tensors(Holding())) == {"inner.weight", "inner.bias"}

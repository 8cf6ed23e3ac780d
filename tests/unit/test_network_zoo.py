"""The architectures that people fine-tune, by name, with random weights: blocks, cuts, a training step, the freeze."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.zoo import ZOO, Row, depths_of, rows
from thaw.network.source import open_backbone
from thaw.network.uncut import UncutPrefix


@pytest.mark.parametrize(("source", "input_px", "num_blocks"), ZOO, ids=[source for source, _, _ in ZOO])
def test_a_network_of_the_zoo_is_cut_exactly_and_trains_above_the_cut_only(
    source: str, input_px: int, num_blocks: int
) -> None:
    torch.manual_seed(0)
    network = open_backbone(source, pretrained=False, input_px=input_px)
    assert len(network.blocks) == num_blocks
    owners = {name: network.block_of(name) for name in network.module.state_dict()}
    assert set(owners.values()) == set(range(num_blocks))
    images = torch.rand(network.example(2).shape) - 0.5
    with torch.inference_mode():
        whole = network.module.eval()(images)
    for depth in depths_of(num_blocks):
        prefix, suffix = network.split(depth)
        assert not isinstance(prefix, UncutPrefix)
        with torch.inference_mode():
            boundary = prefix(images)
            assert torch.equal(suffix(*boundary), whole), depth
        assert {name for name, _ in suffix.named_parameters()} == {
            name for name, _ in network.module.named_parameters() if owners[name] >= network.cut_index(depth)
        }
    num_parameters = sum(parameter.numel() for parameter in network.module.parameters())
    assert rows()[source] == str(Row(source, input_px, num_blocks, num_parameters, 0, cacheable=True)), "run `make zoo`"
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    head = nn.Linear(whole.shape[1], 2)
    optimizer = torch.optim.SGD([*suffix.parameters(), *head.parameters()], lr=0.1)
    with torch.no_grad():
        boundary = prefix(images)
    functional.cross_entropy(head(suffix.train()(*boundary)), torch.tensor([0, 1])).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    optimizer.step()
    after = network.module.state_dict()
    moved = {owners[name] for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {num_blocks - 1}


def test_the_page_lists_the_zoo_and_nothing_else() -> None:
    assert list(rows()) == [source for source, _, _ in ZOO]
    assert len(ZOO) >= 45

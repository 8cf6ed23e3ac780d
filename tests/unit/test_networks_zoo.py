"""The architectures that people fine-tune, by name, with random weights: blocks, cuts, a training step, the freeze."""

import pytest
import torch

from tests.cuts import trains_above_the_cut_only
from tests.zoo import ZOO, Row, depths_of, rows
from thaw.networks.sources.opening import open_backbone


@pytest.mark.parametrize(("source", "input_px", "num_blocks"), ZOO, ids=[source for source, _, _ in ZOO])
def test_a_network_of_the_zoo_is_cut_exactly_and_trains_above_the_cut_only(
    source: str, input_px: int, num_blocks: int
) -> None:
    torch.manual_seed(0)
    network = open_backbone(source, pretrained=False, input_px=input_px)
    assert len(network.blocks) == num_blocks
    trains_above_the_cut_only(network, depths_of(num_blocks))
    num_parameters = sum(parameter.numel() for parameter in network.module.parameters())
    assert rows()[source] == str(Row(source, input_px, num_blocks, num_parameters, 0, cacheable=True)), "run `make zoo`"


def test_the_page_lists_the_zoo_and_nothing_else() -> None:
    assert list(rows()) == [source for source, _, _ in ZOO]
    assert len(ZOO) >= 45

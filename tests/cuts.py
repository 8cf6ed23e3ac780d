"""What every network must keep when it is cut, from whatever source it comes."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from thaw.networks.backbone import Backbone
from thaw.networks.cut import UncutPrefix


def trains_above_the_cut_only(backbone: Backbone, depths: Sequence[int]) -> None:
    """Cut at each depth, take one step of training above the last of them, and assert what must hold.

    Every tensor is in one block; prefix and suffix give the whole network's features, bit for bit; the suffix has the
    parameters of its blocks and no others but those outside all blocks, which count to the first; the step changes
    tensors in each of its blocks, and in none below.
    """
    num_blocks = len(backbone.blocks)
    owners = {name: backbone.block_of(name) for name in backbone.module.state_dict()}
    assert set(owners.values()) == set(range(num_blocks))
    images = torch.rand(backbone.example(2).shape) - 0.5
    with torch.inference_mode():
        whole = backbone.module.eval()(images)
    for depth in depths:
        prefix, suffix = backbone.split(depth)
        assert not isinstance(prefix, UncutPrefix)
        with torch.inference_mode():
            assert torch.equal(suffix(*prefix(images)), whole), depth
        own = {name for name, _ in backbone.module.named_parameters() if owners[name] >= backbone.cut_index(depth)}
        assert {name for name, _ in suffix.named_parameters()} - _outside(backbone) == own - _outside(backbone)
    before = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    head = nn.Linear(whole.shape[1], 2)
    trained = [value for name, value in suffix.named_parameters() if name in own]
    optimizer = torch.optim.SGD([*trained, *head.parameters()], lr=0.1)
    with torch.no_grad():
        boundary = prefix(images)
    loss = functional.cross_entropy(head(suffix.train()(*boundary)), torch.tensor([0, 1]))
    torch.autograd.backward(loss)
    optimizer.step()
    after = backbone.module.state_dict()
    moved = {owners[name] for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == set(range(num_blocks - depths[-1], num_blocks))


def _outside(backbone: Backbone) -> set[str]:
    """Return the parameters that are in no block, such as a class token that is used far above the first."""
    inside = tuple(f"{path}." for block in backbone.units for path in block.paths)
    return {name for name, _ in backbone.module.named_parameters() if not f"{name}.".startswith(inside)}

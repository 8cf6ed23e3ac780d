"""A network that cannot be traced trains all the same: whole, without a cache, its frozen blocks held still."""

from collections.abc import Sequence

from torch import Tensor, nn


class UncutPrefix(nn.Module):
    """What lies below no cut: nothing, or with `everything` the whole network, in eval mode for good."""

    def __init__(self, network: nn.Module, *, everything: bool) -> None:
        super().__init__()
        self._network = network.eval() if everything else None

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the network's features of images, or the images themselves."""
        return (images if self._network is None else self._network(images),)


class UncutSuffix(nn.Module):
    """A whole network as what trains, its frozen blocks in eval mode whatever the mode; tensors keep their names."""

    def __init__(self, network: nn.Module, frozen: Sequence[str]) -> None:
        """`frozen` are the paths of the modules that belong to frozen blocks."""
        super().__init__()
        for name, child in network.named_children():
            self.add_module(name, child)
        for name, parameter in network.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in network.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self._whole = [network]  # in a list, so that its tensors are not found a second time
        self._frozen = tuple(frozen)
        self.eval()

    def train(self, mode: bool = True) -> "UncutSuffix":
        """Set the mode of the network, its frozen blocks excepted."""
        super().train(mode)
        self._whole[0].train(mode)
        for path in self._frozen:
            self._whole[0].get_submodule(path).eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's features of images."""
        features: Tensor = self._whole[0](images)
        return features

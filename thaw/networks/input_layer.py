"""The first layer for images of other channels than the red, green and blue that it was pretrained on.

Grey: exactly what three copies of the channel would give. Other channels: the RGB weights in turn, scaled by
3 / channels, so that the layer's output keeps its scale (timm's `adapt_input_conv`); every channel has weights, since
one that starts from zero says nothing through a frozen layer. Mean and deviation follow the same rules (spec.py).
"""

from typing import Any

import torch
from torch import Tensor, nn

from thaw.errors import BackboneError
from thaw.networks.spec import Spec


def adapt(module: nn.Module, spec: Spec) -> None:
    """Give a network a first layer for grey images; for others than RGB, check that it has one.

    Raises: BackboneError if its first layer is none that can be adapted.
    """
    if spec.in_channels == 1:
        from timm.layers.conv2d_same import Conv2dSame

        name, conv = _first_conv(module)
        if type(conv) not in (nn.Conv2d, Conv2dSame):
            raise BackboneError(
                f"{spec.name} begins with a {type(conv).__name__}, which cannot be adapted to grey input; "
                "convert the images to colour, or choose another backbone"
            )
        parent = module.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], _GreyConv2d(conv, bias_plane=not _is_grey_already(spec)))
    elif not any(conv.in_channels == spec.in_channels for conv in _convs(module)) and spec.in_channels != 3:
        raise not_adapted(spec, "no convolution takes them")


def adapt_tensors(module: nn.Module, tensors: dict[str, Tensor], spec: Spec) -> dict[str, Tensor]:
    """Return tensors with those of a first layer over RGB made for the channels of the spec."""
    if spec.in_channels == 1:
        return _adapt_to_grey(module, tensors, spec)
    if spec.in_channels == 3:
        return tensors
    wanted = module.state_dict()
    return {name: _repeated(tensor, wanted[name], spec.in_channels) for name, tensor in tensors.items()}


def widen(module: nn.Module, channels: int) -> None:
    """Give the first convolution over three channels random weights for others, unless the network has such a one."""
    first = _convs(module)[:1]
    if channels in (1, 3) or not first or first[0].in_channels != 3 or first[0].groups != 1:
        return
    weight = torch.empty(first[0].out_channels, channels, *first[0].kernel_size)
    first[0].in_channels, first[0].weight = channels, nn.Parameter(nn.init.kaiming_uniform_(weight, a=5**0.5))


def not_adapted(spec: Spec, why: str) -> BackboneError:
    """Return the error for a first layer that cannot be adapted."""
    return BackboneError(
        f"the first layer of {spec.name} cannot be adapted to images of {spec.in_channels} channels ({why}); convert "
        "them to RGB, or choose a backbone that begins with a convolution"
    )


def _first_conv(module: nn.Module) -> tuple[str, nn.Conv2d]:
    for name, child in module.named_modules():
        if isinstance(child, nn.Conv2d) and child.in_channels == 3:
            return name, child
    raise BackboneError("the network has no convolution over three channels to adapt to grey input; use colour images")


def _convs(module: nn.Module) -> list[nn.Conv2d]:
    return [child for child in module.modules() if isinstance(child, nn.Conv2d)]


def _repeated(tensor: Tensor, wanted: Tensor, channels: int) -> Tensor:
    """Return the weights of a convolution over RGB for other channels; any other tensor as it is."""
    from timm.models import adapt_input_conv

    fits = tensor.ndim == 4 and tensor.shape[1] == 3 and wanted.shape == (len(tensor), channels, *tensor.shape[2:])
    return adapt_input_conv(channels, tensor) if fits else tensor


def _is_grey_already(spec: Spec) -> bool:
    return len(set(spec.mean)) == 1 and len(set(spec.std)) == 1


class _GreyConv2d(nn.Conv2d):
    """The first layer for one channel, equal to the original on three copies of that channel.

    Where the pretraining constants differ between channels, the three normalised copies of a grey value z are
    a_c * z + b_c. The b_c part is a convolution of a constant plane, kept as such so that borders agree as well.
    """

    def __init__(self, conv: nn.Conv2d, *, bias_plane: bool) -> None:
        shape: Any = conv  # torch says that a layer has tuple[int, ...] and takes tuple[int, int]
        super().__init__(
            2 if bias_plane else 1,
            conv.out_channels,
            shape.kernel_size,
            shape.stride,
            shape.padding,
            shape.dilation,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
        )
        self.original = type(conv)
        self.bias_plane = bias_plane

    def forward(self, images: Tensor) -> Tensor:
        planes = torch.cat([images, torch.ones_like(images)], dim=1) if self.bias_plane else images
        return self.original.forward(self, planes)


def _adapt_to_grey(module: nn.Module, tensors: dict[str, Tensor], spec: Spec) -> dict[str, Tensor]:
    name = next(path for path, child in module.named_modules() if isinstance(child, _GreyConv2d)) + ".weight"
    weight = tensors.get(name)
    if weight is None or weight.ndim != 4 or weight.shape[1] != 3:
        return tensors
    mean, std = torch.tensor(spec.mean, dtype=torch.float64), torch.tensor(spec.std, dtype=torch.float64)
    scale = (spec.input_std[0] / std).view(1, -1, 1, 1)
    offset = ((spec.input_mean[0] - mean) / std).view(1, -1, 1, 1)
    planes = [(weight.double() * scale).sum(1, keepdim=True)]
    if not _is_grey_already(spec):
        planes.append((weight.double() * offset).sum(1, keepdim=True))
    return {**tensors, name: torch.cat(planes, dim=1).to(weight.dtype)}

"""Build a network without its output layer, and give it tensors: random, pretrained or adapted to grey input."""

import importlib
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from thaw.errors import BackboneError, first_line
from thaw.network.blocks import list_blocks
from thaw.network.spec import Spec


def build(spec: Spec) -> nn.Module:
    """Return the network of a spec with random weights and no output layer, its input as `spec.in_channels` asks."""
    module = _BUILDERS[spec.library](spec)
    if spec.keep:
        _truncate(module, spec)
    if spec.in_channels == 1:
        name, conv = _first_conv(module)
        if type(conv) not in (nn.Conv2d, Conv2dSame):
            raise BackboneError(
                f"{spec.name} begins with a {type(conv).__name__}, which cannot be adapted to grey input; "
                "convert the images to colour, or choose another backbone"
            )
        parent = module.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], _GreyConv2d(conv, bias_plane=not _is_grey_already(spec)))
    return module.eval()


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], spec: Spec) -> None:
    """Put tensors into a network by name; tensors of an output layer that it no longer has are left out.

    A first layer that still has three input channels is summed up for grey input. Raises: BackboneError naming
    what is missing, has another shape or is not finite.
    """
    wanted = module.state_dict()
    given = {name: tensor for name, tensor in tensors.items() if name in wanted}
    if spec.in_channels == 1:
        given = _adapt_to_grey(module, given, spec)
    if spec.library == "timm" and any(tensor.shape != wanted[name].shape for name, tensor in given.items()):
        given = _resampled(module, given)
    missing = sorted(set(wanted) - set(given))
    if missing:
        raise BackboneError(
            f"the weights are not those of {spec.name}: {len(given)} of {len(wanted)} tensors match by name, "
            f"{_some(missing)} missing{_unexpected(tensors, wanted)}; name the architecture that they belong to"
        )
    for name, tensor in given.items():
        if tensor.shape != wanted[name].shape:
            raise BackboneError(
                f"the weights are not those of {spec.name}: {name} has shape {list(tensor.shape)}, "
                f"the network wants {list(wanted[name].shape)}; name the architecture that they belong to"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BackboneError(f"the weights hold NaN or infinity in {name}; bring them again from their source")
    module.load_state_dict(given)


def _build_timm(spec: Spec) -> nn.Module:
    """A network that is made for one input size, as transformers are, is told when it is to be another."""
    import timm

    config = timm.get_pretrained_cfg(spec.name)
    resized = config is not None and config.fixed_input_size and config.input_size[-1] != spec.input_px
    size: dict[str, Any] = {"img_size": spec.input_px} if resized else {}
    module: nn.Module = timm.create_model(spec.name, pretrained=False, num_classes=0, **size)
    return module


def _build_torchvision(spec: Spec) -> nn.Module:
    from torchvision import models

    name = spec.name
    # GoogLeNet and Inception v3 have side outputs that serve their own training only.
    extra = {"aux_logits": False, "init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    module: nn.Module = models.get_model(name, weights=None, **extra)
    if not _remove_output(module):
        raise BackboneError(f"torchvision's {name} has no linear output layer to replace; choose another, or timm's")
    return module


def call_python(name: str) -> nn.Module:
    """Return what `MODULE:CALLABLE` gives. Raises: BackboneError if it cannot be called or gives no network."""
    path, _, attribute = name.partition(":")
    if not attribute:
        raise BackboneError(f"python:{name} names no callable; write python:MODULE:CALLABLE")
    try:
        module = getattr(importlib.import_module(path), attribute)()
    except Exception as error:
        raise BackboneError(f"python:{name} cannot be called: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise BackboneError(f"python:{name} gives a {type(module).__name__}; it must give a torch.nn.Module")
    return module


def _build_python(spec: Spec) -> nn.Module:
    """A network whose last child is a linear layer loses it; any other gives its features as it is."""
    module = call_python(spec.name)
    last = [path for path, child in module.named_modules() if not any(True for _ in child.children())][-1:]
    if last and isinstance(module.get_submodule(last[0]), nn.Linear):
        _remove_output(module)
    return module


_BUILDERS = {"timm": _build_timm, "torchvision": _build_torchvision, "python": _build_python}


def _remove_output(module: nn.Module) -> bool:
    """Replace the last linear layer by nothing; return whether there was one."""
    linear = [path for path, child in module.named_modules() if isinstance(child, nn.Linear)]
    for last in linear[-1:]:
        setattr(module.get_submodule(last.rpartition(".")[0]), last.rpartition(".")[2], nn.Identity())
    return bool(linear)


def _first_conv(module: nn.Module) -> tuple[str, nn.Conv2d]:
    for name, child in module.named_modules():
        if isinstance(child, nn.Conv2d) and child.in_channels == 3:
            return name, child
    raise BackboneError("the network has no convolution over three channels to adapt to grey input; use colour images")


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
    scale = (spec.input_std[0] / std).view(1, 3, 1, 1)
    offset = ((spec.input_mean[0] - mean) / std).view(1, 3, 1, 1)
    planes = [(weight.double() * scale).sum(1, keepdim=True)]
    if not _is_grey_already(spec):
        planes.append((weight.double() * offset).sum(1, keepdim=True))
    return {**tensors, name: torch.cat(planes, dim=1).to(weight.dtype)}


class _Passed(nn.Module):
    """What is left of a block that was removed: its first input passes."""

    def forward(self, value: Tensor, *_: Any, **__: Any) -> Tensor:
        return value


def _truncate(module: nn.Module, spec: Spec) -> None:
    """Remove every block after `spec.keep`; what the network does with its last output is done with that block's."""
    blocks = list_blocks(module)
    names = [block.name for block in blocks]
    if spec.keep not in names:
        raise BackboneError(f"backbone.keep is {spec.keep!r}, no block of {spec.name}; it has {', '.join(names)}")
    if spec.keep == names[-1]:
        raise BackboneError(
            f"backbone.keep is {spec.keep!r}, the last block of {spec.name}: nothing would be removed; set it to null"
        )
    removed = [path for block in blocks[names.index(spec.keep) + 1 :] for path in block.paths]
    with_tensors = [path for path in removed if module.get_submodule(path).state_dict()]
    for path in removed[: removed.index(with_tensors[-1]) + 1] if with_tensors else ():  # what follows pools
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, _Passed())


def _resampled(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with position embeddings of another input size interpolated, as timm does it for each network."""
    resample: Any = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if resample is None:
        return dict(tensors)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of timm's way to index, to torch's taste
            return dict(resample(dict(tensors), module))
    except Exception:  # noqa: BLE001, whatever timm runs into with weights of another architecture; the caller names it
        return dict(tensors)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _unexpected(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    extra = sorted(set(tensors) - set(wanted))
    return f", {_some(extra)} unexpected" if extra else ""

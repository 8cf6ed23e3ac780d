"""Build a network without its output layer, and give it tensors: random, pretrained or adapted to other channels."""

import importlib
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thaw.errors import BackboneError, first_line
from thaw.networks import input_layer, values
from thaw.networks.blocks import list_blocks
from thaw.networks.spec import Spec

_IMAGENET_CLASSES = 1000
_MOST_CLASS_TOKENS = 8  # and register tokens, of a transformer


def build(spec: Spec) -> nn.Module:
    """Return the network of a spec with random weights and no output layer, its input as `spec.in_channels` asks."""
    module = _BUILDERS[spec.library](spec)
    if spec.keep:
        _truncate(module, spec)
    input_layer.adapt(module, spec)
    return module.eval()


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], spec: Spec) -> None:
    """Put tensors into a network by name; tensors of an output layer that it no longer has are left out.

    A first layer that still has three input channels is adapted to those of the spec. Raises: BackboneError naming
    what is missing, has another shape or another type, or a value that no weight has.
    """
    wanted = module.state_dict()
    given = {name: tensor for name, tensor in tensors.items() if name in wanted}
    whose = f"the weights of {spec.url}" if spec.url else "the weights"
    values.check(given, wanted, whose=whose)
    given = input_layer.adapt_tensors(module, given, spec)
    if spec.library == "timm" and any(tensor.shape != wanted[name].shape for name, tensor in given.items()):
        given = _resampled(module, given)
    missing = sorted(set(wanted) - set(given))
    if missing:
        raise BackboneError(
            f"{whose} are not those of {spec.name}: {len(given)} of {len(wanted)} tensors match by name, "
            f"{_some(missing)} missing{_unexpected(tensors, wanted)}; name the architecture that they belong to, or "
            "give a network with its weights by python:MODULE:CALLABLE"
        )
    for name, tensor in given.items():
        if tensor.shape != wanted[name].shape:
            side = size_of(tensor.shape, wanted[name].shape, spec.input_px)
            shapes = f"{name} has shape {list(tensor.shape)}, the network wants {list(wanted[name].shape)}"
            if side:
                raise BackboneError(
                    f"{whose} are for images of {side} px, and {spec.name} is for {spec.input_px} px: {shapes}; give a "
                    "network of that size with its weights, by python:MODULE:CALLABLE"
                )
            raise BackboneError(
                f"{whose} are not those of {spec.name}: {shapes}; name the architecture that they belong to, or give a "
                "network with its weights by python:MODULE:CALLABLE"
            )
    module.load_state_dict(given)
    if spec.library == "onnx" and spec.in_channels == 1 and max(len(set(spec.mean)), len(set(spec.std))) > 1:
        _compare_grey(module, tensors, spec)


def size_of(theirs: Sequence[int], ours: Sequence[int], input_px: int) -> int | None:
    """Return the side in pixels of the images that position embeddings [1, tokens, channels] were trained on.

    `ours` is the shape that a network for images of `input_px` wants. None unless both are squares of tokens, beside
    as many class and register tokens.
    """
    if len(theirs) != 3 or len(ours) != 3 or theirs[0] != ours[0] or theirs[2] != ours[2] or theirs[1] == ours[1]:
        return None
    for others in range(_MOST_CLASS_TOKENS + 1):
        sides = [math.isqrt(max(0, shape[1] - others)) for shape in (theirs, ours)]
        if all(side and side**2 == shape[1] - others for side, shape in zip(sides, (theirs, ours), strict=True)):
            return round(input_px * sides[0] / sides[1])
    return None


def _build_timm(spec: Spec) -> nn.Module:
    """A network that is made for one input size, as transformers are, is told when it is to be another."""
    import timm

    if not timm.is_model(spec.name):  # of a model.json, which could name a hub or a folder
        raise BackboneError(f"timm has no model {spec.name!r}; take the version of timm that this model was made with")
    config = timm.get_pretrained_cfg(spec.name)
    resized = config is not None and config.fixed_input_size and config.input_size[-1] != spec.input_px
    size: dict[str, Any] = {"img_size": spec.input_px} if resized else {}
    # Grey input has a way of its own, see first_layer.py. Any other is timm's: some networks have several first layers.
    channels: dict[str, Any] = {} if spec.in_channels in (1, 3) else {"in_chans": spec.in_channels}
    try:
        module: nn.Module = timm.create_model(spec.name, pretrained=False, num_classes=0, **size, **channels)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        if not channels:
            raise
        raise input_layer.not_adapted(spec, first_line(error)) from None
    return module


def _build_torchvision(spec: Spec) -> nn.Module:
    from torchvision import models

    name = spec.name
    if name not in models.list_models(module=models):  # networks of other kinds bring weights by themselves
        raise BackboneError(f"torchvision has no classification model {name!r}; take the version that it was made with")
    # GoogLeNet and Inception v3 have side outputs that serve their own training only.
    extra = {"aux_logits": False, "init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    module: nn.Module = models.get_model(name, weights=None, **extra)
    removed = _remove_output(module) or _remove_output_conv(module)
    assert removed, f"{name} ends in no linear layer and no 1 x 1 convolution for {_IMAGENET_CLASSES} classes"
    input_layer.widen(module, spec.in_channels)
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


def source_of(name: str) -> Path:
    """Return the file that `MODULE:CALLABLE` is imported from. Raises: BackboneError if it is not in one."""
    path = getattr(importlib.import_module(name.partition(":")[0]), "__file__", None)
    if path is None:
        raise BackboneError(f"python:{name} is defined in no file; put the callable into a module of its own")
    return Path(path)


def _build_python(spec: Spec) -> nn.Module:
    """A network whose last child is a linear layer loses it; any other gives its features as it is."""
    module = call_python(spec.name)
    last = [path for path, child in module.named_modules() if not any(True for _ in child.children())][-1:]
    if last and isinstance(module.get_submodule(last[0]), nn.Linear):
        _remove_output(module)
    input_layer.widen(module, spec.in_channels)
    return module


def _build_onnx(spec: Spec) -> nn.Module:
    from thaw.networks.onnx.network import unpacked

    try:
        return unpacked(spec.graph)
    except ValueError as error:
        raise BackboneError(
            f"the graph of {spec.name} is damaged ({error}); bring the model that holds it again from its source"
        ) from None


_BUILDERS = {"timm": _build_timm, "torchvision": _build_torchvision, "python": _build_python, "onnx": _build_onnx}


def _remove_output(module: nn.Module) -> bool:
    """Replace the last linear layer by nothing; return whether there was one."""
    linear = [path for path, child in module.named_modules() if isinstance(child, nn.Linear)]
    for last in linear[-1:]:
        setattr(module.get_submodule(last.rpartition(".")[0]), last.rpartition(".")[2], nn.Identity())
    return bool(linear)


def _remove_output_conv(module: nn.Module) -> bool:
    """Replace a last layer that gives maps of ImageNet's classes by nothing; return whether there was one.

    What the network pooled behind it are then the maps before it, which are the features.
    """
    last = [path for path, child in module.named_modules() if next(child.parameters(recurse=False), None) is not None]
    layer = module.get_submodule(last[-1])
    if not isinstance(layer, nn.Conv2d) or layer.kernel_size != (1, 1) or layer.out_channels != _IMAGENET_CLASSES:
        return False
    setattr(module.get_submodule(last[-1].rpartition(".")[0]), last[-1].rpartition(".")[2], nn.Identity())
    return True


@torch.inference_mode()
def _compare_grey(module: nn.Module, tensors: Mapping[str, Tensor], spec: Spec) -> None:
    """Refuse an export that does something to its input before the first layer, such as padding or scaling it."""
    colour = build(spec.model_copy(update={"in_channels": 3}))
    if any(tensors[name].shape != value.shape for name, value in colour.state_dict().items()):
        return  # the weights come from a network that was adapted, and compared, before
    colour.load_state_dict({name: tensors[name] for name in colour.state_dict()})
    grey = torch.rand(1, 1, spec.input_px, spec.input_px, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (spec.mean, spec.std))
    try:
        found = module((grey - spec.input_mean[0]) / spec.input_std[0])
        expected = colour((grey.expand(-1, 3, -1, -1) - mean) / std)
        same = torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    except RuntimeError:  # constants for three channels before the first layer
        same = False
    if not same:
        raise BackboneError(
            f"{spec.name} changes its input before its first layer, so it cannot be adapted to grey input; set "
            "backbone.mean and backbone.std to one number each, or convert the images to colour"
        )


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

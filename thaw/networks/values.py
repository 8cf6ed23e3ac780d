"""What the values of weights must be, wherever they come from: dense, real, finite, of the type that is expected."""

from collections.abc import Mapping

import torch
from torch import Tensor

from thaw.errors import BackboneError

_MEND = "bring them again from their source"
_NARROWER = (torch.float16, torch.bfloat16)  # every value of theirs is one of float32


def check(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor] | None = None, *, whose: str = "the weights"
) -> None:
    """Look at every value of some weights, which an error calls `whose`.

    `wanted` has the network's own tensors, whose types are expected; without it, floats of at most 32 bits are.

    Raises: BackboneError naming the first tensor that is not dense, not real, of another type than expected or not
    finite, or that is a running variance below zero.
    """
    for name, tensor in tensors.items():
        what = _wrong(name, tensor, None if wanted is None else wanted[name])
        if what is not None:
            raise BackboneError(f"{whose} hold {what[0]} in {name}; {what[1]}")


def _wrong(name: str, tensor: Tensor, wanted: Tensor | None) -> tuple[str, str] | None:
    """Return what is wrong with a tensor and what to do about it; None if nothing is."""
    kind = str(tensor.dtype).removeprefix("torch.")
    expected = wanted.dtype if wanted is not None else torch.float32 if tensor.is_floating_point() else tensor.dtype
    name_of_expected = str(expected).removeprefix("torch.")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return "no dense values", "save them as dense tensors, neither sparse nor quantized"
    if tensor.is_complex():
        return f"complex numbers ({kind})", f"save them as {name_of_expected}"
    if not _fits(tensor.dtype, expected):
        return f"values of type {kind} where the network has {name_of_expected}", f"save them as {name_of_expected}"
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        return "NaN or infinity", f"{_MEND}, or take some of before training diverged"
    if name.endswith("running_var") and tensor.numel() and float(tensor.min()) < 0:
        return f"a variance below zero ({float(tensor.min()):.3g})", _MEND
    return None


def _fits(found: torch.dtype, wanted: torch.dtype) -> bool:
    """Tell whether every value of a type is one of another: halves become float32, whole numbers wider ones."""
    if found == wanted:
        return True
    if wanted.is_floating_point:
        return wanted == torch.float32 and found in _NARROWER
    whole = not found.is_floating_point and not found.is_complex and torch.bool not in (found, wanted)
    return whole and found.itemsize <= wanted.itemsize

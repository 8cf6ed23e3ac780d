"""Save and restore a phase in mid-run: tensors in safetensors, counters in JSON, both or neither.

A checkpoint lies in the scratch folder under the fingerprint of everything that its phase depends on, so it is never
resumed under other settings. Random state need not be stored: order and views are functions of the epoch.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from thaw.errors import ArtifactError
from thaw.pipeline import artifacts


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    average: nn.Module | None = None,
) -> None:
    """Write a checkpoint; the one before stays until the new one is whole."""
    tensors = {f"model/{name}": value for name, value in trained_tensors(model).items()}
    if average is not None:
        tensors |= {f"average/{name}": value for name, value in trained_tensors(average).items()}
    for index, entry in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": torch.as_tensor(value) for name, value in entry.items()}
    with artifacts.new_folder(folder) as partial:
        save_file(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            partial / "tensors.safetensors",
        )
        artifacts.write_text(partial / "state.json", json.dumps(state))


def restore(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None = None
) -> dict[str, Any] | None:
    """Put a checkpoint back and return its counters, or None if there is no whole one.

    A save that was killed between its two renames has put the checkpoint before aside, which is then taken.
    """
    artifacts.put_back(folder)
    try:
        artifacts.verify(folder)
    except ArtifactError:
        return None
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    for name, value in load_file(folder / "tensors.safetensors").items():
        part, _, rest = name.partition("/")
        parts[part][rest] = value
    model.load_state_dict(parts["model"])
    if average is not None:
        average.load_state_dict(parts["average"])
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in parts["optimizer"].items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    _lay_out_as_parameters(optimizer)
    return artifacts.read_json(folder / "state.json")


def _lay_out_as_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give each tensor of the optimizer the memory layout of its parameter.

    AdamW's fused kernel walks through both in the order of memory: moments that came back contiguous beside a
    parameter in channels_last were applied to the wrong weights, and nothing complained.
    """
    for parameter, entry in optimizer.state.items():
        for name, value in entry.items():
            if value.shape == parameter.shape:
                entry[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every tensor of a model, buffers included, on the processor."""
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }

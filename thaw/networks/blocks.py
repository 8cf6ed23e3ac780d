"""Blocks: the units of freeze depth, in order from the input, found the same way in every network.

A block is a top-level unit of the network, never a leaf module: a stage of a ResNet, a transformer block, a run of
layers up to a pooling. Containers of such units are opened, runs of single layers are put together.
"""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Block:
    """A block's name (that of its first layer with parameters) and the module paths that belong to it."""

    name: str
    paths: tuple[str, ...]


def list_blocks(module: nn.Module) -> list[Block]:
    """Return the blocks of a network, input first; each module with tensors is in exactly one of them."""
    blocks: list[Block] = []
    run: list[tuple[str, nn.Module]] = []

    def close() -> None:
        named = [path for path, layer in run if _has_tensors(layer)]
        if named:
            blocks.append(Block(named[0], tuple(path for path, _ in run)))
        elif run and blocks:
            blocks[-1] = Block(blocks[-1].name, (*blocks[-1].paths, *(path for path, _ in run)))
        run.clear()

    for path, child in _open(list(module.named_children())):
        if _is_layer(child):
            run.append((path, child))
            if "Pool" in type(child).__name__:
                close()
        else:
            close()
            blocks.append(Block(path, (path,)))
    close()
    return blocks


def _open(units: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    """Replace containers by their members until what is left are stages, transformer blocks or single layers.

    A network keeps its body either in several stages side by side (ResNet's layer1 to layer4), which are the blocks,
    or in one container (`blocks`, `features`, `encoder.layers`), which is opened until there are several. A ModuleList
    is opened in any case: it cannot be called, so it is no unit.
    """
    while True:
        compound = [path for path, child in units if not _is_layer(child)]
        bodies = [path for path, child in units if _holds_compounds(child)]
        chain = [path for path, child in units if isinstance(child, nn.Sequential) and _is_pooled_chain(child)]
        to_open = set(chain) | set(bodies if len(bodies) == 1 else compound if len(compound) == 1 and not chain else ())
        to_open |= {path for path, child in units if isinstance(child, nn.ModuleList) and path in bodies}
        to_open -= {path for path, child in units if isinstance(child, nn.Sequential) and _is_short_run(child)}
        if not to_open:
            return units
        units = [
            member
            for path, child in units
            for member in (
                [(f"{path}.{name}", grandchild) for name, grandchild in child.named_children()]
                if path in to_open
                else [(path, child)]
            )
        ]


def _holds_compounds(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict) and any(
        not _is_layer(child) for child in module.children()
    )


def _is_pooled_chain(container: nn.Sequential) -> bool:
    """Whether a container is a chain of single layers with poolings between them, such as VGG's `features`."""
    return all(_is_layer(child) for child in container) and any("Pool" in type(child).__name__ for child in container)


def _is_short_run(container: nn.Sequential) -> bool:
    return all(_is_layer(child) for child in container) and not _is_pooled_chain(container)


def _is_layer(module: nn.Module) -> bool:
    return not any(_has_tensors(child) for child in module.children())


def _has_tensors(module: nn.Module) -> bool:
    """Whether a module has anything to load or to freeze; a buffer that is no part of its state is neither."""
    return next(module.parameters(), None) is not None or bool(module.state_dict())

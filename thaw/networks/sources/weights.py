"""Read a file of weights without executing anything in it: every mapping of names to tensors that it holds."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from thaw.errors import BackboneError, first_line
from thaw.names import on_one_line
from thaw.networks.sources import pickled
from thaw.networks.sources.kinds import is_safetensors
from thaw.networks.sources.pickled import Unpickled, array_as_tensor, conversion, conversion_of_parts
from thaw.pipeline.model_facts import TakenFacts

_MEND = "bring it again from its source"
_DEEPEST = 16  # levels of mappings and lists that are looked into
ROOT = "."
"""The address of what is not within anything else."""


@dataclass(frozen=True)
class Found:
    """Weights as they were found: by the network's own names, with the SHA-256 of what held them."""

    tensors: dict[str, Tensor]
    sha256: str
    remedy: str
    """What to do if the hash is not the one that was expected, beside trusting these."""
    taken: TakenFacts | None = None
    """What of a file was used and what was not, where it may hold more than the weights."""


@dataclass(frozen=True)
class Place:
    """A mapping with text for keys, somewhere in a file."""

    keys: tuple[str, ...]
    """What leads to it from the root; a number in a list as text."""
    python: str
    """The same in Python, such as `["model"]`."""
    tensors: dict[str, Tensor]
    others: list[str]
    """Keys of what is not a tensor."""


@dataclass(frozen=True)
class Held:
    """All mappings in a file, in its order, the root first."""

    path: Path
    places: list[Place]
    types: dict[str, str] = field(default_factory=dict)
    """Types of objects that were not read, by their address."""
    network: str = ""
    """What to do about a whole network that the file holds, if there is one."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file that holds one state dict; no code in it is ever run.

    Raises: BackboneError if the file is anything else.
    """
    held = read(path)
    if held.network:
        raise BackboneError(held.network)
    return max(held.places, key=lambda place: len(place.tensors)).tensors  # of several, the first


def read(path: Path) -> Held:
    """Return the mappings in a file of safetensors or torch; no code in it is ever run.

    Raises: BackboneError if it is another file, a damaged one, calls what is not known here, or holds no tensors by
    name.
    """
    if is_safetensors(path):
        try:
            return Held(path, [Place((), "", load_file(path), [])])
        except (SafetensorError, OSError, ValueError) as error:
            raise BackboneError(f"{path} is not a whole safetensors file ({first_line(error)}); {_MEND}") from None
    found = pickled.read(path)
    places = list(_places(found))
    types = {address(place.keys): name for place, thing in places if (name := found.type_of(thing))}
    networks = [place for place, thing in places if _is_network(thing)]
    network = _of_network(path, networks[0], types[address(networks[0].keys)]) if networks else ""
    held = Held(path, [place for place, thing in places if not _is_network(thing)], types, network)
    if found.failed or found.called or not any(place.tensors for place in held.places):
        raise BackboneError(network or _refusal(path, found, held))
    return held


def address(keys: tuple[str, ...]) -> str:
    """Return the keys that lead to a place as one text."""
    return ".".join(keys) or ROOT


def _places(found: Unpickled) -> Iterator[tuple[Place, object]]:
    """Yield every mapping and what stands for an object, each once, the outer before the inner."""
    waiting: list[tuple[tuple[str, ...], str, object]] = [((), "", found.value)]
    seen: set[int] = set()  # a pickle may hold a thing in itself
    while waiting:
        keys, python, thing = waiting.pop()
        if id(thing) in seen or len(keys) > _DEEPEST:
            continue
        is_object = bool(found.type_of(thing))
        if not isinstance(thing, Mapping | list | tuple) and not is_object:
            continue
        seen.add(id(thing))
        inside = list(_inside(thing, is_object=is_object))
        if not isinstance(thing, list | tuple):
            tensors = {name: tensor for name, _, value in inside if (tensor := _as_tensor(value)) is not None}
            yield Place(keys, python, tensors, [name for name, _, _ in inside if name not in tensors]), thing
        if _is_network(thing):
            continue
        waiting += [((*keys, name), python + step, value) for name, step, value in reversed(inside)]


def _inside(thing: object, *, is_object: bool) -> Iterator[tuple[str, str, object]]:
    """Yield the name, the step in Python and the value of what a mapping, an object or a list holds."""
    if isinstance(thing, Mapping):
        for name, value in thing.items():
            if isinstance(name, str):
                yield name, f"[{json.dumps(name)}]", value
    if is_object:
        for name, value in vars(thing).items():
            if str(name).isidentifier():
                yield str(name), f".{name}", value
    if isinstance(thing, list | tuple):
        for number, value in enumerate(thing):
            yield str(number), f"[{number}]", value


def _as_tensor(value: object) -> Tensor | None:
    """Return the tensor that a value is, without what training kept with it; None for anything else."""
    return value.detach() if isinstance(value, Tensor) else array_as_tensor(value)


def _of_network(path: Path, place: Place, name: str) -> str:
    where = f" as {on_one_line(address(place.keys))}" if place.keys else ""
    what = f"{path} holds a whole network, {on_one_line(name)}{where}, in place of weights, which only code can read"
    return f"{what}; {conversion(path, f'{place.python}.state_dict()')}"


def _refusal(path: Path, found: Unpickled, held: Held) -> str:
    """Return the error for a file that is no weights: its type by name, and how to write the weights alone."""
    inside = max(held.places, key=lambda place: len(place.tensors), default=Place((), "", {}, [])).python
    if found.called:
        what = f"would call {on_one_line(pickled.some(found.called))} when it is opened, so it was not opened"
        return f"{path} {what}; {conversion(path, inside)}"
    if found.failed and found.unknown:
        what = f"holds {on_one_line(pickled.some(found.unknown))}, which cannot be read without running code"
        return f"{path} {what}; {conversion_of_parts(path)}"
    if found.failed:
        return f"{path} cannot be read as plain tensors: {found.failed}; {_MEND}"
    return f"{path} does not hold a state dict (names and tensors); save the model's state_dict() alone"


def _is_network(thing: object) -> bool:
    """Tell whether an object has what each module of torch has."""
    return {"_modules", "_parameters", "_buffers"} <= getattr(thing, "__dict__", {}).keys()

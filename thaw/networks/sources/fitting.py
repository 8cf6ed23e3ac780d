"""Find the weights of an architecture in what a file holds, whatever it calls them and whatever lies beside them.

What trainers put before each name is found by comparison: behind the right prefix lie all of the network's own names.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from thaw.errors import BackboneError
from thaw.names import on_one_line
from thaw.networks.build import size_of
from thaw.networks.sources.weights import ROOT, Held, Place, address
from thaw.pipeline.model_facts import TakenFacts

# Words that name an average over training, or the slower one of two networks, which follows the other.
_AVERAGED = {"ema", "swa", "avg", "average", "averaged", "momentum", "teacher", "target", "shadow", "k"}
_MOST_NAMED = 20  # things that are not used, in the line that says so
Named = Callable[[str], str]
_COUNTER = "num_batches_tracked"  # of batch norms; torch before 0.4.1 has none, and no result depends on it


@dataclass(frozen=True)
class Fit:
    """A place that holds a network."""

    place: Place
    prefix: str
    names: dict[str, str] = field(default_factory=dict)
    """The network's own names, and what they are called there."""
    how: Literal["names", "order", "timm"] = "names"
    converted: dict[str, Tensor] = field(default_factory=dict)
    """What timm made of the tensors, if it did."""

    @property
    def address(self) -> str:
        """The keys and the prefix, dots between them: the KEY that chooses it."""
        return ".".join([*self.place.keys, *self.prefix.split(".")[:-1]]) or ROOT

    def key(self, fits: "Sequence[Fit]") -> str:
        """Return the KEY that chooses it among others: without its prefix where its place holds no other."""
        alone = all(fit.place is not self.place or fit is self for fit in fits)
        return address(self.place.keys) if alone else self.address

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors by the network's own names."""
        return self.converted or {own: self.place.tensors[name] for own, name in self.names.items()}

    @property
    def is_averaged(self) -> bool:
        """Whether its address says that it is an average."""
        return not _AVERAGED.isdisjoint(re.split(r"[._]", self.address.lower()))

    def has_shapes_of(self, wanted: Mapping[str, Tensor]) -> bool:
        """Tell whether each tensor has the shape that the network wants, or one that is adapted to it."""
        return all(_is_adapted(name, tensor.shape, wanted[name].shape) for name, tensor in self.tensors.items())


def take(held: Held, module: nn.Module, key: str | None, named: Named) -> tuple[dict[str, Tensor], TakenFacts | None]:
    """Return the tensors of a network by its own names, and what else the file holds.

    `key` is the address of the place, or of the place and prefix, to take; None takes the one that there is, and of
    weights and their average the weights. `named` gives the source with another key, as params.yaml would have it. If
    nothing in the file fits, what comes nearest is returned, without facts.

    Raises: BackboneError if nothing is at that key, or several networks are in the file and none is plainly meant.
    """
    wanted = module.state_dict()
    fits = [fit for place in held.places for fit in _fits(place, wanted)]
    fits = fits or [
        fit for place in held.places if (fit := _in_order(place, wanted) or _by_timm(place, module, wanted))
    ]
    chosen = fits if key is None else [fit for fit in fits if key in (fit.address, address(fit.place.keys))]
    if not chosen:
        return _nearest(held, wanted, fits, key, named), None
    first, *others = sorted(chosen, key=lambda fit: fit.is_averaged)
    if rivals := [fit for fit in others if fit.is_averaged == first.is_averaged and not _equal(fit, first)]:
        listed = " or ".join(named(fit.key(fits)) for fit in (first, *rivals))
        raise BackboneError(
            f"{held.path} holds this network {len(rivals) + 1} times, with other weights; choose {listed}"
        )
    missing = {name: value for name, value in wanted.items() if name not in first.tensors}
    return {**first.tensors, **missing}, _facts(held, first, fits, len(missing))


def words(taken: TakenFacts, named: Named) -> str:
    """Return the line that says what was used of a file and what was not."""
    how = {
        "names": f" behind the prefix {taken.prefix}" if taken.prefix else "",
        "order": ", matched by their order and shapes, since their names are others",
        "timm": ", under names that timm converted",
    }[taken.how]
    where = "the file itself" if taken.key == ROOT else taken.key
    parts = [f"the network's {taken.tensors} tensors are in {where}{how}"]
    if taken.filled:
        parts.append(f"{taken.filled} counters of batches are not there and start from 0")
    if taken.resampled:
        listed = f"{', '.join(taken.resampled[:3])}{', ...' if len(taken.resampled) > 3 else ''}"
        parts.append(f"timm interpolated {listed}: set backbone.input_px to keep them as they are")
    if taken.also:
        parts.append(f"not used, though they hold this network: {', '.join(map(named, taken.also))}")
    counted = [f"{name} ({count} tensor{'s' if count > 1 else ''})" for name, count in taken.unused_tensors.items()]
    if rest := [*counted, *taken.unused]:
        more = f" and {len(rest) - _MOST_NAMED} more" if len(rest) > _MOST_NAMED else ""
        parts.append(f"not used: {', '.join(rest[:_MOST_NAMED])}{more}")
    return "; ".join(parts)


def resampled(tensors: Mapping[str, Tensor], module: nn.Module, input_px: int) -> list[str]:
    """Return tensors that a network took in another shape, with the image size that they are for; a first layer apart.

    `input_px` is the side of the images that the network takes.
    """
    wanted = module.state_dict()
    changed = [name for name, tensor in tensors.items() if name in wanted and tensor.shape != wanted[name].shape]
    said = []
    for name in changed:
        ours, theirs = wanted[name].shape, tensors[name].shape
        if len(ours) != 4 or ours[2:] != theirs[2:]:
            side = size_of(theirs, ours, input_px)
            said.append(
                f"{name} from {f'{side} px' if side else list(theirs)} to {f'{input_px} px' if side else list(ours)}"
            )
    return said


def _fits(place: Place, wanted: Mapping[str, Tensor]) -> list[Fit]:
    """Return each prefix in a place behind which the whole network lies, in the place's order."""
    needed = {name for name in wanted if not name.endswith(_COUNTER)}
    whole = [Fit(place, prefix, names) for prefix, names in _prefixes(place, wanted).items() if needed <= names.keys()]
    return [fit for fit in whole if fit.has_shapes_of(wanted)]


def _is_adapted(name: str, theirs: Sequence[int], ours: Sequence[int]) -> bool:
    """Tell whether a tensor may have that shape: positions of another image size, a first layer of other channels.

    A larger network may have all names of a smaller one, as ResNet-50 has those of ResNet-18: then weights differ.
    """
    if name.rpartition(".")[2] not in ("weight", "bias", "running_mean", "running_var") or "patch_embed" in name:
        return len(theirs) == len(ours)
    other_channels = len(ours) == len(theirs) == 4 and ours[1] == 3 and (theirs[0], *theirs[2:]) == (ours[0], *ours[2:])
    return tuple(theirs) == tuple(ours) or other_channels


def _prefixes(place: Place, wanted: Mapping[str, Tensor]) -> dict[str, dict[str, str]]:
    """Return the network's own names that follow each prefix, with the names there: `a.b.` and `c` of `a.b.c`."""
    found: dict[str, dict[str, str]] = {}
    for name in place.tensors:
        starts = [0, *(match.end() for match in re.finditer(r"\.", name))]
        for start in starts:
            if name[start:] in wanted:
                found.setdefault(name[:start], {})[name[start:]] = name
    return found


def _in_order(place: Place, wanted: Mapping[str, Tensor]) -> Fit | None:
    """Return the fit of a network whose parts are called otherwise, as in a nn.Sequential that numbers them.

    The tensors must follow each other as the network's do, with the same shapes. Each part of the network (`layer1`)
    must be one part there (`0.4`), and the names within a part be the same. None if that is so nowhere or twice.
    """
    names = [name for name in place.tensors if not name.endswith(_COUNTER)]
    own = [name for name in wanted if not name.endswith(_COUNTER)]
    found = [
        start
        for start in range(len(names) - len(own) + 1)
        if _is_renamed(own, names[start : start + len(own)], wanted, place.tensors)
    ]
    if len(found) != 1 or not own:
        return None
    matched = dict(zip(own, names[found[0] : found[0] + len(own)], strict=True))
    for name in wanted:
        module = name.removesuffix(_COUNTER)
        counter = matched.get(f"{module}weight", "").removesuffix("weight") + _COUNTER
        if module != name and counter in place.tensors:
            matched[name] = counter
    return Fit(place, "", matched, how="order")


def _is_renamed(
    own: Sequence[str], names: Sequence[str], wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> bool:
    parts: dict[str, str] = {}
    for one, other in zip(own, names, strict=True):
        part, _, rest = one.partition(".")
        if not other.endswith(f".{rest}") or wanted[one].shape != tensors[other].shape:
            return False
        if parts.setdefault(part, other.removesuffix(f".{rest}")) != other.removesuffix(f".{rest}"):
            return False
    return len(set(parts.values())) == len(parts)


def _by_timm(place: Place, module: nn.Module, wanted: Mapping[str, Tensor]) -> Fit | None:
    """Return the fit of tensors whose names timm converts for this network, as it does for what authors publish."""
    convert: Any = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if convert is None or not type(module).__module__.startswith("timm.") or len(place.tensors) < len(wanted) / 2:
        return None
    try:
        made = dict(convert(dict(place.tensors), module))
    except Exception:  # noqa: BLE001, whatever timm runs into with weights of another network; what fits not is named
        return None
    used = {name: made[name] for name in wanted if isinstance(made.get(name), Tensor)}
    alike = all(tensor.shape == wanted[name].shape for name, tensor in used.items())
    return Fit(place, "", how="timm", converted=used) if alike and len(used) == len(wanted) else None


def _nearest(
    held: Held, wanted: Mapping[str, Tensor], fits: Sequence[Fit], key: str | None, named: Named
) -> dict[str, Tensor]:
    """Return the tensors of the place that has most of a network's names, those that fit none under their own.

    Raises: BackboneError if there is nothing at the key, or names are numbers that can only be matched by order.
    """
    if held.network:
        raise BackboneError(held.network)
    places = [place for place in held.places if place.tensors]
    if key is not None:
        within = [place for place in places if key == address(place.keys)]
        if not within:
            known = [fit.key(fits) for fit in fits] or [address(place.keys) for place in places]
            raise BackboneError(f"{held.path} has no weights at #{key}; there are {', '.join(map(named, known[:5]))}")
        places = within
    found = [(place, prefix, names) for place in places for prefix, names in _prefixes(place, wanted).items()]
    place, _, names = max(found, key=lambda item: len(item[2]), default=(max(places, key=_size), "", {}))
    if all(name[:1].isdigit() for name in place.tensors):
        raise BackboneError(
            f"{held.path} numbers the parts of its network, as fastai does, and they are not those of the architecture "
            "in order and shapes, or are so twice; name the architecture that they belong to, or give a network with "
            "its weights by python:MODULE:CALLABLE"
        )
    taken = set(names.values())
    rest = {name: tensor for name, tensor in place.tensors.items() if name not in taken and name not in wanted}
    return {own: place.tensors[name] for own, name in names.items()} | rest


def _size(place: Place) -> int:
    return len(place.tensors)


def _equal(one: Fit, other: Fit) -> bool:
    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items()
    )


def _facts(held: Held, chosen: Fit, fits: Sequence[Fit], num_missing: int) -> TakenFacts:
    others = [fit for fit in fits if fit is not chosen]
    here = [fit.prefix for fit in others if fit.place is chosen.place]
    used = set(chosen.names.values())
    left: dict[str, int] = {}
    for name in chosen.place.tensors if chosen.how != "timm" else ():
        if name not in used and not any(prefix and name.startswith(prefix) for prefix in here):
            part = _first_part(name, chosen.prefix)
            left[part] = left.get(part, 0) + 1
    return TakenFacts(
        key=on_one_line(address(chosen.place.keys)),
        prefix=on_one_line(chosen.prefix),
        how=chosen.how,
        tensors=len(chosen.tensors),
        filled=num_missing,
        also=[on_one_line(fit.key(fits)) for fit in others],
        unused_tensors={on_one_line(part): count for part, count in left.items()},
        unused=[on_one_line(key) for key in _unused(held, chosen.place, [fit.place for fit in others])],
    )


def _first_part(name: str, prefix: str) -> str:
    """Return the part of a name after those that it has in common with the prefix."""
    parts = name.split(".")
    for shared in prefix.split(".")[:-1]:
        if len(parts) > 1 and parts[0] == shared:
            parts = parts[1:]
        else:
            break
    return parts[0]


def _unused(held: Held, chosen: Place, others: Sequence[Place]) -> list[str]:
    """Return the keys beside a place, at each level down to it, without those that lead to the others."""
    kept = {place.keys[:depth] for place in (chosen, *others) for depth in range(len(place.keys) + 1)}
    beside = []
    for place in held.places:
        if place.keys == chosen.keys[: len(place.keys)]:
            names = place.others if place is chosen else [*place.tensors, *place.others]
            beside += [(*place.keys, name) for name in names if (*place.keys, name) not in kept]
    types = {keys: held.types.get(address(keys)) for keys in beside}
    return [".".join(keys) + (f" (of type {types[keys]})" if types[keys] else "") for keys in beside]

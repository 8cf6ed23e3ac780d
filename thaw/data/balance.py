"""Units on a line, divided into parts to hold out, so that each part has its share of every class.

A unit's place on the line decides. Only where a class is out of balance do units move, the fewest that mend it, those
nearest to the border first. So what becomes of a unit depends on others only there, and in large classes hardly ever.
"""

from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

TOLERANCE = 0.25
"""Share of the expected images by which a part may be off before units move; measured in decision 0029."""
LEAST_TOLERANCE = 1.0
"""The same in images where few are expected, but never more than half of the expected."""
TRAINING = -1
"""The number of what no part holds out."""
_ALL = ""
"""Stands for the images of all classes; no class has an empty name."""

Kind = tuple[tuple[str, int], ...]
"""How many images of which class a unit holds."""


@dataclass(frozen=True)
class Part:
    """What is held out together: the units with places in [start, end), if balance has it so."""

    start: float
    end: float
    share: float
    """Of the images, 0 to 1."""


def by_place(places: Sequence[float], parts: Sequence[Part]) -> list[int]:
    """Return the number of the part that each place is in, or -1; parts follow each other from 0 on."""
    ends = [part.end for part in parts]
    return [number if (number := bisect_right(ends, place)) < len(ends) else TRAINING for place in places]


def divide(
    places: Sequence[float], kinds: Sequence[Kind], parts: Sequence[Part], *, keep: int, tolerance: float = TOLERANCE
) -> list[int]:
    """Return the number of the part that holds out each unit, or -1 for a unit that always trains.

    Unit i holds `kinds[i]` and has its place, 0 to 1, in `places[i]`. Parts follow each other from 0 on; what is left
    of the line behind them is for training. Parts that fill it are folds, each of which is training data to the others.
    Without a part, `keep` units of each class are left for training (or all but one, where there are no more). The only
    unit of a class always trains. A part that is no fold has each class of which two units or more are free.
    """
    division = _Division(places, kinds, parts, keep, tolerance)
    moved = True
    while moved:  # a unit that moves for one class may hold images of another
        moved = division.balance()
    return division.numbers


class _Division:
    """Where the units are, and the counts that tell which moves are for the better."""

    def __init__(
        self, places: Sequence[float], kinds: Sequence[Kind], parts: Sequence[Part], keep: int, tolerance: float
    ) -> None:
        self._places, self._parts, self._tolerance = places, dict(enumerate(parts)), tolerance
        self._folds = parts[-1].end >= 1
        self._held_out = list(self._parts)
        if not self._folds:
            self._parts[TRAINING] = Part(parts[-1].end, 1.0, 1 - sum(part.share for part in parts))
        units = Counter(label for kind in kinds for label, _ in kind)
        self._units = units
        self._required = {label: min(keep, number - 1) for label, number in units.items()}
        free = [all(units[label] > 1 for label, _ in kind) for kind in kinds]
        self._total = Counter[str]()
        for kind, ours in zip(kinds, free, strict=True):
            if ours:
                self._total.update(dict(self._with_all(kind)))
        self.numbers = [
            number if ours and self._fits(kind, number) else TRAINING
            for number, kind, ours in zip(by_place(places, parts), kinds, free, strict=True)
        ]
        self._images: Counter[tuple[str, int]] = Counter()
        self._held: Counter[tuple[str, int]] = Counter()
        self._queues: dict[tuple[int, Kind], list[tuple[float, int]]] = defaultdict(list)
        kinds_of: dict[str, set[Kind]] = defaultdict(set)
        for unit, number in enumerate(self.numbers):
            if free[unit]:
                kind = self._with_all(kinds[unit])
                self._count(kind, number, 1)
                self._queues[number, kind].append((places[unit], unit))
                for label, _ in kind:
                    kinds_of[label].add(kind)
        for queue in self._queues.values():
            queue.sort()
        self._kinds = {label: sorted(found) for label, found in kinds_of.items()}
        self._labels = sorted(self._kinds, key=lambda label: (label == _ALL, label))

    def _with_all(self, kind: Kind) -> Kind:
        """Return the images of a unit with those of all classes, which are balanced among folds only."""
        return (*kind, (_ALL, sum(images for _, images in kind))) if self._folds else kind

    def _fits(self, kind: Kind, number: int) -> bool:
        """Tell whether a part may hold a unit: not one that alone is too many of a class; some fold has to."""
        return self._folds or all(
            images <= (expected := self._expected(label, number)) + self._allowed(expected) for label, images in kind
        )

    def _expected(self, label: str, number: int) -> float:
        return self._total[label] * self._parts[number].share

    def _allowed(self, expected: float) -> float:
        """Return by how many images a part may be off."""
        return max(self._tolerance * expected, min(LEAST_TOLERANCE, expected / 2))

    def balance(self) -> bool:
        """Move units, class by class, until no move of one makes the class better; tell whether any was moved."""
        moved = False
        for label in self._labels:
            while move := min(self._moves(label), default=None):
                *_, source, target, kind, unit = move
                self._queues[source, kind].remove((self._places[unit], unit))
                insort(self._queues[target, kind], (self._places[unit], unit))
                self._count(kind, source, -1)
                self._count(kind, target, 1)
                self.numbers[unit] = target
                moved = True
        return moved

    def _count(self, kind: Kind, number: int, change: int) -> None:
        for label, images in kind:
            self._images[label, number] += change * images
            self._held[label, number] += change

    def _moves(self, label: str) -> Iterator["_Move"]:
        """Yield the moves that better a class and make things better in all, the best one being the least."""
        bad = {number for number in self._held_out if self._cost(label, number, 0, 0) > _NOTHING}
        if not bad:
            return
        for kind in self._kinds[label]:
            for source in self._parts:
                if not self._queues.get((source, kind)):
                    continue
                for target in self._parts:
                    if target == source or not bad & {source, target}:
                        continue
                    change = self._change(kind, source, target)
                    if change < _NOTHING:
                        distance, unit = self._nearest(source, kind, self._parts[target])
                        rank = (target != TRAINING and not self._fits(kind, target), *change)
                        yield (*rank, self._roughness(kind, source, target), distance, source, target, kind, unit)

    def _nearest(self, source: int, kind: Kind, target: Part) -> tuple[float, int]:
        """Return the unit of this kind in a part that has its place nearest to another part, and how far off it is."""
        queue = self._queues[source, kind]
        behind = bisect_left(queue, (target.start, -1))
        near = queue[max(behind - 1, 0) : behind + 1]
        return min((max(target.start - place, place - target.end, 0.0), unit) for place, unit in near)

    def _change(self, kind: Kind, source: int, target: int) -> "_Cost":
        """Return by how much a move changes the cost, below `_NOTHING` if it is for the better."""
        change = [0.0, 0.0, 0.0]
        for label, images in kind:
            for number, sign in ((source, -1), (target, 1)):
                before, after = self._cost(label, number, 0, 0), self._cost(label, number, sign * images, sign)
                change = [total + new - old for total, new, old in zip(change, after, before, strict=True)]
        return change[0], change[1], round(change[2], 6)

    def _cost(self, label: str, number: int, more_images: int, more_units: int) -> "_Cost":
        """Return what is wrong with a class in a part, if it had so many images and units more.

        It is the units that training without the part lacks, whether the part lacks the class, and the images beyond
        tolerance: what comes first counts more than all that follows.
        """
        if number == TRAINING:
            return _NOTHING
        held = self._held[label, number] + more_units
        expected = self._expected(label, number)
        off = abs(self._images[label, number] + more_images - expected)
        beyond = max(off - self._allowed(expected), 0.0)
        if label == _ALL:
            return 0.0, 0.0, beyond
        lacking = max(self._required[label] - (self._units[label] - held), 0)
        return float(lacking), float(held == 0 and not self._folds), beyond

    def _roughness(self, kind: Kind, source: int, target: int) -> float:
        """Return how a move changes the squares of what the parts are off by, which decides between equal changes."""
        change = 0.0
        for label, images in kind:
            for number, sign in ((source, -1), (target, 1)):
                off = self._images[label, number] - self._expected(label, number)
                change += (off + sign * images) ** 2 - off**2
        return round(change, 6)


_Cost = tuple[float, float, float]
_NOTHING: _Cost = (0.0, 0.0, 0.0)
_Move = tuple[bool, float, float, float, float, float, int, int, Kind, int]
"""Whether the unit is too large, the changes of cost (three) and roughness, the distance, from and to where, what."""

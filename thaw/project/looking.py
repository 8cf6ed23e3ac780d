"""What can be seen of a data set before a project is laid out: sizes, channels, and which values the pixels have.

Every file's header is read, and a few files are decoded; `prepare` later decodes all and is stricter.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from thaw.data import decoding, headers, pixel_values
from thaw.data.decoding import Picture, UnusableError
from thaw.data.ingest import read
from thaw.data.listing import Listing
from thaw.data.pixel_values import Ranges
from thaw.data.places import Archive
from thaw.pipeline.data_facts import Range
from thaw.progress import progress

NUM_DECODED = 100
MAX_MEGAPIXELS = 100.0
"""Of an image that is looked at or copied out of an archive; `prepare` takes its own limit."""
_TINY_PX = 16
_MULTIPLE_PX = 8
_OBLONG = 1.5
_EVERYTHING: Ranges = ((-1e30, 1e30),)  # to measure values that have no range of their own


@dataclass(frozen=True)
class Seen:
    """What was seen of a data set."""

    classes: dict[str, int]
    """Files of each class."""
    sizes: list[tuple[int, int]]
    """Width and height of each file whose header could be read, in pixels."""
    channels: Counter[int]
    """How many of the decoded files have how many channels."""
    unusable: list[str] = field(default_factory=list)
    """Files that no decoder takes, each with the reason."""
    value_range: Ranges | None = None
    """What prepare.value_range should be; None where the range of the type will do."""
    notes: list[str] = field(default_factory=list)
    """What a person should look at."""

    @property
    def num_images(self) -> int:
        """How many files are listed."""
        return sum(self.classes.values())

    def size_px(self, input_px: int) -> int:
        """Return the side to pack squares at: an eighth more than the network sees, as far as the images have it."""
        wanted = _rounded(input_px * 8 / 7)
        shorter = sorted(min(size) for size in self.sizes)
        typical = shorter[len(shorter) // 2] if shorter else wanted
        return max(input_px, min(wanted, typical))


def look(listed: Listing) -> Seen:
    """Return what can be seen of the files of a listing."""
    paths = [str(path) for path in listed.table["path"]]
    sizes, unusable = [], []
    for path in progress(paths, total=len(paths), label="images looked at"):
        try:
            source = listed.root / path if listed.archive is None else listed.archive.read(path, MAX_MEGAPIXELS)
            sizes.append(headers.size(source))
        except UnusableError as error:
            unusable.append(f"{path}: {error}")
    decoded = _decoded(listed.source, paths[:: -(-len(paths) // NUM_DECODED)])
    pictures = [picture for picture, _ in decoded]
    value_range, notes = _value_range(decoded)
    return Seen(
        classes={str(name): int(count) for name, count in listed.table["label"].value_counts(sort=False).items()},
        sizes=sizes,
        channels=Counter(picture.pixels.shape[2] for picture in pictures),
        unusable=unusable,
        value_range=value_range,
        notes=[*notes, *_shape_notes(sizes), *_kind_notes(pictures)],
    )


def in_words(seen: Seen, name: str) -> list[str]:
    """Return what was seen as lines of text; `name` is where the images were found."""
    counts = ", ".join(f"{label} {count}" for label, count in list(seen.classes.items())[:8])
    more = f" and {len(seen.classes) - 8} more" if len(seen.classes) > 8 else ""
    lines = [f"{name}: {seen.num_images} images in {len(seen.classes)} classes ({counts}{more})"]
    if seen.sizes:
        widths, heights = zip(*seen.sizes, strict=True)
        channels = ", ".join(_channels(number) for number in sorted(seen.channels))
        lines.append(f"  {min(widths)} to {max(widths)} px wide, {min(heights)} to {max(heights)} px high, {channels}")
    if seen.unusable:
        first = f"{'; '.join(seen.unusable[:3])}{' ...' if len(seen.unusable) > 3 else ''}"
        lines.append(f"  {len(seen.unusable)} files are no images that can be read; `prepare` will list them: {first}")
    return [*lines, *(f"  {note}" for note in seen.notes)]


def _channels(number: int) -> str:
    return {1: "grey", 3: "colour"}.get(number, f"{number} channels")


def _decoded(source: Path | Archive, paths: Iterable[str]) -> list[tuple[Picture, bool]]:
    """Return a tiny picture of each file that can be decoded, and whether its values have a range of their own."""
    found = []
    for path in paths:
        for asked in (None, _EVERYTHING):
            try:
                data = read(str(source.resolve()) if isinstance(source, Path) else source, path, MAX_MEGAPIXELS)
                picture = decoding.decode(
                    data,
                    size_px=_TINY_PX,
                    fit="squash",
                    background=255,
                    max_megapixels=MAX_MEGAPIXELS,
                    value_range=asked,
                )
            except (UnusableError, OSError):
                continue
            found.append((picture, asked is None))
            break
    return found


def _value_range(decoded: Sequence[tuple[Picture, bool]]) -> tuple[Ranges | None, list[str]]:
    """Return the prepare.value_range that the decoded images need, and what to say of it."""
    measured = [picture.measured for picture, _ in decoded if picture.measured is not None]
    if not measured:
        return None, []
    if len(measured) < len(decoded):
        note = f"{len(measured)} of {len(decoded)} decoded images have more than 8 bits"
        return None, [f"{note}; prepare.value_range is left out, since it would hold for both kinds"]
    channels = Counter(len(one.used) for one in measured).most_common(1)[0][0]
    planes = [one.used for one in measured if len(one.used) == channels]
    used = [(min(low for low, _ in plane), max(high for _, high in plane)) for plane in zip(*planes, strict=True)]
    if all(ranged for _, ranged in decoded):
        full = next(one.full for one in measured if one.full is not None)
        found = pixel_values.suggested_range(used, full)
        return ((found,) if found else None), _said((found,) if found else None, len(decoded), used)
    ranges = tuple((low, high if high > low else low + 1) for low, high in used)
    return ranges, _said(ranges, len(decoded), used)


def _said(ranges: Ranges | None, count: int, used: Sequence[Range]) -> list[str]:
    if ranges is None:
        return []
    low, high = min(pair[0] for pair in used), max(pair[1] for pair in used)
    found = f"{count} decoded images have values from {low:g} to {high:g}"
    return [f"prepare.value_range is set to {shown(ranges)}: {found}; correct it if the device can give others"]


def shown(ranges: Ranges) -> list[object]:
    """Return ranges as params.yaml has them: a pair for all channels, or a list of pairs; whole numbers as such."""
    pairs: list[object] = [[int(end) if end == int(end) else end for end in pair] for pair in ranges]
    return pairs if len(pairs) > 1 else list(pairs[0])  # type: ignore[call-overload]  # the only pair is a list


def _shape_notes(sizes: Sequence[tuple[int, int]]) -> list[str]:
    oblong = sum(max(size) > _OBLONG * min(size) for size in sizes)
    if oblong <= len(sizes) / 10:
        return []
    found = f"{oblong} of {len(sizes)} images are more than {_OBLONG:g} times as long as wide"
    return [f"{found}; prepare.fit: crop cuts their ends off, pad keeps them"]


def _kind_notes(pictures: Sequence[Picture]) -> list[str]:
    families = Counter(3 if picture.pixels.shape[2] == 1 else picture.pixels.shape[2] for picture in pictures)
    if len(families) < 2:
        return []
    kinds = ", ".join(f"{count} with {_channels(number)}" for number, count in families.most_common())
    return [f"the images do not all have the same channels ({kinds}); `prepare` rejects those that differ from most"]


def _rounded(pixels: float) -> int:
    return int(np.ceil(pixels / _MULTIPLE_PX)) * _MULTIPLE_PX

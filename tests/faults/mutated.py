"""Bytes that are nearly a file: what a seed makes of a good one, the same at every call.

One to four changes each: flipped bits, bytes of another value, a cut, a part left out, a part twice, a part of another
file, a length or a number of another value in any of the usual widths, a word of the format in a place of its own.
"""

import random
import zlib
from collections.abc import Callable, Sequence

_MOST_CHANGES = 4
_NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63)
_PNG = b"\x89PNG\r\n\x1a\n"

Draw = random.Random
Change = Callable[[bytearray, Draw], None]


def mutated(files: Sequence[bytes], seed: int, number: int, words: Sequence[bytes] = ()) -> bytes:
    """Return the case of this number: one of the files, changed by what the seed and the number draw.

    `words` are what means something in the format.
    """
    draw = Draw(f"{seed}:{number}")
    data = bytearray(draw.choice(files))
    other = draw.choice(files)
    changes: list[Change] = [_flip, _set, _cut, _leave_out, _repeat, _count, _count, lambda d, r: _splice(d, other, r)]
    if words:
        changes += [lambda d, r: _say(d, words, r)] * 3
    for _ in range(draw.randint(1, _MOST_CHANGES)):
        draw.choice(changes)(data, draw)
    return _with_checksums(data) if data.startswith(_PNG) and draw.random() < 0.8 else bytes(data)


def _place(data: bytearray, draw: Draw) -> int:
    """Return a place, in every third case in the first 64 bytes, where headers are."""
    end = len(data) if draw.random() < 2 / 3 else min(len(data), 64)
    return draw.randrange(end + 1)


def _part(data: bytes | bytearray, draw: Draw) -> slice:
    start = draw.randrange(len(data) + 1)
    return slice(start, start + int(2 ** draw.uniform(0, 10)))


def _flip(data: bytearray, draw: Draw) -> None:
    for _ in range(draw.randint(1, 8) if data else 0):
        data[min(_place(data, draw), len(data) - 1)] ^= 1 << draw.randrange(8)


def _set(data: bytearray, draw: Draw) -> None:
    for _ in range(draw.randint(1, 8) if data else 0):
        data[min(_place(data, draw), len(data) - 1)] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))


def _cut(data: bytearray, draw: Draw) -> None:
    del data[draw.randrange(len(data) + 1) :]


def _leave_out(data: bytearray, draw: Draw) -> None:
    del data[_part(data, draw)]


def _repeat(data: bytearray, draw: Draw) -> None:
    part, place = data[_part(data, draw)], _place(data, draw)
    data[place:place] = part * draw.choice((1, 1, 2, 50))


def _splice(data: bytearray, other: bytes, draw: Draw) -> None:
    part, place = other[_part(other, draw)], _place(data, draw)
    data[place : place + len(part) * draw.randint(0, 1)] = part


def _count(data: bytearray, draw: Draw) -> None:
    """Write another number of 1, 2, 4 or 8 bytes: a telling one, or one near to what is there."""
    width, order = draw.choice((1, 2, 4, 8)), draw.choice(("little", "big"))
    place = _place(data, draw)
    there = int.from_bytes(data[place : place + width], "little" if order == "little" else "big")
    value = draw.choice((*_NUMBERS, there + 1, there - 1, 2 * there, len(data), len(data) - place, -1, -2))
    data[place : place + width] = (value % 256**width).to_bytes(width, "little" if order == "little" else "big")


def _say(data: bytearray, words: Sequence[bytes], draw: Draw) -> None:
    """Put a word in front of a place, or in the place of another word that is there."""
    word, there = draw.choice(words), [word for word in words if word in data]
    if there and draw.random() < 0.5:
        old = draw.choice(there)
        at = draw.choice([at for at in range(len(data)) if data.startswith(old, at)][:1000])
        data[at : at + len(old)] = word
    else:
        at = _place(data, draw)
        data[at:at] = word


def _with_checksums(data: bytearray) -> bytes:
    """Return a PNG whose chunks have the checksums of what they hold, as far as there are whole chunks."""
    at = len(_PNG)
    while (end := at + 8 + int.from_bytes(data[at : at + 4], "big")) + 4 <= len(data):
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(data)

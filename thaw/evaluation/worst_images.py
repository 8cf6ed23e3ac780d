"""One picture of the test images that the model is most wrong about, for `dvc plots`.

An SVG, since names of files and classes may be in any script, and the reader's machine has the fonts for them.
"""

import base64
import unicodedata
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from thaw.data.packed import PackedImages
from thaw.data.pixel_values import Pixels, as_shown

NUM_IMAGES = 12
_COLUMNS, _SIDE_PX, _TEXT_PX, _GAP_PX, _FONT_PX = 4, 192, 52, 8, 13
_FONTS = "system-ui, 'DejaVu Sans', 'Noto Sans', sans-serif"
_LETTERS = 25  # Latin letters of this size in the width of an image


def worst_first(probabilities: NDArray[np.float64], labels: NDArray[np.int64], ids: Sequence[str]) -> NDArray[np.int64]:
    """Return the positions of the images, the one with the least likely label first, ties by id."""
    own = probabilities[np.arange(len(labels)), labels]
    return np.lexsort((np.asarray(ids, dtype=str), own))


def write_worst(
    path: Path,
    images: PackedImages,
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
) -> None:
    """Write an SVG of the twelve images, fewer if there are no more, whose label the model finds least likely.

    Under each: its file's name, its label with the probability that it was given, and the answer with its own.
    rows [images] are those of labels and probabilities [images, classes] in the data set.
    """
    worst = worst_first(probabilities, labels, images.samples["id"].iloc[rows].tolist())[:NUM_IMAGES]
    num_rows, columns = -(-len(worst) // _COLUMNS), min(len(worst), _COLUMNS)
    width, height = _SIDE_PX + _GAP_PX, _SIDE_PX + _TEXT_PX + _GAP_PX
    sheet = _svg(columns * width + _GAP_PX, num_rows * height + _GAP_PX)
    sheet.set("xmlns", "http://www.w3.org/2000/svg")
    sheet.set("style", f"font: {_FONT_PX}px {_FONTS}")
    ET.SubElement(sheet, "rect", width="100%", height="100%", fill="white")
    for number, (place, square) in enumerate(zip(worst, images.read(rows[worst]), strict=True)):
        chances, label = probabilities[place], labels[place]
        cell = _cell(
            square,
            Path(str(images.samples["path"].iloc[rows[place]])).name,
            f"is {images.classes[label]} ({chances[label]:.3f})",
            f"said {images.classes[chances.argmax()]} ({chances.max():.3f})",
        )
        cell.set("x", str((number % _COLUMNS) * width + _GAP_PX))
        cell.set("y", str((number // _COLUMNS) * height + _GAP_PX))
        sheet.append(cell)
    path.write_bytes(ET.tostring(sheet, encoding="utf-8"))


def _cell(square: Pixels, *lines: str) -> ET.Element:
    """Return an image with its lines below it; what is wider than the image is cut off."""
    cell = _svg(_SIDE_PX, _SIDE_PX + _TEXT_PX)
    picture = Image.fromarray(as_shown(square)).resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC)
    buffer = BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    ET.SubElement(cell, "image", width=str(_SIDE_PX), height=str(_SIDE_PX), href=uri)
    for index, line in enumerate(lines):
        below = _SIDE_PX + (index + 1) * (_FONT_PX + 3)
        ET.SubElement(cell, "text", y=str(below)).text = _fitting(line)
    return cell


def _svg(width: int, height: int) -> ET.Element:
    return ET.Element("svg", width=str(width), height=str(height))


def _fitting(text: str) -> str:
    """Return a text about as wide as an image, its middle left out if need be, without what XML cannot hold."""
    text = "".join("\ufffd" if unicodedata.category(letter) in ("Cc", "Cs", "Cn") else letter for letter in text)
    kept = len(text)
    shown = text
    while sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in shown) > _LETTERS and kept > 2:
        kept -= 1
        shown = f"{text[: kept // 2]}…{text[-(kept - kept // 2) :]}"
    return shown

"""One picture of the test images that the model is most wrong about, for `dvc plots`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from thaw.images.levels import as_shown
from thaw.images.pack import PackedImages

NUM_IMAGES = 12
_COLUMNS, _SIDE_PX, _TEXT_PX, _GAP_PX, _FONT_PX = 4, 192, 52, 8, 13


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
    """Write a PNG of the twelve images, fewer if there are no more, whose label the model finds least likely.

    Under each: its file's name, its label with the probability that it was given, and the answer with its own.
    rows [images] are those of labels and probabilities [images, classes] in the data set.
    """
    worst = worst_first(probabilities, labels, images.samples["id"].iloc[rows].tolist())[:NUM_IMAGES]
    font = ImageFont.load_default(_FONT_PX)
    num_rows, columns = -(-len(worst) // _COLUMNS), min(len(worst), _COLUMNS)
    width, height = _SIDE_PX + _GAP_PX, _SIDE_PX + _TEXT_PX + _GAP_PX
    sheet = Image.new("RGB", (columns * width + _GAP_PX, num_rows * height + _GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (place, square) in enumerate(zip(worst, images.read(rows[worst]), strict=True)):
        left, top = (number % _COLUMNS) * width + _GAP_PX, (number // _COLUMNS) * height + _GAP_PX
        picture = Image.fromarray(as_shown(square))
        sheet.paste(picture.resize((_SIDE_PX, _SIDE_PX), Image.Resampling.BICUBIC), (left, top))
        chances, label = probabilities[place], labels[place]
        lines = [
            Path(str(images.samples["path"].iloc[rows[place]])).name,
            f"is {images.classes[label]} ({chances[label]:.3f})",
            f"said {images.classes[chances.argmax()]} ({chances.max():.3f})",
        ]
        for index, line in enumerate(lines):
            spot = (left, top + _SIDE_PX + 2 + index * (_FONT_PX + 3))
            draw.text(spot, _fitting(line, font), fill="black", font=font)
    sheet.save(path, "PNG", optimize=True)


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return a text that is no wider than an image, its middle left out if need be."""
    kept = len(text)
    shown = text
    while font.getlength(shown) > _SIDE_PX and kept > 2:
        kept -= 1
        shown = f"{text[: kept // 2]}…{text[-(kept - kept // 2) :]}"
    return shown

"""Generated pictures that look like photos to a decoder, a hash and a network: as many as a bench wants, for nothing.

Smooth areas, edges and grain in colour, each picture another. The classes `across` and `down` differ a little: in which
way faint stripes run over the whole picture; one picture in ten has the other's, so that no head can be perfect and the
solver has work to do, as on real images.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("across", "down")

# Cells along each side of a layer of colours, and the share that the layer has in the picture.
_LAYERS = ((2, 0.4), (7, 0.3), (31, 0.2))
_GRAIN = 12  # grey levels
_STRIPE = 10  # grey levels to either side: weaker than the rest, and everywhere
_STRIPE_PX = 4
_MISLABELLED = 0.1
_QUALITY = 90


def photo(number: int, size_px: int) -> NDArray[np.uint8]:
    """Return picture `number`, [size_px, size_px, 3]: always the same one; even numbers are of the first class."""
    draws = np.random.default_rng(number)
    picture = draws.normal(25, _GRAIN, (size_px, size_px, 3)).astype(np.float32)
    for cells, share in _LAYERS:
        layer = Image.fromarray(draws.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        picture += share * np.asarray(layer.resize((size_px, size_px), Image.Resampling.BICUBIC), np.float32)
    stripes = _STRIPE * (1 - 2 * (np.arange(size_px) // _STRIPE_PX % 2))
    across = (number % 2 == 0) != (draws.random() < _MISLABELLED)
    picture += stripes[:, None, None] if across else stripes[None, :, None]
    return picture.clip(0, 255).astype(np.uint8)


def write_photos(folder: Path, num_images: int, size_px: int, num_classes: int = len(CLASSES), first: int = 0) -> None:
    """Write that many pictures from number `first` on as JPEG files, a folder a class.

    Classes beyond two differ by nothing but their images: they are for what counts classes and learns none.
    """
    names = CLASSES if num_classes == len(CLASSES) else [f"class-{number:04d}" for number in range(num_classes)]
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(first, first + num_images):
        path = folder / names[number % len(names)] / f"{number:06d}.jpg"
        Image.fromarray(photo(number, size_px)).save(path, quality=_QUALITY)

"""Tiny data sets on disk, as a team has them, and this Thaw as an installed one. No test here."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from thaw import DISTRIBUTION
from thaw.version import VERSION

ROOT = Path(__file__).resolve().parents[1]


def write_photos(folder: Path, *, images_a_class: int = 3, classes: tuple[str, ...] = ("bright", "dark")) -> Path:
    """Write a folder of class folders with JPEG and PNG files of different sizes; return it."""
    random = np.random.default_rng(3)
    for index in range(images_a_class * len(classes)):
        label = index % len(classes)
        height, width = (int(side) for side in random.integers(70, 120, 2))
        pixels = (random.integers(0, 60, (height, width, 3)) + 180 * label // len(classes)).astype(np.uint8)
        path = folder / classes[label] / f"{index}.{'jpg' if index % 3 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def as_installed(folder: Path, version: str = VERSION) -> str:
    """Return a PYTHONPATH on which this Thaw lies as if it were installed: with what pip notes of its version."""
    info = folder / f"{DISTRIBUTION.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    text = f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {version}\n"
    (info / "METADATA").write_text(text, encoding="utf-8")
    return os.pathsep.join([str(folder), str(ROOT)])

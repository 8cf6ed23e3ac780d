"""Peak of memory and time of decoding one file, each in a process of its own: what thaw/data/needs.py estimates.

    python -m bench.decoding                            files that are made here, about two minutes
    python -m bench.decoding FILE ...                   files of your own
    python -m bench.decoding --megapixels 10            smaller ones

The peak counts the interpreter and its libraries, of which the first line tells how much they are.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from thaw.data.decoding import UnusableError, decode

_MODES = {
    "png": ("1", "L", "P", "LA", "RGB", "RGBA", "I;16"),
    "tif": ("1", "L", "RGB", "RGBA", "CMYK", "I;16", "F"),
    "jpg": ("L", "RGB", "CMYK"),
    "webp": ("RGB", "RGBA"),
    "gif": ("P",),
    "ppm": ("RGB",),
    "avif": ("RGB", "RGBA"),
    "jp2": ("L", "RGB", "RGBA"),
}
_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "png": [{"compress_level": 1}],
    "tif": [{"compression": "tiff_lzw"}],
    "jpg": [{"subsampling": 0}, {"progressive": True}],
    "webp": [{"lossless": True, "method": 0}],
    "gif": [{}],
    "ppm": [{}],
    "avif": [{"speed": 10}],
    "jp2": [{}],
}
# Channels and type of bands.
_BANDS = [(1, "f8"), (3, "u2"), (4, "u2"), (8, "u1")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="Files to decode instead of those that are made.")
    parser.add_argument("--megapixels", type=float, default=99.9, help="How large the files are that are made.")
    parser.add_argument("--here", action="store_true", help="Decode the one file in this process.")
    wish = parser.parse_args(arguments)
    if wish.here:
        print(_decoded(wish.files[0]))
        return
    print(f"libraries alone: {_peak_mib():.0f} MiB")
    with tempfile.TemporaryDirectory() as folder:
        side = int((wish.megapixels * 1e6) ** 0.5)
        for path in wish.files or _made(Path(folder), side):
            subprocess.run([sys.executable, "-m", "bench.decoding", "--here", str(path)], check=True)


def _decoded(path: Path) -> str:
    data, started = path.read_bytes(), time.perf_counter()
    try:
        decode(data, size_px=96, fit="crop", background=255, max_megapixels=100.0)
        became = "decoded"
    except UnusableError as error:
        became = str(error)
    seconds = time.perf_counter() - started
    return f"{path.name:20} {len(data) / 1e3:8.1f} kB  {_peak_mib():6.0f} MiB  {seconds:5.1f} s  {became}"


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _made(folder: Path, side: int) -> Iterator[Path]:
    """Yield files of one colour, each removed after its use."""
    for kind, modes in _MODES.items():
        for mode in modes:
            for options in _OPTIONS[kind]:
                name = "-progressive" if options.get("progressive") else ""
                path = folder / f"{mode.replace(';', '')}{name}.{kind}"
                Image.new(mode, (side, side)).save(path, **options)
                yield path
                path.unlink()
    for channels, dtype in _BANDS:
        path = folder / f"{channels}x{dtype}.tif"
        pixels = np.zeros((side, side, channels) if channels > 1 else (side, side), dtype)
        layout: dict[str, Any] = {"planarconfig": "contig"} if channels > 1 else {}
        tifffile.imwrite(path, pixels, photometric="minisblack", compression="zlib", **layout)
        del pixels
        yield path
        path.unlink()


if __name__ == "__main__":
    main()

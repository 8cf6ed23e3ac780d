"""Rows 1 to 9 of the fault list: every awkward image in the data of one `dvc repro`, and what became of each."""

import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from tests import cut
from tests.cut import encoded
from tests.faults.rows import accepted, recovers
from tests.pipeline import warm
from tests.pipeline.clone import Clone
from tests.pipeline.fixtures import MEMORY_BYTES, Run
from thaw.data.packed import PackedImages
from thaw.pipeline import facts
from thaw.pipeline.data_facts import Audit

Files = dict[str, bytes]

MEGAPIXELS = 0.5
_NO_FORMAT = (
    "not an image of a format that is read (JPEG, PNG, BMP, TIFF, WebP, GIF, PNM, JPEG 2000, AVIF, HEIC, DICOM)"
)
_ORIENTATION_TAG = 0x0112
_WHITE = 65535  # images of 16 bits are among them, so all are packed so


def cut_short() -> Files:
    """Row 1."""
    whole, progressive = encoded("JPEG", quality=90), encoded("JPEG", quality=90, progressive=True)
    shares = {f"cut-{percent}.jpg": whole[: len(whole) * percent // 100] for percent in (10, 50, 99)}
    return shares | {
        "cut-then-ended.jpg": cut.jpeg(0.5),
        "progressive-then-ended.jpg": cut.jpeg(0.5, progressive=True),
        "empty.jpg": b"",
        "header-only.jpg": whole[: whole.index(b"\xff\xda")],
        "progressive.jpg": progressive,
        "progressive-with-garbage.jpg": progressive + b"\xff\xd8 garbage" * 9,
        "whole.jpg": whole,
        "whole-with-garbage.jpg": whole + b"\xff\xd8 garbage" * 9,
    }


def bombs() -> Files:
    """Row 2."""
    text = PngInfo()
    text.add_text("bomb", "0" * 3_000_000, zip=True)
    small = bytearray(encoded("PNG", Image.new("RGB", (20, 20))))
    small[16:24] = (60_000).to_bytes(4, "big") * 2  # of 10 GB, were it decoded; the checksum of the header is mended
    small[29:33] = _checksum(bytes(small[12:29]))
    return {
        "just-under.png": encoded("PNG", Image.new("L", (1000, 500), 9)),
        "just-over.png": encoded("PNG", Image.new("L", (1000, 501), 9)),
        "far-over.png": bytes(small),
        "text.png": encoded("PNG", Image.new("L", (20, 20)), pnginfo=text),
    }


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big")


def lies() -> Files:
    """Row 3: all of them are called .jpg."""
    contents = {
        "png": encoded("PNG"),
        "tiff": encoded("TIFF"),
        "eps": encoded("EPS"),
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "html": b"<!DOCTYPE html><html></html>",
        "gzip": b"\x1f\x8b\x08\x00" + bytes(40),
    }
    return {f"{kind}.jpg": data for kind, data in contents.items()} | {"really.eps": encoded("EPS")}


def turned() -> Files:
    """Row 4: a JPEG for each orientation, and a PNG of what it shows."""
    files = {}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[_ORIENTATION_TAG] = orientation
        files[f"{orientation}.jpg"] = data = encoded("JPEG", exif=exif)
        with Image.open(BytesIO(data)) as image:
            files[f"{orientation}-upright.png"] = encoded("PNG", ImageOps.exif_transpose(image).convert("RGB"))
    files["corrupt.jpg"] = encoded("JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    files["corrupt-upright.png"] = files["1-upright.png"] + b" "  # or else it would be the same file
    return files


def deep() -> Files:
    """Row 5."""
    level = np.full((20, 20), 257 * 100, np.uint16)
    return {
        "grey-16.png": encoded("PNG", Image.fromarray(level)),
        "grey-16.tif": encoded("TIFF", Image.fromarray(level)),
        "float.tif": encoded("TIFF", Image.new("F", (20, 20), 0.5)),
        "float-nan.tif": encoded("TIFF", Image.new("F", (20, 20), float("nan"))),
        "black.png": encoded("PNG", Image.new("1", (20, 20), 0)),
        "white.tif": encoded("TIFF", Image.new("1", (20, 20), 1)),
    }


def modes() -> Files:
    """Row 6: JPEG has CMYK inverted, TIFF as it is."""
    red, half = Image.new("CMYK", (20, 20), (0, 255, 255, 0)), Image.new("RGBA", (20, 20), (0, 0, 0, 128))
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    alpha = Image.merge("LA", [Image.new("L", (20, 20)), Image.new("L", (20, 20), 55)])
    return {
        "cmyk.tif": encoded("TIFF", red),
        "cmyk-inverted.jpg": encoded("JPEG", red, quality=100),
        "palette.png": encoded("PNG", palette),
        "palette-transparent.png": encoded("PNG", palette, transparency=1),
        "la.png": encoded("PNG", Image.new("LA", (20, 20), (10, 0))),
        "rgba.png": encoded("PNG", half),
        "alpha-only.png": encoded("PNG", alpha),
    }


def frames() -> Files:
    """Row 7."""
    first, *others = (Image.new("RGB", (20, 20), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    kinds = {"moving.gif": "GIF", "moving.webp": "WEBP", "pages.tif": "TIFF", "moving.avif": "AVIF"}
    return {name: encoded(kind, first, save_all=True, append_images=others) for name, kind in kinds.items()}


def sizes() -> Files:
    """Row 8: the crop is 64 px."""
    return {
        f"{width}x{height}.png": encoded("PNG", Image.new("L", (width, height), 9))
        for width, height in ((1, 1), (1, 50), (50, 1), (30_000, 2), (3, 5))
    }


ROWS: dict[str, Callable[[], Files]] = {
    "1": cut_short, "2": bombs, "3": lies, "4": turned, "5": deep, "6": modes, "7": frames, "8": sizes,
}  # fmt: skip
HIDDEN = (
    ".hidden/x.png", "__MACOSX/._x.jpg", ".ipynb_checkpoints/x.png", "defective/.x.png", "defective/Thumbs.db",
    "defective/__MACOSX/._x.jpg", "defective/.ipynb_checkpoints/x.png", "defective/.hidden/x.png", "README",
)  # fmt: skip


@dataclass(frozen=True)
class Prepared:
    """What `prepare` made of the files."""

    clone: Clone
    output: str
    images: PackedImages
    audit: Audit
    rejected: Mapping[str, str]
    """Path and reason."""
    opened: Path
    """What is there once somebody has called Ghostscript."""

    def reasons(self, row: str) -> dict[str, str]:
        """Return why files of a row were rejected, by name, up to the first semicolon or colon."""
        start = f"defective/row {row}/"
        return {
            path.removeprefix(start): reason.split(";")[0].split(":")[0]
            for path, reason in self.rejected.items()
            if path.startswith(start)
        }

    def pixels(self, row: str, name: str) -> NDArray[Any]:
        """Return the packed pixels [64, 64, 3] of a file, uint16."""
        (at,) = np.flatnonzero((self.images.samples["path"] == f"defective/row {row}/{name}").to_numpy())
        return np.asarray(self.images.read(np.array([at]))[0])

    def colours(self, row: str) -> dict[str, list[int]]:
        """Return the colour of each file of a row that has but one, in levels of 8 bits."""
        names = [Path(path).name for path in self.images.samples["path"] if path.startswith(f"defective/row {row}/")]
        found = {}
        for name in names:
            (colour,) = np.unique(self.pixels(row, name).reshape(-1, 3), axis=0)
            found[name] = np.rint(colour / 257).astype(int).tolist()
        return found


@pytest.fixture(scope="module")
def prepared(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A copy of the finished clone after `dvc repro prepare` with all the files in it; Ghostscript leaves a trace."""
    place = tmp_path_factory.mktemp("images")
    bin_folder, opened = place / "bin", place / "opened"
    bin_folder.mkdir()
    (bin_folder / "gs").write_text(f"#!/bin/sh\ntouch '{opened}'\n")
    (bin_folder / "gs").chmod(0o755)
    path = os.pathsep.join(map(str, (bin_folder, warm.folder(), Path(sys.executable).parent, os.environ["PATH"])))
    clone = replace(finished.clone.copy(place / "thaw", PATH=path), memory_bytes=MEMORY_BYTES)
    clone.update({"prepare.max_rejected": 0.9, "prepare.max_megapixels": MEGAPIXELS, "compute.workers": 1})
    raw = clone.root / "data" / "tiny"
    for row, made in ROWS.items():
        for name, data in made().items():
            _write(raw / "defective" / f"row {row}" / name, data)
    for name in HIDDEN:
        _write(raw / name, encoded("PNG"))
    output = accepted(clone, "dvc", "repro", "prepare")
    folder = clone.root / "data" / "prepared"
    table = pd.read_csv(folder / "rejected.csv")
    rejected = dict(zip(table["path"], table["reason"], strict=True))
    audit = facts.read(folder / "audit.json", Audit)
    return Prepared(clone, output, PackedImages.open(folder), audit, rejected, opened)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_row_01_what_is_cut_short_is_rejected_and_listed_and_what_is_whole_keeps_its_pixels(prepared: Prepared) -> None:
    names = ("cut-10.jpg", "cut-50.jpg", "cut-99.jpg", "cut-then-ended.jpg", "header-only.jpg")
    damaged = dict.fromkeys((*names, "progressive-then-ended.jpg"), "damaged or cut short")
    assert prepared.reasons("1") == damaged | {"empty.jpg": "empty file"}
    for name in ("whole", "progressive"):
        whole = prepared.pixels("1", f"{name}.jpg")
        assert np.array_equal(prepared.pixels("1", f"{name}-with-garbage.jpg"), whole)
    assert f"prepare: {len(prepared.rejected)} of " in prepared.output
    assert "files rejected (defective/row 1/cut-10.jpg: damaged or cut short: " in prepared.output


def test_row_02_a_bomb_is_refused_from_its_header_within_a_limit_of_memory(prepared: Prepared) -> None:
    over = f"claims more than {MEGAPIXELS} million pixels (prepare.max_megapixels)"
    assert prepared.reasons("2") == {
        "just-over.png": over, "far-over.png": over, "text.png": "damaged or cut short",
    }  # fmt: skip
    assert prepared.colours("2") == {"just-under.png": [9, 9, 9]}
    code, said = prepared.clone.run(sys.executable, "-c", f"bytearray({MEMORY_BYTES})")
    assert (code, said.splitlines()[-1]) == (1, "MemoryError"), "and the limit would have been felt"


def test_row_03_content_decides_and_an_eps_is_never_opened(prepared: Prepared) -> None:
    names = ("eps.jpg", "svg.jpg", "html.jpg", "gzip.jpg", "really.eps")
    assert prepared.reasons("3") == dict.fromkeys(names, _NO_FORMAT)
    assert np.array_equal(prepared.pixels("3", "png.jpg"), prepared.pixels("3", "tiff.jpg"))
    assert not prepared.opened.exists()
    eps = prepared.clone.root / "data" / "tiny" / "defective" / "row 3" / "really.eps"
    script = "import sys; from PIL import Image; Image.open(sys.argv[1]).load()"
    subprocess.run(
        [sys.executable, "-c", script, str(eps)], env=prepared.clone.environment, capture_output=True, check=False
    )
    assert prepared.opened.exists(), "and the trace would have been seen"


@pytest.mark.parametrize("name", [*"12345678", "corrupt"])
def test_row_04_a_turned_image_has_the_pixels_of_its_upright_twin(prepared: Prepared, name: str) -> None:
    assert prepared.reasons("4") == {}
    assert np.array_equal(prepared.pixels("4", f"{name}.jpg"), prepared.pixels("4", f"{name}-upright.png"))


def test_row_05_deep_pixels_are_scaled_and_not_clipped(prepared: Prepared) -> None:
    assert prepared.reasons("5") == {
        "float-nan.tif": "pixel values are NaN or infinite, which no prepare.value_range makes a number"
    }
    levels = {"grey-16.png": 100, "grey-16.tif": 100, "float.tif": 128, "black.png": 0, "white.tif": 255}
    assert prepared.colours("5") == {name: [level] * 3 for name, level in levels.items()}
    assert np.unique(prepared.pixels("5", "float.tif")).tolist() == [round(_WHITE / 2)]


def test_row_06_every_mode_becomes_a_defined_rgb_on_white(prepared: Prepared) -> None:
    assert prepared.reasons("6") == {}
    assert prepared.colours("6") == {
        "cmyk.tif": [255, 0, 0],
        "cmyk-inverted.jpg": [255, 0, 0],
        "palette.png": [0, 255, 0],
        "palette-transparent.png": [255, 255, 255],
        "la.png": [255, 255, 255],
        "rgba.png": [127, 127, 127],
        "alpha-only.png": [200, 200, 200],
    }


def test_row_07_of_several_frames_the_first_is_taken_and_recorded(prepared: Prepared) -> None:
    assert prepared.reasons("7") == {}
    assert prepared.audit.first_frame_only.first == [f"defective/row 7/{name}" for name in sorted(frames())]
    for name in frames():
        red, *others = np.moveaxis(prepared.pixels("7", name) / _WHITE, 2, 0)
        assert red.min() > 0.98
        assert np.max(others) < 0.02


def test_row_08_any_shape_becomes_the_square(prepared: Prepared) -> None:
    assert prepared.reasons("8") == {}
    assert prepared.colours("8") == {name: [9, 9, 9] for name in sizes()}


def test_row_09_what_is_hidden_is_no_class_and_no_sample(finished: Run, prepared: Prepared) -> None:
    assert prepared.images.classes == PackedImages.open(finished.clone.root / "data" / "prepared").classes
    listed = [*prepared.images.samples["path"], *prepared.rejected]
    num_files = sum(len(made()) for made in ROWS.values())
    assert len(listed) == len(set(listed)) == 80 + num_files
    assert not {*HIDDEN} & {*listed}


def test_row_09_without_these_files_a_rerun_ends_as_before(finished: Run, prepared: Prepared, tmp_path: Path) -> None:
    clone = prepared.clone.copy(tmp_path / "thaw")
    original = finished.clone.root
    (clone.root / "params.yaml").write_bytes((original / "params.yaml").read_bytes())
    subprocess.run(["rm", "-r", "data/tiny"], cwd=clone.root, check=True)
    subprocess.run(["cp", "-a", str(original / "data" / "tiny"), "data"], cwd=clone.root, check=True)
    recovers(clone, finished, "prepare")

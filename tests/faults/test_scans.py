"""DICOM and HEIC through the real stage: pixels, nothing of a patient, and one line where a library is missing."""

import builtins
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from tests.faults.preparing import audit, change, prepare, refused, rejected, samples
from tests.scans import PATIENT, dicom
from thaw.data.packed import PackedImages


def replace(pets: Path, write: Any, suffix: str) -> None:
    """Put what `write` makes of its grey values in the place of each image."""
    for path in sorted((pets / "raw").rglob("*.png")):
        with Image.open(path) as image:
            path.with_suffix(suffix).write_bytes(write(np.asarray(image.convert("L"))))
        path.unlink()


def test_no_out_and_no_line_names_a_patient(pets: Path, capfd: pytest.CaptureFixture[str]) -> None:
    replace(pets, lambda grey: dicom(grey.astype(np.uint16) * 16, BitsStored=12, BurnedInAnnotation="YES"), ".dcm")
    raw = pets / "raw"
    whole = (raw / "cat" / "00.dcm").read_bytes()
    (raw / "cat" / "cut.dcm").write_bytes(whole[:-99])
    (raw / "cat" / "bare.dcm").write_bytes(dicom(np.zeros((9, 9), np.uint8), preamble=False))
    (raw / "dog" / "wrong.dcm").write_bytes(whole.replace(b"MONOCHROME2 ", PATIENT[0][:12].encode().ljust(12)))
    (raw / "dog" / "odd.dcm").write_bytes(whole.replace(b"US\x02\x00\x0c\x00", b"DS\x06\x00" + PATIENT[1][:6].encode()))
    (raw / "dog" / "copy.dcm").write_bytes((raw / "dog" / "00.dcm").read_bytes())
    assert prepare(pets)[0] == 0
    assert sorted(rejected(pets)) == ["cat/bare.dcm", "cat/cut.dcm", "dog/odd.dcm", "dog/wrong.dcm"]
    assert len(samples(pets)) == 41
    assert any("annotations are burned into its pixels" in line for line in audit(pets).decisions)
    said = "".join(capfd.readouterr())
    words = {part for text in PATIENT for part in (*text.split("^"), text)}
    outs = [path for path in pets.rglob("*") if path.is_file() and "raw" not in path.parts and "code" not in path.parts]
    assert {"samples.csv", "audit.json", "near_copies.csv", "rejected.csv", "settings.json"} <= {
        path.name for path in outs
    }
    for word in words:
        assert word not in said
        for path in outs:
            assert word.encode() not in path.read_bytes(), f"{path} holds {word}"
    pixels = PackedImages.open(pets / "data" / "prepared").read(np.arange(41))
    assert pixels.dtype == np.uint16
    assert pixels.max() > 60000


def heic(grey: Any) -> bytes:
    file = BytesIO()
    pillow_heif.from_pillow(Image.fromarray(np.kron(grey, np.ones((4, 4))).astype(np.uint8))).save(file, quality=90)
    return file.getvalue()


def test_photos_of_phones_are_read(pets: Path) -> None:
    replace(pets, heic, ".heic")
    assert prepare(pets)[0] == 0
    assert rejected(pets) == {}
    assert len(samples(pets)) == 40


@pytest.mark.parametrize(
    ("write", "library", "extra"),
    [(heic, "pillow_heif", "heic"), (dicom, "pydicom", "dicom")],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_library_that_is_missing_is_one_line_and_no_rejection(
    pets: Path, write: Any, library: str, extra: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(pets, write, ".bin")
    change(pets, "compute", workers=workers)
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.partition(".")[0] == library:
            raise ModuleNotFoundError(name=name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    line = refused(pets)
    assert line.startswith(f"{library} is not installed; run `pip install '")
    assert f"[{extra}]'" in line

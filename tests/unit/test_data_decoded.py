"""Decoded images that are kept from run to run: what is known is not read again, and what is damaged is made anew."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thaw.config.schema import PrepareParams
from thaw.data import decoded, decoding, ingest
from thaw.data.decoded import Decoded
from thaw.data.ingest import Ingested

pytestmark = pytest.mark.usefixtures("scratch")

SETTINGS = PrepareParams(size_px=16)
LONG_AGO_NS = 10**18


def save(path: Path, seed: int, at_ns: int = LONG_AGO_NS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (18, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    os.utime(path, ns=(at_ns, at_ns))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Four images, and a file that is none."""
    for seed in range(4):
        save(tmp_path / "raw" / f"{seed}.png", seed)
    (tmp_path / "raw" / "broken.png").write_bytes(b"no image")
    os.utime(tmp_path / "raw" / "broken.png", ns=(LONG_AGO_NS, LONG_AGO_NS))
    return tmp_path / "raw"


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the files that were decoded."""
    sizes: list[int] = []

    def counted(data: bytes, original: Callable[..., object] = decoding.decode, **options: object) -> object:
        sizes.append(len(data))
        return original(data, **options)

    monkeypatch.setattr(decoding, "decode", counted)
    return sizes


def run(raw: Path, settings: PrepareParams = SETTINGS) -> list[tuple[Ingested, bytes]]:
    """What became of each file, in order of their names, with its pixels and look."""
    names = sorted(path.name for path in raw.iterdir())

    def work(kept: Decoded) -> list[tuple[Ingested, bytes]]:
        found = list(ingest.ingest(raw, names, settings, workers=0, kept=kept))
        contents = []
        for item in found:
            pixels = b"" if item.number is None else kept.read(item.number, 3, np.dtype(np.uint8)).tobytes()
            look = b"" if item.number is None else kept.looks(np.array([item.number])).tobytes()
            contents.append((dataclasses.replace(item, number=None), pixels + look))
        return contents

    return decoded.with_kept(settings, work)


def kept_files() -> list[Path]:
    return sorted(Path(os.environ["THAW_SCRATCH"], "decoded").glob("*/*"))


def test_a_second_run_reads_no_file_that_has_not_changed_and_finds_the_same(
    raw: Path, decodes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(raw)
    assert len(decodes) == 5
    assert [item.reason.partition(" of")[0] for item, _ in first] == [""] * 4 + ["not an image"]
    monkeypatch.setattr(ingest, "read_inside", lambda *_: pytest.fail("a file was read"))
    assert run(raw) == first


def test_a_file_that_changed_is_decoded_again_and_a_copy_of_one_is_not(raw: Path, decodes: list[int]) -> None:
    run(raw)
    save(raw / "1.png", 7, LONG_AGO_NS + 1)
    (raw / "4.png").write_bytes((raw / "0.png").read_bytes())
    found = {item.path: (item.sha256, pixels) for item, pixels in run(raw)}
    assert len(decodes) == 6
    assert found["4.png"] == found["0.png"]
    assert len({pixels for _, pixels in found.values()}) == 5  # of four contents, and none of the broken file


def test_a_change_within_the_same_size_and_time_is_seen_where_the_file_was_new(raw: Path) -> None:
    plain = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
    plain.save(raw / "0.png")
    state = (raw / "0.png").stat()
    first = run(raw)
    data = bytearray((raw / "0.png").read_bytes())
    (raw / "0.png").write_bytes(bytes(data[:-1]) + b"\0")  # after the end of the image
    os.utime(raw / "0.png", ns=(state.st_mtime_ns, state.st_mtime_ns))
    assert run(raw)[0][0].sha256 != first[0][0].sha256


def test_settings_that_change_pixels_have_images_of_their_own(raw: Path, decodes: list[int]) -> None:
    run(raw)
    run(raw, SETTINGS.model_copy(update={"test_fraction": 0.5, "near_copies": "warn", "max_rejected": 1.0}))
    assert len(decodes) == 5
    run(raw, SETTINGS.model_copy(update={"background": 0}))
    assert len(decodes) == 10


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("images.bin", lambda path: _flip(path, 5)),  # pixels
        ("images.bin", lambda path: _flip(path, -5)),  # a look
        ("images.bin", _cut),
        ("images.jsonl", lambda path: path.write_text("{}\n" + path.read_text())),
        ("images.jsonl", lambda path: path.write_bytes(b"\xff\n" + path.read_bytes())),
        ("files.json", lambda path: path.write_text("[")),
    ],
)
def test_what_is_damaged_costs_time_only(raw: Path, name: str, damage: Callable[[Path], None]) -> None:
    first = run(raw)
    (path,) = [path for path in kept_files() if path.name == name]
    damage(path)
    assert run(raw) == first
    assert run(raw) == first


def test_a_kill_in_the_middle_of_a_line_loses_that_image_alone(raw: Path, decodes: list[int]) -> None:
    first = run(raw)
    (path,) = [path for path in kept_files() if path.name == "images.jsonl"]
    path.write_bytes(path.read_bytes()[:-10])  # of the file that is no image, which comes last
    assert run(raw) == first
    assert len(decodes) == 6


def test_want_of_memory_is_not_remembered_as_a_reason(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(raw)
    for path in kept_files():
        path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "_decode", lambda *_: (_ for _ in ()).throw(MemoryError))
        assert {item.reason for item, _ in run(raw)} == {"does not fit into memory"}
    assert run(raw) == first


def test_images_that_are_mostly_of_other_data_are_let_go(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "_SPARE_BYTES", 0)
    run(raw)
    assert kept_files()
    for path in sorted(raw.iterdir())[1:]:
        path.unlink()
    run(raw)
    assert not kept_files()


def test_images_that_nobody_asked_for_in_two_weeks_are_deleted(raw: Path) -> None:
    run(raw)
    (folder,) = {path.parent for path in kept_files()}
    os.utime(folder, (1, 1))
    run(raw, SETTINGS.model_copy(update={"background": 0}))
    assert not folder.exists()

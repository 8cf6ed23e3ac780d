"""The command predict, as a user types it: what it takes, what it writes, and what it says when it cannot."""

import csv
import gc
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests import tiny
from tests.exports import Twins
from tests.unit.test_commands import Command
from thaw.errors import DataError, ThawError
from thaw.serving import answers, inputs, tables
from thaw.serving.answers import answer
from thaw.serving.exported import Exported
from thaw.training import model

P_COLUMNS = [f"p:{name}" for name in tiny.CLASSES]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("COLUMNS", "200")
    return Command(capsys)


@pytest.fixture
def exported(twins: Twins) -> Path:
    return twins.exported


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Nine files, of which three are no images, and hidden ones beside them."""
    folder = tmp_path / "photos"
    (folder / "deep" / ".hidden").mkdir(parents=True)
    for index, pixels in enumerate(tiny.pixels(6)):
        Image.fromarray(pixels).save(folder / ("deep" if index > 3 else ".") / f"{index} ä.png")
    Image.fromarray(tiny.pixels(1)[0]).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:700])
    (folder / "page.jpg").write_text("<html>")
    (folder / "empty.png").write_bytes(b"")
    (folder / "deep" / ".hidden" / "x.png").write_bytes(b"")
    (folder / ".DS_Store").write_bytes(b"")
    return folder


def rows_of(out: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(out)))


def test_a_third_of_the_files_are_broken_and_the_rest_are_answered(
    command: Command, photos: Path, exported: Path
) -> None:
    code, out, err = command("predict", photos, "--model", exported)
    assert code == 1
    rows = rows_of(out)
    assert [Path(row["path"]).name for row in rows] == [f"{index} ä.png" for index in range(6)]
    for row in rows:
        shares = {name: float(row[f"p:{name}"]) for name in tiny.CLASSES}
        assert sum(shares.values()) == pytest.approx(1)
        assert row["class"] == max(shares, key=lambda name: shares[name])
        assert float(row["probability"]) == max(shares.values())
    lines = err.splitlines()
    assert [Path(line.split(" cannot be used: ")[0]).name for line in lines[:3]] == ["cut.png", "empty.png", "page.jpg"]
    assert lines[3:] == ["3 of 9 files could not be used; the other 6 were classified"]


def test_the_answers_are_those_of_the_torch_model(command: Command, photos: Path, twins: Twins) -> None:
    path = photos / "1 ä.png"
    row = json.loads(command("predict", path, "--model", twins.exported, "--format", "jsonl")[1])
    np.testing.assert_allclose([row[name] for name in P_COLUMNS], model.load(twins.final).predict([path])[0], atol=1e-5)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_file_decides_the_format_and_holds_what_standard_output_would(
    command: Command, photos: Path, exported: Path, tmp_path: Path, suffix: str
) -> None:
    expected = rows_of(command("predict", photos / "deep", "--model", exported)[1])
    file = tmp_path / "new" / f"answers.{suffix}"
    assert command("predict", photos / "deep", "--model", exported, "--output", file) == (0, "", "")
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        "csv": pd.read_csv,
        "jsonl": lambda path: pd.read_json(path, lines=True),
        "parquet": pd.read_parquet,
    }
    table = readers[suffix](file)
    assert list(table.columns) == ["path", "class", "probability", *P_COLUMNS, "model"]
    assert table["path"].tolist() == [row["path"] for row in expected]
    assert table["class"].tolist() == [row["class"] for row in expected]
    np.testing.assert_allclose(table["probability"], [float(row["probability"]) for row in expected], rtol=1e-9)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_top_gives_the_best_classes_in_their_order(command: Command, photos: Path, exported: Path) -> None:
    path = photos / "0 ä.png"
    (full,) = rows_of(command("predict", path, "--model", exported)[1])
    (best,) = rows_of(command("predict", path, "--model", exported, "--top", "2")[1])
    order = sorted(tiny.CLASSES, key=lambda name: -float(full[f"p:{name}"]))
    assert list(best) == ["path", "class", "probability", "class_2", "probability_2", "model"]
    assert [best["class"], best["class_2"]] == order[:2]
    assert [best["probability"], best["probability_2"]] == [full[f"p:{name}"] for name in order[:2]]


def test_explain_writes_an_overlay_for_each_image_and_says_where(
    command: Command, photos: Path, exported: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(tiny.pixels(9)[8]).save(other / "0 ä.png")
    given = [photos / "0 ä.png", other / "0 ä.png"]
    code, out, err = command("predict", *given, "--model", exported, "--explain", tmp_path / "why")
    assert code == 0
    assert err == f"2 overlays in {tmp_path / 'why'}, by class activation mapping\n"
    named = [Path(row["explanation"]) for row in rows_of(out)]
    assert sorted(named) == sorted((tmp_path / "why").iterdir())
    assert len(set(named)) == 2
    with Image.open(named[0]) as overlay:
        assert (overlay.mode, overlay.size) == ("RGB", (40, 40))


def test_files_folders_patterns_and_lists_may_be_mixed(
    command: Command, photos: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = "\n".join(["", str(photos / "3 ä.png"), str(photos / "gone.png"), ""])
    monkeypatch.setattr("sys.stdin", io.StringIO(listed))
    pattern = photos.parent / "**" / "[0-1]*.png"
    code, out, err = command("predict", photos / "deep", pattern, "-", "--model", exported)
    assert code == 1
    assert [Path(row["path"]).name[0] for row in rows_of(out)] == ["4", "5", "0", "1", "3"]
    assert err.splitlines()[0] == f"{photos / 'gone.png'} cannot be read: No such file or directory"


Pack = Callable[[Path, Path], Path]


def as_zip(folder: Path, to: Path) -> Path:
    return Path(shutil.make_archive(str(to / "photos"), "zip", folder))


def as_tar(folder: Path, to: Path) -> Path:
    return Path(shutil.make_archive(str(to / "photos"), "tar", folder))


def as_packed_tar(folder: Path, to: Path) -> Path:
    return Path(shutil.make_archive(str(to / "photos"), "gztar", folder))


def as_zip_without_a_suffix(folder: Path, to: Path) -> Path:
    return as_zip(folder, to).rename(to / "upload")


def as_shards(folder: Path, to: Path) -> Path:
    (to / "shards").mkdir()
    with tarfile.open(to / "shards" / "test-000.tar", "w") as tar:
        for path in sorted(folder.rglob("*.png")):
            tar.add(path, path.name)
            tar.addfile(tarfile.TarInfo(f"{path.stem}.cls"), io.BytesIO())
    return to / "shards"


def as_parquet(folder: Path, to: Path) -> Path:
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(folder.rglob("*.png"))]
    pq.write_table(pa.table({"image": images}), to / "photos.parquet")
    return to / "photos.parquet"


@pytest.mark.parametrize("pack", [as_zip, as_tar, as_packed_tar, as_zip_without_a_suffix, as_shards, as_parquet])
def test_images_in_an_archive_are_answered_as_those_in_a_folder(
    command: Command, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Pack
) -> None:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for index, pixels in enumerate(tiny.pixels(4)):
        Image.fromarray(pixels).save(folder / ("deep" if index > 2 else ".") / f"{index}.png")
    expected = rows_of(command("predict", folder, "--model", exported)[1])
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("THAW_SCRATCH", str(scratch))
    monkeypatch.chdir(tmp_path)
    packed = pack(folder, tmp_path)
    code, out, err = command("predict", packed, "--model", exported)
    assert code == 0, err
    found = rows_of(out)
    assert [Path(row["path"]).name for row in found] == [Path(row["path"]).name for row in expected]
    assert all(row["path"].startswith(f"{packed}/") for row in found)
    assert [row | {"path": ""} for row in found] == [row | {"path": ""} for row in expected]
    assert err == (
        "" if pack is not as_shards else f"{packed / 'test-000.tar'}: 4 files beside the images are not used (4 .cls)\n"
    )
    gc.collect()
    assert list(scratch.iterdir()) == []


def test_an_unlabelled_test_folder_of_a_competition_is_answered_with_the_names_of_its_files(
    command: Command, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("competition.zip", "w") as file:
        for index, pixels in enumerate(tiny.pixels(3)):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            file.writestr(f"test/{index:04d}.png", buffer.getvalue())
        file.writestr("sample_submission.csv", "id,label\n")
    with zipfile.ZipFile("competition.zip") as file:
        file.extractall(".", [name for name in file.namelist() if name.startswith("test/")])
    names = ["test/0000.png", "test/0001.png", "test/0002.png"]
    code, out, err = command("predict", "test", "--model", exported)
    assert (code, [row["path"] for row in rows_of(out)], err) == (0, names, "")
    code, out, err = command("predict", "competition.zip", "--model", exported)
    assert (code, [row["path"] for row in rows_of(out)]) == (0, [f"competition.zip/{name}" for name in names])
    assert err == "competition.zip: 1 files beside the images are not used (1 .csv)\n"


def test_what_is_wrong_in_an_archive_is_a_line_and_the_rest_is_answered(
    command: Command, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(tiny.pixels(1)[0]).save("good.png")
    with zipfile.ZipFile("a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.write("good.png")
        file.writestr("page.png", "<html>")
        file.writestr("huge.bmp", bytes(10**9))
    Path("b.zip").write_bytes(Path("a.zip").read_bytes()[:-30])
    Path("c.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(99))
    image = {"bytes": Path("good.png").read_bytes(), "path": "x.png"}
    pq.write_table(pa.table({"image": [image, image, {"bytes": None, "path": "y.png"}]}), "d.parquet")
    pq.write_table(pa.table({"label": ["a"]}), "e.parquet")
    code, out, err = command("predict", "a.zip", "b.zip", "c.7z", "d.parquet", "e.parquet", "--model", exported)
    assert code == 1
    assert [row["path"] for row in rows_of(out)] == ["a.zip/good.png", "d.parquet/x.png", "d.parquet/00000001-x.png"]
    lines = err.splitlines()
    assert lines[0].startswith("a.zip/huge.bmp cannot be used: larger than ")
    assert lines[1].startswith("a.zip/page.png cannot be used: ")
    assert lines[2].startswith("b.zip is damaged or cut short (")
    assert lines[3] == "c.7z is an archive of 7z, which is not read; unpack it into a folder, or make it a zip"
    assert lines[4] == "d.parquet/y.png cannot be used: a row without bytes"
    assert lines[5].startswith("e.parquet cannot be used: it has no column of images; ")
    assert lines[6:] == ["6 of 9 files could not be used; the other 3 were classified"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    for name in ("a[1].png", "a1.png"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in inputs.find([str(tmp_path / "a[1].png")])] == ["a[1].png"]


def test_files_come_in_the_order_of_names_without_hidden_ones_and_links_to_folders(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.png", "b/c/0.png", "b/.hidden/3.png", "b/.4.png", "a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "b" / "loop").symlink_to(tmp_path / "b")
    named = [str(tmp_path / "b"), str(tmp_path / "a.png")]
    found = [path.relative_to(tmp_path).as_posix() for path in inputs.find(named)]
    assert found == ["b/1.png", "b/2.png", "b/c/0.png", "a.png"]
    assert inputs.count(named) == 4
    assert inputs.count([*named, "-"]) is None


def test_names_that_are_not_utf_8_are_taken(command: Command, exported: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "caf\udce9.png", tmp_path / "b\udcff.png"
    Image.fromarray(tiny.pixels(1)[0]).save(good)
    bad.write_bytes(b"")
    arguments: list[str | Path] = [
        "predict",
        good,
        bad,
        "--model",
        exported,
        "--format",
        "jsonl",
        "--explain",
        tmp_path / "why",
    ]
    code, out, err = command(*arguments)
    assert code == 1
    assert json.loads(out)["path"].endswith("caf\\xe9.png")
    assert "cannot be used: empty file" in err


def test_images_are_taken_a_batch_and_a_few_chunks_ahead_and_no_more(
    twins: Twins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "BATCH", 2)
    Image.fromarray(tiny.pixels(1)[0]).save(tmp_path / "a.png")
    asked = 0

    def endless() -> Iterator[Path]:
        nonlocal asked
        while True:
            asked += 1
            yield tmp_path / "a.png"

    found = answer(Exported.open(twins.exported), endless())
    for number in range(100):
        assert next(found).probabilities is not None
        assert number < asked <= number + 66


def test_a_parquet_file_of_many_rows_is_written_in_groups(tmp_path: Path) -> None:
    from pyarrow import parquet

    file = tmp_path / "a.parquet"
    with tables.table(tables.Format.PARQUET, file, ["path", "probability"]) as write:
        for number in range(tables._ROWS_AT_ONCE + 1):
            write({"path": str(number), "probability": number / 2})
    assert parquet.ParquetFile(file).num_row_groups == 2
    assert pd.read_parquet(file)["probability"].tolist() == [number / 2 for number in range(tables._ROWS_AT_ONCE + 1)]


@pytest.mark.parametrize("form", list(tables.Format))
def test_a_table_that_was_interrupted_leaves_the_old_file_and_nothing_else(tmp_path: Path, form: tables.Format) -> None:
    file = tmp_path / "a.table"
    file.write_text("old")

    def interrupted() -> None:
        with tables.table(form, file, ["path"]) as write:
            write({"path": "new"})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("form", "output", "message"),
    [
        (tables.Format.PARQUET, None, "--format parquet needs a file; name one with --output"),
        (None, Path("a.png"), "--output is a.png; end it in .csv, .jsonl or .parquet, or say --format"),
        (
            tables.Format.CSV,
            Path("a.jsonl"),
            "--format is csv and --output a.jsonl; drop one of them, or let them agree",
        ),
    ],
)
def test_a_format_that_cannot_be_meant_is_refused(
    form: tables.Format | None, output: Path | None, message: str
) -> None:
    with pytest.raises(ThawError) as error:
        tables.format_of(form, output)
    assert str(error.value) == message
    assert tables.format_of(tables.Format.CSV, Path("a.txt")) is tables.Format.CSV
    assert tables.format_of(None, None) is tables.Format.CSV


@pytest.mark.parametrize(
    "case",
    ["no such path", "empty folder", "empty list", "no model", "torch model", "unwritable", "too many", "no folder"],
)
def test_what_predict_cannot_do_is_one_line(
    command: Command, photos: Path, twins: Twins, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    use: list[str | Path] = ["--model", twins.exported]
    image = photos / "0 ä.png"
    in_a_file = photos / "empty.png" / "a.csv"
    given: dict[str, tuple[list[str | Path], str]] = {
        "no such path": ([tmp_path / "nowhere", *use], "nowhere does not exist; give image files, folders, archives"),
        "empty folder": ([tmp_path / "empty", *use], "empty: no files there; give image files, folders"),
        "empty list": (["-", *use, "--output", tmp_path / "a.csv"], "standard input: no files there"),
        "no model": ([photos, "--model", tmp_path / "none"], "is missing; `dvc repro` writes it"),
        "torch model": ([photos, "--model", twins.final], "holds a model of torch; run `dvc repro export` and give"),
        "unwritable": ([image, *use, "--output", in_a_file], "a.csv cannot be written: "),
        "too many": ([image, *use, "--top", "4"], "--top is 4, and the model knows 3 classes; give 1 to 3"),
        "no folder": ([image, *use, "--explain", photos / "empty.png"], "give another folder to --explain"),
    }
    arguments, message = given[case]
    code, out, err = command("predict", *arguments)
    assert code == 1
    assert out in ("", ",".join(["path", "class", "probability", *P_COLUMNS, "model", "explanation"]) + "\n")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "a.csv").exists()


def test_a_class_index_in_a_table_follows_the_largest_probability(tmp_path: Path) -> None:
    one = answers.Answer(tmp_path / "a.png", np.array([0.2, 0.5, 0.3]))
    names = answers.columns(["x", "y", "z"], top=3, explained=False)
    assert answers.row(one, ["x", "y", "z"], names, "v1") == {
        "path": str(tmp_path / "a.png"), "class": "y", "probability": 0.5,
        "class_2": "z", "probability_2": 0.3, "class_3": "x", "probability_3": 0.2,
        "model": "v1",
    }  # fmt: skip
    with pytest.raises(DataError):
        answers.columns(["x"], top=2, explained=False)

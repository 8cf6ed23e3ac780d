"""The same images in archives, shards, tables and folders: one samples.csv, to the byte."""

import contextlib
import csv
import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from stages import prepare
from thaw.config.reader import read_tree
from thaw.pipeline import code

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("box", "disc", "wood grain")
IMAGES_A_CLASS = 6


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sub-folder for each class, of PNG and JPEG files, and an annotation beside one."""
    folder = tmp_path_factory.mktemp("stores") / "photos"
    draws = np.random.default_rng(0)
    for kind, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(IMAGES_A_CLASS):
            noise = draws.integers(0, 120, (24, 24 + number, 3)) + 60 * np.eye(3)[kind]
            extension = "jpg" if number % 2 else "png"
            Image.fromarray(noise.astype(np.uint8)).save(folder / name / f"{number}.{extension}")
    return folder


def rows(photos: Path) -> list[tuple[str, str]]:
    """Path and label of each image."""
    return [(path.relative_to(photos).as_posix(), path.parent.name) for path in sorted(photos.rglob("*.*g"))]


def as_folder(photos: Path, to: Path) -> str:
    shutil.copytree(photos, to / "set")
    return "set"


def as_commas(photos: Path, to: Path) -> str:
    return as_csv(photos, to, ",", "utf-8")


def as_semicolons(photos: Path, to: Path) -> str:
    return as_csv(photos, to, ";", "utf-8-sig")


def as_tabs(photos: Path, to: Path) -> str:
    return as_csv(photos, to, "\t", "utf-16")


def as_csv(photos: Path, to: Path, separator: str, encoding: str) -> str:
    shutil.copytree(photos, to / "set")
    with (to / "set" / "list.csv").open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=separator).writerows([("path", "label"), *rows(photos)])
    return "set/list.csv"


def as_hugging_face_folder(photos: Path, to: Path) -> str:
    shutil.copytree(photos, to / "set")
    with (to / "set" / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("file_name", "label"), *rows(photos)])
    return "set"


def as_zip(photos: Path, to: Path) -> str:
    with zipfile.ZipFile(to / "set.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for path, _ in rows(photos):
            file.write(photos / path, path)
    return "set.zip"


def as_zip_of_a_folder_with_a_table(photos: Path, to: Path) -> str:
    with zipfile.ZipFile(to / "set.zip", "w") as file:
        for path, _ in rows(photos):
            file.write(photos / path, f"pets/{path}")
        table = "".join(f"{path},{label}\n" for path, label in rows(photos))
        file.writestr("pets/manifest.csv", f"path,label\n{table}")
        file.writestr("__MACOSX/pets/._manifest.csv", b"\0")
    return "set.zip"


def as_tar(photos: Path, to: Path) -> str:
    with tarfile.open(to / "set.tar", "w") as file:
        file.add(photos, ".")
    return "set.tar"


def as_compressed_tar_of_a_folder(photos: Path, to: Path) -> str:
    with tarfile.open(to / "set.tar.gz", "w:gz") as file:
        file.add(photos, "./pets")
    return "set.tar.gz"


def add(file: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    file.addfile(member, io.BytesIO(data))


def as_shard_of_names(photos: Path, to: Path) -> str:
    with tarfile.open(to / "set.tar", "w") as file:
        for path, label in rows(photos):
            add(file, path, (photos / path).read_bytes())
            add(file, f"{path.rpartition('.')[0]}.cls", label.encode())
    return "set.tar"


def as_shards_of_numbers(photos: Path, to: Path) -> str:
    (to / "set").mkdir()
    (to / "set" / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES), encoding="utf-8")
    for shard in range(2):
        with tarfile.open(to / "set" / f"shard-{shard:06d}.tar", "w") as file:
            for path, label in rows(photos)[shard::2]:
                add(file, path, (photos / path).read_bytes())
                about = {"label": CLASSES.index(label), "caption": "one"}
                add(file, f"{path.rpartition('.')[0]}.json", json.dumps(about).encode())
    return "set"


def as_parquet(photos: Path, to: Path) -> str:
    listed = rows(photos)
    columns = {
        "path": [path for path, _ in listed],
        "bytes": [(photos / path).read_bytes() for path, _ in listed],
        "label": [label for _, label in listed],
    }
    pq.write_table(pa.table(columns), to / "set.parquet", row_group_size=5)
    return "set.parquet"


def as_parquet_of_hugging_face(photos: Path, to: Path) -> str:
    (to / "set" / "data").mkdir(parents=True)
    features = {"image": {"_type": "Image"}, "label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    for number in range(2):
        listed = rows(photos)[number::2]
        images = [{"bytes": (photos / path).read_bytes(), "path": path} for path, _ in listed]
        labels = pa.array([CLASSES.index(label) for _, label in listed], pa.int64())
        table = pa.table({"image": images, "label": labels}).replace_schema_metadata(metadata)
        pq.write_table(table, to / "set" / "data" / f"part-{number:05d}-of-00002.parquet")
    (to / "set" / "README.md").write_text("about\n")
    return "set"


def as_parquet_of_paths(photos: Path, to: Path) -> str:
    shutil.copytree(photos, to / "set")
    listed = rows(photos)
    table = pa.table({"file": [path for path, _ in listed], "breed": [label for _, label in listed]})
    pq.write_table(table, to / "set" / "list.parquet")
    return "set/list.parquet"


LAYOUTS: tuple[Callable[[Path, Path], str], ...] = (
    as_commas, as_semicolons, as_tabs, as_hugging_face_folder, as_zip, as_zip_of_a_folder_with_a_table, as_tar,
    as_compressed_tar_of_a_folder, as_shard_of_names, as_shards_of_numbers, as_parquet, as_parquet_of_hugging_face,
    as_parquet_of_paths,
)  # fmt: skip


def prepared(photos: Path, to: Path, layout: Callable[[Path, Path], str], workers: int = 0) -> Path:
    """Return the folder that the stage `prepare` writes for the images in a layout."""
    to.mkdir(exist_ok=True)
    raw = layout(photos, to)
    columns = {"path": "file", "label": "breed"} if layout is as_parquet_of_paths else {}
    tree = read_tree(ROOT / "params.yaml")
    for name, values in {
        "data": {"raw": raw, "labels": raw, "columns": columns},
        "prepare": {"size_px": 16},
        "compute": {"workers": workers},
    }.items():
        tree[name] = tree.get(name, {}) | values
    (to / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    code.write(to / code.FOLDER, code.running())
    with contextlib.chdir(to), pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAW_SCRATCH", str(to / ".thaw"))
        prepare.main()
    assert not list((to / ".thaw").glob("unpacked-*"))
    return to / "data" / "prepared"


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "samples.csv").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def plain(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = prepared(photos, tmp_path_factory.mktemp("plain"), as_folder)
    assert len((folder / "samples.csv").read_text().splitlines()) == 1 + IMAGES_A_CLASS * len(CLASSES)
    return digest(folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_samples_of_the_plain_folder(
    photos: Path, plain: str, tmp_path: Path, layout: Callable[[Path, Path], str]
) -> None:
    assert digest(prepared(photos, tmp_path, layout)) == plain


@pytest.mark.parametrize("layout", [as_zip, as_compressed_tar_of_a_folder, as_parquet])
def test_processes_read_an_archive_as_the_stage_itself_does(
    photos: Path, plain: str, tmp_path: Path, layout: Callable[[Path, Path], str]
) -> None:
    assert digest(prepared(photos, tmp_path, layout, workers=2)) == plain

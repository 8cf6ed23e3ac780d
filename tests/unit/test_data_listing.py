from pathlib import Path

import pytest

from thaw.data import listing
from thaw.errors import DataError


def lay_out(root: Path, *names: str) -> Path:
    """Make these files, and a folder of each name that ends in a slash."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            (root / name).mkdir()
        else:
            (root / name).write_bytes(name.encode())
    return root


def test_a_folder_with_a_manifest_is_read_by_it(tmp_path: Path) -> None:
    for name in ("one.png", "two.png", "three.png"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / listing.MANIFEST).write_text("path,label,confidence\none.png,a,0.75\ntwo.png,b,1\n", encoding="utf-8")
    listed = listing.read(tmp_path)
    assert listed.root == tmp_path
    assert listed.table[["path", "label", "confidence"]].values.tolist() == [
        ["one.png", "a", 0.75],
        ["two.png", "b", 1.0],
    ]


def test_a_folder_and_its_manifest_list_the_same(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(b"1")
    (tmp_path / "two.png").write_bytes(b"2")
    (tmp_path / listing.MANIFEST).write_text("path,label\none.png,a\ntwo.png,b\n", encoding="utf-8")
    assert listing.read(tmp_path).table.equals(listing.read(tmp_path / listing.MANIFEST).table)


SPLIT = ("train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png")


@pytest.mark.parametrize("other", ["unlabelled/5.png", "extra/a/5.png", "empty/"])
def test_split_folders_with_others_beside_them_are_refused(tmp_path: Path, other: str) -> None:
    name = other.partition("/")[0]
    with pytest.raises(DataError, match=f"has the split folders train, val and beside them {name}; move these "):
        listing.read(lay_out(tmp_path, *SPLIT, other))


def test_hidden_folders_and_files_beside_split_folders_are_passed_over(tmp_path: Path) -> None:
    listed = listing.read(lay_out(tmp_path, *SPLIT, ".unlabelled/5.png", "README.txt", "__MACOSX/a/6.png"))
    assert listed.table["split"].tolist() == ["train", "train", "val", "val"]


@pytest.mark.parametrize(
    ("files", "classes"),
    [
        (("train/1.png", "bus/2.png"), ["bus", "train"]),
        (("Train/1.png", "bus/2.png", "car/3.png"), ["Train", "bus", "car"]),
        (("test/1.png", "val/2.png", "other/3.png"), ["other", "test", "val"]),
    ],
)
def test_a_class_may_be_called_train_and_classes_without_it_may_be_called_anything(
    tmp_path: Path, files: tuple[str, ...], classes: list[str]
) -> None:
    assert listing.read(lay_out(tmp_path, *files)).classes == classes


@pytest.mark.parametrize("empty", [("train/c/", "val/c/"), ("val/c/.hidden", "train/c/5.png")])
def test_an_empty_class_folder_in_a_split_is_named(tmp_path: Path, empty: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=r"/(train|val)/c holds no files; add images of this class or remove"):
        listing.read(lay_out(tmp_path, *SPLIT, *empty))


@pytest.mark.parametrize("name", ["a/\r.png", "a/1\r2.png", "a\r/1.png"])
def test_a_name_with_a_carriage_return_is_refused_with_the_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"the name '.*\\r.*' holds a carriage return or a NUL character; rename it$"):
        listing.read(lay_out(tmp_path, "a/1.png", "b/2.png", name))


@pytest.mark.parametrize("row", ['"a\r.png",a,g', '1.png,"a\r",g', '1.png,a,"g\r"', "a\0.png,a,g", "1.png,a,g\0"])
def test_a_manifest_with_a_carriage_return_or_a_nul_in_a_name_is_refused(tmp_path: Path, row: str) -> None:
    text = f"path,label,group\n{row}\n2.png,b,\n"
    (tmp_path / listing.MANIFEST).write_text(text, encoding="utf-8", newline="")
    with pytest.raises(DataError, match="holds a carriage return or a NUL character; rename it"):
        listing.read(tmp_path)


def test_the_file_that_macos_keeps_a_folders_icon_in_is_passed_over(tmp_path: Path) -> None:
    listed = listing.read(lay_out(tmp_path, "a/1.png", "b/2.png", "a/Icon\r", "Icon\r"))
    assert listed.table["path"].tolist() == ["a/1.png", "b/2.png"]


def test_other_control_characters_are_names_like_any(tmp_path: Path) -> None:
    listed = listing.read(lay_out(tmp_path, "a/\t1\x1b.png", "a/\n.png", "b/2.png"))
    assert listed.table["path"].tolist() == ["a/\t1\x1b.png", "a/\n.png", "b/2.png"]


@pytest.mark.parametrize(
    ("raw", "missing"),
    [
        ("data/sample/images", "images"),
        ("./data/sample/manifest.csv", "manifest.csv"),
        ("data/sample", "manifest.csv"),
    ],
)
def test_a_sample_that_is_not_laid_out_names_the_command_that_does_it(workspace: Path, raw: str, missing: str) -> None:
    lay_out(workspace, "data/sample/dvc.yaml")
    with pytest.raises(DataError) as caught:
        listing.locate(raw)
    assert str(caught.value) == (
        f"params.yaml: data.raw is {raw}, but data/sample/{missing} does not exist; "
        "run `dvc repro data/sample/dvc.yaml`, which lays out the sample"
    )
    lay_out(workspace, "data/sample/images/a/1.png", "data/sample/manifest.csv")
    assert listing.locate(raw) == Path(raw)


def test_without_the_stage_that_lays_out_the_sample_its_folder_is_like_any(workspace: Path) -> None:
    with pytest.raises(DataError, match="data/sample, which does not exist; give a folder of classes or a CSV"):
        listing.locate("data/sample")
    lay_out(workspace, "data/sample/a/1.png")
    assert listing.locate("data/sample") == Path("data/sample")

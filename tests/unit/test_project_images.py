"""Images and their table brought into a project: what was understood outside needs no settings inside."""

from pathlib import Path

import pytest

from thaw.data import listing
from thaw.errors import DataError
from thaw.project import images


def lay_out(root: Path) -> Path:
    for name in ("a/1.jpg", "a/2.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def bring(listed: listing.Listing, folder: Path | None, table: Path | None, to: Path) -> listing.Listing:
    """Copy what is listed and return what the copy lists."""
    manifest = images.manifest_of(listed, folder, table)
    assert images.copy_images(listed, manifest, to) == []
    assert images.same_images(listed, manifest, to)
    return listing.read(to)


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na/1.jpg,x\na/2.jpg,y\n",
        "path;label\r\na\\1;x\r\na\\2;y\r\n",
        "path,label,note\n{root}/a/1.jpg,x,1\n{root}/a/2.jpg,y,2\n",
    ],
    ids=["plain", "semicolons and backslashes", "absolute"],
)
def test_a_table_of_any_kind_is_brought_so_that_it_reads_the_same(tmp_path: Path, text: str) -> None:
    table = lay_out(tmp_path / "theirs") / "list.csv"
    table.write_text(text.format(root=table.parent), newline="")
    listed = images.list_images(None, table)
    found = bring(listed, None, table, tmp_path / "ours")
    assert found.table.equals(listed.table)
    assert found.table["label"].tolist() == ["x", "y"]
    assert found.notes == []
    (tmp_path / "ours" / listing.MANIFEST).write_text("path,label\na/1.jpg,y\na/2.jpg,x\n")
    assert not images.same_images(listed, images.manifest_of(listed, None, table), tmp_path / "ours")


def test_columns_are_mapped_once_and_have_our_names_in_the_project(tmp_path: Path) -> None:
    table = lay_out(tmp_path / "theirs") / "list.csv"
    table.write_text("file,breed,patient_id,fold\na/1.jpg,x,P1,0\na/2.jpg,y,P2,1\n")
    columns = {"path": "file", "label": "breed", "group": "patient_id"}
    listed = images.list_images(None, table, columns, ["fold"])
    assert bring(listed, None, table, tmp_path / "ours").table.equals(listed.table)
    assert (tmp_path / "ours" / listing.MANIFEST).read_text() == "path,label,group\na/1.jpg,x,P1\na/2.jpg,y,P2\n"
    with pytest.raises(DataError, match=r"--column takes one of path, label, .*, such as path=file_name"):
        images.list_images(None, table, {"breed": "label"})


def test_split_folders_with_tables_become_one_table(tmp_path: Path) -> None:
    for top in ("train", "test"):
        lay_out(tmp_path / "theirs" / top)
        (tmp_path / "theirs" / top / "metadata.csv").write_text("file_name,label\na/1.jpg,x\na/2.jpg,y\n")
    listed = images.list_images(tmp_path / "theirs", None)
    found = bring(listed, tmp_path / "theirs", None, tmp_path / "ours")
    assert found.table.equals(listed.table)
    assert found.table["split"].tolist() == ["test", "test", "train", "train"]

from pathlib import Path

from thaw.images import listing


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

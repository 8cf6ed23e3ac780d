"""The files that an older model is asked about: below a folder, in an archive, or not to be had."""

import hashlib
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from tests.compared import tree
from thaw.compare import asking
from thaw.errors import ArtifactError

FILES = {"cat/1.png": b"one", "dog/2.png": b"two"}


def rows() -> pd.DataFrame:
    digests = [hashlib.sha256(data).hexdigest() for data in FILES.values()]
    return pd.DataFrame({"path": list(FILES), "sha256": digests})


def project(root: Path, raw: str) -> Path:
    root.mkdir()
    (root / "params.yaml").write_text(f"data: {{raw: {raw}}}\n")
    return root


def found(root: Path, copies: Path) -> list[bytes]:
    return [path.read_bytes() for path in asking._files(tree(root, "main"), rows(), copies)]


def test_images_are_read_from_a_folder_and_out_of_a_zip_alike(tmp_path: Path) -> None:
    plain, packed = project(tmp_path / "plain", "raw"), project(tmp_path / "packed", "raw.zip")
    with zipfile.ZipFile(packed / "raw.zip", "w") as file:
        for name, data in FILES.items():
            (plain / "raw" / name).parent.mkdir(parents=True)
            (plain / "raw" / name).write_bytes(data)
            file.writestr(f"raw/{name}", data)
    for root in (plain, packed):
        assert found(root, tmp_path / f"{root.name} copies") == list(FILES.values())


def test_an_archive_that_is_another_one_now_is_refused(tmp_path: Path) -> None:
    root = project(tmp_path / "packed", "raw.zip")
    with zipfile.ZipFile(root / "raw.zip", "w") as file:
        file.writestr("cat/1.png", b"one")
        file.writestr("dog/2.png", b"TWO")
    with pytest.raises(ArtifactError, match=r"raw.zip of main .* has changed since it was prepared; run `dvc repro`"):
        found(root, tmp_path / "copies")


def test_images_in_shards_of_a_folder_are_not_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = project(tmp_path / "shards", "raw")
    (root / "raw").mkdir()
    (root / "raw" / "0.tar").touch()
    monkeypatch.chdir(root)
    with pytest.raises(ArtifactError, match=r"raw holds the images in shards, which are not looked up in main"):
        found(root, tmp_path / "copies")

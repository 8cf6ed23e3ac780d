"""Addresses: brought once into a project, recorded without keys, and noticed when they change."""

import contextlib
import http.server
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fsspec
import pytest
import yaml

from thaw.config.reader import load_params
from thaw.data import listing
from thaw.errors import DataError, ParamsError, ThawError
from thaw.project import fetching, images

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params.yaml that is a git and DVC repository."""
    root = tmp_path_factory.mktemp("project")
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=root, check=True)
    return root


def pack(path: Path, more: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in ("cat/1.png", "dog/2.png"):
            file.writestr(name, name + more)
    return path


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """A server of a folder's files, and its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_an_archive_is_fetched_once_tracked_and_noticed_when_it_changes(empty: Path, tmp_path: Path) -> None:
    address = pack(tmp_path / "pets.zip").as_uri()
    lines = list(fetching.fetch(empty, address, None))
    assert (empty / "data" / "pets.zip").read_bytes() == (tmp_path / "pets.zip").read_bytes()
    assert lines[0].startswith("data/pets.zip: 1 file of ")
    assert "params.yaml: data.raw and data.labels are data/pets.zip" in lines
    tree = yaml.safe_load((empty / "params.yaml").read_text(encoding="utf-8"))
    assert (tree["data"]["raw"], tree["data"]["labels"]) == ("data/pets.zip", "data/pets.zip")
    assert "md5" in (empty / "data" / "pets.zip.dvc").read_text()
    assert json.loads((empty / "data" / "pets.zip.source.json").read_text())["address"] == address
    assert listing.read(empty / "data" / "pets.zip").classes == ["cat", "dog"]

    assert list(fetching.fetch(empty, address, None)) == [lines[0].split(" from ")[0].replace(": ", ": as it was, ")]
    assert list(fetching.check(empty)) == [f"pets.zip: as at {address}"]
    pack(tmp_path / "pets.zip", "more")
    with pytest.raises(
        DataError, match=r"pets.zip has changed \(1 file of \d+ bytes before, 1 file of \d+ bytes now\)"
    ):
        list(fetching.check(empty))
    list(fetching.fetch(empty, address, None))
    assert (empty / "data" / "pets.zip").read_bytes() == (tmp_path / "pets.zip").read_bytes()
    with pytest.raises(DataError, match=r"data/pets.zip is there, and does not come from memory://other/pets.zip"):
        list(fetching.fetch(empty, "memory://other/pets.zip", None))


def test_a_folder_and_a_file_over_http_are_fetched(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "track", lambda *_: None)
    memory = fsspec.filesystem("memory")
    for name in ("cat/1.png", "cat/more/2.png", "dog/3.png"):
        memory.pipe_file(f"/bucket/photos/{name}", name.encode())
    lines = list(fetching.fetch(empty, "memory://bucket/photos/", "data/ours/photos"))
    assert lines[0].startswith("data/ours/photos: 3 files of ")
    assert listing.read(empty / "data/ours/photos").table["path"].tolist() == [
        "cat/1.png",
        "cat/more/2.png",
        "dog/3.png",
    ]
    with served(pack(tmp_path / "pets.zip").parent) as address:
        lines = list(fetching.fetch(empty, f"{address}/pets.zip?key=secret", "data/web.zip"))
        assert (empty / "data" / "web.zip").read_bytes() == (tmp_path / "pets.zip").read_bytes()
        assert "secret" not in (empty / "data" / "web.zip.source.json").read_text() + "".join(lines)
        with pytest.raises(DataError, match=r"none.zip cannot be read \(FileNotFoundError: "):
            list(fetching.fetch(empty, f"{address}/none.zip", None))
    with pytest.raises(DataError, match=r"pets.zip cannot be read"):
        list(fetching.fetch(empty, f"{address}/pets.zip", "data/gone.zip"))
    assert not list((empty / "data").glob(".*partial*"))


def test_a_file_that_comes_short_leaves_what_was_there(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "track", lambda *_: None)
    path = pack(tmp_path / "short.zip")
    list(fetching.fetch(empty, path.as_uri(), None))
    before = (empty / "data" / "short.zip").read_bytes()
    pack(path, "more")
    monkeypatch.setattr(fetching, "_size", lambda _: 10**6)
    with pytest.raises(DataError, match=r"short.zip has 1000000 bytes, and \d+ came; run this again"):
        list(fetching.fetch(empty, path.as_uri(), None))
    assert (empty / "data" / "short.zip").read_bytes() == before


@pytest.mark.parametrize(
    ("address", "to", "said"),
    [
        ("pets.zip", None, "is no address that is fetched; it begins with file://, memory://"),
        ("zip://a.png::https://x/pets.zip", None, "is no address that is fetched"),
        ("reference://x/a", None, "is no address that is fetched"),
        ("https://user:word@x/pets.zip", None, "the address has a password in it, which would be recorded"),
        ("memory://x/pets.zip", "../pets.zip", "is no place for images; give one below data/"),
        ("memory://x/pets.zip", "data/../dvc.yaml", "is no place for images"),
        ("memory://x/pets.zip", "data", "is no place for images"),
        ("memory://x/.dvcignore", None, "is no place for images"),
        ("memory://nothing/there.zip", None, r"there.zip cannot be read \(FileNotFoundError"),
        ("gs://bucket/x.zip", None, "needs a package that is not installed"),
    ],
)
def test_what_is_no_address_or_no_place_is_refused(empty: Path, address: str, to: str | None, said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(fetching.fetch(empty, address, to))


def test_a_name_at_an_address_cannot_lead_out(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/evil/a.png", b"1")
    found = {"/evil/../../etc/x": {"name": "/evil/../../etc/x", "size": 1, "type": "file"}}
    monkeypatch.setattr(type(memory), "find", lambda *_, **__: found)
    with pytest.raises(DataError, match=r"memory://evil holds '.*', a name that leads out of it"):
        list(fetching.fetch(empty, "memory://evil", None))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("s3://bucket/pets.zip", r"an address, and stages read paths; run `thaw data fetch s3://bucket/pets.zip`"),
        (
            "torchvision:CIFAR10@data/tv",
            r"set data.raw and data.labels to data/tv, and data.layout to torchvision:CIFAR10",
        ),
    ],
)
def test_params_say_what_to_do_with_what_is_no_path(empty: Path, tmp_path: Path, raw: str, said: str) -> None:
    tree = yaml.safe_load((empty / "params.yaml").read_text(encoding="utf-8"))
    tree["data"] |= {"raw": raw, "labels": raw}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(ParamsError, match=said):
        load_params(tmp_path / "params.yaml")


def test_a_new_project_is_told_to_fetch_and_nothing_fetched_is_nothing_to_check(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"an address; leave it out, and run `thaw data fetch ADDRESS` in the new project"
    ):
        images.list_images(Path("s3://bucket/pets.zip"), None)
    with pytest.raises(ThawError, match=r"nothing here was fetched from an address"):
        list(fetching.check(tmp_path))

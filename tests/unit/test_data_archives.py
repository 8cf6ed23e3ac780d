"""Archives that are damaged, hostile or odd: each is one line, and nothing leads out of them."""

import gzip
import io
import pickle
import random
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thaw.config.schema import DataParams
from thaw.data import archives, listing, sources
from thaw.data.pixel_values import UnusableError
from thaw.data.places import Archive, Part
from thaw.errors import DataError

FILES = {"cat/1.png": b"one", "cat/2.png": b"two" * 700, "dog/3.png": b"three", "dog/ä ö.png": b"four"}


def zipped(path: Path, files: dict[str, bytes], *, deflate: bool = True) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


def member(name: str, data: bytes = b"", **facts: object) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in facts.items():
        setattr(info, key, value)
    return info, io.BytesIO(data)


def tarred(path: Path, files: dict[str, bytes], *more: tuple[tarfile.TarInfo, io.BytesIO], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]  # modes are a Literal
        for info, data in [*(member(name, data) for name, data in files.items()), *more]:
            file.addfile(info, data)
    return path


def opened(path: Path) -> Archive:
    kind = archives.kind_of(path)
    assert kind is not None
    return archives.open_archive(path, kind)


def read(path: Path) -> listing.Listing:
    return listing.read(path)


MAKERS: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "a.zip": zipped,
    "stored.zip": lambda path, files: zipped(path, files, deflate=False),
    "a.tar": tarred,
    "a.tar.gz": lambda path, files: tarred(path, files, mode="w:gz"),
    "a.tar.bz2": lambda path, files: tarred(path, files, mode="w:bz2"),
    "a.txz": lambda path, files: tarred(path, files, mode="w:xz"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_kind_gives_the_bytes_of_its_files_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    for path in (tmp_path / name, tmp_path / "data"):
        archive = opened(MAKERS[name](path, FILES))
        assert {path: archive.read(path, 1) for path in archive.files} == FILES
        assert [entry.name for entry in archive.entries("dog")] == ["3.png", "ä ö.png"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.dictionaries(
        st.text("ab ä.-\\'%\n", min_size=1, max_size=6).filter(lambda name: name not in {".", ".."}),
        st.binary(max_size=3000),
        min_size=1,
        max_size=5,
    ),
    kind=st.sampled_from(sorted(MAKERS)),
)
def test_any_names_and_bytes_come_back_as_they_were_packed(tmp_path: Path, files: dict[str, bytes], kind: str) -> None:
    shown = {f"x/{name}": data for name, data in files.items() if not name.startswith(".")}
    if shown:
        archive = opened(MAKERS[kind](tmp_path / kind, shown))
        assert {path: archive.read(path, 1) for path in archive.files} == shown


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("way_out", ["../cat/1.png", "/etc/1.png", "cat/../../1.png", "C:\\1.png"])
def test_a_name_that_leads_out_refuses_the_archive(tmp_path: Path, name: str, way_out: str) -> None:
    path = MAKERS[name](tmp_path / name, FILES | {way_out: b"x"})
    with pytest.raises(DataError, match=r"holds '.*', a name that leads out of it; pack it again from within"):
        opened(path)


@pytest.mark.parametrize("name", [name for name in MAKERS if "stored" not in name])
def test_an_archive_that_is_cut_short_anywhere_is_refused_or_has_only_whole_files(tmp_path: Path, name: str) -> None:
    draws = random.Random(0)
    files = {f"cat/{number}.png": draws.randbytes(900) for number in range(8)}
    whole = MAKERS[name](tmp_path / name, files).read_bytes()
    for length in range(300, len(whole) - 1, 331):
        path = tmp_path / f"cut-{name}"
        path.write_bytes(whole[:length])
        if name == "a.tar" and length > len(whole) - tarfile.RECORDSIZE + len(files) * 200:
            continue  # of the padding after the end of a tar nothing is missed
        with pytest.raises(DataError, match=r"cut-.* is (damaged|cut short|called an archive)"):
            opened(path)


@pytest.mark.parametrize("name", MAKERS)
def test_a_changed_byte_is_noticed_or_reaches_the_decoder(tmp_path: Path, name: str) -> None:
    draws = random.Random(1)
    files = {f"cat/{number}.png": draws.randbytes(200) for number in range(4)}
    whole = MAKERS[name](tmp_path / name, files).read_bytes()
    for _ in range(150):
        changed = bytearray(whole)
        changed[draws.randrange(len(whole))] ^= 1 << draws.randrange(8)
        path = tmp_path / f"changed-{name}"
        path.write_bytes(changed)
        try:
            archive = opened(path) if archives.kind_of(path) else None
        except DataError:
            continue
        for file in archive.files if archive else []:
            try:
                data = archive.read(file, 1) if archive else b""
            except UnusableError:
                continue
            assert name == "a.tar" or file not in files or data == files[file]


def test_a_name_that_stands_twice_refuses_the_archive(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"cat/1.png": b"1", "cat/2.png": b"2"})
    path.write_bytes(path.read_bytes().replace(b"cat/2.png", b"cat/1.png"))
    with pytest.raises(DataError, match=r"a.zip holds cat/1.png twice; pack it again"):
        opened(tmp_path / "a.zip")
    with pytest.raises(DataError, match=r"a.tar holds cat/1.png twice"):
        opened(tarred(tmp_path / "a.tar", FILES, member("./cat//1.png", b"2")))
    with pytest.raises(DataError, match=r"holds cat as a file and as a folder"):
        opened(tarred(tmp_path / "b.tar", FILES, member("cat", b"2")))


def test_links_and_devices_in_a_tar_are_listed_and_rejected(tmp_path: Path) -> None:
    special = {
        "symbolic link": tarfile.SYMTYPE,
        "no regular file": tarfile.FIFOTYPE,
        "no regular file ": tarfile.CHRTYPE,
    }
    more = [
        member(f"cat/{number}.special", type=kind, linkname="/etc/passwd")
        for number, kind in enumerate(special.values())
    ]
    archive = opened(tarred(tmp_path / "a.tar", FILES, *more))
    for number, what in enumerate(special):
        with pytest.raises(UnusableError, match=what.strip()):
            archive.read(f"cat/{number}.special", 1)


def test_a_link_in_a_zip_is_listed_and_rejected(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("cat/4.png")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    with pytest.raises(UnusableError, match="symbolic link in an archive; not followed"):
        opened(tmp_path / "a.zip").read("cat/4.png", 1)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_hard_link_in_a_tar_is_the_file_that_it_names(tmp_path: Path, mode: str) -> None:
    more = member("cat/4.png", type=tarfile.LNKTYPE, linkname="cat/2.png")
    lost = member("cat/5.png", type=tarfile.LNKTYPE, linkname="cat/6.png")
    archive = opened(tarred(tmp_path / "a.tar", FILES, more, lost, mode=mode))
    assert archive.read("cat/4.png", 1) == FILES["cat/2.png"]
    with pytest.raises(UnusableError, match="hard link to nothing"):
        archive.read("cat/5.png", 1)


def test_an_encrypted_zip_and_one_of_another_method_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", FILES)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\1\2")
    data[entry + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a.zip: cat/1.png is encrypted; unpack it with its password"):
        opened(path)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_LZMA) as file:
        file.writestr("cat/1.png", b"1")
    with pytest.raises(DataError, match=r"packed by method 14, and only deflate"):
        opened(tmp_path / "b.zip")


def test_a_zip_that_declares_less_or_more_than_it_holds_is_rejected_file_by_file(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"cat/1.png": bytes(10**6)})
    whole = path.read_bytes()
    entry = whole.index(b"PK\1\2")
    for size, reason in ((1000, "longer or shorter"), (2 * 10**6, "longer or shorter"), (2**31, "larger than")):
        data = bytearray(whole)
        struct.pack_into("<I", data, entry + 24, size)
        path.write_bytes(data)
        with pytest.raises(UnusableError, match=reason):
            opened(path).read("cat/1.png", 1)


def test_a_file_larger_than_an_image_can_be_is_rejected_before_it_is_unpacked(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"cat/1.png": bytes(10**8)})
    with pytest.raises(UnusableError, match=r"larger than \d+ bytes, which prepare.max_megapixels cannot need"):
        opened(path).read("cat/1.png", 1)
    assert opened(path).read("cat/1.png", 20) == bytes(10**8)


def test_a_tar_that_unpacks_to_far_more_than_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thaw.data.unpacked._FREE_BYTES", 10**6)
    path = tarred(tmp_path / "a.tar.gz", {f"cat/{number}.png": bytes(10**5) for number in range(30)}, mode="w:gz")
    with pytest.raises(DataError, match=r"a.tar.gz unpacks to more than 100 times its \d+ bytes, as no images do"):
        opened(path)


def test_a_header_of_a_tar_cannot_take_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 2**32
    (tmp_path / "a.tar").write_bytes(info.tobuf() + bytes(4096))
    with pytest.raises(DataError, match=r"a.tar is damaged or cut short \(a header of 4294967296 bytes\)"):
        opened(tmp_path / "a.tar")


def test_joined_tars_are_refused_and_names_of_other_encodings_too(tmp_path: Path) -> None:
    one, two = (tarred(tmp_path / name, FILES).read_bytes() for name in ("1.tar", "2.tar"))
    (tmp_path / "a.tar").write_bytes(one + two)
    with pytest.raises(DataError, match=r"a.tar goes on after its end, as tars that were joined do"):
        opened(tmp_path / "a.tar")
    path = zipped(tmp_path / "a.zip", {"cat/XX.png": b"1"})
    path.write_bytes(path.read_bytes().replace(b"XX", "Ä".encode("cp437") * 2))
    with pytest.raises(DataError, match=r"a.zip has names in another encoding than UTF-8"):
        opened(path)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.rar", b"Rar!\x1a\x07\0", "an archive of RAR, which is not read; unpack it"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c..", "an archive of 7z"),
        ("a.zip", b"<html>404</html>", "is called an archive and is none"),
        ("a.tar.gz", gzip.compress(b"path,label\n" * 100, mtime=0), "is damaged or cut short"),
        ("a.zip", b"", "is called an archive and is none"),
        ("a.zip", b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`, which brings it"),
        ("a.tar", bytes(10240), "holds no files"),
    ],
)
def test_what_is_no_archive_that_is_read_is_refused_by_name(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=said):
        read(tmp_path / name)


def test_backslashes_divide_the_paths_of_a_zip_from_windows_and_of_no_other(tmp_path: Path) -> None:
    for system, expected in ((0, ["cat/1.png"]), (3, ["cat\\1.png"])):
        info = zipfile.ZipInfo("cat\\1.png")
        info.create_system = system
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            file.writestr(info, b"one")
        assert opened(tmp_path / "a.zip").files == expected


def test_a_table_in_a_zip_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", FILES | {"manifest.csv": bytes(10**8)})
    with pytest.raises(DataError, match=r"manifest.csv unpacks to 100000000 bytes from \d+, as no table does"):
        read(path)


def test_a_spreadsheet_is_still_a_table(tmp_path: Path) -> None:
    zipped(tmp_path / "a.xlsx", {"[Content_Types].xml": b"<x/>", "xl/a.xml": b"<x/>"})
    with pytest.raises(DataError, match=r"a.xlsx is a spreadsheet or an archive, and no text; save it as CSV"):
        read(tmp_path / "a.xlsx")


def test_one_folder_around_all_is_left_out_and_said_unless_it_is_a_split_or_a_class(tmp_path: Path) -> None:
    inside = {f"pets/{name}": data for name, data in FILES.items()}
    listed = read(zipped(tmp_path / "a.zip", inside | {"__MACOSX/x": b"", ".DS_Store": b""}))
    assert listed.table["path"].tolist() == sorted(FILES)
    assert listed.notes == [f"{tmp_path / 'a.zip'}: all files are in the folder pets, which is left out of their paths"]
    split = read(zipped(tmp_path / "b.zip", {f"train/{name}": data for name, data in FILES.items()}))
    assert split.table["path"].tolist() == [f"train/{name}" for name in sorted(FILES)]
    assert set(split.table["split"]) == {"train"}
    with pytest.raises(DataError, match=r"c.zip holds no class folders with files in them"):
        read(zipped(tmp_path / "c.zip", {"cat/1.png": b"1", "cat/2.png": b"2"}))


def test_an_archive_lists_what_the_folder_of_its_files_lists(tmp_path: Path) -> None:
    files = {
        "train/cat/1.png": b"1", "train/cat/1.xml": b"", "train/dog/2.png": b"2", "valid/cat/3.png": b"3",
        "valid/dog/4.png": b"4", "test/5.png": b"5", "README.md": b"", "6.png": b"6",
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(data)
    plain, packed = read(tmp_path / "set"), read(zipped(tmp_path / "set.zip", files))
    assert packed.table.equals(plain.table)
    assert [note.replace(".zip", "") for note in packed.notes] == plain.notes


def test_labels_in_git_go_with_an_archive_of_class_folders(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", FILES)
    (tmp_path / "labels.csv").write_text("".join(["path,label\n", *(f"{name},{name[-5]}\n" for name in FILES)]))
    listed = listing.read(path, tmp_path / "labels.csv")
    assert listed.table["label"].tolist() == ["1", "2", "3", "ö"]
    assert listed.source is listed.archive
    assert not listing.says_its_labels(path)


def test_labels_of_a_competition_go_with_its_zip_of_one_flat_folder(tmp_path: Path) -> None:
    path = zipped(tmp_path / "train.zip", {f"train/{number}.jpg": b"%d" % number for number in range(4)})
    (tmp_path / "train.csv").write_text("id,breed\n" + "".join(f"{number},{'ab'[number % 2]}\n" for number in range(4)))
    how = DataParams(raw=str(path), columns={"path": "id", "label": "breed"})
    listed = listing.read(path, tmp_path / "train.csv", how)
    assert listed.table["path"].tolist() == [f"{number}.jpg" for number in range(4)]
    assert len(listed.notes) == 2


def test_a_folder_that_holds_an_archive_is_refused_with_its_path(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", FILES)
    with pytest.raises(DataError, match=rf"no class folders with files in them; set data.raw to {path}"):
        read(tmp_path)


def test_an_archive_that_changes_while_it_is_read_gives_a_reason(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", FILES)
    archive = opened(path)
    path.write_bytes(b"PK")
    with pytest.raises(UnusableError, match="its header is none"):
        archive.read("cat/1.png", 1)
    path.unlink()
    with pytest.raises(UnusableError, match=r"cannot be read: .*a.zip: No such file"):
        archive.read("cat/1.png", 1)


def test_what_is_unpacked_goes_with_its_archive_and_what_the_killed_left_goes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THAW_SCRATCH", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "unpacked-999999999-x").write_bytes(b"old")
    archive = opened(tarred(tmp_path / "a.tar.gz", FILES, mode="w:gz"))
    assert len(list((tmp_path / "scratch").iterdir())) == 1
    below = archive.below("cat")
    del archive
    assert below.read("1.png", 1) == b"one"
    del below
    assert not list((tmp_path / "scratch").iterdir())


def test_another_process_reads_the_same_and_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAW_SCRATCH", str(tmp_path / "scratch"))
    archive = opened(tarred(tmp_path / "a.tar.gz", FILES, mode="w:gz"))
    copy = pickle.loads(pickle.dumps(archive))
    assert {path: copy.read(path, 1) for path in copy.files} == FILES
    del copy
    assert archive.read("cat/1.png", 1) == b"one"


def test_a_part_that_nothing_holds_has_no_bytes(tmp_path: Path) -> None:
    archive = Archive(tmp_path, [], {"a/b": Part(refused="why")})
    with pytest.raises(UnusableError, match="no such file"):
        archive.read("a", 1)
    with pytest.raises(DataError, match="a/b cannot be read: why"):
        archive.content("a/b")
    assert archive.has("a")
    assert not archive.has("b")
    assert sources.open_source(zipped(tmp_path / "a.zip", FILES), DataParams(raw="x")).manifest is None

"""`thaw check --data` says what `prepare` would, and keeps nothing."""

import shutil
from pathlib import Path

import pytest

from stages import prepare as stage
from tests.faults.conftest import pets
from tests.faults.preparing import change, save
from tests.unit.test_commands import Command, command
from thaw.pipeline import scratch

__all__ = ["command", "pets"]


def _with_decisions(folder: Path) -> None:
    """Give images something to decide about: damage, a foreign file, an exact copy, oblong images and a rare class."""
    raw = folder / "raw"
    (raw / "cat" / "torn.png").write_bytes((raw / "cat" / "00.png").read_bytes()[:60])
    (raw / "cat" / "notes.xml").write_text("<xml/>")
    shutil.copy(raw / "dog" / "03.png", raw / "dog" / "copy.png")
    save(raw / "owl" / "00.png", seed=900)


def _with_two_labels(folder: Path) -> None:
    shutil.copy(folder / "raw" / "dog" / "03.png", folder / "raw" / "cat" / "other.png")


def _without_images(folder: Path) -> None:
    for path in (folder / "raw").rglob("*.png"):
        path.write_bytes(b"")


def _with_rare_classes(folder: Path) -> None:
    for label in ("owl", "ant", "bee"):
        save(folder / "raw" / label / "00.png", seed=ord(label[0]))
    change(folder, "data", rare="error")


def _without_the_folder(folder: Path) -> None:
    change(folder, "data", raw="elsewhere", labels="elsewhere")


def _prepared(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Run the stage, and return what it printed about the images and its error."""
    monkeypatch.chdir(folder)
    try:
        stage.main()
    except Exception as error:  # noqa: BLE001 - any is compared with what the command says
        capsys.readouterr()
        return "", str(error)
    return capsys.readouterr().out, ""


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_relative_to(scratch.folder()))


@pytest.mark.usefixtures("scratch")
@pytest.mark.parametrize(
    "change_data",
    [
        None,
        _with_decisions,
        _with_two_labels,
        _without_images,
        _with_rare_classes,
        _without_the_folder,
    ],
)
def test_check_of_the_data_says_what_prepare_says(
    pets: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change_data: object,
) -> None:
    if callable(change_data):
        change_data(pets)
    printed, error = _prepared(pets, capsys, monkeypatch)
    shutil.rmtree(pets / "data" / "prepared", ignore_errors=True)
    before = _files(pets)
    code, out, err = command("check", "--data")
    assert out.partition("\n")[0].startswith("params.yaml is valid: ")
    assert out.partition("\n")[2] == printed
    assert (code, err.strip()) == (1 if error else 0, error)
    assert bool(printed) != bool(error)
    assert _files(pets) == before
    assert not list(scratch.folder().glob("check-*"))


@pytest.mark.usefixtures("scratch")
def test_check_without_data_does_not_look_at_images(
    pets: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(pets)
    _without_images(pets)
    code, out, _ = command("check")
    assert (code, len(out.splitlines())) == (0, 1)

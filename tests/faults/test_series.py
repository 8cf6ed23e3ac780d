"""Images that come in series, through the real stage: asked about on evidence, kept together as asked."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.faults.preparing import audit, change, prepare, refused, samples
from thaw.pipeline import artifacts


def film(pets: Path, name: str, videos: int = 6, frames: int = 8) -> None:
    """Replace the images by videos, of which nothing but the video tells the class: each is a picture that drifts.

    `name` says where a frame lies, by class, video and frame.
    """
    for path in (pets / "raw").rglob("*.png"):
        path.unlink()
    random = np.random.default_rng(0)
    for video in range(2 * videos):
        base = np.kron(random.integers(0, 256, (6, 6)), np.ones((8, 8)))
        for frame in range(frames):
            pixels = np.roll(base, frame, axis=1) + random.integers(-9, 10, base.shape)
            path = pets / "raw" / name.format(label=("cat", "dog")[video % 2], video=video, frame=frame)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


IN_FOLDERS, BY_NAME = "{label}/video{video:02d}/{frame}.png", "{label}/v{video:02d}_{frame}.png"


def test_frames_in_sub_folders_stop_until_it_is_said_what_they_are(pets: Path) -> None:
    film(pets, IN_FOLDERS)
    line = refused(pets)
    assert re.match(
        r"(9\d|100)% of 96 images look most like another one of their own sub-folder, where 15% would", line
    )
    assert line.endswith("set data.group: folder; if each stands for itself, data.group: none")
    with Image.open(pets / ".thaw" / "neighbours.png") as sheet:
        assert sheet.size[1] == 256
    change(pets, "data", group="none")
    assert prepare(pets)[0] == 0
    assert set(samples(pets)["group"].fillna("")) == {""}


@pytest.mark.parametrize(
    ("name", "group"), [(IN_FOLDERS, "folder"), (BY_NAME, r"filename:(v\d+)_"), (BY_NAME, r"filename:v\d+")]
)
def test_frames_stay_together_as_asked(pets: Path, name: str, group: str) -> None:
    film(pets, name)
    change(pets, "data", group=group)
    assert prepare(pets)[0] == 0
    table = samples(pets)
    assert table["group"].nunique() == 12
    assert table.groupby("group")["split"].nunique().max() == 1
    assert table.groupby("group")["fold"].nunique().max() == 1
    assert f"12 groups of images that stay together (data.group: {group})" in audit(pets).decisions


def test_frames_that_only_their_names_show_are_pointed_out(pets: Path) -> None:
    film(pets, BY_NAME)
    assert prepare(pets)[0] == 0
    assert any("look most like the one before or after them by name" in line for line in audit(pets).decisions)


def test_sub_folders_of_images_that_are_not_alike_need_no_word(pets: Path) -> None:
    for path in sorted((pets / "raw").rglob("*.png")):
        target = path.parent / f"part{int(path.stem) % 4}" / path.name
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    assert prepare(pets)[0] == 0
    assert not any("look most like" in line for line in audit(pets).decisions)


@pytest.mark.parametrize(
    ("group", "line"),
    [
        ("filename:x(", "data.group is filename:x(, which is no pattern: missing ), unterminated subpattern"),
        (r"filename:^cat/0", r"data.group is filename:^cat/0, which cat/10.png and 29 more does not fit; widen the"),
    ],
)
def test_a_pattern_that_does_not_serve_is_refused(pets: Path, group: str, line: str) -> None:
    change(pets, "data", group=group)
    assert refused(pets).startswith(line)


def test_groups_that_are_said_twice_are_refused(pets: Path) -> None:
    rows = [f"{label}/{i:02d}.png,{label},g{label}{i // 4}" for label in ("cat", "dog") for i in range(20)]
    (pets / "raw" / "list.csv").write_text("\n".join(["path,label,group", *rows]))
    change(pets, "data", raw="raw/list.csv", labels="raw/list.csv", group="folder")
    assert refused(pets) == ("data.group is folder, and the table of images has groups as well; leave one of them out")


def test_sub_folders_are_groups_within_given_splits_too(pets: Path) -> None:
    film(pets, "train/" + IN_FOLDERS)
    for label in ("cat", "dog"):
        artifacts.remove(pets / "raw" / label)
    change(pets, "data", group="folder")
    assert prepare(pets)[0] == 0
    assert samples(pets).groupby("group")["split"].nunique().tolist() == [1] * 12

"""Classes of very few images, and groups that a table gives, through the real stage."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.faults.preparing import change, prepare, refused, samples
from tests.faults.test_series import IN_FOLDERS, film

SIDE_PX = 48


def shape(random: np.random.Generator, kind: int) -> Image.Image:
    """Return a disc, a box, a triangle or a cross somewhere in a noisy square."""
    base = random.integers(40, 120, 3) + random.integers(-20, 20, (SIDE_PX, SIDE_PX, 3))
    image = Image.fromarray(base.clip(0, 255).astype(np.uint8))
    pen, radius = ImageDraw.Draw(image), int(SIDE_PX * random.uniform(0.18, 0.3))
    x, y = (int(place) for place in random.integers(radius, SIDE_PX - radius, 2))
    red, green, blue = (int(part) for part in random.integers(150, 255, 3))
    box, fill = (x - radius, y - radius, x + radius, y + radius), (red, green, blue)
    if kind == 0:
        pen.ellipse(box, fill=fill)
    elif kind == 1:
        pen.rectangle(box, fill=fill)
    elif kind == 2:
        pen.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=fill)
    else:
        pen.line((x - radius, y, x + radius, y), fill=fill, width=radius // 3)
        pen.line((x, y - radius, x, y + radius), fill=fill, width=radius // 3)
    return image


def put(pets: Path, counts: dict[str, int]) -> None:
    """Replace the images by so many shapes of each class."""
    for path in (pets / "raw").rglob("*.png"):
        path.unlink()
    for folder in (pets / "raw").iterdir():
        folder.rmdir()
    random = np.random.default_rng(0)
    for number, (label, count) in enumerate(counts.items()):
        (pets / "raw" / label).mkdir()
        for index in range(count):
            shape(random, number % 4).save(pets / "raw" / label / f"{index}.png")


def test_twelve_images_beside_six_hundred_are_trained_on_and_tested_in_their_share(pets: Path) -> None:
    put(pets, {"good": 600, "defect": 12})
    change(pets, "prepare", near_copies="warn")
    assert prepare(pets)[0] == 0
    table = samples(pets)
    counts = table[table["label"] == "defect"]["split"].value_counts()
    assert set(counts.index) == {"train", "test"}
    assert counts.sum() == 12
    assert counts["train"] >= 6
    assert len(table) == 612


def test_a_long_tail_of_classes_of_one_and_two_images_is_trained_on_and_named(
    pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tail = {f"species_{c:02}": 1 if c % 3 == 0 and c < 36 else 2 if c % 8 == 1 else 6 for c in range(40)}
    put(pets, tail)
    change(pets, "prepare", near_copies="warn")
    assert prepare(pets)[0] == 0
    table = samples(pets)
    assert len(table) == sum(tail.values())
    single = {name for name, count in tail.items() if count == 1}
    assert set(table[table["label"].isin(single)]["split"]) == {"train"}
    of_others = table[~table["label"].isin(single)].groupby("label")["split"].nunique()
    assert of_others.to_dict() == dict.fromkeys(tail.keys() - single, 2)
    said = capsys.readouterr().out
    assert "class 'species_00' has 1 independent image or group: it is trained on and never tested" in said
    assert "class 'species_01' has 2 independent images or groups: it is trained on and never validated on" in said
    change(pets, "data", rare="error")
    code, line = prepare(pets)
    assert code == 1
    assert all(name in line for name in single), line


@pytest.mark.parametrize(("classes", "images"), [(30, 3), (6, 5)])
def test_classes_of_three_and_five_images_are_trained_on_and_tested(pets: Path, classes: int, images: int) -> None:
    put(pets, {f"species_{c:02}": images for c in range(classes)})
    change(pets, "prepare", near_copies="warn")
    assert prepare(pets)[0] == 0
    table = samples(pets)
    assert (table.groupby("label")["split"].nunique() == 2).all()
    assert len(table) == classes * images


def test_videos_that_a_table_names_as_groups_stay_together_and_are_not_asked_about(pets: Path) -> None:
    film(pets, IN_FOLDERS)
    assert refused(pets).endswith("set data.group: folder; if each stands for itself, data.group: none")
    raw = pets / "raw"
    rows = [(path.relative_to(raw).as_posix(), path.parts[-3], path.parts[-2]) for path in sorted(raw.rglob("*.png"))]
    text = "".join(f"{','.join(row)}\n" for row in [("path", "label", "group"), *rows])
    (raw / "manifest.csv").write_text(text, encoding="utf-8")
    assert prepare(pets)[0] == 0
    table = samples(pets)
    assert len(table) == 96
    assert dict(zip(table["path"], table["group"], strict=True)) == {path: group for path, _, group in rows}
    assert table.groupby("group")[["split", "fold"]].nunique().max().tolist() == [1, 1]
    assert set(table["split"]) == {"train", "test"}

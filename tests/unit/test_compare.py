"""Champion and challenger on made-up answers: words, gate, and which images the two are compared on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.compared import Told, tree, write_export, write_run
from thaw.compare import text
from thaw.compare.answers import Answers
from thaw.compare.command import compare_trees
from thaw.compare.outcome import Outcome, gate_of
from thaw.config.reader import load_params
from thaw.config.schema import CompareParams, Params
from thaw.errors import ArtifactError, DataError
from thaw.evaluation import test_set
from thaw.evaluation.calibration import probabilities
from thaw.evaluation.intervals import paired_proportion
from thaw.evaluation.verdict import change_of
from thaw.pipeline import artifacts, tables

BOTH = ("dark", "light")
THREE = ("dark", "grey", "light")


@pytest.fixture(scope="module")
def shipped(root: Path) -> Params:
    return load_params(root / "params.yaml")


def settings(shipped: Params, metric: str = "accuracy", margin: float = 0.0) -> Params:
    return shipped.model_copy(
        update={
            "select": shipped.select.model_copy(update={"metric": metric}),
            "compare": CompareParams(margin=margin),
        }
    )


def told(numbers: Sequence[int], wrong: Sequence[int] = (), **changes: Any) -> list[Told]:
    """Return images that are dark and light in turn, answered wrongly on some."""
    return [Told(number, BOTH[number % 2], BOTH[(number + (number in wrong)) % 2], **changes) for number in numbers]


def compared(
    tmp_path: Path,
    params: Params,
    champion: Sequence[Told],
    challenger: Sequence[Told],
    classes: tuple[Sequence[str], Sequence[str]] = (BOTH, BOTH),
) -> Outcome:
    """Return what is found of two runs; the champion has an exported model if one is in the folder `old`."""
    old, new = (
        write_run(tmp_path / name, images, own)
        for name, images, own in zip(("old", "new"), (champion, challenger), classes, strict=True)
    )
    return compare_trees(tree(old, "main"), tree(new, "workspace"), params)


@pytest.mark.parametrize(
    ("champion", "challenger", "margin", "word", "passed"),
    [
        (range(20), range(5), 0.0, "better", True),
        (range(5), range(20), 0.0, "worse", False),
        (range(5), range(20), 0.05, "worse", False),
        (range(5), range(20), 0.1, "worse", True),
        (range(10), range(12), 0.0, "not_shown", True),
        (range(10), range(10), 0.0, "not_shown", True),
    ],
)
def test_the_gate_fails_where_the_whole_interval_is_worse_than_the_margin(
    tmp_path: Path, shipped: Params, champion: range, challenger: range, margin: float, word: str, passed: bool
) -> None:
    images = range(100)
    found = compared(tmp_path, settings(shipped, margin=margin), told(images, champion), told(images, challenger))
    assert (found.word, found.gate.passed, found.gate.margin) == (word, passed, margin)
    assert found.change["accuracy"] == pytest.approx((len(champion) - len(challenger)) / 100)
    assert found.images.compared == 100
    assert found.notes == []


@pytest.mark.parametrize(
    ("loss", "margin", "least", "most"), [(0.0, 0.0, 0.0, 0.03), (0.02, 0.02, 0.0, 0.03), (0.1, 0.0, 0.98, 1.0)]
)
def test_the_gate_stops_few_models_that_are_as_good_and_nearly_all_that_are_much_worse(
    loss: float, margin: float, least: float, most: float
) -> None:
    random, units = np.random.default_rng(0), np.arange(200)
    stopped = 0
    for _ in range(1000):  # a tenth of the answers differ
        drawn = random.random(200)
        gained, lost = drawn < (0.1 - loss) / 2, (drawn >= (0.1 - loss) / 2) & (drawn < 0.1)
        low, high = paired_proportion(~lost, ~gained, units)
        change = {"accuracy": 0.0, "accuracy_low": low, "accuracy_high": high}
        stopped += not gate_of(change, "accuracy", margin).passed
    assert least <= stopped / 1000 <= most


@pytest.mark.parametrize(
    ("metric", "margin", "passed"),
    [("log_loss", 0.0, False), ("log_loss", 0.1, False), ("log_loss", 0.5, True), ("balanced_accuracy", 0.0, False)],
)
def test_the_gate_goes_by_the_metric_of_select_and_its_better_side(
    tmp_path: Path, shipped: Params, metric: str, margin: float, passed: bool
) -> None:
    images = range(100)
    params = settings(shipped, metric, margin)
    found = compared(tmp_path, params, told(images, range(5)), told(images, range(25), probability=0.9))
    assert (found.metric, found.word, found.gate.passed) == (metric, "worse", passed)
    assert set(found.champion.metrics) == {"accuracy", "log_loss", metric}


def test_images_are_known_by_their_content_and_those_without_an_answer_of_the_champion_are_left_out(
    tmp_path: Path, shipped: Params
) -> None:
    relabelled = [Told(number, BOTH[1 - number % 2], BOTH[number % 2]) for number in range(5)]
    challenger = [*relabelled, *told(range(5, 38)), *told(range(40, 44))]
    found = compared(tmp_path, settings(shipped), told(range(40)), challenger)
    counts = found.images
    assert (counts.common, counts.relabelled, counts.new, counts.gone) == (38, 5, 4, 2)
    assert (counts.compared, counts.left_out, counts.asked, counts.seen) == (38, 4, 0, 0)
    assert found.champion.metrics["accuracy"] == pytest.approx(33 / 38)
    assert found.champion.metrics["log_loss"] == pytest.approx(-(33 * np.log(0.8) + 5 * np.log(0.2)) / 38)
    assert "; ".join(found.notes) == (
        "new or relabelled images are left out (4), since the champion's models/export cannot answer: "
        "models/export/manifest.json of main is nowhere"
    )


def test_the_exported_model_of_the_champion_answers_for_new_images(tmp_path: Path, shipped: Params) -> None:
    new = [Told(200, "light", "light"), Told(250, "dark", "dark", 0.6), Told(51, "dark", "dark", 0.7)]
    write_export(tmp_path / "old")
    found = compared(tmp_path, settings(shipped), told(range(20)), [*told(range(20)), *new])
    assert (found.images.new, found.images.asked, found.images.compared) == (3, 3, 23)
    assert found.champion.metrics["accuracy"] == pytest.approx(22 / 23)
    losses = 20 * np.log(0.8) + np.log(200 / 255) + np.log(5 / 255) + np.log(204 / 255)
    assert found.champion.metrics["log_loss"] == pytest.approx(-losses / 23)
    assert found.notes == []


def test_where_no_image_is_common_the_champion_answers_for_all(tmp_path: Path, shipped: Params) -> None:
    write_export(tmp_path / "old")
    challenger = [Told(grey, BOTH[int(grey > 127)], "dark") for grey in range(100, 160)]
    found = compared(tmp_path, settings(shipped), told(range(20)), challenger)
    assert (found.images.common, found.images.compared, found.images.gone) == (0, 60, 20)
    assert found.champion.metrics["accuracy"] == 1
    assert (found.word, found.gate.passed) == ("worse", False)


def test_without_a_common_image_and_without_a_model_one_line_says_what_to_do(tmp_path: Path, shipped: Params) -> None:
    with pytest.raises(DataError, match=r"^main \(c0ffee0\) and workspace cannot be compared: of the 20 .*`dvc push`"):
        compared(tmp_path, settings(shipped), told(range(20)), told(range(20, 40)))


def test_the_champion_is_not_asked_about_what_it_has_learned_from(tmp_path: Path, shipped: Params) -> None:
    learned = [Told(200, "light", "light", split="train"), Told(201, "light", "light", split="val", group="roof")]
    now = [Told(200, "light", "light"), Told(202, "light", "light", group="roof"), Told(203, "light", "light")]
    write_export(tmp_path / "old")
    found = compared(tmp_path, settings(shipped), [*told(range(20)), *learned], [*told(range(20)), *now])
    assert (found.images.new, found.images.seen, found.images.asked, found.images.compared) == (3, 2, 1, 21)


def test_new_images_are_left_out_if_nothing_says_what_the_champion_has_learned_from(
    tmp_path: Path, shipped: Params
) -> None:
    write_export(tmp_path / "old")
    old = write_run(tmp_path / "old", told(range(20)))
    (old / "data/prepared/samples.csv").unlink()
    new = write_run(tmp_path / "new", told(range(22)))
    found = compare_trees(tree(old, "main"), tree(new, "workspace"), settings(shipped))
    assert (found.images.new, found.images.seen, found.images.compared) == (2, 2, 20)
    assert "; ".join(found.notes) == (
        "new images are left out, since the champion may have learned from them: data/prepared/samples.csv of main is "
        "nowhere"
    )


@pytest.mark.parametrize("exported", [False, True])
def test_the_table_does_not_hold_the_probability_of_a_new_label_of_more_than_two_classes(
    tmp_path: Path, shipped: Params, exported: bool
) -> None:
    before = [*told(range(40)), Told(200, "dark", "light", 0.6, 0.1), Told(90, "dark", "grey", 0.6, 0.1)]
    now = [*told(range(40)), Told(200, "light", "light"), Told(90, "light", "light")]
    if exported:
        write_export(tmp_path / "old", THREE)
    found = compared(tmp_path, settings(shipped), before, now, (THREE, THREE))
    assert (found.images.common, found.images.relabelled) == (42, 2)
    assert (found.images.compared, found.images.asked) == ((42, 2) if exported else (40, 0))
    right = 41 / 42 if exported else 1
    assert found.champion.metrics["accuracy"] == pytest.approx(right)


def test_an_answer_for_a_class_that_the_champion_does_not_know_is_wrong_and_losses_are_not_compared(
    tmp_path: Path, shipped: Params
) -> None:
    write_export(tmp_path / "old")
    challenger = [*told(range(20)), *(Told(grey, "grey", "grey") for grey in range(120, 130))]
    found = compared(tmp_path, settings(shipped, "log_loss"), told(range(20)), challenger, (BOTH, THREE))
    assert found.metric == "accuracy"
    assert found.champion.metrics == {"accuracy": pytest.approx(20 / 30)}
    assert not [name for name in found.change if name.startswith("log_loss")]
    assert found.notes == [
        "images of classes that the champion does not know (10 of grey) count as wrong; log losses cannot be compared"
    ]


def test_an_image_that_is_no_longer_what_was_prepared_is_not_shown_to_the_champion(
    tmp_path: Path, shipped: Params
) -> None:
    write_export(tmp_path / "old")
    old = write_run(tmp_path / "old", told(range(20)))
    new = write_run(tmp_path / "new", told(range(22)))
    (new / "raw" / "21.png").write_bytes((new / "raw" / "20.png").read_bytes())
    found = compare_trees(tree(old, "main"), tree(new, "workspace"), settings(shipped))
    assert (found.images.compared, found.images.left_out) == (20, 2)
    assert "raw/21.png of workspace has changed since it was prepared" in found.notes[0]


@pytest.mark.parametrize("outside", ["absolute", "beside"])
def test_images_outside_of_the_project_are_read_and_left_as_they_are(
    tmp_path: Path, shipped: Params, outside: str
) -> None:
    write_export(tmp_path / "old")
    old, new = write_run(tmp_path / "old", told(range(20))), write_run(tmp_path / "new", told(range(22)))
    photos = (new / "raw").rename(tmp_path / "photos")
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    raw = str(photos) if outside == "absolute" else "../photos"
    (new / "params.yaml").write_text(f"data: {{raw: {raw}}}\n", encoding="utf-8")
    found = compare_trees(tree(old, "main"), tree(new, "workspace"), settings(shipped))
    assert (found.images.asked, found.images.compared) == (2, 22)
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before


def test_images_that_a_csv_lists_lie_beside_it(tmp_path: Path, shipped: Params) -> None:
    write_export(tmp_path / "old")
    old, new = write_run(tmp_path / "old", told(range(20))), write_run(tmp_path / "new", told(range(22)))
    (new / "raw" / "list.csv").write_text("path,label\n", encoding="utf-8")
    (new / "params.yaml").write_text("data: {raw: raw/list.csv}\n", encoding="utf-8")
    assert compare_trees(tree(old, "main"), tree(new, "workspace"), settings(shipped)).images.asked == 2


def test_an_image_that_the_champion_cannot_use_is_left_out(tmp_path: Path, shipped: Params) -> None:
    write_export(tmp_path / "old")
    old = write_run(tmp_path / "old", told(range(20)))
    new = write_run(tmp_path / "new", told(range(22)))
    (new / "raw" / "21.png").write_bytes(b"no image")
    path = new / "data/prepared/samples.csv"
    samples = tables.read(path)
    samples.loc[21, "sha256"] = artifacts.sha256_of_bytes(b"no image")
    tables.write(path, samples)
    found = compare_trees(tree(old, "main"), tree(new, "workspace"), settings(shipped))
    assert (found.images.asked, found.images.compared, found.images.left_out) == (1, 21, 1)
    assert found.notes[0].startswith("images that the champion cannot use are left out (1): ")


def test_answers_and_samples_of_two_runs_are_refused(tmp_path: Path, shipped: Params) -> None:
    old = write_run(tmp_path / "old", told(range(20)))
    new = write_run(tmp_path / "new", told(range(22)))
    tables.write(new / "data/prepared/samples.csv", tables.read(new / "data/prepared/samples.csv").iloc[:20])
    with pytest.raises(ArtifactError, match=r"they are of two runs, so run `dvc repro` there$"):
        compare_trees(tree(old, "main"), tree(new, "workspace"), settings(shipped))


@pytest.mark.parametrize(
    ("num_classes", "metric"),
    [(2, "roc_auc"), *((number, name) for number in (2, 5) for name in ("accuracy", "balanced_accuracy", "macro_f1"))],
)
def test_the_table_gives_the_figures_that_all_probabilities_give(num_classes: int, metric: Any) -> None:
    random = np.random.default_rng(num_classes)
    names = [f"class {index}" for index in range(num_classes)]
    labels = random.integers(num_classes, size=60)
    given = [probabilities(random.normal(size=(60, num_classes)) + 2 * np.eye(num_classes)[labels]) for _ in range(2)]
    samples = pd.DataFrame({"id": [f"{row:02}" for row in range(60)], "path": "", "label": np.array(names)[labels]})
    read = [
        Answers(
            tree(Path(), "main"),
            test_set.predictions(samples, labels, own, own, names).set_index("id"),
            names,
        ).probabilities(samples["id"].tolist())
        for own in given
    ]
    how: dict[str, Any] = {"groups": None, "metric": metric, "draws": 100, "seed": 0}
    assert change_of(labels, *read, **how) == pytest.approx(change_of(labels, *given, **how))


@pytest.mark.parametrize("exported", [False, True])
def test_the_roc_auc_of_three_classes_is_that_of_the_exported_models(
    tmp_path: Path, shipped: Params, exported: bool
) -> None:
    images = [Told(grey, THREE[grey // 60], THREE[grey // 60]) for grey in range(0, 180, 3)]
    if exported:
        write_export(tmp_path / "old", THREE)
        write_export(tmp_path / "new", THREE)
    found = compared(tmp_path, settings(shipped, "roc_auc"), images, images, (THREE, THREE))
    assert found.metric == ("roc_auc" if exported else "accuracy")
    assert found.images.compared == 60
    if exported:
        assert found.images.asked == 60
        assert found.champion.metrics["roc_auc"] == pytest.approx(5 / 6)  # grey is never told from the others
    else:
        assert found.notes[0].startswith("accuracy decides, since ROC AUC needs the probabilities of all classes: ")


def test_images_of_a_group_are_drawn_whole_and_have_no_p_of_mcnemar(tmp_path: Path, shipped: Params) -> None:
    alone, grouped = (
        compared(
            tmp_path / name,
            settings(shipped),
            told(range(60), range(20)),
            [
                replace(image, group=f"{number // 6}" if name == "grouped" else "")
                for number, image in enumerate(told(range(60), range(30, 36)))
            ],
        )
        for name in ("alone", "grouped")
    )
    width = {found.word: found.change["accuracy_high"] - found.change["accuracy_low"] for found in (alone, grouped)}
    assert "mcnemar_p" in alone.change
    assert "mcnemar_p" not in grouped.change
    assert width["not_shown"] > width["better"]
    assert "no p of McNemar's test, since images come in groups" in text.in_plain(grouped)


def test_markdown_is_a_table_and_a_list_of_at_most_twelve_lines(tmp_path: Path, shipped: Params) -> None:
    write_export(tmp_path / "old")
    challenger = [*told(range(40), range(4)), Told(200, "light", "light"), Told(250, "grey", "grey")]
    params = settings(shipped, "balanced_accuracy", 0.02)
    found = compared(tmp_path, params, told(range(42)), challenger, (BOTH, THREE))
    lines = text.in_markdown(found).splitlines()
    assert len(lines) <= 12
    assert lines[0] == (
        "**The challenger, workspace, is not shown to differ from the champion, main (c0ffee0), in balanced accuracy**"
    )
    assert lines[2] == "| 42 test images | champion | challenger | change | 95 % interval |"
    assert {line.count("|") for line in lines[2:6]} == {6}
    assert lines[-3] == (
        "- Test images: 40 common (0 relabelled), 2 new, 2 gone; the champion's exported model answered 2 of them"
    )
    assert lines[-2].startswith("- Note: images of classes that the champion does not know (1 of grey)")
    assert lines[-1] == (
        "- Gate: passed; it fails if the whole interval of the change in balanced accuracy lies below -0.020 "
        "(compare.margin)"
    )


def test_plain_text_has_the_same_figures_in_columns(tmp_path: Path, shipped: Params) -> None:
    found = compared(tmp_path, settings(shipped), told(range(100), range(5)), told(range(100), range(20)))
    lines = text.in_plain(found).splitlines()
    assert lines[0] == "The challenger, workspace, is worse than the champion, main (c0ffee0), in accuracy"
    assert lines[3].split()[:4] == ["accuracy", "0.950", "0.800", "-0.150"]
    assert lines[3].index("0.950") == lines[2].index("champion")
    assert lines[-1].startswith("Gate: failed; ")

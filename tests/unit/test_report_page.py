"""The page: it agrees with its sources, holds to its size, keeps names as text, and is the same each time."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests import reported, tiny
from thaw.errors import ArtifactError
from thaw.pipeline import artifacts, facts, tables
from thaw.pipeline.model_facts import ModelFacts
from thaw.pipeline.report_facts import Metrics
from thaw.report import charts, confusion, figures, gallery, pictures, text
from thaw.report.sources import Answers
from thaw.training import model

BYTES = 8 * 2**20


class Text(HTMLParser):
    """The tags of a page, and the text of each element with an id."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._silent = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._silent += tag in {"style", "script"}
        self.words += [" "] if tag in {"dd", "dt", "li", "p", "td", "th"} else []

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in {"style", "script"}

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reported.build(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return reported.render(root)


def viewer_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="viewer-data">(.*?)</script>', page, re.DOTALL)
    assert found
    viewer: dict[str, Any] = json.loads(found[1])
    return viewer


def test_contradictory_labels_of_near_copies_stand_beside_the_verdict_and_under_their_pictures(page: str) -> None:
    assert "1 group of near copies has more than one label" in Text(page.partition('<section id="data">')[0]).text
    group = page.partition("images that look alike</summary>")[2].partition("</li>")[0]
    assert "contradictory labels</span>" in group
    assert group.count("<img") == 3
    assert len(set(re.findall(r"<figcaption><b>(.*?)</b>", group))) == 2
    nothing = tiny.audit()
    assert text.contradictions(nothing) == ""


def test_what_prepare_decided_stands_beside_the_images(page: str) -> None:
    data = page.partition('<section id="data">')[2].partition("</section>")[0]
    assert f"What was decided on the way {reported.DECISION}" in " ".join(Text(data).text.split())


def test_the_verdict_is_that_of_the_test_images_and_the_choice_that_of_selection(root: Path, page: str) -> None:
    text, metrics = Text(page).text, facts.read(root / "reports" / "metrics.json", Metrics)
    test = metrics.test
    assert metrics.verdict.sentence in text
    assert f"What the choice was made on, no proof: {reported.VERDICT}" in text
    assert text.index(metrics.verdict.sentence) < text.index(reported.VERDICT)
    assert (
        f"No choice has seen these {test['n']} test images. The accuracy of top there is {test['accuracy']:.3f} (95 % "
        f"interval {test['accuracy_low']:.3f} to {test['accuracy_high']:.3f}); always naming the most frequent class"
    ) in text
    assert "−0.072−0.116 to −0.029" in text, "one above the other"
    assert "< 0.001" in text, "McNemar's p"
    assert "no interval" in text, "of the calibration error"


@pytest.mark.parametrize("verdict", ["No phase was trained; the head alone answers 0.8.", f"{'x' * 130}: y."])
def test_a_verdict_without_a_short_beginning_is_shown_whole(root: Path, verdict: str) -> None:
    sources = reported.read(root)
    metrics = sources.metrics.model_copy(update={"verdict": tiny.verdict(verdict)})
    told = text.verdict(replace(sources, metrics=metrics))
    assert told.headline + told.colon + told.rest == verdict


def test_reports_of_two_runs_are_refused(tmp_path: Path) -> None:
    root = reported.build(tmp_path)
    facts.write(root / "reports" / "selection.json", reported.selection(chosen="head"))
    with pytest.raises(
        ArtifactError, match=r"selection.json chose head, reports/metrics.json tested top .* run `dvc re"
    ):
        reported.read(root)
    facts.write(root / "reports" / "selection.json", reported.selection())
    metrics = facts.read(root / "reports" / "metrics.json", Metrics)
    choice = {"phase": "head", "temperature": 1.0}
    facts.write(root / "reports" / "metrics.json", tiny.changed(metrics, final=choice))
    with pytest.raises(ArtifactError, match=r"metrics.json tested head and models/final holds top"):
        reported.read(root)
    artifacts.write_json(root / "reports" / "selection.json", {"chosen": "top"})
    with pytest.raises(ArtifactError, match=r"selection.json: reason is missing; run `dvc repro`"):
        reported.read(root)


def test_predictions_of_other_images_are_refused(tmp_path: Path) -> None:
    root = reported.build(tmp_path)
    table = pd.read_csv(root / "reports" / "predictions.csv", dtype={"id": str})
    tables.write(root / "reports" / "predictions.csv", table.iloc[1:])
    with pytest.raises(
        ArtifactError, match=r"predictions.csv does not list the test images of data/prepared; run `dvc"
    ):
        reported.read(root)


def test_the_same_inputs_give_the_same_bytes_and_name_no_place_or_time(root: Path, page: str) -> None:
    assert reported.render(root) == page
    assert str(root) not in page
    assert str(Path.cwd()) not in page
    assert not re.search(r"\b20\d\d-\d\d-\d\d|\d\d:\d\d:\d\d", Text(page).text)


def test_names_are_text_wherever_they_stand(page: str) -> None:
    found = Text(page)
    assert reported.HOSTILE in found.text
    assert "<script>alert" not in page
    assert "a/broken <b>.png" in found.text
    scripts = [attributes for tag, attributes in found.tags if tag == "script"]
    assert len(scripts) == 2, "the data, and the page's own"
    assert "b" not in {tag for tag, attributes in found.tags if attributes.get("class") == "path"}
    assert reported.HOSTILE in viewer_of(page)["classes"]


def test_nothing_is_loaded_from_anywhere_and_only_the_own_script_may_run(page: str) -> None:
    found = Text(page)
    for _, attributes in found.tags:
        for name in ("src", "href", "action", "poster", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
        assert not [name for name in attributes if name.startswith("on")]
    policy = next(a["content"] for tag, a in found.tags if tag == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "script-src 'sha256-" in policy
    assert "url(" not in page


def test_every_picture_has_an_alternative_text_or_is_ornament(page: str) -> None:
    found = Text(page)
    assert all("alt" in attributes for tag, attributes in found.tags if tag == "img")
    for tag, attributes in found.tags:
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or attributes.get("aria-label")


def test_every_test_image_is_behind_a_cell_and_every_cell_says_how_many(root: Path, page: str) -> None:
    viewer, predictions = viewer_of(page), pd.read_csv(root / "reports" / "predictions.csv", dtype=str)
    assert sorted(image[0] for image in viewer["images"]) == sorted(predictions["path"])
    counts = predictions.groupby(["label", "predicted"]).size()
    for cell, total in viewer["totals"].items():
        actual, predicted = (viewer["classes"][int(index)] for index in cell.split(","))
        assert counts[actual, predicted] == total
    assert sum(viewer["totals"].values()) == len(predictions)


def test_pictures_end_where_their_room_does_and_each_cell_had_its_turn(root: Path) -> None:
    sources = reported.read(root)
    everything = gallery.viewer(sources)
    one = max(len(image[-1]) for image in everything["images"])
    few = gallery.viewer(sources, characters=12 * one)
    assert 12 <= len(few["images"]) < len(everything["images"])
    assert sum(len(image[-1]) for image in few["images"]) <= 12 * one
    assert {(image[1], image[2]) for image in few["images"]} == {
        tuple(map(int, cell.split(","))) for cell in everything["totals"]
    }
    assert few["totals"] == everything["totals"]


def test_with_the_viewer_full_and_nothing_but_noise_in_colour_a_page_is_below_8_mb(tmp_path: Path) -> None:
    page = reported.render(reported.build(tmp_path, num_images=120, channels=3, size_px=224))
    around = len(page.encode()) - sum(len(image[-1]) for image in viewer_of(page)["images"])
    names = gallery.MOST_VIEWED * 200
    assert around + gallery.VIEWER_CHARACTERS + names < BYTES


def test_the_budget_is_spent_in_order() -> None:
    budget = pictures.Budget(10)
    assert [budget.take(uri) for uri in ("12345", "123456", "1")] == [True, False, False]


def test_a_single_class_in_the_test_set_leaves_no_gap(tmp_path: Path) -> None:
    text = Text(reported.render(reported.build(tmp_path, single_class=True))).text
    assert "undefined" in text, "a class without images has no recall"
    assert "ROC of" not in text


def test_without_curves_and_plots_the_page_says_so(tmp_path: Path) -> None:
    root = reported.build(tmp_path)
    for drawn in ("plots", "training"):
        with artifacts.new_folder(root / "reports" / drawn):
            pass
    text = Text(reported.render(root)).text
    assert "No phase recorded a curve" in text
    assert "There are no points to draw." in text
    assert "What thawed when" not in text


def test_a_model_that_left_no_validation_answers_is_judged_by_the_test_images(tmp_path: Path) -> None:
    root = reported.build(tmp_path)
    artifacts.remove(root / "models" / "phases" / "top")
    sources = reported.read(root)
    assert sources.validation is None
    assert {entry.split for entry in gallery.doubtful(sources)[0]} <= {"test"}
    assert list(sources.phases) == ["head"]


def test_with_folds_all_development_images_are_looked_at(tmp_path: Path, page: str) -> None:
    root = reported.build(tmp_path, folds=3)
    sources = reported.read(root)
    assert sources.validation is not None
    assert len(sources.validation) == 45, "all that are not test images"
    wrong = sources.validation.predicted != sources.validation.labels
    shown = Text(reported.render(root))
    looked_at = "45 development images, each answered by a network that has not seen it (3 folds)"
    assert f"{wrong.sum()} of {looked_at}, are taken for another class" in shown.text
    assert f"On {looked_at}: the choice, and no proof" in shown.text
    ids = {attributes.get("id") for _, attributes in shown.tags}
    assert {"development-pairs", "development-cards"} <= ids
    alone = Text(page)
    assert not {"development-pairs", "development-cards"} & {attributes.get("id") for _, attributes in alone.tags}
    assert "On 22 validation images: the choice, and no proof" in alone.text
    surest = sources.validation.label_probability.min()
    losses = [entry.loss for entry in gallery.largest_losses(sources, sources.validation)]
    assert losses[0] == pytest.approx(-np.log(surest))
    assert losses == sorted(losses, key=lambda loss: -(loss or 0))
    places = {entry.split for entry in gallery.doubtful(sources)[0]}
    assert places <= {"test", "fold 0", "fold 1", "fold 2"}
    assert places - {"test"}


@pytest.mark.parametrize(
    ("gain", "low", "high", "words"),
    [
        (0.03, 0.01, 0.05, "Twice the images would bring about +0.030 or less: going from 100 to 200 training images"),
        (0.01, -0.02, 0.04, "What twice the images would bring cannot be told from these: going from 100 to 200"),
        (-0.03, -0.05, -0.01, "More images of this kind are not likely to make the head better: going from 100 to 200"),
    ],
)
def test_the_learning_curve_says_what_more_images_would_bring(
    tmp_path: Path, page: str, gain: float, low: float, high: float, words: str
) -> None:
    assert "What would more images bring?" not in Text(page).text
    root = reported.build(tmp_path)
    curve = pd.DataFrame({"images": [100.0, 200.0], "accuracy": [0.8, 0.8 + gain], "log_loss": [0.5, 0.4]})
    curve = curve.assign(gain=[np.nan, gain], gain_low=[np.nan, low], gain_high=[np.nan, high])
    tables.write(root / "models" / "phases" / "head" / "learning_curve.csv", curve)
    text = Text(reported.render(root)).text
    assert words in text.replace("−", "-")
    assert f"(95 % interval {low:+.3f} to {high:+.3f})" in text.replace("−", "-")


def test_what_the_metrics_say_of_a_class_and_the_signs_of_selection_are_shown(tmp_path: Path) -> None:
    root = reported.build(tmp_path)
    own = {
        "support": 15,
        "precision": 0.7123,
        "precision_low": 0.6011,
        "precision_high": 0.8022,
        "recall": 0.5,
        "f1": 0.6,
    }
    artifacts.write_json(root / "reports" / "classes.json", {"defective": own})
    finding = {"kind": "overfits", "where": "top", "evidence": "the gap is wide", "advice": "unfreeze less"}
    facts.write(root / "reports" / "selection.json", reported.selection(findings=[finding]))
    text = Text(reported.render(root)).text
    assert "0.712 0.601 to 0.802" in text
    assert "top overfits the gap is wide. What to try: unfreeze less." in text
    assert "+0.100 overfits" in text


def test_of_a_grown_head_the_page_says_what_became_of_each_known_class(tmp_path: Path, page: str) -> None:
    assert "What became of" not in Text(page).text
    root = reported.build(tmp_path)
    path, kept = root / "models" / "phases" / "head" / "model.json", {"images": 9, "before": 0.8768, "after": 0.6543}
    grown = {
        "model": "cars", "kept": [reported.HOSTILE], "new": [], "dropped": [], "images_of_kept": 9,
        "accuracy_before": 0.8768, "accuracy_after": 0.6543, "recalls": {reported.HOSTILE: kept},
    }  # fmt: skip
    stored = facts.read(path, ModelFacts)
    facts.write(path, tiny.changed(stored, head=stored.head.model_dump() | {"grown_from": grown}))
    answers = reported.read(root).validation
    assert answers is not None
    now = (answers.predicted[answers.labels == 1] == 1).mean()
    shown = Text(reported.render(root))
    assert f"{reported.HOSTILE} 9 0.877 0.654 {now:.3f}" in shown.text


def test_the_classes_are_scored_as_scikit_learn_does() -> None:
    from sklearn.metrics import precision_recall_fscore_support

    random = np.random.default_rng(0)
    labels, predicted = random.integers(0, 5, 200), random.integers(0, 4, 200)
    answers = Answers(np.arange(200), labels, predicted, np.ones(200), np.ones(200))
    rows = confusion.class_rows(confusion.counted(answers, 5), list("abcde"), {})
    expected = precision_recall_fscore_support(labels, predicted, labels=range(5), zero_division=np.nan)
    for key, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        shown = [row.support if key == "support" else row.figures[key] for row in rows]
        np.testing.assert_allclose([np.nan if value is None else value for value in shown], values)


def test_the_first_image_of_a_cell_is_its_most_telling_one() -> None:
    labels, predicted = np.array([0, 0, 0, 0, 1]), np.array([0, 0, 1, 1, 1])
    probability = np.array([0.9, 0.6, 0.7, 0.8, 0.9])
    answers = Answers(np.arange(5), labels, predicted, probability, probability)
    assert confusion.in_turn(answers, 2).tolist() == [3, 1, 4, 2, 0]


def test_a_hundred_classes_are_a_map_with_the_most_frequent_confusions_beside_it(tmp_path: Path) -> None:
    names = [f"class number {index}" for index in range(100)]
    page = reported.render(reported.build(tmp_path, classes=names, num_images=800))
    found = Text(page)
    assert "Most frequent confusions" in found.text
    assert [attributes for tag, attributes in found.tags if attributes.get("id") == "map"]
    assert sum(tag == "button" and attributes.get("class") == "link" for tag, attributes in found.tags) > 100
    assert len(page.encode()) < BYTES


def seen(uri: str, mode: str = "RGB") -> NDArray[np.uint8]:
    data = base64.b64decode(uri.removeprefix("data:image/webp;base64,"))
    return np.asarray(Image.open(BytesIO(data)).convert(mode))


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_images_of_any_channels_and_of_16_bits_can_be_looked_at(channels: int, dtype: type[Any]) -> None:
    square = np.zeros((64, 64, channels), dtype)
    square[:, 32:, 0] = 255 if dtype == np.uint8 else 4095  # 12 of 16 bits: dark, if shown as it is
    found = seen(pictures.thumbnail(square, 32))
    assert found.shape == (32, 32, 3)
    assert found[:, :12].max() < 30
    assert found[:, 20:, 0].min() > 200
    assert (found[:, 20:, 2].max() < 60) == (channels >= 3), "red, else white"


def test_heat_is_clear_where_nothing_speaks_and_strongest_at_the_peak() -> None:
    places = np.zeros((7, 7), np.float32)
    places[1, 5] = 1.0
    alpha = seen(pictures.heat(places), "RGBA")[:, :, 3]
    row, column = divmod(int(alpha.argmax()), alpha.shape[1])
    assert (row // 8, column // 8) == (1, 5)
    assert alpha[40:, :24].max() == 0


@pytest.mark.parametrize("low_high", [(0.0, 1.0), (-3.0, 4.5), (0.2, 0.21), (1e-7, 3e-7), (5.0, 12345.0)])
def test_ticks_are_round_few_and_inside(low_high: tuple[float, float]) -> None:
    low, high = low_high
    found = charts.ticks(low, high)
    assert 2 <= len(found) <= 7
    assert low - 1e-9 <= found[0] < found[-1] <= high + 1e-9
    steps = np.diff(found)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    assert charts.ticks(2.0, 2.0) == [2.0]


def test_settings_are_dotted_keys_in_the_words_of_yaml() -> None:
    assert text.flat({"a": {"b": None, "c": {"d": True}}, "e": [1, 2]}) == [
        ("a.b", "null"), ("a.c.d", "true"), ("e", "[1, 2]"),
    ]  # fmt: skip


def test_the_schedule_is_shown_as_it_was_applied(root: Path, page: str) -> None:
    text = Text(page).text
    assert "up to 0.001; empty cells were frozen" in text
    applied = figures.schedule(reported.read(root))
    assert applied is not None
    assert applied.phases == [("top", [1, 2])]
    assert applied.rows[:3] == [
        ("head", [1e-3], [[1.0, 0.5]]),
        ("layer4", [1e-4], [[0.1, 0.05]]),
        ("layer3", [None], [[0.0, 0.0]]),
    ]
    assert re.search(r"head 0\.001 layer4 0\.0001 .*conv1 frozen", text)


def test_the_networks_licence_and_the_lineage_are_named(root: Path, page: str) -> None:
    text = Text(page).text
    final = model.load(root / "models" / "final").facts
    for value in (
        final.backbone.license,
        final.backbone.name,
        "that of your images; Thaw does not know it",
    ):
        assert value in text
    assert "temperature 1.2500" in text
    stated = Text(reported.render(root, licence="cc-by-4.0")).text
    assert "cc-by-4.0" in stated
    assert "Thaw does not know it" not in stated

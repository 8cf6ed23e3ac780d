"""The report in a real browser: it draws without an error, and works with mouse and keyboard, narrow and wide."""

from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

from tests import reported
from tests.browser.chrome import CONTRAST, OVERFLOWS, complaints, look

MANY = [f"a class with a rather long name, number {index:02d}" for index in range(40)]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("few"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("many"), classes=MANY, num_images=320, rejected=())


def write(root: Path, **settings: Any) -> Path:
    page = root / "index.html"
    page.write_text(reported.render(reported.build(root, **settings)), encoding="utf-8")
    return page


def press(window: Chrome, *keys: str) -> None:
    for key in keys:
        window.switch_to.active_element.send_keys(key)


def thumbs(window: Chrome) -> list[WebElement]:
    return window.find_elements(By.CSS_SELECTOR, "#viewer-grid .thumb")


def shown(window: Chrome) -> bool:
    return bool(window.execute_script("return document.getElementById('viewer').open"))


def total(window: Chrome, actual: int, predicted: int) -> int:
    script = "return data.totals[arguments[0]] || 0"
    return int(window.execute_script(script, f"{actual},{predicted}"))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("which", ["few", "many"])
def test_the_page_draws_without_an_error_and_nothing_sticks_out(
    window: Chrome, request: pytest.FixtureRequest, which: str, width: int, dark: bool
) -> None:
    look(window, request.getfixturevalue(which), width=width, dark=dark)
    assert complaints(window) == []
    assert window.execute_script("return document.documentElement.scrollWidth") == width
    assert window.execute_script(OVERFLOWS) == []
    script = "openViewer(','); const box = document.getElementById('viewer'); return box.scrollWidth - box.clientWidth"
    assert window.execute_script(script) == 0
    assert window.execute_script(OVERFLOWS) == []
    broken = "return [...document.images].filter((one) => one.src && one.complete && !one.naturalWidth).length"
    assert window.execute_script(broken) == 0
    ratio, where = window.execute_script(CONTRAST)
    assert ratio >= 4.5, where


def test_a_wide_window_shows_the_tables_of_few_classes_whole(window: Chrome, few: Path) -> None:
    look(window, few, width=1400)
    hidden = "return [...document.querySelectorAll('.scroll')].map((one) => one.scrollWidth - one.clientWidth)"
    cut = window.execute_script(hidden)
    assert len(cut) >= 2
    assert max(cut) == 0


def test_no_script_but_the_own_one_runs(window: Chrome, few: Path) -> None:
    look(window, few, width=1400)
    assert reported.HOSTILE in window.find_element(By.ID, "class-table").text
    window.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.x = 1'; document.body.append(s)"
    )
    assert window.execute_script("return window.x") is None
    assert "Content Security Policy" in complaints(window)[0]


def test_a_cell_opens_its_images_by_mouse_and_the_filters_change_them(window: Chrome, few: Path) -> None:
    look(window, few, width=1400)
    cell = next(one for one in window.find_elements(By.CSS_SELECTOR, "td.wrong button") if one.is_enabled())
    actual, predicted = map(int, str(cell.get_attribute("data-cell")).split(","))
    cell.click()
    assert shown(window)
    assert len(thumbs(window)) == total(window, actual, predicted)
    assert all("wrong" in str(one.get_attribute("class")) for one in thumbs(window))
    Select(window.find_element(By.ID, "viewer-predicted")).select_by_value(str(actual))
    assert len(thumbs(window)) == total(window, actual, actual)
    Select(window.find_element(By.ID, "viewer-actual")).select_by_value("")
    Select(window.find_element(By.ID, "viewer-predicted")).select_by_value("wrong")
    errors = [total(window, a, p) for a in range(3) for p in range(3) if a != p]
    assert len(thumbs(window)) == sum(errors)
    Select(window.find_element(By.ID, "viewer-order")).select_by_value("path")
    names = [str(one.get_attribute("aria-label")) for one in thumbs(window)]
    assert names == sorted(names)
    window.find_element(By.ID, "viewer-search").send_keys("3/é<I>")
    assert 0 < len(thumbs(window)) < sum(errors)
    assert window.find_element(By.ID, "viewer-count").text.startswith(f"{len(thumbs(window))} image")
    last = thumbs(window)[-1]
    last.click()
    assert "3/é<i>" in window.find_element(By.ID, "viewer-detail").text
    window.find_element(By.ID, "viewer-close").click()
    assert not shown(window)


def test_the_matrix_and_its_images_are_used_by_keyboard_alone(window: Chrome, few: Path) -> None:
    look(window, few, width=1400)
    first = window.find_element(By.CSS_SELECTOR, '#matrix [data-cell="0,0"]')
    window.execute_script("arguments[0].focus()", first)
    press(window, Keys.ARROW_RIGHT)
    moved = window.switch_to.active_element
    assert str(moved.get_attribute("data-cell")).startswith("0,")
    assert moved != first
    press(window, Keys.ARROW_LEFT, Keys.ARROW_DOWN)
    assert str(window.switch_to.active_element.get_attribute("data-cell")).endswith(",0")
    press(window, Keys.ARROW_UP, Keys.ENTER)
    assert shown(window)
    labels = [one.get_attribute("aria-label") for one in thumbs(window)]
    assert window.switch_to.active_element.get_attribute("aria-label") == labels[0]
    press(window, Keys.ARROW_RIGHT)
    assert window.switch_to.active_element.get_attribute("aria-label") == labels[1]
    press(window, Keys.END)
    assert window.switch_to.active_element.get_attribute("aria-label") == labels[-1]
    assert str(labels[-1]).partition(":")[0] in window.find_element(By.ID, "viewer-detail").text
    press(window, Keys.ARROW_RIGHT, Keys.HOME, Keys.ARROW_LEFT)
    assert window.switch_to.active_element.get_attribute("aria-label") == labels[0]
    press(window, Keys.ESCAPE)
    assert not shown(window)
    assert window.switch_to.active_element == first, "the focus is back where it was"


def test_many_classes_are_a_map_that_mouse_and_keyboard_read(window: Chrome, many: Path) -> None:
    look(window, many, width=1400)
    field, readout = window.find_element(By.ID, "map"), window.find_element(By.ID, "readout")
    window.execute_script("arguments[0].focus()", field)
    press(window, Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    assert readout.text.startswith(f"{MANY[1]}, taken for {MANY[1]}: {total(window, 1, 1)} image")
    press(window, Keys.ENTER)
    assert shown(window) is (total(window, 1, 1) > 0)
    press(window, Keys.ESCAPE)
    filled = window.find_elements(By.CSS_SELECTOR, "#map .right")[5]
    place = int(str(filled.get_attribute("x")))
    filled.click()
    assert shown(window)
    assert len(thumbs(window)) == total(window, place, place)


def test_the_table_of_classes_is_sorted_and_filtered(window: Chrome, many: Path) -> None:
    look(window, many, width=360)
    recall = window.find_elements(By.CSS_SELECTOR, "#class-table .sort")[3]
    recall.click()
    values = "return [...classTable.tBodies[0].rows].map((row) => Number(row.cells[3].dataset.value))"
    rising = window.execute_script(values)
    assert rising == sorted(rising)
    assert recall.find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"
    recall.click()
    assert window.execute_script(values) == rising[::-1]
    window.find_element(By.ID, "class-filter").send_keys("NUMBER 07")
    rows = window.find_elements(By.CSS_SELECTOR, "#class-table tbody tr")
    assert [row.find_element(By.TAG_NAME, "th").text for row in rows if row.is_displayed()] == [MANY[7]]
    assert window.find_element(By.ID, "class-count").text == "1 of 40 classes"


def test_heat_maps_and_splits_can_be_hidden(window: Chrome, few: Path) -> None:
    look(window, few, width=1400)
    heat = window.find_elements(By.CSS_SELECTOR, "#worst-cards .heat")
    assert len(heat) == len(window.find_elements(By.CSS_SELECTOR, "#worst-cards .card")) > 0
    window.find_element(By.ID, "heat").click()
    assert not any(one.is_displayed() for one in heat)
    cards = window.find_elements(By.CSS_SELECTOR, "#doubtful-cards > div")
    Select(window.find_element(By.ID, "split-filter")).select_by_value("val")
    visible = {one.get_attribute("data-split") for one in cards if one.is_displayed()}
    assert visible == {"val"}


def test_the_colours_follow_the_system_until_they_are_chosen(window: Chrome, few: Path) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    look(window, few, width=1400, dark=True)
    dark = window.execute_script(paper)
    look(window, few, width=1400)
    light = window.execute_script(paper)
    assert dark != light
    button = window.find_element(By.ID, "theme")
    seen = []
    for _ in range(3):
        button.click()
        seen.append((button.text, window.execute_script(paper)))
    assert seen == [("Colours: light", light), ("Colours: dark", dark), ("Colours: as the system", light)]
    button.click()
    button.click()
    look(window, few, width=1400)
    assert window.execute_script(paper) == dark, "remembered"
    window.find_element(By.ID, "theme").click()


def test_on_paper_controls_are_gone_everything_is_open_and_ink_is_dark(window: Chrome, few: Path) -> None:
    look(window, few, width=1400, dark=True)
    window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    window.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert not window.find_element(By.ID, "theme").is_displayed()
    assert window.execute_script("return getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert window.execute_script("return [...document.querySelectorAll('details')].every((one) => one.open)")

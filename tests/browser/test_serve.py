"""The page of `python -m thaw serve` in a real browser, against the command as users start it."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests import tiny
from tests.browser.chrome import CONTRAST, OVERFLOWS, complaints, look
from tests.conftest import ROOT
from tests.exports import Twins
from thaw.serving.exported import Exported

_PATIENCE_S = 30


@pytest.fixture(scope="module")
def url(twins: Twins) -> Iterator[str]:
    command = [sys.executable, "-m", "thaw", "serve", "--model", str(twins.exported), "--port", "0", "--max-mb", "0.5"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line
        yield found[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(_PATIENCE_S) == 0


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "ein <b>Bild & mehr.png"
    Image.fromarray(tiny.pixels(1)[0]).save(path)
    return path


def choose(window: Chrome, path: Path) -> None:
    window.find_element(By.ID, "file").send_keys(str(path))


def text(window: Chrome, element: str) -> str:
    return window.find_element(By.ID, element).text


def wait_for(window: Chrome, element: str, part: str) -> None:
    WebDriverWait(window, _PATIENCE_S).until(lambda _: part in text(window, element))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1400])
def test_an_image_that_is_chosen_is_answered_and_nothing_sticks_out(
    window: Chrome, url: str, twins: Twins, picture: Path, width: int, dark: bool
) -> None:
    look(window, url, width=width, dark=dark)
    wait_for(window, "about", "3 classes")
    choose(window, picture)
    wait_for(window, "winner", "%")
    model = Exported.open(twins.exported)
    shares = model.probabilities(model.read(picture)[None])[0]
    best = int(shares.argmax())
    assert text(window, "winner") == f"{model.classes[best]}, {100 * shares[best]:.1f} %"
    assert len(window.find_elements(By.CSS_SELECTOR, "#classes tr")) == 3
    assert window.find_element(By.ID, "picture").get_attribute("alt") == picture.name
    assert window.execute_script("return document.documentElement.scrollWidth") == width
    assert window.execute_script(OVERFLOWS) == []
    ratio, where = window.execute_script(CONTRAST)
    assert ratio >= 4.5, where
    assert complaints(window) == []


def test_the_overlay_is_switched_on_by_keyboard(window: Chrome, url: str, picture: Path) -> None:
    look(window, url, width=1400)
    choose(window, picture)
    wait_for(window, "winner", "%")
    source = "return document.getElementById('picture').src.slice(0, 10)"
    assert window.execute_script(source).startswith("blob:")
    box = window.find_element(By.ID, "overlay")
    window.execute_script("arguments[0].focus()", box)
    box.send_keys(Keys.SPACE)
    assert window.execute_script(source) == "data:image"
    assert "in colour" in str(window.find_element(By.ID, "picture").get_attribute("alt"))
    WebDriverWait(window, _PATIENCE_S).until(
        lambda _: window.execute_script("return document.getElementById('picture').naturalWidth > 0")
    )


def test_an_image_that_is_dropped_is_answered(window: Chrome, url: str) -> None:
    look(window, url, width=1400)
    window.execute_script("""
        const canvas = Object.assign(document.createElement("canvas"), { width: 40, height: 40 });
        canvas.toBlob((blob) => {
          const data = new DataTransfer();
          data.items.add(new File([blob], "dropped.png"));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        });
    """)
    wait_for(window, "winner", "%")
    assert window.find_element(By.ID, "picture").get_attribute("alt") == "dropped.png"


def test_what_cannot_be_answered_is_said_and_the_page_goes_on(
    window: Chrome, url: str, picture: Path, tmp_path: Path
) -> None:
    look(window, url, width=1400)
    (tmp_path / "no.png").write_text("no image")
    (tmp_path / "large.png").write_bytes(b"\0" * 600_000)
    wait_for(window, "limit", "MB")
    choose(window, tmp_path / "no.png")
    wait_for(window, "status", "not an image of a format that is read")
    choose(window, tmp_path / "large.png")
    wait_for(window, "status", "large.png has 0.6 MB; at most 0.5 MB are accepted.")
    choose(window, picture)
    wait_for(window, "winner", "%")
    assert text(window, "status") == ""
    assert [line for line in complaints(window) if "422" not in line] == []

"""The picture of the worst images in a real browser: names in any script are drawn, and cut off at the image's edge."""

from pathlib import Path

import numpy as np
from selenium.webdriver import Chrome

from tests import tiny
from tests.browser.chrome import complaints, look
from thaw.evaluation.worst_images import write_worst

_CELLS = """
return [...document.querySelectorAll("svg > svg")].map((cell) => [getComputedStyle(cell).overflow,
  ...[...cell.querySelectorAll("text")].map((line) => line.getComputedTextLength())]);
"""


def test_every_line_is_drawn_and_ends_at_the_edge_of_its_image(window: Chrome, tmp_path: Path) -> None:
    images = tiny.packed(3, classes=3, path=["W" * 300 + ".png", "Größe Жук.png", "日本.png"])
    chances = np.full((3, 3), 1 / 3)
    write_worst(tmp_path / "worst.svg", images, np.arange(3), images.labels(np.arange(3)), chances)
    look(window, tmp_path / "worst.svg", width=1400)
    assert complaints(window) == []
    cells = window.execute_script(_CELLS)
    assert [cell[0] for cell in cells] == ["hidden"] * 3
    assert all(length > 0 for cell in cells for length in cell[1:])
    assert [len(cell) for cell in cells] == [4] * 3
